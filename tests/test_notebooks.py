"Every study notebook at scale smoke; some as people run them, through papermill (tests/test_lab.py: in JupyterLab)."
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

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


def test_papermill_runs_one_with_other_parameters(tmp_path, one_store, monkeypatch):
    monkeypatch.setenv("SSLNB_STORE", str(one_store))
    done = from_command_line(STUDY[1], tmp_path / "out.ipynb", "-p", "scale", "smoke", "-y",
                             "fractions: [0.5]\nepochs: [1]\nbaseline_epochs: [1]")
    assert done.returncode == 0, done.stderr
    nb, found = nbformat.read(tmp_path / "out.ipynb", 4), records(every=True)
    assert ("widgets" not in nb.metadata
            and not [o for c in nb.cells for o in c.get("outputs", []) if o.get("name") == "stderr"])
    assert set(found.parameters) == {'{"baseline_epochs":[1],"epochs":[1],"fractions":[0.5]}'}


def test_a_wrong_parameter_is_an_error_that_names_it(tmp_path):
    # nbs/lib/24_study.ipynb tries many more
    done = from_command_line(STUDY[0], tmp_path / "out.ipynb", "-p", "step", "3")
    assert done.returncode != 0 and "SettingError" in done.stderr and "no parameter is called step" in done.stderr


def test_transfer_between_sets_with_other_numbers_of_classes_is_refused(tmp_path, execute):
    with pytest.raises(DataError, match="shapes/train has 10 classes but shapes-20/train has 20"):
        execute(ROOT / "nbs" / "03_transfer.ipynb", scale="smoke", counterpart="shapes-20")
    assert not (tmp_path / "runs").exists()  # found before anything was trained
