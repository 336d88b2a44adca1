"""Evaluations: to whom a stored result belongs, the papers' numbers, what cannot be evaluated (more:
nbs/lib/17_evaluate.ipynb)."""
import dataclasses
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslnb import data, evaluate, logistic, models, runs
from sslnb.core import SettingError, rng
from sslnb.data import DataError
from sslnb.evaluate import Result


@pytest.fixture(autouse=True, scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv("SSLNB_STORE", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture(scope="module")
def sets(): return data.load("digits").at_most(300), data.load("digits", "test").at_most(200)


@pytest.fixture(scope="module")
def net(sets):
    torch.manual_seed(0)
    return models.encoder("tiny", sets[0])


@pytest.fixture(scope="module")
def run(net, sets): return evaluate.fine_tune(net, sets[0], 0.5, epochs=1)


quick = dict(epochs=3, rates=(0.1,))


# -- to whom a stored result belongs -----------------------------------------------------------------------------------

def test_a_result_belongs_to_the_code_that_computes_it(run, sets, monkeypatch):
    "An evaluation that is replaced by another one is asked again; before, the number of the old one came back."
    def replaced(*args, **settings): return Result({"top1": 0.123}, [0])
    before = [evaluate.evaluate_run(run, 2, *sets, **quick), evaluate.evaluate_pixels(*sets, **quick)]
    monkeypatch.setattr(evaluate, "score", replaced)
    for found in (evaluate.evaluate_run(run, 2, *sets, **quick), evaluate.evaluate_pixels(*sets, **quick)):
        assert found.metrics == {"top1": 0.123}
    monkeypatch.undo()
    assert [evaluate.evaluate_run(run, 2, *sets, **quick), evaluate.evaluate_pixels(*sets, **quick)] == before


@pytest.mark.parametrize("name, call", [
    ("cluster_accuracy", lambda run, train, test: evaluate.cluster_run(run, 2, train, test, 8, starts=1)),
    ("cluster_accuracy", lambda run, train, test: evaluate.cluster_pixels(train, test, starts=1)),
    ("logistic_score", lambda run, train, test: evaluate.logistic_run(run, 2, train, test, test, Cs=(1.0,))),
    ("logistic_score", lambda run, train, test: evaluate.logistic_pixels(train, test, test, Cs=(1.0,)))])
def test_so_do_the_other_evaluations(name, call, run, sets, monkeypatch):
    def replaced(*args, **settings): return runs.Found({"replaced": 1.0})
    first = call(run, *sets)
    monkeypatch.setattr(evaluate, name, replaced)
    assert call(run, *sets) == {"replaced": 1.0}
    monkeypatch.undo()
    assert call(run, *sets) == first


@pytest.mark.parametrize("metric, call", [
    ("top1", lambda run, train, test: evaluate.evaluate_run(run, 2, train, test, **quick).metrics),
    ("top1", lambda run, train, test: evaluate.evaluate_pixels(train, test, **quick).metrics),
    ("hungarian", lambda run, train, test: evaluate.cluster_run(run, 2, train, test, 8, starts=1)),
    ("top1", lambda run, train, test: evaluate.logistic_run(run, 2, train, test, test, Cs=(1.0,)))])
def test_the_answer_to_each_image_comes_back_from_the_store(metric, call, run, sets):
    for found in (call(run, *sets), call(run, *sets)):
        images, right = found.answers
        assert images == sets[1].fingerprint and right.dtype == bool and len(right) == len(sets[1])
        assert right.mean() == pytest.approx(found[metric], abs=1e-6)
        assert (found.only() | {"x": 1}).answers is found.answers


def test_features_belong_to_the_code_that_reads_them(run, sets, monkeypatch):
    def louder(encoder, images, stage=-1): return 2 * models.features(encoder, images, stage)[:, :5]
    first = evaluate.tune_run(run, *sets, epochs=1)
    monkeypatch.setattr(evaluate, "features", louder)
    assert evaluate.tune_run(run, *sets, epochs=1)["weight"].shape == (10, 5) != first["weight"].shape


@pytest.mark.slow
def test_every_setting_is_part_of_the_key(run, sets):
    def stored(): return len(list((runs.store_folder() / "results").iterdir()))
    first = evaluate.evaluate_run(run, 2, *sets, **quick)
    others = [dict(k=5), dict(temperature=1.0), dict(seed=1), dict(stage=0), dict(batch_size=32), dict(epochs=1),
              dict(rates=(0.01,))]
    for n, other in enumerate(others, 1):
        found = evaluate.evaluate_run(run, 2, *sets, **quick | other)
        assert found == evaluate.evaluate(evaluate.load_encoder(run, 2), *sets, **quick | other), other
        assert stored() == 1 + n, other
    assert evaluate.evaluate_run(run, 2, *sets, k=5, **quick).metrics["knn_top1"] != first.metrics["knn_top1"]
    assert evaluate.evaluate_run(run, 2, *sets, seed=0, k=20, **quick) == first  # the defaults said aloud
    assert stored() == 1 + n
    slow, fast = (evaluate.tune_run(run, *sets, epochs=1, **rate)["test"] for rate in ({}, {"lr": 1.0}))
    assert not torch.equal(slow, fast)
    once, thrice = (evaluate.cluster_run(run, 2, *sets, 8, starts=n) for n in (1, 3))
    assert once == evaluate.cluster_run(run, 2, *sets, 8, starts=1) != thrice
    one_c = evaluate.logistic_run(run, 2, *sets, sets[1], Cs=(1e-3,))
    assert one_c["C"] == 1e-3 != evaluate.logistic_run(run, 2, *sets, sets[1], Cs=(1.0,))["C"]


class Own(nn.Module):
    "An encoder from a notebook; its class may be edited while its weights stay."
    def __init__(self, side):
        super().__init__()
        self.dim, self.flat = side * side, nn.Linear(side * side, side * side)

    def layers(self, x): return [self.flat(x.flatten(1))]


class Edited(Own):
    def layers(self, x): return [torch.cos(40 * self.flat(x.flatten(1)))]


def test_an_edited_encoder_of_equal_weights_is_evaluated_again(sets):
    first, second = Own(sets[0].pixels.shape[-1]), Edited(sets[0].pixels.shape[-1])
    second.load_state_dict(first.state_dict())
    Edited.__qualname__ = Edited.__name__ = "Own"  # as if the cell had been run again
    a, b = (evaluate.logistic_encoder(e, *sets, sets[1], Cs=(1.0,)) for e in (first, second))
    assert a != b
    assert a == evaluate.logistic_encoder(first, *sets, sets[1], Cs=(1.0,))


def test_an_edited_part_of_an_encoder_is_seen():
    class Part(nn.Module):
        def forward(self, x): return x
    plain = nn.Sequential(Part())
    before = evaluate.plain(plain)
    class Part(nn.Module):  # noqa: F811
        def forward(self, x): return x + 1
    assert evaluate.plain(nn.Sequential(Part())) != before


def test_results_say_who_computed_them(run, net, sets):
    train, test = sets
    found = [evaluate.evaluate_run(run, 2, *sets, **quick).metrics, evaluate.evaluate(net, *sets, **quick).metrics,
             evaluate.evaluate_pixels(*sets, **quick).metrics, evaluate.evaluate_classifier_run(run, test).metrics,
             evaluate.evaluate_classifier(evaluate.load_classifier(run), test).metrics,
             evaluate.logistic_encoder(net, train, test, test, Cs=(1.0,)), evaluate.cluster_pixels(*sets, starts=1),
             evaluate.tune_run(run, *sets, epochs=1)]
    for numbers in found: assert {"commit", "versions", "device"} <= set(numbers.by)


# -- the numbers as papers define them ---------------------------------------------------------------------------------

def imbalanced(n=400):
    "Two features of three classes, of which the last has a tenth of the images."
    g = rng("imbalanced")
    y = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0, 2]).repeat(n // 10)
    x = torch.randn(n, 2, generator=g) + torch.tensor([[0.0, 3], [3, 0], [1.5, 1.5]])[y]
    return x, y


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_error_is_that_of_the_metric(metric):
    x, y = imbalanced()
    parts = x[:200], y[:200], x[200:300], y[200:300], x[300:], y[300:]
    found = evaluate.logistic_score(*parts, n_classes=3, metric=metric, Cs=(0.1, 1.0))
    again = logistic.fit(x[:300], y[:300], [found["C"]], 3).scores(x[300:]).argmax(1)
    recalls = [(again[y[300:] == c] == c).double().mean().item() for c in range(3)]
    expected = {"top1": (again == y[300:]).double().mean().item(), "mean_per_class": sum(recalls) / 3}
    assert found["error"] == 1 - found[metric] and found[metric] == pytest.approx(expected[metric], abs=0.02)
    assert found["top1"] - found["mean_per_class"] > 0.05


def renamed(images, name): return dataclasses.replace(images, name=name)


def test_the_name_of_a_set_decides_the_metric(net, sets):
    train, test = sets
    rare = train.labels < 5
    rare[::7] = True  # half of the classes become rare
    train, test = train[rare], test[(test.labels < 5) | (torch.arange(len(test)) % 7 == 0)]
    declared = {"digits": "top1", "pets": "mean_per_class", "cars": "top1", "flowers": "mean_per_class"}
    for name, metric in declared.items():
        parts = [renamed(train, f"{name}/train"), renamed(test, f"{name}/val"), renamed(test, f"{name}/test")]
        found = evaluate.logistic_encoder(net, *parts, Cs=(0.01, 1.0))
        assert found["error"] == 1 - found[metric] and abs(found["top1"] - found["mean_per_class"]) > 1e-3
        assert evaluate.error_rate(found, parts[2]) == found["error"]


@pytest.mark.parametrize("name, metric", [("voc2007", "map11"), ("mine", "map")])
def test_several_labels_by_eleven_recalls_where_voc_asks(net, sets, name, metric):
    def two(images):
        labels = F.one_hot(images.labels, 10) + F.one_hot((images.labels + 1) % 10, 10)
        return dataclasses.replace(images, name=f"{name}/x", labels=labels)
    found = evaluate.logistic_encoder(net, two(sets[0]), two(sets[1]), two(sets[1]), Cs=(1.0,))
    assert found["error"] == 1 - found[metric] and found["map"] != found["map11"]


@pytest.mark.parametrize("metric, labels", [("map11", torch.tensor([0, 1])), ("top1", torch.eye(2).long()),
                                            ("top5", torch.tensor([0, 1]))])
def test_a_metric_that_does_not_fit_is_named(metric, labels):
    x = torch.eye(2)
    with pytest.raises(SettingError, match=f"metric = '{metric}'.*are judged by"):
        evaluate.logistic_score(x, labels, x, labels, x, labels, n_classes=2, metric=metric)


# -- what is missing, and what cannot be -------------------------------------------------------------------------------

def test_training_images_that_lack_a_class(net, run, sets):
    train, test = sets
    for lacks in (train[train.labels < 9], train[train.labels != 4], train[train.labels < 2]):
        found = evaluate.evaluate(net, lacks, test, **quick)
        assert not set(found.predicted) - set(lacks.labels.tolist()) or 0 < found.metrics["top1"] < 1
        assert evaluate.tune_run(run, lacks, test, epochs=1)["test"].shape == (2, len(test), 10)
        assert evaluate.logistic_encoder(net, lacks, test, test, Cs=(1.0,))["top1"] > 0
    some = test[test.labels < 9]
    assert math.isnan(evaluate.evaluate(net, train, some, **quick).metrics["auc"])
    assert evaluate.cluster_run(run, 2, train, some, 8, starts=1)["hungarian"] > 0.1


def without_labels(images, n=3):
    labels = images.labels.clone()
    labels[:n] = -1
    return dataclasses.replace(images, labels=labels)


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("call", [
    lambda net, run, *sets: evaluate.evaluate(net, *sets), lambda net, run, *sets: evaluate.evaluate_run(run, 2, *sets),
    lambda net, run, *sets: evaluate.evaluate_pixels(*sets),
    lambda net, run, *sets: evaluate.logistic_encoder(net, *sets, sets[1]),
    lambda net, run, *sets: evaluate.logistic_pixels(*sets, sets[1])])
def test_images_without_a_label_are_named(net, run, sets, call, at):
    sets = list(sets)
    sets[at] = without_labels(sets[at])
    words = f"{sets[at].name} has 3 images without a label: leave them out"
    with pytest.raises(DataError, match=words): call(net, run, *sets)


def test_and_where_only_one_set_needs_labels(net, run, sets):
    train, test = sets
    for call in (lambda: evaluate.tune_run(run, without_labels(train), test),
                 lambda: evaluate.cluster_run(run, 2, train, without_labels(test), 8),
                 lambda: evaluate.cluster_pixels(train, without_labels(test)),
                 lambda: evaluate.evaluate_classifier_run(run, without_labels(test))):
        with pytest.raises(DataError, match="3 images without a label"): call()
    several = dataclasses.replace(test, labels=F.one_hot(test.labels, 10))
    for call in (lambda: evaluate.evaluate(net, train, several), lambda: evaluate.few_labels(several, 0.5, 0)):
        with pytest.raises(DataError, match="several labels"): call()


X, Y = torch.randn(40, 6, generator=rng("x")), torch.arange(40) % 4


@pytest.mark.parametrize("fn", [partial(evaluate.linear_probe, x_test=X), partial(evaluate.knn, x_test=X),
                                partial(evaluate.linear_tuning, inputs=[X])],
                         ids=["linear_probe", "knn", "linear_tuning"])
@pytest.mark.parametrize("change, words", [
    (dict(x=X / 0), "NaN or infinity"), (dict(y=Y - 1), "10 samples have no label"),
    (dict(n_classes=3), "label 3: must be below"),
    (dict(y=Y[:5]), "must be N×D and N"), (dict(x=X[:0], y=Y[:0]), "not empty"), (dict(y=F.one_hot(Y)), "must be N")])
def test_what_cannot_be_read_from_is_refused(fn, change, words):
    with pytest.raises(SettingError, match=words): fn(**dict(x=X, y=Y, n_classes=4) | change)


@pytest.mark.parametrize("call, words", [
    (lambda: evaluate.linear_probe(X[:1], Y[:1], X, n_classes=4), "one sample: the probe needs two"),
    (lambda: evaluate.linear_probe(X, Y, X, n_classes=4, epochs=0), "epochs = 0"),
    (lambda: evaluate.linear_probe(X, Y, X, n_classes=4, rates=()), "rates = 0"),
    (lambda: evaluate.knn(X, Y, X, n_classes=4, k=0), "k = 0"),
    (lambda: evaluate.knn(X, Y, X, n_classes=4, temperature=0), "temperature = 0"),
    (lambda: evaluate.linear_tuning(X, Y, [X], n_classes=4, lr=0), "lr = 0"),
    (lambda: evaluate.cluster_accuracy(X, X, Y, 4, starts=0), "starts = 0"),
    (lambda: evaluate.cluster_accuracy(X, X, Y, 4, components=0), "d = 0"),
    (lambda: evaluate.metrics(X[:, :4] / 0, Y), "scores are NaN"),
    (lambda: evaluate.metrics(X[:, :4] * torch.nan, Y), "40 scores are NaN"),
    (lambda: evaluate.metrics(X[:, :3], Y), "label 3: there are 3 scores"),
    (lambda: evaluate.metrics(X[:, :4], Y - 1), "10 images have no label")])
def test_settings_that_make_no_sense(call, words):
    with pytest.raises(SettingError, match=words): call()


@pytest.mark.filterwarnings("always")
def test_clusters_of_features_of_low_rank():
    flat = torch.cat([X, X[:, :2]], 1)
    with pytest.warns(UserWarning, match="fewer than 8 directions"):
        found = evaluate.cluster_accuracy(flat, flat, Y, 4, components=8)
    assert found == evaluate.cluster_accuracy(flat, flat, Y, 4, components=6)
