"The page of all results: what it says, and what a real browser makes of it."
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sslnb.report import begin_run, record_all
from sslnb.tools import cli
from sslnb.tools.page import build_page, claim_rows, notebook_pages
from sslnb.verdicts import claims, record_claim, record_gate, verdicts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
VOID = {"meta", "link", "img", "input", "col", "br", "hr"}


def rows(paper, item, method, dataset, scale="quick", values=(0.5, 0.52, 0.54), metric="top1", **setting):
    return [dict(values={metric: v}, paper=paper, item=item, method=method, dataset=dataset, scale=scale, seed=seed,
                 setting=setting, n=2000) for seed, v in enumerate(values)]


def make_records(place):
    "Made records of all kinds: several sets, scales, readings and verdicts; two notebooks with figures."
    for dataset in ("cifar10", "shapes"):
        record_all(sum((rows("rotnet", "Table 1", m, dataset, fraction=f, final=True, epochs=20.0)
                        for m in ("simclr", "rotnet") for f in (0.01, 0.5)), []))
    record_all(rows("rotnet", "Table 1", "simclr", "cifar10", "gpu", (0.651, 0.653, 0.655), fraction=0.01, epochs=60.0))
    for dataset in ("cifar10->stl10-subset", "shapes->shapes-b"):
        record_all(rows("rotnet", "Table 2b", "simclr", dataset, batch=32))
    for reading in ("linear probe", "<matching>"):
        record_all(rows("deepcluster", "Table 1", "deepcluster", "mnist", reading=reading))
    for claim, dataset, scale, margins, setting in [
            ("R1", "cifar10", "gpu", [0.02, 0.021, 0.022], {"by": "batch"}),
            ("R1", "cifar10", "quick", [0.02, -0.01, 0.0], {"by": "batch"}),
            ("R2", "cifar10", "gpu", [-0.02, -0.021, -0.022], {"by": "steps"}),
            ("R3", "cifar10", "gpu", [0.1, -0.1, 0.05], {"by": "batch"}),
            ("R4", "cifar10", "gpu", [0.1, 0.11, 0.12], {}),
            ("R14", "cifar10", "gpu", [0.1], {"by": "update"}),
            ("R3", "shapes", "quick", [0.1, 0.11, 0.12], {"by": "batch"}),
            ("R3", "shapes", "quick", [-0.1, -0.11, -0.12], {"by": "steps"}),
            ("D1", "shapes", "quick", [-0.1, -0.11, -0.12], {"reading": "corrected"})]:
        record_claim(claim, pd.Series(margins), dataset=dataset, scale=scale, method="simclr", setting=setting)
    for paper, gate, opens in (("rotnet", "simclr learnt", 0.2), ("rotnet", "rotnet learnt", 0.2),
                               ("rotnet", "reference learnt", 0.6), ("deepcluster", "simclr learnt", 0.2),
                               ("deepcluster", "long enough", 1)):
        for dataset, scale in (("cifar10", "gpu"), ("cifar10", "quick"), ("shapes", "quick")):
            record_gate(paper, gate, pd.Series([opens]), dataset=dataset, scale=scale)
    for folder, number in (("cifar10-gpu", "01"), ("shapes-quick", "05")):
        (place / folder).mkdir()
        nb = new_notebook(cells=[new_markdown_cell(f"# {number} · Small\n> In a few words."),
                                 new_markdown_cell("## The loss\n\nOf $z_i$, costs \\$5:\n\n$$\\ell_i = -\\log p_i$$"),
                                 new_markdown_cell("## A *line*\n\nIt goes up:"), new_code_cell("1 + 1")])
        nbformat.write(nb, place / folder / f"{number}_small.ipynb")
        fig, ax = plt.subplots(figsize=(4, 3))
        ax.plot([1, 2])
        fig.savefig(place / folder / f"{number}_small-line.png", dpi=60,
                    metadata={"Description": "A line, which goes up."})
        plt.close(fig)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A folder with such records and their page."
    place = tmp_path_factory.mktemp("made") / "reports"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLNB_REPORTS", str(place))
        patch.setenv("SSLNB_PUBLISHED", str(place / "none"))
        make_records(place)
        notebook_pages()
        build_page()
    return place


