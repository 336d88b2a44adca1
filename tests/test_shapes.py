"The drawn set: the same bytes on every machine, balanced labels, clear errors."
import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sslnb import shapes

# A change of these is a change of the data set: every cached run and every number measured on it is void.
PINNED = {
    "shapes": "78d03d6ab2291016cbb28bf9d9c35d35003cc5eef219b892915bfccf3aa0c240",
    "shapes-b": "2994a7e623ca438c4d2b739f249806e1dc16602cd8001fe829254219553979f5",
    "shapes-20": "922c421ec9de53289890d0c5246be62bfba273531b6022aa9b4a1b100b657cad"}
# Rounded correctly on every processor (IEEE 754), or not arithmetic at all.
EXACT = {"abs", "argsort", "floor", "maximum", "minimum", "sqrt", "where",
         "arange", "empty", "flatnonzero", "int64", "stack", "uint8"}

def digest(domain, n=40, seed=7, **kw):
    pixels, labels, classes = shapes.draw(n, seed, domain, **kw)
    return hashlib.sha256(pixels.tobytes() + labels.tobytes() + " ".join(classes).encode()).hexdigest()

@pytest.mark.parametrize("domain", PINNED)
def test_pinned_bytes(domain):
    assert digest(domain) == PINNED[domain]

def test_another_process_draws_the_same():
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import test_shapes; print(test_shapes.digest('shapes'))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert out.stdout.strip() == digest("shapes")

def test_only_exact_arithmetic():
    tree = ast.parse(Path(shapes.__file__).read_text("utf-8"))
    used = {node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"}
    assert used - EXACT == set()
    assert not [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Pow, ast.MatMult))]

@pytest.mark.parametrize("n,domain", [(1, "shapes"), (99, "shapes"), (100, "shapes-b"), (101, "shapes-20")])
def test_balance(n, domain):
    pixels, labels, classes = shapes.draw(n, 0, domain, size=8)
    counts = np.bincount(labels, minlength=len(classes))
    assert len(pixels) == len(labels) == n and counts.max() - counts.min() <= 1
    assert len(classes) == len(set(classes)) == (20 if domain == "shapes-20" else 10)
    assert n == 1 or (np.diff(labels) != 1).any()  # shuffled

def test_classes_agree_between_domains():
    names = {domain: shapes.draw(1, 0, domain, size=8)[2] for domain in shapes.DOMAINS}
    assert names["shapes"] == names["shapes-b"] == names["shapes-20"][:10]

@pytest.mark.parametrize("size", [None, 8, 16, 33, 64])
@pytest.mark.parametrize("domain", shapes.DOMAINS)
def test_sizes(domain, size):
    pixels, labels, _ = shapes.draw(21, 3, domain, size=size)
    side = size or {"shapes-b": 48}.get(domain, 32)
    assert pixels.shape == (21, 3, side, side) and pixels.dtype == np.uint8 and labels.dtype == np.int64
    assert pixels.std((1, 2, 3)).min() > 3  # none is blank

def test_a_size_is_the_same_picture_seen_closer():
    small, large = (shapes.draw(60, 3, size=s)[0].astype(float) for s in (32, 128))
    shrunk = large.reshape(60, 3, 32, 4, 32, 4).mean((3, 5))
    assert abs(shrunk - small).mean() < 11 < 30 < abs(shrunk[1:] - small[:-1]).mean()  # of 255; grain is 9

def test_seeds_differ():
    (a, la, _), (b, lb, _) = (shapes.draw(200, seed) for seed in (0, 1))
    assert not np.array_equal(la, lb) and len({x.tobytes() for x in np.concatenate([a, b])}) == 400

def test_drawing_in_pieces_changes_nothing(monkeypatch):
    whole = shapes.draw(30, 5, size=16)[0]
    seen, draw_batch = [], shapes.draw_batch
    def one_by_one(labels, table, size, D):
        seen.append(len(labels))
        return np.concatenate([draw_batch(labels[i:i + 1], table[i:i + 1], size, D) for i in range(len(labels))])
    monkeypatch.setattr(shapes, "draw_batch", one_by_one)
    assert np.array_equal(shapes.draw(30, 5, size=16)[0], whole) and seen == [30]
    monkeypatch.setattr(shapes, "draw_batch", draw_batch)
    large = shapes.draw(5, 5, size=400)[0]  # one picture at a time
    assert large.shape == (5, 3, 400, 400) and len({x.tobytes() for x in large}) == 5

@pytest.mark.parametrize("kwargs,says", [
    (dict(domain="photos"), "'photos'.*shapes, shapes-b, shapes-20"), (dict(n=0), "n = 0"), (dict(n=-3), "n = -3"),
    (dict(size=7), "size = 7"), (dict(size=0), "size = 0"), (dict(seed=-1), "[Ss]eed|negative|between")])
def test_bad_input(kwargs, says):
    with pytest.raises(ValueError, match=says): shapes.draw(**dict(n=4, seed=0) | kwargs)

@pytest.mark.parametrize("domain", shapes.DOMAINS)
def test_throws_suffice(domain):
    D, dice = shapes.DOMAINS[domain], []
    class Counting(shapes.Dice):
        def __init__(self, table): super().__init__(table); dice.append(self)
    original, shapes.Dice = shapes.Dice, Counting
    try: shapes.draw_batch(np.array([0]), np.full((1, shapes.THROWS), .5), 16, D)
    finally: shapes.Dice = original
    assert len(list(dice[0].left)) < 60  # not many left over either
