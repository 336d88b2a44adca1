"The notebooks of library, tools and course pass: every definition is tested in the cell that follows it."
import os
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from execnb.shell import CaptureShell
from matplotlib import rc_context
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

from sslnb import report
from sslnb.methods import METHODS

pytestmark = pytest.mark.slow
NBS = Path(__file__).resolve().parents[1] / "nbs"
WINGS = [path for wing in ("lib", "tools", "course") for path in sorted((NBS / wing).glob("*.ipynb"))]


@pytest.mark.parametrize("path", WINGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_notebook_passes(path, monkeypatch, capfd):
    monkeypatch.setattr("sys.path", [*sys.path])
    # else figures are drawn at twice the resolution, for nobody to see
    monkeypatch.setattr("nbdev.test.CaptureShell", partial(CaptureShell, mpl_format="png"))
    with patch.dict(os.environ), patch.dict(METHODS), rc_context(), pd.option_context("display.max_colwidth", 50):
        passed, _ = run_notebook(path, skip_flags=get_config().tst_flags.split())
    report.begin_run({})
    assert passed, capfd.readouterr().err
