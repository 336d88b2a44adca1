"The front page of the study: it runs, and it leads everywhere."
import re
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "nbs" / "index.ipynb"


def test_the_tour_runs(execute, tmp_path):
    text = INDEX.read_text("utf-8")
    assert text.count("steps=150") == 1
    (tmp_path / "tour.ipynb").write_text(text.replace("steps=150", "steps=15"), "utf-8")  # all else as it stands
    outputs = [o for c in execute(tmp_path / "tour.ipynb").cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 4
    assert not [o for o in outputs if o.get("name") == "stderr"]


def test_it_links_to_every_study_notebook_and_no_link_is_dead():
    text = "\n".join(c.source for c in nbformat.read(INDEX, as_version=4).cells if c.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    for link in links: assert link.startswith("https://") or (INDEX.parent / link).exists(), link
    assert {p.name for p in INDEX.parent.glob("[0-9]*.ipynb")} <= set(links)
