"""The race: what an entry is given and what it is not; the command runs both tracks."""
import json
from unittest.mock import patch

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from sslnb import data, models, race
from sslnb.core import SettingError
from sslnb.tools.cli import cli

pytestmark = pytest.mark.slow
TRACK = race.Track(0.5, 0.2, "small", "cpu", cores=1)

CURIOUS = """
import glob, json, os, sys, time
import torch
from torch import nn

class Pixels(nn.Module):
    def forward(self, x): return x.flatten(1)

def train(images, seed, seconds, device):
    print("an entry may talk")
    files = sorted(map(os.path.basename, glob.glob(sys.argv[1] + "/*")))
    seen = {"labels": images.labels.unique().tolist(), "files": files,
            "data": os.path.exists(os.environ["SSLNB_DATA"]), "store": os.path.exists(os.environ["SSLNB_STORE"]),
            "threads": torch.get_num_threads(), "seed": seed, "seconds": seconds, "n": len(images)}
    with open(FILE, "w") as f: json.dump(seen, f)
    time.sleep(1)
    return Pixels()
"""


def entry(folder, text):
    file = folder / "mine.py"
    file.write_text(text, "utf-8")
    return TRACK._replace(entry=str(file))


def test_an_entry_has_no_labels_and_no_test_images(tmp_path):
    train, test = race.race_sets("shapes", 40)
    track = entry(tmp_path, CURIOUS.replace("FILE", repr(str(tmp_path / "seen.json"))))
    found = race.run_race(track, train, test, seed=7, keep=tmp_path / "weights")
    seen = json.loads((tmp_path / "seen.json").read_text("utf-8"))
    assert seen["labels"] == [-1] and seen["files"] == ["log", "train.npy"] and not seen["data"] and not seen["store"]
    assert seen["threads"] == 1 and seen["seed"] == 7 and seen["n"] == 40
    assert 0 < seen["seconds"] < 30 and 1 < found["seconds"] < 30, "importing counts"
    x, x_test = (images.pixels.flatten(1) / 255 for images in (train, test))
    assert found["knn"] == pytest.approx(race.neighbour_accuracy(x, train.labels, x_test, test.labels), abs=1e-4)
    assert (tmp_path / "weights").exists()


def test_an_entry_that_fails_is_named(tmp_path):
    track = entry(tmp_path, "def train(*_): raise ValueError('no idea')")
    with pytest.raises(SettingError, match=r"(?s)mine.py failed.*no idea"):
        race.run_race(track, *race.race_sets("shapes", 16), seed=0)


@pytest.mark.parametrize("text, says", [
    ("def learn(*_): pass", "has no function train"), ("def train(*_): pass", "it gives a NoneType"),
    ("import sslnb\ndef train(*_): sslnb.TrainConfig(seed=-1)", "seed = -1")])
def test_what_is_set_wrong_ends_an_entry_in_one_line(text, says, tmp_path):
    with pytest.raises(SystemExit, match=says): race._trained(entry(tmp_path, text).entry)


def test_no_traceback_where_only_a_name_is_wrong(tmp_path):
    with pytest.raises(SettingError, match="mine.py failed:\nit gives a NoneType") as told:
        race.run_race(entry(tmp_path, "def train(*_): pass"), *race.race_sets("shapes", 16), seed=0)
    assert "Traceback" not in str(told.value)


def test_a_gpu_that_is_not_there():
    if race.torch.cuda.is_available(): pytest.skip("there is one")
    with pytest.raises(SettingError, match="for a GPU"):
        race.run_race(race.TRACKS["gpu"], *race.race_sets("shapes", 16), seed=0)


def test_whitening_is_that_of_pca():
    from sklearn.decomposition import PCA
    images = data.load("shapes").at_most(300)
    net = models.encoder("tiny", images)
    white = race.Whitened(net, images)
    x = models.features(net, images)
    theirs = PCA(whiten=True, svd_solver="full").fit(x.double().numpy())
    v = theirs.explained_variance_ * (len(x) - 1) / len(x)
    wanted = theirs.transform(x.double().numpy()) * np.sqrt(theirs.explained_variance_ / (v + race.RIDGE * v.mean()))
    found = models.outputs(white, white, images).double().numpy()
    # directions of nearly one variance may come out turned: cosines of images do not see it
    assert np.allclose(found @ found.T, wanted @ wanted.T, atol=0.01)


def test_parts_are_the_means_over_quarters_and_a_mirror_image_reads_the_same():
    images = data.load("shapes").at_most(20)
    net, x = models.encoder("tiny", images).eval(), images.pixels / 255
    with torch.no_grad():
        maps, both = net.maps(x)[-1], race.Mirrored(race.InParts(net, 2))
        quarters = torch.stack([maps[:, :, i:i + 2, j:j + 2].mean((2, 3)) for i in (0, 2) for j in (0, 2)], 2)
        assert maps.shape[2:] == (4, 4) and torch.allclose(race.InParts(net, 2)(x), quarters.flatten(1), atol=1e-6)
        assert torch.allclose(race.InParts(net, 1)(x), net(x), atol=1e-6)
        assert torch.allclose(both(x), both(x.flip(3)), atol=1e-5)