@pytest.fixture
def reports(made, tmp_path):
    "A copy of one's own."
    return Path(shutil.copytree(made, tmp_path / "reports"))


@pytest.fixture
def soup(reports):
    return BeautifulSoup((reports / "index.html").read_text("utf-8"), "html.parser")


def texts(elements):
    return [" ".join(e.get_text(" ").split()) for e in elements]


def test_every_claim_has_a_verdict_and_none_is_blank(soup):
    bodies = soup.select("#verdicts tbody.one")
    assert [b["id"] for b in bodies] == list(claims().index)
    verdicts = {b["id"]: [(r["data-dataset"], r["data-scale"], r["data-verdict"]) for r in b.select("tr.row")]
                for b in bodies}
    assert verdicts["R1"] == [("cifar10", "gpu", "reproduced|for"), ("cifar10", "quick", "toy|unclear")]
    assert verdicts["R2"] == [("cifar10", "gpu", "not reproduced|against")]
    assert verdicts["R3"] == [("cifar10", "gpu", "inconclusive|unclear"), ("shapes", "quick", "toy|against")]
    assert verdicts["G6"] == [("", "", "not run")]
    assert all(len(b.select(".badge")) == len(b.select("tr.row")) > 0 for b in bodies)
    assert verdicts["R14"] == [("cifar10", "gpu", "not tested|not tested")]
    assert "1 of 3 seeds" in soup.select_one("#R14").get_text()
    assert "[−∞, +∞]" in soup.select_one("#R14").get_text() and "corrected" in soup.select_one("#D1").get_text()


def test_verdicts_are_those_of_report(reports):
    found = [(c["id"], r) for c in claim_rows() for r in c["rows"] if r["verdict"] != "not run"]
    assert len(found) == 8
    for claim, row in found:
        (same,) = verdicts([claim], row["dataset"], row["scale"]).to_dict("records")
        assert {k: row[k] for k in ("reading", "margin", "seeds wanted", "alone", "evidence", "verdict",
                                    "why", "from")} | {"text": same["text"]} == same


def test_a_run_with_parameters_of_its_own_stands_apart(reports):
    begin_run({"labelled_images": 100})
    try:
        record_all(rows("rotnet", "Table 1", "simclr", "cifar10", values=(0.1, 0.1, 0.1), fraction=0.01, final=True,
                        epochs=20.0))
        record_claim("R1", pd.Series([0.5, 0.51, 0.52]), dataset="cifar10", scale="gpu", method="simclr",
                     setting={"by": "batch"})
    finally: begin_run({})
    soup = BeautifulSoup(build_page().read_text("utf-8"), "html.parser")
    assert texts(soup.select("#R1 tr.row > td:first-child")) == [
        "cifar10, gpu yours", "cifar10, gpu (labelled images 100) yours", "cifar10, quick yours"]
    heads = texts(table(soup, "rotnet, Table 1, cifar10").select("thead th"))
    assert "ours: cifar10, quick" in heads and "ours: cifar10, quick (labelled images 100)" in heads
    assert "0.520 ± 0.020" in table(soup, "rotnet, Table 1, cifar10").get_text()
    assert (len(texts(soup.select("#R1 tr.row"))) == 3
            and verdicts(["R1"], "cifar10", "gpu").margin.tolist() == ["+0.021 [+0.019, +0.023]"])


def test_whatever_lies_about_costs_a_line_and_not_the_page(reports):
    good = build_page().read_text("utf-8")
    nb = (reports / "cifar10-gpu" / "01_small.ipynb").read_text("utf-8")
    failed = nbformat.from_dict(json.loads(nb) | {"metadata": {"papermill": {"exception": True}}})
    nbformat.write(failed, reports / "cifar10-gpu" / "02_failed.ipynb")
    bad = {"cifar10-gpu/03_cut.ipynb": nb[:40], "cifar10-gpu/04_none.ipynb": '{"metadata": {}, "cells": []}',
           "cifar10-gpu/05_list.ipynb": "[]",
           "cifar10-gpu/01_small-cut.png": "PNG", "records/notes.csv": "a,b\n1,2\n", "records/empty.csv": ""}
    for name, text in bad.items(): (reports / name).write_text(text, "utf-8")
    (reports / "mine").mkdir()
    (reports / "mine" / "10_claims.ipynb").write_text(nb, "utf-8")
    done = CliRunner().invoke(cli.cli, ["report"])
    assert done.exit_code == 0 and "Traceback" not in done.output, done.output
    for name in (*bad, "cifar10-gpu/02_failed.ipynb"):
        assert f"Warning: {reports / name}: " in done.output, (name, done.output)
    page = (reports / "index.html").read_text("utf-8")
    assert "02_failed" not in page and "01_small-cut" not in page and "mine/10_claims.ipynb" in page
    assert page.count('class="row"') == good.count('class="row"')


