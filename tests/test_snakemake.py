"Sweeps through Snakemake: the jobs it would run, and a small study that it does run, on two cores."
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sslnb.tools.notebook import notebooks

pytestmark = pytest.mark.slow

pytest.importorskip("snakemake", reason="sweeps need Snakemake: uv pip install -e '.[sweeps]'")
WORKFLOW = Path(__file__).resolve().parents[1] / "workflow"


@pytest.fixture
def snakemake(tmp_path, monkeypatch):
    "snakemake(*options, **config): started, with what it writes of its own in the test's folder."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    started = []

    def snakemake(*options, **config):
        command = [sys.executable, "-m", "snakemake", "-s", WORKFLOW / "Snakefile", "--nocolor", "--cores", "2",
                   *options]
        command += ["--config", *(f"{key}={value}" for key, value in config.items())]
        started.append(subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=os.environ.copy(), encoding="utf-8",
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return started[-1]
    yield snakemake
    for p in started:
        if p.poll() is None: p.terminate()
        p.communicate(timeout=30)


def ended(process, code=0):
    "What it said; it must end with this exit code, and never with a traceback."
    said = process.communicate(timeout=300)[0]
    assert process.returncode == code and "Traceback" not in said, said
    return said


def jobs(said):
    "The names of the jobs, in order."
    return re.findall(r"^Job \d+: (\S+)$", said, re.MULTILINE)


def test_what_would_run(snakemake, tmp_path):
    all_of_it = snakemake("-n")
    sweep = snakemake("-n", notebooks="01,02,09", data="shapes,cifar10", scale="smoke", **{"seeds": "[0],[1, 2]"})
    wrong = snakemake("-n", notebooks="01", temperature="0.1,-0.1")

    found = jobs(ended(all_of_it))
    assert sorted(found) == [f"shapes-quick/{nb.path.stem}" for nb in notebooks()]
    order = [name.removeprefix("shapes-quick/")[:2] for name in found]
    assert all(order.index(n) < order.index(nb.number) for nb in notebooks() for n in nb.about.needs if n != nb.number)

    found = jobs(ended(sweep))
    swept = [f"sweep/seeds-{seeds}/{data}-smoke/{nb}" for seeds in ("0", "1-2") for data in ("shapes", "cifar10")
             for nb in ("01_linear", "02_semi", "09_geometry")]
    assert sorted(found) == sorted(swept + ["shapes-smoke/08_supcon", "cifar10-smoke/08_supcon"])
    swept = "sweep/seeds-1-2/shapes-smoke"
    assert found.index("shapes-smoke/08_supcon") < found.index(f"{swept}/09_geometry")  # 08 is not swept, 01 is
    assert found.index(f"{swept}/01_linear") < found.index(f"{swept}/02_semi")
    assert "two settings would both be called sweep/temperature-0.1/shapes-quick/01_linear" in ended(wrong, 1)
    assert not (tmp_path / "reports").exists()


@pytest.fixture
def study(tmp_path, monkeypatch):
    "Three tiny notebooks; the second needs the first, the third fails."
    place = tmp_path / "nbs"
    place.mkdir()
    monkeypatch.setenv("SSLNB_NOTEBOOKS", str(place))
    (place / "studies.yaml").write_text('"02":\n  needs: ["01"]\n', "utf-8")
    for number, code in (("01", "print(rate)"), ("02", "print(rate)"), ("03", "1 / 0")):
        about = f"# {number} · Small"
        parameters = 'scale: str = "quick"  # .\ndataset: str = "digits"  # .\nrate: list[float] | None = None  # .'
        nb = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
        nb.cells = [new_markdown_cell(about), new_code_cell(parameters, metadata={"tags": ["parameters"]}),
                    new_code_cell(code)]
        nbformat.write(nb, place / f"{number}_small.ipynb")


def test_two_cores_run_what_is_missing_and_keep_what_succeeds(snakemake, study, tmp_path):
    reports, swept = tmp_path / "reports", "sweep/rate-1e-3-2/digits-smoke"
    given = dict(notebooks="02,03", data="digits", scale="smoke", rate="[1e-3, 2]")
    told = ended(snakemake(**given), 1)
    assert sorted(jobs(told)) == ["digits-smoke/01_small", f"{swept}/02_small", f"{swept}/03_small"]
    assert "ZeroDivisionError" in told
    assert sorted(p.relative_to(reports).as_posix() for p in reports.rglob("*.ipynb")) == [
        "digits-smoke/01_small.ipynb", f"{swept}/02_small.ipynb", f"{swept}/03_small.failed.ipynb"]
    copy = nbformat.read(reports / swept / "02_small.ipynb", 4)
    assert copy.cells[-1].outputs[0].text == "[0.001, 2]\n" and copy.metadata.sslnb["made from"]
    assert "Nothing to be done" in ended(snakemake(**given | {"notebooks": "02"}))


def test_profiles_say_what_snakemake_knows():
    known = subprocess.run([sys.executable, "-m", "snakemake", "--help"], capture_output=True, encoding="utf-8").stdout
    for path in (WORKFLOW / "profiles").glob("*/config.yaml"):
        for option in yaml.safe_load(path.read_text("utf-8")): assert f"--{option}" in known, (path.parent.name, option)
