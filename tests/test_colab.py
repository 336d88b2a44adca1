"The links at the head of each notebook, and the cell that installs the study where it is not, as on Colab."
import importlib.util
import json
import os
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest

from sslnb.tools import notebook
from test_project import settings

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [*sorted((ROOT / "nbs").glob("[0-9]*.ipynb")), ROOT / "nbs" / "index.ipynb"]
OUTER = Path(sysconfig.get_path("purelib"))  # where torch and the rest are


def code_of(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_begins_with_its_links_and_the_cell_that_installs(path):
    s, code = settings(), code_of(path)
    assert (code[0].id, code[0].source) == ("install", notebook.install_cell()), "make export"
    assert not code[0].outputs and not [c for c in code[1:] if "find_spec" in c.source]
    cells = {c.id: c.source for c in nbformat.read(path, as_version=4).cells}
    head = cells["map" if path.stem == "index" else "header"]
    assert head.count("https://") == 2
    assert (f"(https://colab.research.google.com/github/{s['user']}/{s['repo']}/blob/{s['branch']}/nbs/{path.name})"
            in head)
    assert f"(https://mybinder.org/v2/gh/{s['user']}/{s['repo']}/{s['branch']}?labpath=nbs%2F{path.name})" in head


def test_binder_can_build():
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    assert (ROOT / ".binder" / "runtime.txt").read_text("utf-8").strip() == f"python-{settings()['min_python']}"


@pytest.fixture
def colab(tmp_path):
    """colab(code, **env): what comes of running it in an empty folder, by a Python that has what Colab has, and not
    sslnb. There, git finds these files at the project's address, and nothing else is on the net."""
    if not shutil.which("git"): pytest.skip("git is not there")
    brought = importlib.util.find_spec("ensurepip")
    pip = brought and next(Path(brought.origin).parent.glob("_bundled/pip-*.whl"), None)
    if not pip: pytest.skip("this Python brings no pip along (ensurepip)")
    git = ["git", f"--git-dir={tmp_path / 'origin'}", f"--work-tree={ROOT}", "-c", "user.name=a",
           "-c", "user.email=a@b"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SSLNB_", "PIP_", "GIT_"))}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    for command in (["init", "-q", "-b", settings()["branch"]], ["add", "-A"], ["commit", "-qm", "as it is now"]):
        subprocess.run([*git, *command], cwd=ROOT, env=env, check=True)
    venv.create(tmp_path / "python", symlinks=os.name != "nt")
    python = tmp_path / "python" / "bin" / "python"
    packages = next((tmp_path / "python").glob("lib/python*/site-packages"))
    with zipfile.ZipFile(pip) as wheel: wheel.extractall(packages)
    (packages / "colab.pth").write_text(f"{OUTER}\n", "utf-8")  # the .pth files in there are not read
    (tmp_path / "content").mkdir()
    env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{tmp_path / 'origin'}.insteadOf",
            "GIT_CONFIG_VALUE_0": f"https://github.com/{settings()['user']}/{settings()['repo']}"}
    # 0 means yes: pip builds with the setuptools that is there, and does not check everything else (slow)
    env |= {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_WARN_CONFLICTS": "0"}

    def run(code, **more):
        return subprocess.run([python, "-c", code], cwd=tmp_path / "content", env=env | more, capture_output=True,
                              encoding="utf-8")
    run.packages, run.content = packages, tmp_path / "content"
    return run


BEGUN = """
import contextlib, io, json, os, sys
import sslnb.core, torch
def place(): return os.getcwd(), list(sys.path)
before, said = place(), io.StringIO()
with contextlib.redirect_stdout(said): exec(cell)
print(json.dumps({"again": said.getvalue() or place() != before, "cwd": os.getcwd(), "sslnb": sslnb.__file__,
                  "root": str(sslnb.core.ROOT), "torch": torch.__file__, "scale": p.scale}))
"""


@pytest.mark.slow
def test_a_notebook_that_is_alone_fetches_the_study(colab):
    def ours(): return {p: p.stat().st_mtime_ns for p in OUTER.glob("*sslnb*")}
    def others(): return {p.name for p in colab.packages.iterdir() if "sslnb" not in p.name} - {"__pycache__"}
    cell, before = notebook.install_cell(), (ours(), others())
    home = colab.content / f"{settings()['repo']}-{settings()['branch']}"
    (colab.content / "sslnb").mkdir()  # a folder of that name is not the package
    assert "ModuleNotFoundError" in colab("import sslnb.core").stderr

    for env, reason in (({"PATH": ""}, "No such file or directory: 'git'"),
                        ({"GIT_CONFIG_COUNT": "0", "GIT_ALLOW_PROTOCOL": "file"}, "transport 'https' not allowed"),
                        ({"PIP_CONSTRAINT": "nowhere.txt"}, "Could not open requirements file")):
        failed = colab(cell, **env)
        assert failed.returncode and reason in failed.stderr, failed.stderr
        assert failed.stderr.splitlines()[-1].startswith("sslnb could not be installed. It needs git, pip")
    assert home.exists(), "fetched once"

    code = [c.source for c in code_of(NOTEBOOKS[0])]
    begin = next(k for k, source in enumerate(code) if "begin(" in source)
    done = colab("\n".join([f"cell = {cell!r}", *code[:begin + 1], BEGUN]))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"again": False, "cwd": str(home / "nbs"), "sslnb": str(home / "sslnb" / "__init__.py"),
                     "root": str(home), "torch": str(OUTER / "torch" / "__init__.py"), "scale": "hours"}
    assert (ours(), others()) == before, "nothing else was installed or touched"

    (colab.content / "sslnb").rmdir()
    restarted = colab(cell + "\nimport sslnb; print(sslnb.__file__)")
    assert (restarted.stdout, restarted.stderr) == (f"{home / 'sslnb' / '__init__.py'}\n", "")
