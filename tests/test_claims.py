"The rules that decide the claims: each on made-up records, and all of them on the committed ones."
import fnmatch
import json
from pathlib import Path

import pandas as pd
import pytest

from sslnb import report
from sslnb.core import SettingError

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "reports" / "published"
CLAIMS = report.claims()
PARTS = [(r.claim, reading, r.part.replace("*", "x")) for r in report.rules().itertuples()
         for reading in ([r.reading] if r.reading else ["as published", "corrected"])]
NEEDED = {(claim, reading): [p for c, r, p in PARTS if (c, r) == (claim, reading)] for claim, reading, _ in PARTS}


def rule(claim, reading, part):
    return report.rule(claim, {"reading": reading, "part": part} if part else {"reading": reading})


def give(claim, reading, margins, scale="gpu", parts=None, seeds=(0, 1, 2)):
    "Record differences that come out as these margins (one a seed), for all parts of a claim or for some."
    for part in NEEDED[claim, reading] if parts is None else parts:
        how = rule(claim, reading, part)
        differences = (pd.Series(margins, index=seeds, dtype=float) - how.tolerance) * how.sign
        setting = {"reading": reading} | ({"part": part} if part else {})
        report.record_claim(claim, differences, dataset="made-up", scale=scale, method="x", setting=setting)


def judged(claim, reading, scale="gpu"):
    table = report.verdicts([claim], "made-up", scale)
    return table[table.reading == reading].iloc[0]


def test_every_claim_has_rules_and_every_rule_a_claim():
    rules = report.rules()
    assert set(rules.claim) == set(CLAIMS.index) and len(CLAIMS) == 39
    assert rules.sign.isin([-1, 1]).all() and (rules.seeds >= 1).all() and (rules.comparison.str.len() > 5).all()
    assert not rules.duplicated(["claim", "reading", "part"]).any()


@pytest.mark.parametrize("claim, reading", NEEDED)
def test_every_claim_can_be_reproduced_refuted_and_left_open(claim, reading):
    give(claim, reading, [0.030, 0.031, 0.032])
    assert judged(claim, reading).verdict == "reproduced"
    give(claim, reading, [-0.030, -0.031, -0.032])
    assert judged(claim, reading).verdict == "not reproduced"
    give(claim, reading, [-0.03, 0.04, 0.02])
    assert judged(claim, reading).verdict == "inconclusive"
    give(claim, reading, [0.030, 0.031, 0.032], scale="quick")
    assert tuple(judged(claim, reading, "quick")[["evidence", "verdict"]]) == ("for", "toy")


def test_one_part_is_enough_against_and_none_may_be_missing_for():
    first, second = NEEDED["R14", "as published"]
    give("R14", "as published", [0.030, 0.031, 0.032], parts=[first])
    assert (judged("R14", "as published").evidence == "unclear"
            and f"not there: {second}" in judged("R14", "as published").margin)
    give("R14", "as published", [-0.030, -0.031, -0.032], parts=[second])
    assert judged("R14", "as published").verdict == "not reproduced"
    give("R14", "as published", [0.030, 0.031, 0.032], parts=[second])
    assert judged("R14", "as published").verdict == "reproduced"
    give("R14", "as published", [-0.3, 0.031, 0.032], parts=[first])
    assert judged("R14", "as published").verdict == "inconclusive"


def test_fewer_seeds_than_the_rule_wants_decide_nothing():
    give("R1", "as published", [0.030, 0.031], seeds=[0, 1])
    assert judged("R1", "as published").evidence == "unclear"
    give("S8", "as published", [0.030, 0.031], seeds=[0, 1])  # this one wants two
    assert judged("S8", "as published").evidence == "for"
    give("R1", "as published", [0.5], seeds=[0])
    row = judged("R1", "as published")
    assert row.evidence == "unclear" and "∞" in row.margin and row.detectable == "∞"


def test_readings_that_contradict_each_other_both_stand():
    give("R9", "as published", [-0.030, -0.031, -0.032])
    give("R9", "corrected", [0.030, 0.031, 0.032])
    table = report.verdicts(["R9"], "made-up", "gpu")
    assert dict(zip(table.reading, table.verdict)) == {"as published": "not reproduced", "corrected": "reproduced"}


def test_scales_and_sets_are_judged_apart_and_what_was_not_run_says_so():
    give("R4", "as published", [0.030, 0.031, 0.032])
    give("R4", "as published", [-0.030, -0.031, -0.032], scale="quick")
    table = report.verdicts(["R4", "R5"])
    assert table.scale.tolist() == ["gpu", "quick", ""] and table.verdict.tolist() == ["reproduced", "toy", "not run"]


def test_a_part_without_a_rule_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SettingError, match="no rule for 'colour' of R3"):
        report.record_claim("R3", pd.Series([1.0], index=[0]), dataset="made-up", scale="gpu", method="x",
                            setting={"by": "colour"})
    assert not (tmp_path / "reports").exists()


@pytest.fixture
def committed(monkeypatch):
    monkeypatch.setenv("SSLNB_PUBLISHED", str(COMMITTED))  # where they lie, they are read once for all tests


@pytest.mark.slow
def test_committed_margins_follow_the_rules_and_miss_no_part(committed):
    margins = report.records(metric="margin")
    assert set(margins["item"]) == set(CLAIMS.index)
    for claim, setting in margins[["item", "setting"]].drop_duplicates().itertuples(index=False):
        report.rule(claim, json.loads(setting))
    assert not report.verdicts(list(CLAIMS.index)).margin.str.contains("not there").any()


@pytest.mark.slow
def test_the_records_that_the_rules_name_are_there(committed):
    table = report.records()
    for named in report.rules().records.unique():
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
