"""The papers' numbers (data/reported.csv) and claims (data/claims.csv), checked against counts and values
read from the papers by hand."""
import json
from pathlib import Path

import pandas as pd
import pytest

DATA = Path(__file__).resolve().parents[1] / "data"
COLUMNS = "paper item row column value unit dataset method metric setting note".split()
TASKS = [[0, 1, 2, 3, 4], [6, 11, 16, 21, 26], [56, 58, 62, 66, 68], [95, 96, 97, 98, 99]]
SETS = "aircraft caltech101 cars cifar10 cifar100 dtd flowers food pets sun397 voc2007".split()
QUOTED = ("insdis moco-v1 pcl pirl pcl-v2 simclr-v1 moco-v2 simclr-v2 sela-v2 infomin byol "
          "deepcluster-v2 swav").split()
COUNTS = {
    ("rotnet", "Table 1"): 27,        # 3 metrics x 3 models x 3 fractions
    ("rotnet", "Figure 4 note"): 1,
    ("rotnet", "Table 2a"): 12,       # 3 transfers x 4 metrics
    ("rotnet", "Table 2b"): 4,        # 4 batch sizes
    ("deepcluster", "Table 1"): 4,    # 2 methods x 2 data sets
    ("mae", "Table 1"): 4,            # 2 methods x 2 metrics
    ("simclic", "Table 1"): 22,       # 11 data sets x 2
    ("simclic", "Table 2"): 365,      # linear 13 x 12 + 3 x 11, fine-tuned 13 x 11 + 3 x 11
    ("simclic", "Table 3"): 28,       # 14 methods x 2
    ("simclic", "Table 4"): 4,
    ("simclic", "Table 5"): 2,
    ("simclic", "Table 6"): 2,
    ("geometry", "Table 1"): 12,      # 3 methods x 4 tasks
}


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / name, dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def reported() -> pd.DataFrame: return read("reported.csv").assign(number=lambda d: pd.to_numeric(d["value"]))


def rows(table: pd.DataFrame, paper: str, item: str, **columns: str) -> pd.DataFrame:
    """Rows of one of a paper's tables whose columns are as given."""
    for name, value in dict(paper=paper, item=item, **columns).items(): table = table[table[name] == value]
    return table


@pytest.fixture
def one(reported):
    """Function that returns the one number of a table with these columns and these keys in its setting."""
    def number(paper: str, item: str, setting: dict | None = None, **columns: str) -> float:
        d, wanted = rows(reported, paper, item, **columns), setting or {}
        fits = [wanted == {k: v for k, v in json.loads(s).items() if k in wanted} for s in d["setting"]]
        found = d.loc[fits, "number"]
        assert len(found) == 1, f"{len(found)} rows for {paper} {item} {setting} {columns}"
        return found.item()
    return number


def canonical(setting: dict) -> str: return json.dumps(setting, sort_keys=True, separators=(",", ":"))


def test_columns_and_keys(reported):
    assert list(read("reported.csv").columns) == COLUMNS
    assert not reported.duplicated(["paper", "item", "row", "column", "setting", "metric"]).any()
    for name in ["paper", "item", "row", "column", "value", "unit", "metric", "setting"]:
        assert (reported[name].str.strip() != "").all(), name
    text = reported[[c for c in COLUMNS if c != "setting"]]
    assert not text.apply(lambda c: c.str.contains(r"</?[bu]>|\*\*|\$")).any().any(), "markup left"


def test_counts(reported): assert reported.groupby(["paper", "item"]).size().to_dict() == COUNTS


def test_settings_are_canonical_json(reported):
    for s in reported["setting"]: assert isinstance(json.loads(s), dict) and canonical(json.loads(s)) == s, s


def test_names(reported):
    ours = {"simclr", "rotnet", "supce", "deepcluster", "mae", "simclic", "supcon", ""}
    assert set(reported["method"]) == ours | set(QUOTED)
    others = {"imagenet", "imagenet100", "mnist", "cifar10->stl10", "stl10->cifar10", ""}
    assert set(reported["dataset"]) == {*SETS, *others}
    metrics = "top1 top2 top3 auc f1 error classes images epochs batch".split()
    assert set(reported["metric"]) == set(metrics)
    blank = reported[(reported["dataset"] == "") | (reported["method"] == "")]
    assert set(zip(blank["paper"], blank["item"])) == {("simclic", "Table 1"), ("simclic", "Table 3")}


