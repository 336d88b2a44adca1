"CONTRIBUTING.md to the letter: its commands exist, its method is added to a copy of the project and trained. CITATION."
import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell
from scipy.spatial.distance import pdist

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SITTING = TEXT.split("## A method in one sitting")[1]
LEAN_ON = {"losses": "import torch", "methods": "def one_step"}  # the notebook's own cells up to this one come first


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


def part(title):
    "What stands under the heading that holds `title`, up to the next one."
    return re.search(rf"^### \d\. [^\n]*{re.escape(title)}[^\n]*\n(.*?)(?=^### |\Z)", SITTING, re.S | re.M)[1]


def apply(diff, nb):
    "Replace the line that begins with - by the one that begins with +; it must be there, once."
    old, new = (re.search(rf"^\{sign}(.*)$", diff, re.M)[1] for sign in "-+")
    cells = [c for c in nb.cells if c.cell_type == "code" and old in c.source.splitlines()]
    assert len(cells) == 1, f"CONTRIBUTING.md changes a line that is not there: {old}"
    cells[0].source = cells[0].source.replace(old, new)


def follow(name, folder):
    "The notebook in `folder` with the cells and changes that the text gives it; what is to run, to test them."
    path, = (folder / "nbs" / "lib").glob(f"*_{name}.ipynb")
    text = part(f"nbs/lib/{path.name}")
    nb, added = nbformat.read(path, as_version=4), [new_code_cell(b.rstrip()) for b in blocks(text, "python")]
    assert added
    for diff in blocks(text, "diff"): apply(diff, nb)
    before = re.search(r"Before the heading `(.*?)`", text)
    places = [i for i, c in enumerate(nb.cells) if before and c.source.startswith(before[1])] or [len(nb.cells)]
    assert not before or nb.cells[places[0]].source.startswith(before[1]), before[1]
    last = next(i for i, c in enumerate(nb.cells) if LEAN_ON[name] in c.source)
    own = [c.source for c in nb.cells[:last + 1] if c.cell_type == "code"]
    nb.cells[places[0]:places[0]] = added
    nbformat.write(nb, path)
    return "\n".join(own + [c.source for c in added])


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "nbs" / "lib", folder / "nbs" / "lib")
    shutil.copytree(ROOT / "sslnb", folder / "sslnb", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, folder)
    return folder


def test_commands_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = {word for command in re.findall(r"(?:^|`)make ([\w -]+?)(?=\s*#|`|$)", TEXT, re.M)
             for word in command.split()}
    assert {"setup", "export", "test"} <= named <= targets
    paths = (set(re.findall(r"(?:nbs|tests)/[\w/]+\.(?:ipynb|py)", TEXT))
             - {"nbs/lib/00_X.ipynb", "nbs/tools/00_X.ipynb"})
    for path in paths: assert (ROOT / path).exists(), path


def test_a_method_in_one_sitting(copy, tmp_path):
    checks = [follow(name, copy) for name in LEAN_ON]
    done = subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=copy, capture_output=True,
                          encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "def align_uniform" in (copy / "sslnb" / "losses.py").read_text("utf-8")
    assert '"align-uniform": AlignUniform' in (copy / "sslnb" / "methods.py").read_text("utf-8")
    end = f"""
import numpy, sslnb
from sslnb.losses import align_uniform
assert sslnb.__file__.startswith({str(copy)!r}), sslnb.__file__
z1, z2 = torch.randn(2, 50, 5, generator=torch.Generator().manual_seed(1))
numpy.savez({str(tmp_path / "out.npz")!r}, z1=z1, z2=z2, value=align_uniform(z1, z2, 0.3), loss=loss)
"""
    train, = blocks(part("Train it"), "python")
    script = "\n".join(["import torch", *(f"exec({code!r}, {{'__name__': 'cell'}})" for code in checks), train, end])
    env = {"SSLNB_DATA": str(ROOT / "data")} | os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", script], cwd=copy, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    out = np.load(tmp_path / "out.npz")
    a, b = (out[z] / np.linalg.norm(out[z], axis=1, keepdims=True) for z in ("z1", "z2"))  # an independent reference
    near = [np.log(np.exp(-0.3 * pdist(z, "sqeuclidean")).mean()) for z in (a, b)]
    expected = ((a - b) ** 2).sum(1).mean() + np.mean(near)
    np.testing.assert_allclose(out["value"], expected, rtol=1e-5)
    assert len(out["loss"]) == 60 and np.isfinite(out["loss"]).all()
    assert out["loss"][-10:].mean() < out["loss"][:10].mean() - 0.2


def test_stale_text_is_noticed(copy):
    nb = nbformat.read(copy / "nbs" / "lib" / "12_methods.ipynb", as_version=4)
    for cell in nb.cells: cell.source = cell.source.replace('"emp-ssl": EMPSSL', '"emp": EMPSSL')
    nbformat.write(nb, copy / "nbs" / "lib" / "12_methods.ipynb")
    with pytest.raises(AssertionError, match="a line that is not there"): follow("methods", copy)


def test_citation_has_the_version_and_the_five_papers():
    cited, config = (yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8")),
                     configparser.ConfigParser(delimiters=["="]))
    config.read(ROOT / "settings.ini", encoding="utf-8")
    assert cited["version"] == config["DEFAULT"]["version"]
    keys = [re.match(r"Key (\w+)\.", paper["notes"])[1] for paper in cited["references"]]
    assert keys == ["rotnet", "deepcluster", "mae", "simclic", "geometry"]
    assert all(paper["title"] and paper["authors"] for paper in cited["references"])
