"The panel: any encoder in the formats that people have, judged once, and told with intervals."
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torchvision.models import resnet18

from sslnb import data, judge, report
from sslnb.core import SettingError
from sslnb.encoders import opened
from sslnb.judge import FRACTIONS, LINES, PARTS, Finding, panel, record_panel, side_by_side, untrained
from sslnb.models import encoder, wrap
from sslnb.runs import Found
from sslnb.tools.cli import cli
from sslnb.tools.page import page_html


@pytest.fixture(scope="module")
def sets():
    "Images of two classes, one darker, which a network at random tells apart a little."
    def made(n, split, seed):
        labels = torch.arange(n) % 2
        pixels = torch.randint(0, 156, (n, 3, 16, 16), generator=torch.Generator().manual_seed(seed))
        pixels += 40 * labels[:, None, None, None]
        return data.Images.from_arrays(pixels.to(torch.uint8), labels, name=f"mine/{split}")
    return made(400, "train", 0), made(60, "test", 1)


class Flat(nn.Module):
    "A plain network of somebody's."
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(768, 12)

    def forward(self, x): return self.line(x.flatten(1))


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return wrap(Flat(), side=16)


@pytest.fixture
def work(plain):
    "How many images `plain` was shown at a time; less the few that its check takes."
    shown = []
    plain.module.register_forward_hook(lambda part, given, out: shown.append(len(out)) if len(out) > 10 else None)
    return shown


# --- formats


def small_stem():
    torch.manual_seed(0)
    net = resnet18()
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return net.eval()


MINE = """import sys
sys.path.insert(0, {tests!r})
from sslnb.models import IMAGENET, wrap
from test_judge import small_stem
from torch import nn
def net():
    made = small_stem()
    made.fc = nn.Identity()
    return wrap(made, IMAGENET, side=16)
"""


