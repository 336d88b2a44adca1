"The rules that decide the claims: each on made-up records, and all of them on the committed ones."
import csv
import fnmatch
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from sslnb import report, verdicts
from sslnb.core import SettingError
from sslnb.runs import Found

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "reports" / "published"
CLAIMS, RULES, GATES = verdicts.claims(), verdicts.rules(), verdicts.gates()
PARTS = [(r.claim, reading.replace("*", "as published"), r.part.replace("*", f"x{i}")) for r in RULES.itertuples()
         for reading in ([r.reading] if r.reading else ["as published", "corrected"]) for i in range(r.parts)]
NEEDED = {(claim, reading): [p for c, r, p in PARTS if (c, r) == (claim, reading)] for claim, reading, _ in PARTS}


def rule(claim, reading, part):
    return verdicts.rule(claim, {"reading": reading, "part": part} if part else {"reading": reading})


def give(claim, reading, margins, scale="gpu", parts=None, seeds=(0, 1, 2)):
    "Record differences that come out as these margins (one a seed), for all parts of a claim or for some."
    for part in NEEDED[claim, reading] if parts is None else parts:
        how = rule(claim, reading, part)
        size = max(how.effect, 0.01)  # so that a margin of 1 is beyond what counts as none
        m = pd.Series(margins, index=seeds, dtype=float).rename_axis("seed") * 10 * size
        if how.kind == "same": difference = (1 - m / size) * size  # a margin far above 0 is a difference near 0
        else: difference = m + how.threshold if how.kind == "more" else how.threshold - m
        setting = {"reading": reading} | ({"part": part} if part else {})
        verdicts.record_claim(claim, difference, dataset="made-up", scale=scale, method="x", setting=setting)


def open_gates(scale="gpu", by=1.0, of=None):
    needed = {gate for gates in RULES[RULES.claim == of].gates for gate in gates.split("; ")}
    for paper, gate in GATES.index:
        if of and gate not in needed: continue
        verdicts.record_gate(paper, gate, pd.Series([by, by]), dataset="made-up", scale=scale)


def judged(claim, reading, scale="gpu"):
    table = verdicts.verdicts([claim], "made-up", scale)
    return table[table.reading == reading].iloc[0]


UP, DOWN, OPEN = [0.100, 0.101, 0.102], [-0.90, -0.91, -0.92], [-0.7, 0.9, 0.1]


def test_every_claim_has_rules_and_every_rule_a_claim():
    assert set(RULES.claim) == set(CLAIMS.index) and len(CLAIMS) == 39
    assert RULES.kind.isin(["more", "less", "same"]).all() and (RULES.comparison.str.len() > 5).all()
    assert (RULES.seeds >= 2).all() and (RULES.effect >= 0).all() and (RULES[RULES.kind == "same"].effect > 0).all()
    assert (RULES.effect[RULES.threshold != 0] == 0).all()  # the threshold is how much matters
    assert not RULES.duplicated(["claim", "reading", "part"]).any()


def test_every_gate_that_a_rule_names_is_there_and_is_named():
    named = {(CLAIMS.paper[r.claim], gate) for r in RULES.itertuples() for gate in r.gates.split("; ") if gate}
    assert named == set(GATES.index) and GATES.threshold.between(0.01, 1).all()
    assert set(GATES.notebook) <= {path.name[:2] for path in (ROOT / "nbs").glob("[01]*.ipynb")}


def committed_rules(commit):
    "The rules as they were at a commit; None where there is no such commit here."
    show = ["git", "-C", ROOT, "show", f"{commit}:data/rules.csv"]
    found = subprocess.run(show, capture_output=True, encoding="utf-8")
    return found.stdout.splitlines() if found.returncode == 0 else None


def test_each_rule_stands_as_it_was_fixed():
    "`fixed` names a commit whose line is this one, but for `fixed` and `why` themselves."
    rows = list(csv.reader((ROOT / "data" / "rules.csv").read_text("utf-8").splitlines()[1:]))
    assert (RULES.fixed.str.len() >= 7).all(), "name the commit that fixed each rule, in the column fixed"
    for commit, some in RULES.groupby("fixed"):
        then = committed_rules(commit)
        if then is None: pytest.skip(f"{commit} is not among the commits here")
        decided = [row[:-2] for row in csv.reader(then)]
        for i in some.index: assert rows[i][:-2] in decided, f"changed since {commit}: {rows[i]}"


