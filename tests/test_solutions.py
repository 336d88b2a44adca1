"Worked solutions: they run, and every exercise has a text, a check and a solution."
import ast
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from sslnb import verdicts
from sslnb.course.checks_04 import RUNGS
from sslnb.course.exercises import checks_of, find_check

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SOLUTIONS = sorted((ROOT / "nbs" / "solutions").glob("*.ipynb"))
STUDY = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
COURSE = sorted((ROOT / "nbs" / "course").glob("*.ipynb"))
CLAIMS = ROOT / "nbs" / "solutions" / "10_claims.ipynb"


def source(path, *kinds):
    return "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type in kinds)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)
def test_solution_runs_and_leaves_nothing_untidy(path, tmp_path, execute):
    outputs = [o for c in execute(path).cells for o in c.get("outputs", [])]
    assert outputs
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert not (tmp_path / "reports").exists(), "solutions leave no records: theirs are small measurements"


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.name)
def test_solution_is_shown_as_it_ran(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    outputs = [o for c in nb.cells for o in c.get("outputs", [])]
    assert outputs and not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size < 5e5
    first = nb.cells[0].source
    assert "try first" in first.lower() and f"](../{path.name})" in first


@pytest.mark.parametrize("path", STUDY, ids=lambda p: p.name)
def test_every_exercise_has_a_text_a_check_and_a_solution(path):
    number, solution = path.name[:2], path.parent / "solutions" / path.name
    exercises = source(path, "markdown").split("**Exercises")[-1]
    asked = sorted(set(re.findall(rf"\b{number}\.\d\b", exercises)))
    assert 3 <= len(asked) <= 5 and asked == [f"{number}.{k + 1}" for k in range(len(asked))]
    assert asked == list(checks_of(number))
    calls = set(re.findall(r'assert check\("([\d.]+)"', source(solution, "code")))
    assert calls == set(asked)
    assert f"solutions/{path.name}" in exercises


def printed(nb):
    "What each cell of a notebook has printed, by the cell's id."
    texts = {c.id: [o.text for o in c.get("outputs", []) if o.output_type == "stream"] for c in nb.cells}
    return {name: "".join("".join(text) for text in parts) for name, parts in texts.items()}


@pytest.mark.parametrize("path", COURSE, ids=lambda p: p.name)
def test_a_check_prints_what_its_notebook_shows(path, execute):
    assert printed(execute(path)) == printed(nbformat.read(path, as_version=4)), "execute it anew and store it"


def test_the_solution_on_claims_shows_what_the_published_records_say(execute, monkeypatch):
    "Those of this commit, and no one's own."
    monkeypatch.delenv("SSLNB_PUBLISHED")
    margins = pd.Series([0.1, 0.11, 0.12], index=[0, 1, 2]).rename_axis("seed")
    verdicts.record_claim("R4", margins, dataset="made-up", scale="gpu", method="x")
    assert len(verdicts.records(metric="margin", source="yours"))
    assert printed(execute(CLAIMS)) == printed(nbformat.read(CLAIMS, as_version=4)), "execute it anew and store it"


@pytest.mark.parametrize("number", ["01", "02", "03", "05", "06", "07", "08"])
def test_exercises_that_train_name_the_scale_for_it(number):
    path, = (p for p in STUDY if p.name.startswith(number))
    before = source(path, "markdown").split("**Exercises")[-1].split(f"**{number}.1**")[0]
    assert "`-p scale quick`" in before, "at the usual scale a single training is long on a CPU"


def test_exercise_04_1_names_what_changes_between_the_rows_of_the_ladder():
    path, = (p for p in STUDY if p.name.startswith("04"))
    code = next(c.source for c in nbformat.read(path, as_version=4).cells if c.source.count("ladder = {"))
    ladder, = (n.value for n in ast.parse(code).body if isinstance(n, ast.Assign) and n.targets[0].id == "ladder")
    assert len(ladder.keys) == len(RUNGS) + 1
    asked = source(path, "markdown").split("**04.1**")[1].split("**04.2**")[0]
    assert re.findall(r'`"(.+?)"`', asked) == list(RUNGS)


def test_exercise_10_2_its_check_and_its_solution_ask_for_the_same():
    exercise = source(ROOT / "nbs" / "10_claims.ipynb", "markdown").split("**Exercises")[-1]
    for text in (exercise, find_check("10.2").__doc__, source(CLAIMS, "markdown").split("## 10.2")[1]):
        assert {"two-sided", "5 %", "80 %"} <= set(re.findall("two-sided|5 %|80 %", text))
    assert find_check("10.2")(verdicts.seeds_for(1.0, 1.0)) is None
