"Every study notebook at scale smoke; some as people run them, through papermill (tests/test_lab.py: in JupyterLab)."
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from sslnb.core import SettingError, reports
from sslnb.data import DataError
from sslnb.report import records
from sslnb.tools.notebook import read_notebook
from test_lab import IN_LAB

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STUDY = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))


def from_command_line(path, out, *parameters):
    command = [sys.executable, "-m", "papermill", path, out, "--no-progress-bar", *parameters]
    return subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", env=os.environ.copy())


@pytest.fixture(scope="session")
def one_store(tmp_path_factory):
    "A store for all of them, as in `make study`: what one has trained, the next one finds."
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("path", STUDY, ids=lambda p: p.name)
def test_runs_at_smoke_scale_and_leaves_nothing_untidy(path, execute, browser_path, one_store, monkeypatch):
    if browser_path and path.stem in IN_LAB: pytest.skip("tests/test_lab.py runs it in a browser")
    monkeypatch.setenv("SSLNB_STORE", str(one_store))
    outputs = [o for c in execute(path, scale="smoke").cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    about, found = read_notebook(path).about, records(every=True)
    assert set(found[found.metric == "margin"]["item"]) == set(about.claims)
    assert set(found.paper) == set(about.papers) - {"all"}  # 10 only reads records


@pytest.fixture
def photographs(tmp_path):
    "photographs(classes): a folder as people have them, 20 files a class, of several sizes, with nothing set aside."
    def photographs(classes):
        draw = np.random.default_rng(0)
        for k, name in enumerate(classes):
            (tmp_path / "фото" / name).mkdir(parents=True)
            for i in range(20):
                size = draw.integers(20, 40, 2)
                pixels = draw.integers(0, 128, (*size, 3)) + 127 * (k == draw.integers(len(classes)))
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "фото" / name / f"{i}.png")
        return f"folder:{tmp_path / 'фото'}"
    return photographs


def test_papermill_runs_one_with_other_parameters_on_a_folder(tmp_path, photographs, monkeypatch):
    monkeypatch.setenv("SSLNB_CACHE", str(tmp_path / "cache"))
    mine = photographs("äбc") + "@16"
    done = from_command_line(STUDY[1], tmp_path / "out.ipynb", "-p", "dataset", mine, "-p", "scale", "smoke", "-y",
                             "fractions: [0.5]\nepochs: [1]\nbaseline_epochs: [1]")
    assert done.returncode == 0, done.stderr
    for path in (reports() / "records").glob("*.csv"): assert str(tmp_path) not in path.read_text("utf-8")
    nb, found = nbformat.read(tmp_path / "out.ipynb", 4), records(every=True)
    assert ("widgets" not in nb.metadata
            and not [o for c in nb.cells for o in c.get("outputs", []) if o.get("name") == "stderr"])
    assert set(found.parameters) == {'{"baseline_epochs":[1],"epochs":[1],"fractions":[0.5]}'}


def test_a_wrong_parameter_is_an_error_that_names_it(tmp_path):
    # nbs/lib/24_study.ipynb tries many more
    done = from_command_line(STUDY[0], tmp_path / "out.ipynb", "-p", "step", "3")
    assert done.returncode != 0 and "SettingError" in done.stderr and "no parameter is called step" in done.stderr


def test_a_folder_is_refused_before_anything_is_trained(tmp_path, photographs, execute, monkeypatch):
    # nbs/lib/24_study.ipynb begins every notebook on one, and tries more that is wrong with it
    monkeypatch.setenv("SSLNB_CACHE", str(tmp_path / "cache"))
    mine = photographs(["cat", "dog"])
    with pytest.raises(DataError, match="different sizes.*@32"): execute(STUDY[0], scale="smoke", dataset=mine)
    with pytest.raises(SettingError, match="-p counterpart"): execute(STUDY[2], scale="smoke", dataset=f"{mine}@32")
    assert not (tmp_path / "runs").exists()


def test_transfer_between_sets_with_other_numbers_of_classes_is_refused(tmp_path, execute):
    with pytest.raises(DataError, match="shapes/train has 10 classes but shapes-20/train has 20"):
        execute(ROOT / "nbs" / "03_transfer.ipynb", scale="smoke", counterpart="shapes-20")
    assert not (tmp_path / "runs").exists()  # found before anything was trained