@pytest.mark.parametrize("claim, reading", NEEDED)
def test_every_claim_can_be_reproduced_refuted_and_left_open(claim, reading):
    open_gates(of=claim)
    give(claim, reading, UP)
    assert judged(claim, reading).verdict == "reproduced"
    give(claim, reading, DOWN)
    assert judged(claim, reading).verdict == "not reproduced"
    give(claim, reading, OPEN)
    assert judged(claim, reading).verdict == "inconclusive"
    give(claim, reading, UP, scale="quick")
    open_gates("quick", of=claim)
    assert tuple(judged(claim, reading, "quick")[["evidence", "verdict"]]) == ("for", "toy")


def test_each_scale_has_its_words():
    for scale, words in {"quick": ["toy"] * 3, "hours": ["agrees", "disagrees", "unclear"],
                         "gpu": ["reproduced", "not reproduced", "inconclusive"]}.items():
        open_gates(scale)
        for margins, word in zip((UP, DOWN, OPEN), words):
            give("R4", "as published", margins, scale=scale)
            assert judged("R4", "as published", scale).verdict == word


def test_a_claim_is_not_tested_while_a_gate_is_closed_or_unknown():
    give("R4", "as published", UP, scale="quick")
    row = judged("R4", "as published", "quick")
    assert row.verdict == row.evidence == "not tested" and "notebook 01 measures it" in row.why
    open_gates("quick", by=0.01)
    assert "it does not hold that SimCLR has learnt" in judged("R4", "as published", "quick").why
    open_gates("quick", by=0.05)
    assert judged("R4", "as published", "quick").evidence == "for"


def test_one_part_is_enough_against_and_none_may_be_missing_for():
    first, second = NEEDED["R14", "as published"]
    open_gates()
    give("R14", "as published", UP, parts=[first])
    assert (judged("R14", "as published").evidence == "unclear"
            and f"not there: {second}" in judged("R14", "as published").margin)
    give("R14", "as published", DOWN, parts=[second])
    assert judged("R14", "as published").verdict == "not reproduced"
    give("R14", "as published", UP, parts=[second])
    assert judged("R14", "as published").verdict == "reproduced"
    give("R14", "as published", OPEN, parts=[first])
    assert judged("R14", "as published").verdict == "inconclusive"


def test_fewer_seeds_than_the_rule_wants_decide_nothing():
    open_gates()
    give("R1", "as published", UP[:2], seeds=[0, 1])
    assert judged("R1", "as published").evidence == "not tested" and "2 of 3 seeds" in judged("R1", "as published").why
    give("S8", "as published", UP[:2], seeds=[0, 1])  # this one wants two
    assert judged("S8", "as published").evidence == "for"
    give("R1", "as published", [0.5], seeds=[0])
    assert "no interval" in judged("R1", "as published").margin


def test_margins_that_are_the_same_in_every_seed_decide_nothing():
    open_gates()
    give("R4", "as published", [0.1, 0.1, 0.1])
    row = judged("R4", "as published")
    assert row.evidence == "unclear" and "no interval" in row.margin


def test_an_effect_that_is_sure_and_too_small_speaks_against():
    open_gates()
    verdicts.record_claim("R4", pd.Series([0.0049, 0.005, 0.0051]), dataset="made-up", scale="gpu", method="x")
    assert judged("R4", "as published").verdict == "not reproduced"


def test_sameness_is_signed():
    "Differences of both signs with mean 0 are no evidence against sameness, and large ones of one sign are."
    open_gates()
    def of(values):
        for part in NEEDED["S2", "as published"][:2]: give("S2", "as published", UP, parts=[part])
        verdicts.record_claim("S2", pd.Series(values), dataset="made-up", scale="gpu", method="x",
                              setting={"reading": "as published", "part": "history equals noise"})
        return judged("S2", "as published").evidence
    assert of([0.001, -0.001, 0.0005]) == "for" and of([0.03, 0.031, 0.029]) == of([-0.03, -0.031, -0.029]) == "against"
    assert of([0.03, -0.03, 0.001]) == "unclear"


