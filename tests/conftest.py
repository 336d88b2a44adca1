"What the tests share: a place of their own for runs and reports, Python as another process, a browser."
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from execnb.nbio import read_nb
from execnb.shell import CaptureShell


SLOWEST = ("test_lab", "test_docs", "test_notebooks", "test_solutions")


def pytest_collection_modifyitems(items):
    "What is slow begins, and the slowest first: then two workers end at the same time."
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, item.path.stem not in SLOWEST))


@pytest.fixture(scope="session", autouse=True)
def in_float32():
    "Also where a CPU has bf16: numbers are compared with others', which have more digits."
    with patch("torch.cpu.get_capabilities", dict): yield


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    "Runs, records and decoded sets of a test never land among the real ones."
    monkeypatch.setenv("SSLNB_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("SSLNB_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("SSLNB_PUBLISHED", str(tmp_path / "published"))
    monkeypatch.setenv("SSLNB_SHELVES", "")
    monkeypatch.delenv("SSLNB_CACHE", raising=False)  # else it would be everybody's, whatever the data folder
    yield
    if report := sys.modules.get("sslnb.report"): report.begin_run({})  # what a notebook began ends with its test


@pytest.fixture
def python():
    "python(code, *args): the code in a process of its own, not waited for."
    started = []

    def start(code, *args):
        p = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=os.environ.copy(),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        started.append(p)
        return p
    yield start
    for p in started: p.kill()


@pytest.fixture
def forked(tmp_path_factory):
    "forked(code, *args): as `python`, and torch is there already."
    from forked import Forked
    started = []

    def start(code, *args):
        started.append(Forked(code, list(map(str, args)), tmp_path_factory.mktemp("forked")))
        return started[-1]
    yield start
    for p in started: p.kill()


@pytest.fixture
def stop_at():
    "A progress bar that interrupts once the state after so many steps is saved."
    class Stop:
        def __init__(self, steps): self.left = steps

        def update(self, n=1, note=""):
            if self.left < 0: raise KeyboardInterrupt
            self.left -= n

        skip = update
    return Stop


@pytest.fixture
def execute(monkeypatch):
    """execute(path, **parameters): the notebook with its outputs, run in this process, on drawn images unless the
    parameters say otherwise. (A kernel for each would import torch anew.)"""
    import pandas as pd
    from matplotlib import rc_context

    from sslnb.methods import METHODS
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr(CaptureShell, "kernel", None, raising=False)  # else progress goes to stderr, as in a terminal

    def execute(path, **parameters):
        nb = read_nb(path)
        for cell in nb.cells:
            if "parameters" in cell.metadata.get("tags", []):
                given = {"dataset": "shapes"} | parameters
                cell.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
        with rc_context(), pd.option_context("display.max_colwidth", 50), patch.dict(METHODS):
            CaptureShell(path, mpl_format="png").run_all(nb, exc_stop=True)
        return nb
    return execute


def unavailable(reason):
    "Skip, and say why; with SSLNB_BROWSER=required, where nothing may be missing, fail."
    (pytest.fail if os.environ.get("SSLNB_BROWSER") == "required" else pytest.skip)(reason)


@functools.cache
def find_browser():
    "(path, why there is none): a browser on PATH or playwright's own, and playwright to drive it."
    try: from playwright.sync_api import sync_playwright
    except ImportError: return None, "the browser tests need playwright: pip install playwright"
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    if path := next(found, None): return path, None
    with sync_playwright() as p: path = p.chromium.executable_path
    if Path(path).exists(): return path, None
    return None, "the browser tests need a browser: apt install chromium, or playwright install chromium"


@pytest.fixture(scope="session")
def browser_path():
    "A browser's path; None where there is none."
    return find_browser()[0]


@pytest.fixture(scope="module")  # no longer: while it runs, nothing else in this process can have an event loop
def chromium():
    "A browser that plays for the tests of one file."
    path, why_not = find_browser()
    if not path: unavailable(why_not)
    from playwright.sync_api import sync_playwright
    quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=quiet + ["--no-sandbox"] * (os.geteuid() == 0))
        yield browser
        browser.close()


@pytest.fixture
def axe():
    "The accessibility check."
    try: from axe_playwright_python.sync_playwright import Axe
    except ImportError: unavailable("the accessibility check needs axe: pip install axe-playwright-python")
    return Axe()
