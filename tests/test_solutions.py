"Worked solutions: they run, and every exercise has a text, a check and a solution."
import re
from pathlib import Path

import nbformat
import pytest

from sslnb.course.exercises import checks_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SOLUTIONS = sorted((ROOT / "nbs" / "solutions").glob("*.ipynb"))
STUDY = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))


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