def test_one_family_for_all_claims_of_a_paper():
    "A p-value of .03 decides alone, and not among five others; those of another paper do not count."
    open_gates()
    verdicts.record_claim("R12", pd.Series([0.02, 0.03, 0.04]), dataset="made-up", scale="gpu", method="x")
    for claim in ("D1", "D2", "D3", "M2", "S7", "S10"): give(claim, "as published", OPEN)
    assert judged("R12", "as published").evidence == "for" == judged("R12", "as published").alone
    for claim in ("R1", "R2", "R10"): give(claim, "as published", OPEN)
    assert judged("R12", "as published").alone == "for" and judged("R12", "as published").evidence == "unclear"


def test_a_part_more_is_not_a_chance_more():
    "For: the largest p-value of the parts. Against: the smallest, as many times as there are parts."
    open_gates()
    give("R5", "as published", UP)
    parts = verdicts.judge_parts(verdicts.known_margins(), report.records(metric="gate"))
    assert len(parts) == 6 and verdicts.judge_claim("R5", parts)["p"] == parts.p.max()
    give("R5", "as published", DOWN)
    parts = verdicts.judge_parts(verdicts.known_margins(), report.records(metric="gate"))
    assert verdicts.judge_claim("R5", parts)["p"] == pytest.approx(6 * parts.p.min())


def test_all_parts_of_a_pattern_must_be_there():
    open_gates()
    give("R5", "as published", UP, parts=NEEDED["R5", "as published"][1:])
    row = judged("R5", "as published")
    assert row.evidence == "unclear" and "not there: *, simclr - rotnet (2 of 3)" in row.margin


def test_the_same_part_under_another_name_replaces_the_first():
    for method in ("x", "y"):
        verdicts.record_claim("R4", pd.Series(UP), dataset="made-up", scale="gpu", method=method)
    assert len(verdicts.known_margins()) == 3


def test_answers_belong_to_the_number_that_they_make():
    "A probe's answers are not those of clusters that are recorded with it; without all answers, seeds alone count."
    right = np.arange(100) < 90
    for seed in range(3):
        report.record(Found({"top1": 0.9, "hungarian": 0.3}, answers=("test", right)), paper="rotnet", item="x",
                      method="a", dataset="made-up", scale="quick", seed=seed)
    def of(metric):
        table = report.records(item="x", metric=metric)
        return verdicts.from_answers(lambda t: t.set_index("seed").value, table)
    assert of("top1").images == 100 and of("hungarian")[1:] == (0, 0, 0)
    report.record({"top1": 0.8}, paper="rotnet", item="x", method="a", dataset="made-up", scale="quick", seed=3)
    assert of("top1")[1:] == (0, 0, 0)


def test_intervals_over_seeds_and_images_hold_what_they_promise():
    "Four seeds, 300 images: of 2,000 experiments, 93 to 98 % of the intervals hold the true margin."
    rng, held = np.random.default_rng(1), []
    for _ in range(2000):
        d = 0.03 * rng.normal(size=(4, 1)) + 0.4 * rng.normal(size=300) + 0.4 * rng.normal(size=(4, 300))
        e = verdicts.estimate(verdicts.Margins(pd.Series(d.mean(1)), *verdicts.image_variance(d), 300))
        held.append(0.025 <= e.above(0) <= 0.975)
    assert 0.93 <= np.mean(held) <= 0.98
    low, high = e.limits()
    assert e.above(low) == pytest.approx(0.025) and e.below(high) == pytest.approx(0.025)


def test_of_seeds_alone_the_interval_is_students():
    values = [0.021, 0.052, 0.034]
    assert np.allclose(verdicts.Margins(pd.Series(values)).interval(), report.interval(values), rtol=2e-3)


def test_a_pair_of_seeds_counts_once():
    "The jackknife's interval of a mean distance holds the truth; one that gives a pair to both of its seeds does not."
    rng, held, n = np.random.default_rng(0), np.zeros(2), 5
    true = 2 * math.gamma((n + 1) / 2) / math.gamma(n / 2)  # of two normal points in n dimensions
    for _ in range(400):
        x = rng.normal(size=(6, n))
        d = np.linalg.norm(x[:, None] - x, axis=2)
        def mean(seeds): return np.mean([d[i, j] for i in seeds for j in seeds if i < j])
        for k, m in enumerate((verdicts.jackknife(mean, list(range(6))), pd.Series(d.sum(1) / 5))):
            low, high = verdicts.estimate(verdicts.Margins(m)).limits()
            held[k] += low <= true <= high
    assert held[0] / 400 > 0.9 > 0.8 > held[1] / 400


