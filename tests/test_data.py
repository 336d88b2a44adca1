"""Faults that a notebook cell cannot show: damaged files, killed and competing processes; the real sets."""
import hashlib, multiprocessing, os, pickle, runpy, signal, time, warnings, zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslnb import data
from sslnb.core import ROOT
from sslnb.data import DataError, load

fork = multiprocessing.get_context("fork")


def paint(path: Path, seed=0, w=16, h=16, mode="RGB", **options) -> np.ndarray:
    "A file of random pixels."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return pixels


@pytest.fixture
def root(tmp_path):
    "A data folder with one tree `zoo`: 4 train and 2 test images of ant and bee."
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        for i in numbers:
            paint(tmp_path / "zoo" / split / "ant" / f"{i}.png", seed=i)
            paint(tmp_path / "zoo" / split / "bee" / f"{i}.png", seed=i + 9)
    return tmp_path


def no_cache(root) -> bool:
    "Nothing was left that could pass for a decoded set."
    return not [p for p in (root / "cache").glob("*") if p.is_dir()]


def fault(root, *words, **asked):
    "Loading the tree must stop with a message that holds all of `words`, and leave no cache."
    with pytest.raises(DataError) as err: load("zoo", root=root, **asked)
    assert all(word in str(err.value) for word in words), str(err.value)
    assert no_cache(root)


