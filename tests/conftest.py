"What the tests share: a place of their own for runs and reports, and a way to start Python as another process."
import os
import subprocess
import sys

import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    "Runs and records of a test never land among the real ones."
    monkeypatch.setenv("SSLNB_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("SSLNB_REPORTS", str(tmp_path / "reports"))


@pytest.fixture
def python():
    "python(code, *args): the code in a process of its own, not waited for."
    started = []

    def start(code, *args):
        p = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=os.environ.copy(),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(p)
        return p
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
    return Stop