def test_readings_that_contradict_each_other_both_stand():
    open_gates()
    give("R9", "as published", DOWN)
    give("R9", "corrected", UP)
    table = verdicts.verdicts(["R9"], "made-up", "gpu")
    assert dict(zip(table.reading, table.verdict)) == {"as published": "not reproduced", "corrected": "reproduced"}


def test_scales_and_sets_are_judged_apart_and_what_was_not_run_says_so():
    open_gates(), open_gates("quick")
    give("R4", "as published", UP)
    give("R4", "as published", DOWN, scale="quick")
    with pytest.raises(SettingError, match="no claim ZZ9; there are: R1"): verdicts.verdicts(["R4", "ZZ9"])
    table = verdicts.verdicts(["R4", "R5"])
    assert table.scale.tolist() == ["gpu", "quick", ""] and table.verdict.tolist() == ["reproduced", "toy", "not run"]


def test_a_part_without_a_rule_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SettingError, match="no rule for 'colour' of R3"):
        verdicts.record_claim("R3", pd.Series([1.0], index=[0]), dataset="made-up", scale="gpu", method="x",
                              setting={"by": "colour"})
    with pytest.raises(SettingError, match="rotnet has no gate 'luck'; there are: simclr learnt"):
        verdicts.record_gate("rotnet", "luck", pd.Series([1.0]), dataset="made-up", scale="gpu")
    assert not (tmp_path / "reports").exists()


@pytest.fixture
def committed(monkeypatch):
    monkeypatch.setenv("SSLNB_PUBLISHED", str(COMMITTED))  # where they lie, they are read once for all tests


@pytest.mark.slow
def test_committed_margins_follow_the_rules_and_miss_no_part(committed):
    margins = report.records(metric="margin")
    for row in margins[["item", "setting", "rule"]].drop_duplicates().itertuples(index=False):
        how = verdicts.rule(row.item, json.loads(row.setting))
        assert row.rule == verdicts.rule_digest(how) or how.why, (
            f"{row.item} {row.setting}: its rule has changed since the margins were recorded. Make them again, or say "
            "why in the column `why`")
    assert not verdicts.verdicts(list(CLAIMS.index)).margin.str.contains("not there").any()


def shown_verdicts(path) -> pd.DataFrame | None:
    "Claim, margin, evidence in the table of verdicts among a notebook's outputs."
    outputs = [o for c in json.loads(path.read_text("utf-8"))["cells"] for o in c.get("outputs", [])]
    for html in ("".join(o.get("data", {}).get("text/html", "")) for o in reversed(outputs)):
        table = BeautifulSoup(html, "html.parser")
        names = [th.get_text() for th in table.select("thead tr:first-child th")]
        if not {"margin", "evidence", "verdict"} <= {*names}: continue
        rows = [[td.get_text() for td in tr.select("th, td")] for tr in table.select("tbody tr")]
        return pd.DataFrame(rows, columns=["claim", *names[1:]])[["claim", "margin", "evidence", "verdict"]]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "nbs").glob("0[1-9]_*.ipynb")), ids=lambda p: p.name)
def test_verdicts_that_a_notebook_shows_are_those_on_record(committed, path):
    shown = shown_verdicts(path)
    found = verdicts.verdicts(list(dict.fromkeys(shown.claim)), "cifar10", "hours")
    pd.testing.assert_frame_equal(found.reset_index()[list(shown)].astype(str), shown, check_like=True)


@pytest.mark.slow
def test_the_records_that_the_rules_name_are_there(committed):
    table = report.records()
    for named in RULES.records.unique():
        source, metrics = named.rsplit(": ", 1)
        paper, item = source.split(" ", 1)
        there = set(table[(table.paper == paper) & (table["item"] == item)].metric)
        for metric in metrics.split(", "): assert fnmatch.filter(there, f"{metric}*"), named


@pytest.mark.slow
def test_notebook_10_judges_the_committed_records(committed, execute):
    nb = execute(ROOT / "nbs" / "10_claims.ipynb")
    said = json.dumps([c.get("outputs", []) for c in nb.cells])
    for claim in CLAIMS.index: assert f"<th>{claim}</th>" in said or f">{claim}</th>" in said, claim
    assert "not there" not in said