def table(soup, label):
    return soup.select_one(f'div.table > [aria-label="Table: {label}"]')


def test_tables_set_ours_beside_the_papers(soup):
    for p in soup.select("[popover]"): p.decompose()
    t = table(soup, "rotnet, Table 1, cifar10")
    assert texts(t.select("thead th"))[3:] == ["ours: cifar10, gpu", "Δ", "ours: cifar10, quick", "Δ toy",
                                               "ours: shapes, quick"]
    line = next(r for r in t.select("tbody tr") if "Fine-tuned SimCLR, 1%" in r.get_text())
    assert texts(line.select("td"))[-6:] == ["0.653", "0.653 ± 0.002 (3)", "+0.000 reproduced", "0.520 ± 0.020 (3)",
                                             "−0.133", "0.520 ± 0.020 (3)"]
    heads = {s["aria-label"][7:]: texts(s.select("thead th"))[3:] for s in soup.select("div.table > .box")}
    assert heads["rotnet, Table 2b, cifar10 → stl10"] == ["ours: cifar10 → stl10-subset, quick",
                                                          "ours: shapes → shapes-b, quick"]
    two = "deepcluster, Table 1, mnist"
    assert "our setting" in heads[two] and "<matching>" in table(soup, two).get_text()
    rest = soup.select_one("details.rest[data-paper=simclic]")
    assert "not run" in rest.get_text() and "that nothing here measures" in rest.get_text()


def test_every_number_of_ours_leads_to_its_origin(soup):
    buttons = soup.select("button.number")
    about = {p["id"]: p for p in soup.select("[popover]")}
    assert len(buttons) == len(about) == 22 and {b["popovertarget"] for b in buttons} == set(about)
    one = next(p for p in about.values() if "Fine-tuned SimCLR, 1%" in p.get_text() and "gpu" in p.get_text())
    told = " ".join(one.get_text(" ").split())
    for part in ("0 0.651 1 0.653 2 0.655", "test images 2000", "epochs 60", "CPU", "torch", "commit"):
        assert part in told, part
    margin = next(p for p in about.values() if p["aria-label"].startswith("R1, cifar10, gpu"))
    told = " ".join(margin.get_text(" ").split())
    for part in ("largest batch - smallest batch", "least seeds 3", "for the effect of interest (80 %)"):
        assert part in told, part


class Balanced(HTMLParser):
    "Are all tags closed, in order?"
    def __init__(self):
        super().__init__()
        self.open = []
    def handle_starttag(self, tag, attrs):
        if tag not in VOID: self.open.append(tag)
    def handle_startendtag(self, tag, attrs): pass
    def handle_endtag(self, tag): assert self.open.pop() == tag, (tag, self.getpos())


def test_the_page_is_sound_html_that_needs_no_network(soup, reports):
    html = (reports / "index.html").read_text("utf-8")
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    ids = [e["id"] for e in soup.select("[id]")]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "popovertarget"): assert {e[name] for e in soup.select(f"[{name}]")} <= set(ids)
    assert {a["href"][1:] for a in soup.select('a[href^="#"]')} <= set(ids)
    assert "http" not in html and "url(" not in html and "@import" not in html
    files = [e.get("src") or e.get("href") for e in soup.select("img, a[href]:not([href^='#'])")]
    assert len(files) > 10 and all((reports / f).exists() for f in files)
    assert all(img["alt"] and img["width"] and img["loading"] == "lazy" for img in soup.select("img"))
    assert all(th.get("scope") for th in soup.select("th"))
    assert all(t.caption or "verdicts" in t["class"] for t in soup.select(".box > table"))