def test_tree(root):
    images = load("zoo", root=root)
    assert images.pixels.dtype == torch.uint8 and images.labels.tolist() == [0] * 4 + [1] * 4
    expected = paint(root / "x.png", seed=10)
    assert np.array_equal(images.pixels[5].permute(1, 2, 0), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the read-only map must not make PyTorch warn
        again = load("zoo", root=root)
    assert again.fingerprint == images.fingerprint != load("zoo", "test", root=root).fingerprint


@pytest.mark.parametrize("suffix,options", [("png", {}), ("jpg", {}), ("jpg", {"progressive": True}),
                                            ("webp", {}), ("webp", {"lossless": True}), ("gif", {})])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_truncated_image(root, suffix, options, keep):
    file = root / "zoo" / "train" / "bee" / f"half.{suffix}"
    paint(file, **options)
    whole = file.read_bytes()
    file.write_bytes(whole[:keep if keep in (0, 10) else int(keep * len(whole))])
    fault(root, f"half.{suffix}", "cannot be read")
    file.write_bytes(whole)
    assert len(load("zoo", root=root)) == 9


def test_flipped_byte_in_png(root):
    file = root / "zoo" / "train" / "bee" / "1.png"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    fault(root, "1.png")


def test_sixteen_bits(root):
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 200
    Image.fromarray(deep).save(root / "zoo" / "train" / "ant" / "deep.png")
    fault(root, "deep.png", "8 bits")


def test_stray_files(root):
    train = root / "zoo" / "train"
    (train / ".DS_Store").write_text("ignored")
    (train / "ant" / "._0.png").write_text("ignored")
    (root / "zoo" / "README").write_text("beside the splits anything may lie")
    assert len(load("zoo", root=root)) == 8
    (train / "ant" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="notes.txt"): load("zoo", root=root)
    (train / "ant" / "notes.txt").rename(train / "notes.txt")
    with pytest.raises(DataError, match="notes.txt"): load("zoo", root=root)
    (train / "notes.txt").unlink()
    (train / "ant" / "more").mkdir()
    with pytest.raises(DataError, match="more"): load("zoo", root=root)


def test_wrong_trees(root):
    (root / "zoo" / "train" / "cat").mkdir()
    (root / "zoo" / "test" / "cat").mkdir()
    fault(root, str(Path("train") / "cat"), "without images")
    paint(root / "zoo" / "train" / "cat" / "0.png")
    (root / "zoo" / "test" / "cat").rmdir()
    fault(root, "train and test", "cat")
    fault(root, "val", "test, train", split="val")


def test_unlabelled_split(root):
    paint(root / "zoo" / "unlabeled" / "all" / "0.png")
    images = load("zoo", "unlabeled", root=root)
    assert images.labels.tolist() == [-1] and images.classes == ("ant", "bee")
    with pytest.raises(DataError): images.sample(2, seed=0)


def test_grey_and_mixed_sizes(root):
    grey = root / "zoo" / "train" / "bee" / "grey.png"
    paint(grey, mode="L")
    images = load("zoo", root=root)
    assert torch.equal(images.pixels[-1, 0], images.pixels[-1, 1])
    paint(grey, w=20, h=12, mode="L")
    with pytest.raises(DataError, match="0.png is 16×16.*grey.png is 20×12.*size="): load("zoo", root=root)
    assert load("zoo", root=root, size=16).pixels.shape == (9, 3, 16, 16)


def test_official_ids(root):
    (root / "zoo" / "classes.txt").write_text("30 ant\n4 bee\n")
    assert load("zoo", root=root).classes == ("bee", "ant")
    ants = load("zoo", root=root, classes=[30])
    assert ants.classes == ("ant",) and ants.labels.tolist() == [0] * 4
    for wrong in ([5], [30, 30], []):
        with pytest.raises(DataError, match=r"\[4, 30\]"): load("zoo", root=root, classes=wrong)
    (root / "zoo" / "classes.txt").write_text("30 ant\n4 bee\n5 cat\n")
    with pytest.raises(DataError, match="cat"): load("zoo", root=root)


def test_names_that_are_not_there(root):
    for name in ("nope", "../zoo", "zoo/train", "cache"):
        with pytest.raises(DataError, match="Known: shapes.*zoo"): load(name, root=root)
    for name in ("cifar10", "cifar100", "stl10", "mnist"):
        with pytest.raises(DataError, match="make data.*download=True"): load(name, root=root)
    with pytest.raises(DataError, match="PATH"): load(f"folder:{root}/nope", root=root)


def test_changed_tree(root):
    first = load("zoo", root=root).fingerprint
    paint(root / "zoo" / "train" / "ant" / "0.png", seed=99)
    second = load("zoo", root=root).fingerprint
    paint(root / "zoo" / "train" / "ant" / "new.png")
    third = load("zoo", root=root)
    assert len({first, second, third.fingerprint}) == 3 and len(third) == 9


def truncate(place): os.truncate(place / "pixels.npy", 1000)
def empty(place): os.truncate(place / "pixels.npy", 0)
def missing(place): (place / "pixels.npy").unlink()
def other_labels(place): np.save(place / "labels.npy", np.zeros(8, np.int64))
def other_shape(place): np.save(place / "pixels.npy", np.load(place / "pixels.npy").reshape(8, 3, 8, 32))
def half_meta(place): os.truncate(place / "meta.json", 20)
def other_meta(place): (place / "meta.json").write_text("[1]")
def flip(place):
    with open(place / "pixels.npy", "r+b") as f:
        f.seek(-100, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-100, os.SEEK_END)
        f.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("damage", [truncate, empty, missing, flip, other_labels, other_shape, half_meta,
                                    other_meta])
def test_damaged_cache(root, damage):
    before = load("zoo", root=root)
    damage(root / "cache" / "zoo-train")
    with pytest.warns(UserWarning, match="zoo-train: damaged"): after = load("zoo", root=root)
    assert after.fingerprint == before.fingerprint and after.labels.tolist() == [0] * 4 + [1] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("zoo", root=root)


def slow_load(root, log, seconds):
    "Load with a slow decoder that logs who decodes; answers with the fingerprint."
    decode = data._decode
    def slow(path):
        time.sleep(seconds)
        with open(log, "a") as f: f.write(f"{os.getpid()}\n")
        return decode(path)
    data._decode = slow
    Path(f"{log}.{os.getpid()}").write_text(load("zoo", root=root).fingerprint)


def test_kill_while_decoding(root, tmp_path):
    log = tmp_path / "log"
    process = fork.Process(target=slow_load, args=(root, log, 0.5))
    process.start()
    part = root / "cache" / ".zoo-train.part"
    while not log.exists(): time.sleep(0.01)
    assert part.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert part.exists() and not (root / "cache" / "zoo-train").exists()
    assert len(load("zoo", root=root)) == 8 and not part.exists()


def test_kill_at_any_moment(root, tmp_path):
    "Killed after 0, 4, 8, … ms: what is left is a whole cache or none."
    expected = load("zoo", root=root).fingerprint
    for i in range(8):
        paint(root / "zoo" / "train" / "ant" / "0.png", seed=0)  # a new time: the cache is stale
        process = fork.Process(target=slow_load, args=(root, tmp_path / "log", 0))
        process.start()
        time.sleep(0.004 * i)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load("zoo", root=root).fingerprint == expected


def test_two_processes_build_once(root, tmp_path):
    log = tmp_path / "log"
    both = [fork.Process(target=slow_load, args=(root, log, 0.05)) for _ in range(2)]
    for process in both: process.start()
    for process in both: process.join()
    answers = {Path(f"{log}.{process.pid}").read_text() for process in both}
    assert answers == {load("zoo", root=root).fingerprint}
    assert len(set(log.read_text().split())) == 1  # the other one waited


def test_failed_build_spares_the_old_cache_of_another_split(root):
    load("zoo", "test", root=root)
    (root / "zoo" / "train" / "ant" / "0.png").write_bytes(b"")
    with pytest.raises(DataError): load("zoo", root=root)
    assert len(load("zoo", "test", root=root)) == 4
    assert not list((root / "cache").glob(".*.part"))


def mnist(root, images=30, labels=30, highest=9):
    "MNIST-like idx files."
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        arrays = {"images-idx3": np.zeros((images, 28, 28)), "labels-idx1": np.arange(labels) % (highest + 1)}
        for what, a in arrays.items():
            head = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">i4").tobytes()
            (raw / f"{part}-{what}-ubyte").write_bytes(head + a.astype(np.uint8).tobytes())
    return raw