def test_values_fit_their_units(reported):
    top = {"fraction": 1, "%": 100, "% error": 100, "count": float("inf")}
    assert set(reported["unit"]) == set(top)
    assert ((reported["number"] > 0) & (reported["number"] <= reported["unit"].map(top))).all()
    # A fraction entered as a percentage would pass the line above.
    assert (reported.loc[reported["unit"].isin(["%", "% error"]), "number"] > 1).all()
    assert ((reported["unit"] == "% error") == (reported["metric"] == "error")).all()
    assert reported.loc[reported["unit"] == "count", "value"].str.fullmatch(r"\d+").all()


@pytest.mark.parametrize("method, top1, top2, auc", [
    ("supce", [.141, .373, .475], [.260, .539, .682], [.634, .787, .873]),
    ("rotnet", [.515, .560, .577], [.721, .760, .771], [.881, .899, .909]),
    ("simclr", [.653, .822, .870], [.822, .929, .953], [.935, .981, .990])])
def test_rotnet_few_labels(one, method, top1, top2, auc):
    for metric, expected in dict(top1=top1, top2=top2, auc=auc).items():
        given = dict(method=method, metric=metric, dataset="cifar10")
        assert [one("rotnet", "Table 1", {"fraction": f}, **given) for f in (.01, .1, .5)] == expected


def test_rotnet_transfer(one):
    for method, dataset, expected in [("supce", "cifar10->stl10", [.4713, .6838, .7913, .8783]),
                                      ("simclr", "cifar10->stl10", [.6698, .8406, .9176, .9482]),
                                      ("simclr", "stl10->cifar10", [.6970, .8612, .9270, .9542])]:
        given, metrics = dict(method=method, dataset=dataset), ("top1", "top2", "top3", "auc")
        assert [one("rotnet", "Table 2a", metric=m, **given) for m in metrics] == expected
    assert one("rotnet", "Figure 4 note", {"steps": 2000}, method="supce") == .4713
    got = [one("rotnet", "Table 2b", {"batch": b}, dataset="cifar10->stl10") for b in (32, 64, 128, 256)]
    assert got == [.5716, .6304, .6740, .7105]


def test_deepcluster_and_mae(one):
    for method, expected in dict(supce=[.982, .7409], deepcluster=[.9193, .3536]).items():
        got = [one("deepcluster", "Table 1", method=method, dataset=d) for d in ("mnist", "cifar10")]
        assert got == expected
    for method, expected in dict(simclr=[38.2, .36], mae=[34.7, .33]).items():
        assert [one("mae", "Table 1", method=method, metric=m) for m in ("top1", "f1")] == expected


@pytest.mark.parametrize("protocol, perturbation, expected", [
    ("linear", "history", [56.15, 12.12, 54.26, 5.97, 25.96, 26.40, 9.52, 28.76, 18.78, 40.18, 18.56]),
    ("linear", "dropout", [57.09, 12.35, 54.52, 6.00, 26.18, 27.02, 9.47, 29.82, 18.93, 40.61, 18.89]),
    ("linear", "noise", [55.86, 11.92, 53.89, 5.92, 25.65, 26.04, 9.50, 29.51, 18.75, 40.12, 18.55]),
    ("fine-tuned", "history", [22.86, 11.75, 19.56, 3.12, 19.65, 29.58, 4.86, 20.84, 17.46, 42.15, 21.21]),
    ("fine-tuned", "dropout", [22.24, 12.27, 20.12, 3.11, 20.48, 29.46, 5.68, 20.97, 17.79, 42.68, 21.86]),
    ("fine-tuned", "noise", [22.46, 11.72, 19.89, 2.94, 19.62, 28.92, 4.51, 21.18, 17.28, 42.38, 21.37])])
def test_simclic_own_rows(one, protocol, perturbation, expected):
    setting = {"protocol": protocol, "perturbation": perturbation}
    assert [one("simclic", "Table 2", setting, method="simclic", dataset=d) for d in SETS] == expected