def test_the_same_records_give_the_same_bytes(reports):
    first = (reports / "index.html").read_bytes()
    assert build_page().read_bytes() == first
    for p in reports.rglob("*_*.html"): p.unlink()  # what git ignores makes no difference
    assert build_page().read_bytes() == first
    assert str(reports).encode() not in first


def test_yours_stand_beside_the_published_numbers(reports, tmp_path):
    assert "published ones" not in build_page().read_text("utf-8")
    shutil.copytree(reports / "records", tmp_path / "published" / "records")
    record_all(rows("rotnet", "Table 1", "simclr", "cifar10", "gpu", (0.1, 0.1, 0.101), fraction=0.01, epochs=60.0))
    page = BeautifulSoup(build_page().read_text("utf-8"), "html.parser")
    assert "rotnet, Table 1 cifar10, gpu 0 0 1 0" in texts(page.select("#agreement tr"))
    told = CliRunner().invoke(cli.cli, ["compare"], catch_exceptions=False).output
    assert re.search(r"rotnet +Table 1 +cifar10 +gpu +0 +0 +1 +0", told) and "yours 0.1003, published 0.653" in told
    shutil.rmtree(reports / "records")
    page = BeautifulSoup(build_page().read_text("utf-8"), "html.parser")
    assert "published" in page.select_one("#R1 tr.row").get_text() and not page.select("#agreement")


@pytest.fixture
def opened(chromium, reports):
    """opened(width, after, **how): the page in a window, without a network. Neither it nor what is opened from it may
    fail, or ask for anything that is not a file."""
    index, contexts, wrong = reports / "index.html", [], []

    def opened(width=1280, after="", **how):
        how = {"viewport": {"width": width, "height": 800}, "reduced_motion": "reduce", "offline": True} | how
        contexts.append(chromium.new_context(**how))
        page = contexts[-1].new_page()
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.on("requestfailed",
                lambda r: "ABORTED" in r.failure or wrong.append(f"{r.url}: {r.failure}"))  # left too early
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
        page.goto(index.as_uri() + after)
        return page
    yield opened
    for context in contexts: context.close()
    assert not wrong


def shown(page, selector):
    return page.locator(f"{selector}:visible").count()


def test_filters(opened):
    page = opened()
    def chosen(**values):
        for name, value in values.items():
            (page.fill if name == "text" else page.select_option)(f"[name={name}]", value)
        return shown(page, "tr.row")
    everything = shown(page, "tr.row")
    assert (everything == page.locator("tr.row").count() == 41
            and page.locator("[name=count]").inner_text() == "41 of 41 verdicts shown")
    assert (chosen(verdict="reproduced") == 2 == shown(page, "#verdicts tbody.one")
            and shown(page, "#verdicts .group") == 1 == chosen(verdict="not tested"))
    assert chosen(verdict="against") == 2 and chosen(verdict="not run") == 33
    assert chosen(verdict="", paper="deepcluster") == 5 and shown(page, "figure") == 1 and shown(page, "div.table") == 1
    assert chosen(paper="", dataset="cifar10") == 6 and shown(page, "figure") == 1
    assert (not page.get_by_text("ours: shapes, quick").is_visible()
            and page.get_by_text("ours: cifar10, gpu").is_visible())
    assert chosen(scale="gpu") == 5 and not page.get_by_text("ours: cifar10, quick").first.is_visible()
    assert chosen(text="pretraining steps") == 1
    assert page.evaluate("location.hash") == "#dataset=cifar10&scale=gpu&text=pretraining+steps"
    page.reload()
    assert shown(page, "tr.row") == 1 and page.input_value("[name=text]") == "pretraining steps"
    page.fill("[name=text]", "no such words")
    assert page.get_by_text("No verdict fits").is_visible() and page.get_by_text("No figure fits").is_visible()
    page.get_by_role("button", name="Clear").click()
    assert shown(page, "tr.row") == everything and page.evaluate("location.hash") == ""