def test_mnist_files(tmp_path):
    raw = mnist(tmp_path)
    assert load("mnist", "test", root=tmp_path).pixels.shape == (30, 1, 28, 28)
    with pytest.raises(DataError, match="train, test"): load("mnist", "unlabeled", root=tmp_path)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        whole = (raw / name).read_bytes()
        for keep in (0, 3, 12, len(whole) - 1):
            (raw / name).write_bytes(whole[:keep])
            with pytest.raises(DataError, match=name): load("mnist", root=tmp_path)
        (raw / name).write_bytes(whole)
    assert len(load("mnist", root=tmp_path)) == 30


def test_mnist_labels(tmp_path):
    mnist(tmp_path / "few", labels=29)
    with pytest.raises(DataError, match="30 train images but 29 labels"): load("mnist", root=tmp_path / "few")
    mnist(tmp_path / "high", highest=10)
    with pytest.raises(DataError, match="image 10 has label 10"): load("mnist", root=tmp_path / "high")
    assert no_cache(tmp_path / "high")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_archive_without_its_check_sum(tmp_path, name):
    sub = data.ARCHIVES[name][1]
    (tmp_path / sub).mkdir()
    (tmp_path / sub / "data_batch_1").write_bytes(b"half")
    with pytest.raises(DataError, match=f"{sub}.*damaged.*download=True"): load(name, root=tmp_path)
    assert no_cache(tmp_path)


def test_archive_layouts(tmp_path, monkeypatch):
    "Files made like the published ones (the check of their sums switched off) give the images they hold."
    for module in ("cifar", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *args: True)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    for sub, labels, part, meta, names in (
            ("cifar-10-batches-py", "labels", "test_batch", "batches.meta", "label_names"),
            ("cifar-100-python", "fine_labels", "test", "meta", "fine_label_names")):
        (tmp_path / sub).mkdir()
        content = {"data": pixels.reshape(10, -1), labels: list(range(10))}
        (tmp_path / sub / part).write_bytes(pickle.dumps(content))
        (tmp_path / sub / meta).write_bytes(pickle.dumps({names: [f"class {i}" for i in range(10)]}))
    stl = tmp_path / "stl10_binary"
    stl.mkdir()
    large = np.random.default_rng(0).integers(0, 256, (10, 3, 96, 96), dtype=np.uint8)
    for part in ("test_X", "unlabeled_X"): large.transpose(0, 1, 3, 2).tofile(stl / f"{part}.bin")
    np.arange(1, 11, dtype=np.uint8).tofile(stl / "test_y.bin")
    (stl / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)))

    for name, split, expected in (("cifar10", "test", pixels), ("cifar100", "test", pixels),
                                  ("stl10", "test", large), ("stl10", "unlabeled", large)):
        images = load(name, split, root=tmp_path)
        assert np.array_equal(images.pixels, expected) and images.classes[3] == "class 3"
        assert images.labels.tolist() == (list(range(10)) if split == "test" else [-1] * 10)
    assert load("cifar100", "test", root=tmp_path, classes=[7, 2]).classes == ("class 7", "class 2")