# Of the quoted methods: one column of each block, and one row of each.
@pytest.mark.parametrize("protocol, dataset, expected", [
    ("linear", "imagenet", [40.5, 39.4, 38.5, 38.3, 32.4, 30.7, 28.9, 28.3, 28.2, 27.0, 25.7, 24.8, 24.7]),
    ("linear", "cifar10", [19.72, 19.84, 18.16, 17.47, 8.09, 8.82, 7.72, 7.47, 7.27, 8.51, 6.74, 5.98, 6.01]),
    ("fine-tuned", "cifar10", [6.68, 6.11, 3.65, 7.77, 3.5, 2.93, 3.55, 3.78, 3.2, 3.06, 2.99, 2.94, 3.22])])
def test_simclic_quoted_columns(one, protocol, dataset, expected):
    setting = {"protocol": protocol}
    assert [one("simclic", "Table 2", setting, method=m, dataset=dataset) for m in QUOTED] == expected


@pytest.mark.parametrize("protocol, expected", [
    ("linear", [45.96, 9.16, 45.94, 6.01, 20.42, 22.98, 5.38, 23.38, 12.40, 34.42, 16.32]),
    ("fine-tuned", [16.92, 10.15, 13.24, 3.22, 15.63, 24.84, 4.54, 12.78, 10.95, 33.76, 15.34])])
def test_simclic_quoted_rows(one, protocol, expected):
    setting = {"protocol": protocol}
    assert [one("simclic", "Table 2", setting, method="swav", dataset=d) for d in SETS] == expected


@pytest.mark.parametrize("item, key, expected", [
    ("Table 4", "predictor", {"none": 90.17, "fixed-random": 89.16, "1-layer": 8.65, "2-layer": 5.92}),
    ("Table 5", "stop_gradient", {True: 5.92, False: 91.04}),
    ("Table 6", "similarity", {"cosine": 5.92, "cross-entropy": 10.69})])
def test_simclic_ablations(one, item, key, expected):
    given = {"perturbation": "noise", "protocol": "linear"}
    assert {v: one("simclic", item, {key: v, **given}, dataset="cifar10") for v in expected} == expected


def test_simclic_other_tables(one):
    images = [10000, 9000, 16185, 60000, 60000, 5640, 8189, 101000, 5000, 108000, 9963]
    classes = [100, 101, 196, 10, 100, 47, 102, 101, 37, 397, 20]
    for metric, expected in dict(images=images, classes=classes).items():
        assert [one("simclic", "Table 1", metric=metric, dataset=d) for d in SETS] == expected
    epochs = [200, 200, 200, 200, 200, 1000, 800, 800, 400, 800, 1000, 800, 800, 1000]
    batch = [256, 256, 256, 1024, 256, 4096, 256, 4096, 4096, 256, 4096, 4096, 4096, 128]
    for metric, expected in dict(epochs=epochs, batch=batch).items():
        assert [one("simclic", "Table 3", metric=metric, method=m) for m in [*QUOTED, "simclic"]] == expected


@pytest.mark.parametrize("method, expected", [
    ("simclr", [79.95, 86.11, 92.55, 90.91]),
    ("supcon", [78.20, 78.85, 89.53, 88.26]),
    ("supce", [82.48, 82.50, 93.50, 88.79])])
def test_geometry(one, method, expected):
    assert [one("geometry", "Table 1", {"task": t}, method=method) for t in TASKS] == expected


def test_printing_errors_are_noted(reported):
    def noted(text, *where, **columns):
        return rows(reported, *where, **columns)["note"].str.contains(text).all()
    assert noted("two rows", "rotnet", "Table 2a", dataset="cifar10->stl10")
    assert noted("InsDis", "simclic", "Table 2", row="SimCLIC (ours), history")
    assert noted("printed twice", "simclic", "Table 2", setting=canonical({"protocol": "fine-tuned"}))
    assert noted("heading lost", "geometry", "Table 1", setting=canonical({"task": TASKS[0]}))


def test_claims():
    claims = read("claims.csv")
    assert list(claims.columns) == ["claim", "paper", "where", "text"]
    groups = dict(rotnet=("R", 14), deepcluster=("D", 5), mae=("M", 4), simclic=("S", 10), geometry=("G", 6))
    expected = [(f"{letter}{i}", paper) for paper, (letter, n) in groups.items() for i in range(1, n + 1)]
    assert list(zip(claims["claim"], claims["paper"])) == expected
    assert claims["where"].str.contains(r"§|Table|Figure|Abstract").all()
    assert claims["text"].str.fullmatch(r"[A-Z][^.]*(?:\.\d[^.]*)*\.").all(), "one sentence each"
    assert claims["text"].is_unique