def test_a_filtered_page_can_be_linked_to_and_parts_keep_the_filter(opened):
    page = opened(after="#verdict=toy&paper=rotnet")
    assert shown(page, "tr.row") == 2
    page.get_by_role("link", name="Figures").click()
    assert shown(page, "tr.row") == 2 and page.evaluate("scrollY") > 300


def test_figures_show_and_notebooks_open(opened):
    page = opened()
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        page.wait_for_function("i => i.complete && i.naturalWidth > 0", arg=image.element_handle())
    page.locator("tr.copy a").first.click()
    page.wait_for_url("**/cifar10-gpu/01_small.html")
    assert page.get_by_role("heading", name="01 · Small").is_visible()


TYPESET = ("MathJax.startup.promise.then(() => [...document.querySelectorAll('mjx-container')]"
           ".map(m => m.getBoundingClientRect().width))")


def test_equations_show_without_a_network(opened):
    page = opened()
    page.locator("tr.copy a").first.click()
    page.wait_for_url("**/cifar10-gpu/01_small.html")
    assert len(page.evaluate(TYPESET)) == 2
    assert page.locator("p mjx-container[display=true] svg").is_visible() and page.get_by_text("costs $5").is_visible()
    said = page.locator("mjx-assistive-mml math").all_text_contents()
    assert said == ["zi", "ℓi=−log⁡pi"]


def test_every_equation_of_the_study_is_sound(opened, reports):
    study = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
    for path in study:
        nb = nbformat.read(path, as_version=4)
        nb.cells = [c for c in nb.cells if c.cell_type == "markdown"]
        nbformat.write(nb, reports / "shapes-quick" / path.name)
    notebook_pages()
    page = opened()
    for path in study:
        page.goto((reports / "shapes-quick" / path.name).with_suffix(".html").as_uri())
        widths = page.evaluate(TYPESET)
        assert all(w > 0 for w in widths) and page.locator("[data-mml-node=merror], mjx-merror").count() == 0, path.name
        assert "$" not in page.locator("main").inner_text(), path.name
        assert not [said for said in page.locator("mjx-assistive-mml").all_text_contents()
                    if "\\" in said], path.name  # \texttt in \text


def test_origins_open_by_keyboard_and_close(opened):
    page = opened()
    number = page.locator("#R2 button.number").first
    number.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="R2, cifar10, gpu")
    assert dialog.is_visible() and "-0.021" in dialog.inner_text() and "commit" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible() and number.evaluate("b => b === document.activeElement")
    number.click()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_a_phone_scrolls_tables_and_not_the_page(opened):
    page = opened(360)
    for text in ("Verdicts", "Figures"): page.get_by_role("heading", name=text, exact=True).scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("div.table .box").first
    assert box.evaluate("b => b.scrollWidth > b.clientWidth && getComputedStyle(b).overflowX === 'auto'")
    page.locator("#R1 button.number").first.click()
    edges = page.locator("[popover]:popover-open").bounding_box()
    assert edges["x"] >= 0 and edges["x"] + edges["width"] <= 360


def test_without_javascript_everything_is_there(opened):
    page = opened(java_script_enabled=False)
    assert shown(page, "tr.row") == 41 and not page.locator("form").is_visible() and shown(page, "figure") == 2
    page.locator("#R2 button.number").first.click()
    assert page.get_by_role("dialog", name="R2, cifar10, gpu").is_visible()


@pytest.mark.parametrize("how", [dict(), dict(color_scheme="dark"), dict(width=360)], ids=["light", "dark", "phone"])
def test_axe_finds_nothing(opened, axe, how):
    page = opened(**how)
    for details in page.locator("details").all(): details.evaluate("d => d.open = true")
    for popover in (False, True):
        if popover: page.locator("#R3 button.number").first.click()
        found = axe.run(page)
        assert not found.violations_count, found.generate_report()


def test_the_command_says_where_the_page_is(reports):
    done = CliRunner().invoke(cli.cli, ["report"])
    assert done.exit_code == 0 and done.output.strip() == str(reports / "index.html")
    pages = json.loads((reports / "pages.js").read_text("utf-8").removeprefix("var pages = ").rstrip(";\n"))
    assert (pages == ["cifar10-gpu/01_small.html", "shapes-quick/05_small.html"]
            and all((reports / p).exists() for p in pages))