def test_one_encoder_in_four_formats_is_judged_alike(sets, tmp_path, monkeypatch):
    net, own, quick = small_stem(), tmp_path / "own", {"parts": ["knn"], "lines": False}
    sets = sets[0][:30], sets[1][:10]
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    parts = [net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4]
    lightly = {f"backbone.{k}": v for k, v in nn.Sequential(*parts).state_dict().items()}
    forms = {"torchvision": net.state_dict(), "lightly": {"state_dict": lightly},
             "timm": {"model": state | {"head.fc.weight": torch.zeros(3, 512)}}}  # a ResNet of timm's has these names
    for name, form in forms.items(): torch.save(form, tmp_path / f"{name}.pth")
    own.mkdir()
    own.joinpath("mine.py").write_text(MINE.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    monkeypatch.chdir(own)
    specs = [f"file:{tmp_path / name}.pth" for name in forms] + ["python:mine:net"]
    found = [panel(opened(spec, sets[0]), *sets, name=spec, **quick).found[spec][0] for spec in specs]
    assert len({f.value for f in found}) == 1
    assert all(np.array_equal(f.found[0].answers[1], found[0].found[0].answers[1]) for f in found)


# --- what is found


def test_the_numbers_are_those_of_the_functions_that_notebooks_use(sets, plain):
    train, test = sets
    found = {(f.part, f.setting.get("labels")): f for f in panel(plain, *sets, parts=["linear", "knn", "few"]).found[
        plain.name]}
    from sslnb.evaluate import evaluate
    theirs = evaluate(plain, train, test).metrics
    assert found["linear", 400].value == pytest.approx(theirs["top1"])
    assert found["knn", None].value == pytest.approx(theirs["knn_top1"])
    assert {labels for part, labels in found if part == "few"} == {4, 40}


def test_few_labels_are_drawn_several_times_and_their_interval_covers_the_draws(sets, plain):
    (few,) = [f for f in panel(plain, *sets, parts=["few"]).found[plain.name] if f.setting["labels"] == 40]
    values = [f["top1"] for f in few.found]
    assert len(values) == judge.DRAWS and len(set(values)) > 1
    low, high = few.interval()
    wilson = judge.wilson(few.value, few.n)
    assert low <= np.mean(values) <= high and high - low > 0.8 * (wilson[1] - wilson[0])


def test_a_share_below_two_images_a_class_is_left_out(sets, plain):
    small = sets[0][:60]
    found = panel(plain, small, sets[1], parts=["few"]).found[plain.name]
    assert [f.setting["labels"] for f in found] == [round(f * 60) for f in FRACTIONS if round(f * 60) >= 4]


@pytest.mark.parametrize("n", [1, 4])
def test_intervals_cover_what_they_should(n):
    "Coverage at 95 % by simulation: one draw (Wilson's), and several that share their images."
    g, inside, tries = np.random.default_rng(0), 0, 300
    for _ in range(tries):
        hard = g.beta(4, 2, 200)  # how often an image is answered rightly
        right = g.random((n, 200)) < hard
        low, high = Finding("few", "top1", {}, [Found({"top1": r.mean()}, answers=("", r)) for r in right]).interval()
        inside += low <= 4 / 6 <= high
    assert 0.92 <= inside / tries <= 0.995


def test_attack_and_noise_begin_at_the_clean_accuracy(sets, plain):
    found = panel(plain, *sets, parts=["robust"], lines=False).found[plain.name]
    curves = {a: [f.value for f in found if f.setting["attack"] == a] for a in ("pgd", "noise")}
    clean = (judge.classifier_of(judge.Subject(plain, *sets, None, 0))(sets[1].pixels / 255).argmax(1)
             == sets[1].labels).float().mean()
    assert curves["pgd"][0] == curves["noise"][0] == pytest.approx(clean.item())
    assert curves["pgd"][-1] < curves["noise"][-1] - 0.2


def test_transfer_is_judged_on_the_other_set_and_left_out_where_there_is_none(sets, plain):
    others = data.load("shapes-b", size=16)[:60], data.load("shapes-b", "test", size=16)[:40]
    (found,) = panel(plain, *sets, others=others, parts=["transfer"], lines=False).found[plain.name]
    assert found.setting == {"to": "shapes-b"} and found.n == 40
    assert panel(plain, *sets, parts=["transfer", "knn"], lines=False).found[plain.name][0].part == "knn"


def test_known_lines(sets, plain):
    found = panel(plain, *sets, parts=["knn", "geometry"]).found
    assert list(found) == [plain.name, f"{plain.name} (untrained)", "raw pixels"]
    assert {f.part for f in found[plain.name]} == {"knn", "geometry"}
    assert {f.part for f in found["raw pixels"]} == {"knn"} <= set(LINES)
    x = sets[0].pixels.flatten(1).float()
    near = torch.nn.functional.normalize(sets[1].pixels.flatten(1).float()) @ torch.nn.functional.normalize(x).T
    cosine, at = near.topk(20)
    votes = torch.zeros(60, 2).scatter_add_(1, sets[0].labels[at], ((cosine - 1) / 0.07).exp())
    assert found["raw pixels"][0].value == pytest.approx((votes.argmax(1) == sets[1].labels).float().mean().item())


def test_an_untrained_network_that_cannot_be_made_is_told_of(sets, plain, capsys):
    plain.module.token = nn.Parameter(torch.zeros(12))  # as that of a ViT
    found = panel(plain, *sets, name="mine", parts=["knn"]).found
    assert list(found) == ["mine", "raw pixels"]
    assert "mine: the untrained network is left out: some weights" in capsys.readouterr().err


def test_untrained_is_the_same_network_with_other_weights(sets, plain):
    for made in (plain, encoder("tiny", sets[0]), encoder("vit_mini", data.load("shapes")[:8])):
        again = untrained(made)
        assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in made.state_dict().items()}
        pairs = list(zip(made.named_parameters(), again.parameters()))
        assert any(not torch.equal(p, q) for (_, p), q in pairs)
        assert torch.equal(made.normalize.mean, again.normalize.mean)
    before = torch.random.get_rng_state()
    untrained(plain)
    assert torch.equal(before, torch.random.get_rng_state())


# --- once


def test_what_was_judged_is_not_judged_again(sets, plain, work):
    first = panel(plain, *sets)
    assert set(PARTS) - {"transfer"} == {f.part for f in first.found[plain.name]}
    work.clear()
    again = panel(plain, *sets, name="another name")
    assert not work
    assert [f.found for f in again.found["another name"]] == [f.found for f in first.found[plain.name]]
    rank = {who: {f.metric: f.value for f in found}["rankme"] for who, found in first.found.items()}
    assert len(set(rank.values())) == 3  # nobody got another's
    with torch.no_grad(): plain.module.line.weight[0, 0] += 1
    panel(plain, *sets, parts=["knn"], lines=False)
    assert sum(work) == 460


def test_an_interrupted_panel_goes_on(sets, plain, work, monkeypatch):
    def stop(subject): raise KeyboardInterrupt
    how = dict(parts=["linear", "knn", "few"], lines=False)
    with monkeypatch.context() as m:
        m.setitem(judge.PARTS, "few", judge.Part(stop, 1))
        with pytest.raises(KeyboardInterrupt): panel(plain, *sets, **how)
    assert work
    work.clear()
    panel(plain, *sets, **how | {"parts": ["linear", "knn"]})
    assert not work


# --- mistakes