def test_failed_download(tmp_path, monkeypatch):
    def broken(*args, **options): raise OSError("no network")
    monkeypatch.setitem(data.ARCHIVES, "cifar10", (broken, "cifar-10-batches-py"))
    with pytest.raises(DataError, match="cifar10 could not be downloaded.*no network"):
        load("cifar10", root=tmp_path, download=True)


def pack(path: Path, names):
    "A zip of small text files."
    with zipfile.ZipFile(path, "w") as z:
        for name in names: z.writestr(name, name)


def test_unpack(tmp_path, capsys):
    script = runpy.run_path(str(ROOT / "data" / "unpack.py"))
    packs, dest = tmp_path / "packs", tmp_path / "dest"
    packs.mkdir(), dest.mkdir()
    script["main"](packs, dest)
    assert "nothing to unpack" in capsys.readouterr().out
    pack(packs / "stl10-subset.zip", ["train/a/0.webp", "test/a/1.webp"])
    pack(packs / "cifar10-test.zip", ["test/a/0.webp"])  # two of its three packs are missing
    digest = hashlib.sha256((packs / "stl10-subset.zip").read_bytes()).hexdigest()
    (packs / "SHA256SUMS").write_text(f"{digest}  stl10-subset.zip\n")
    script["main"](packs, dest)
    assert sorted(p.name for p in dest.iterdir()) == ["stl10-subset"]
    assert (dest / "stl10-subset" / "train" / "a" / "0.webp").exists()
    script["main"](packs, dest)
    assert "already there" in capsys.readouterr().out
    pack(packs / "cifar100-20c.zip", ["train/a/0.webp"])
    with pytest.raises(SystemExit, match="cifar100-20c.zip is damaged"): script["main"](packs, dest)
    assert sorted(p.name for p in dest.iterdir()) == ["stl10-subset"]


REAL = [  # counts and train means as measured on the packs that `make data` unpacks
    ("cifar10", 50_000, 10_000, 10, (.49140, .48216, .44653), (.24703, .24349, .26159)),
    ("cifar100-20c", 10_000, 2_000, 20, (.49387, .46463, .41904), None),
    ("mnist", 60_000, 10_000, 10, (.13066,), (.30811,)),
    ("stl10-subset", 1_000, 1_000, 10, (.44949, .44125, .40967), None),
    ("tiny-imagenet-20c", 5_000, 1_000, 20, (.47544, .44588, .39460), None)]


@pytest.mark.parametrize("name,train,test,k,mean,std", REAL, ids=[row[0] for row in REAL])
def test_real_set(name, train, test, k, mean, std):
    place = ROOT / "data" / ("MNIST" if name == "mnist" else name)
    if not place.exists(): pytest.skip(f"no {place}: run `make data`")
    images, held = load(name, root=ROOT / "data"), load(name, "test", root=ROOT / "data")
    assert (len(images), len(held), images.n_classes) == (train, test, k) and held.classes == images.classes
    if name != "mnist": assert images.labels.bincount().tolist() == [train // k] * k
    found = images.mean_std()
    assert np.allclose(found[0], mean, atol=6e-6) and (std is None or np.allclose(found[1], std, atol=6e-6))


def test_cifar_classes():
    root = ROOT / "data"
    if not (root / "cifar10").exists() or not (root / "cifar100-20c").exists(): pytest.skip("run `make data`")
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert load("cifar10", "test", root=root).classes == tuple(names.split())
    task = load("cifar100", "test", root=root, classes=[95, 0, 62])
    assert task.classes == ("whale", "apple", "poppy") and task.labels.bincount().tolist() == [100] * 3