def test_whitened_neighbours_do_not_depend_on_how_features_are_mixed():
    "An invertible mixture of features says the same; by cosine alone its neighbours are others."
    g = torch.Generator().manual_seed(0)
    images = data.Images.from_arrays(torch.randint(256, (400, 1, 4, 4), generator=g, dtype=torch.uint8), name="noise")
    flat = nn.Flatten()
    mixed = nn.Sequential(flat, nn.Linear(16, 16, bias=False))
    with torch.no_grad(): mixed[1].weight.copy_(torch.randn(16, 16, generator=g))
    def neighbours(model):
        x = torch.nn.functional.normalize(models.outputs(model, model, images))
        return (x @ x.T).fill_diagonal_(-1).argmax(1)
    def alike(a, b): return (neighbours(a) == neighbours(b)).float().mean()
    with patch.object(race, "RIDGE", 1e-9):
        assert alike(race.Whitened(flat, images), race.Whitened(mixed, images)) > 0.99
    assert alike(flat, mixed) < 0.5


def test_what_is_no_entry(tmp_path):
    (tmp_path / "other.py").write_text("def learn(*_): pass", "utf-8")
    for spec, message in (("tiny", "no entry 'tiny'"), ("README.md", "ends in .py"),
                          (tmp_path / "other.py", "has no function train")):
        with pytest.raises(SettingError, match=message): race.find_entry(str(spec))


def test_the_command_runs_the_track_of_the_gpu():
    "At a made size, on a CPU. (That of the laptop runs in notebook 11.)"
    done = CliRunner().invoke(cli, ["race", "--track", "gpu", "--device", "cpu", "--data", "shapes", "--images", "16",
                                    "--minutes", "0.05", "--seed", "0"])
    assert done.exit_code == 0, done.output
    assert "seed 0: " in done.output and "resnet18 needed" in done.output
    assert done.output.endswith("No entry for data/leaderboard.csv, because its set is shapes, not cifar10; it had 16 "
                                "images, not all; it had 1 seeds, not 3; it was given 0.05 minutes, not 10; it ran on "
                                "the device cpu, not cuda.\n")


@pytest.mark.parametrize("given, seconds, told", [
    ([], 570, ""), (["--seed", "5", "--seed", "6", "--seed", "7"], 570, ""), ([], 612, "it needed 10.2 minutes"),
    (["--data", "digits"], 1, "its set is digits"), (["--images", "99"], 1, "it had 99 images"),
    (["--seed", "0", "--seed", "0", "--seed", "1"], 1, "it had 2 seeds"), (["--minutes", "5"], 1, "it was given 5")])
def test_only_what_keeps_the_rules_gets_a_line_for_the_leaderboard(given, seconds, told, monkeypatch):
    monkeypatch.setattr(race, "race_sets", lambda *_: (None, None))
    monkeypatch.setattr(race, "run_race", lambda *given: {"seed": given[-1], "seconds": seconds, "knn": 0.5})
    done = CliRunner().invoke(cli, ["race", *given])
    assert done.exit_code == 0 and ("\nlaptop,small," in done.output) == (not told) and told in done.output


def test_a_wrong_entry_is_told_of_before_anything_else():
    done = CliRunner().invoke(cli, ["race", "--entry", "nosuch", "--data", "digits"])
    assert done.exit_code == 2 and done.output.startswith("Error: no entry 'nosuch'")


def test_the_leaderboard_is_whole():
    board = race.leaderboard()
    assert list(board) == ["track", "entry", "commit", "date", "device", "seeds", "minutes", "knn", "sd", "source"]
    assert set(board.track) <= set(race.TRACKS) and board.knn.between(0, 1).all() and (board.minutes > 0).all()


def test_the_literature_says_where_each_number_was_read():
    rows = race.literature()
    assert rows.accuracy.between(0, 1).all() and (rows[["epochs", "views"]] > 0).all(axis=None)
    assert set(rows.kind) <= {"linear", "neighbours"} and rows.link.str.startswith("https://").all()
    assert rows.checked.str.match(r"\d{4}-\d\d-\d\d: in |not verified$").all()
    assert not rows.duplicated(["method", "epochs", "views", "kind", "source"]).any()


def test_whitening_does_not_look_at_labels():
    from dataclasses import replace
    images = data.Images.from_arrays(torch.arange(12_000 * 16, dtype=torch.int32).remainder(251).to(torch.uint8)
                                     .view(12_000, 1, 4, 4), torch.arange(12_000) % 7, name="many")
    blind = replace(images, labels=torch.full((12_000,), -1), classes=())
    flat = nn.Flatten()
    assert torch.equal(race.Whitened(flat, images).weight, race.Whitened(flat, blind).weight)