def test_mistakes_are_named_before_anything_is_computed(sets, plain, work):
    train, test = sets
    many = data.Images.from_arrays(train.pixels, torch.zeros(400, 3, dtype=torch.long), name="voc")
    lost = data.Images.from_arrays(train.pixels, torch.where(torch.arange(400) == 5, -1, train.labels), name="lost")
    grey = data.Images.from_arrays(train.pixels[:, :1], train.labels, name="grey")
    other = data.Images.from_arrays(test.pixels, test.labels + 1, name="other")
    for given, says in ((dict(parts=["knn", "nonsense"]), "no part nonsense; there are: linear, knn"),
                        (dict(parts=[]), "no part is given"), (dict(parts="linear"), "give a list of parts"),
                        (dict(train=grey), "takes images of 3 channels"),
                        (dict(train=many, test=many), "images with several labels"),
                        (dict(train=lost), "without a label"),
                        (dict(test=other), "classes")):
        with pytest.raises((SettingError, data.DataError), match=re.escape(says)):
            panel(plain, **{"train": train, "test": test} | given)
    assert not work


# --- table, records, page


def test_records_say_whose_they_are(sets, plain):
    p = panel(plain, *sets, parts=["knn", "few"])
    record_panel(p, "folder:/home/somebody/mine")
    table = report.records(paper="panel")
    assert not table.astype(str).apply(lambda c: c.str.contains("somebody")).any(axis=None)
    assert set(table.weights[table.method == plain.name]) == {p.weights}
    few = table[(table["item"] == "few") & (table.method == "raw pixels")]
    assert sorted(few.draw[few.labels == 40]) == list(range(judge.DRAWS)) and set(few.beside) == {p.weights}


def test_side_by_side_has_a_column_for_each_and_the_pixels_once(sets, plain):
    torch.manual_seed(1)
    nets = {"one": plain, "two": wrap(Flat(), side=16)}
    one, two = (panel(net, *sets, name=name, parts=["few", "knn"]) for name, net in nets.items())
    table = side_by_side([one, two])
    assert list(table) == ["one", "one (untrained)", "raw pixels", "two", "two (untrained)"]
    assert list(table.index.get_level_values(0)) == ["knn", "few", "few"]
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", table.loc[("few", "accuracy, 40 labels"), "two"])


def test_what_is_on_record_of_several_encoders_is_one_table(sets, plain, tmp_path, monkeypatch):
    assert judge.recorded("mine").empty
    torch.manual_seed(1)
    nets = {"one": plain, "two": wrap(Flat(), side=16), "other": wrap(Flat(), side=16)}
    for name, net in list(nets.items())[:2]:
        p = panel(net, *sets, name=name, parts=["few", "knn"])
        record_panel(p, "mine")
    table = judge.recorded("mine")
    assert list(table) == ["one", "two", "raw pixels", "one (untrained)"]  # whose twin has the same numbers
    assert list(table.index) == list(side_by_side([p]).index)  # by part, then by the number of labels
    (few,) = [f for f in p.found["two"] if f.setting.get("labels") == 40]
    values = [one[few.metric] for one in few.found]
    assert table.loc[("few", "accuracy, 40 labels"), "two"] == f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"

    (tmp_path / "published").mkdir()
    shutil.move(tmp_path / "reports" / "records", tmp_path / "published" / "records")
    q = panel(nets["other"], *sets, name="two", parts=["few", "knn"])  # another network of that name, judged here
    record_panel(q, "mine")
    both = judge.recorded("mine")
    assert list(both)[:3] == ["one", *sorted([f"two {p.weights[:6]}", f"two {q.weights[:6]}"])]
    assert both[f"two {p.weights[:6]}"].tolist() == table["two"].tolist()  # nothing is mixed, nothing hidden
    trial = panel(nets["other"], sets[0].at_most(200), sets[1].at_most(30), name="trial", parts=["knn"])
    record_panel(trial, "mine")
    assert "trial" not in judge.recorded("mine")  # fewer images are another question


def test_the_command_from_a_file_to_a_page(tmp_path, monkeypatch):
    secret = tmp_path / "secret place"
    secret.mkdir()
    torch.save(encoder("tiny", data.load("shapes")).state_dict(), secret / "mine.pth")
    mine = ["judge", "--encoder", f"file:{secret / 'mine.pth'}", "--data", "shapes"]
    done = CliRunner().invoke(cli, [*mine, "--images", "30", "--parts", "knn, transfer", "--to",
                                    str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text("utf-8")
    for text in (done.stdout, page):
        assert "20 neighbours" in text and "on shapes-b" in text and "file:mine.pth (untrained)" in text
        assert "secret" not in text.replace(str(tmp_path / "page.html"), "")
    assert "http" not in page and "data:image/png;base64" in page
    every = page_html()
    assert "What encoders are good for" in every and "file:mine.pth (untrained)" in every and "20 neighbours" in every
    wrong = CliRunner().invoke(cli, [*mine, "--parts", "knn,x"])
    assert wrong.exit_code == 2 and "no part x" in wrong.output
    wrong = CliRunner().invoke(cli, [*mine, "--parts", ""])
    assert wrong.exit_code == 2 and "no part is given" in wrong.output
