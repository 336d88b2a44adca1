"Logistic regression against scikit-learn's and closed forms (its own checks: nbs/lib/16_logistic.ipynb)."
import warnings

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from sslnb import logistic
from sslnb.core import SettingError
from sslnb.logistic import CS as ALL
from sslnb.logistic import (average_precision, average_precision_11, fit_labels, labels_probe, logistic_probe,
                            mean_per_class)

CS = [1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0, 1e3, 1e5]


def fit(x, y, Cs, n_classes=None, **more):
    "`logistic.fit` with as many classes as the labels have."
    return logistic.fit(x, y, Cs, n_classes or int(y.max()) + 1, **more)


def digits():
    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    return x.float()[:300] / 16, y[:300]


def separable():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (120,), generator=g)
    return torch.randn(120, 20, generator=g) + 3 * F.one_hot(y, 20), y


def overlapping():
    g = torch.Generator().manual_seed(1)
    y = torch.randint(4, (400,), generator=g)
    return 5 + torch.randn(400, 6, generator=g) * torch.logspace(-2, 2, 6) + F.one_hot(y, 6), y


def objective(w, b, x, y, C):
    return C * F.cross_entropy(x.double() @ w + b, y, reduction="sum") + w.square().sum() / 2


def accuracy(w, b, x, y): return ((x.double() @ w + b).argmax(1) == y).double().mean().item()


def sklearns(x, y, C):
    "Weights and biases, on centred features: the same minimum, found sooner."
    mean = x.double().mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may not get as far as asked for
        model = LogisticRegression(C=C, tol=1e-9, max_iter=3000).fit((x - mean).numpy(), y.numpy())
    w, b = torch.from_numpy(model.coef_.T), torch.from_numpy(model.intercept_)
    return w, b - mean @ w


@pytest.mark.slow
@pytest.mark.parametrize("problem", [digits, separable, overlapping])
def test_same_minimum_as_scikit_learn(problem):
    x, y = problem()
    found = fit(x, y, CS)
    assert found.converged.all()
    for r, C in enumerate(CS):
        w, b = sklearns(x, y, C)
        theirs = objective(w, b, x, y, C).item()
        assert found.objective[r] <= theirs * (1 + 1e-4), C
        if C <= 1e3 and problem is not overlapping:  # elsewhere scikit-learn stops early, and ours may be lower
            assert found.objective[r] >= theirs * (1 - 1e-4), C
        ours = objective(found.weight[r].double(), found.bias[r].double(), x, y, C)
        torch.testing.assert_close(found.objective[r], ours, rtol=1e-5, atol=0)


def drawn(n):
    "Eight classes in 24 directions of unequal variance; about a third of the samples lie beyond a border."
    g = torch.Generator().manual_seed(3)
    y = torch.randint(8, (n,), generator=g)
    x = torch.randn(n, 24, generator=g) + 0.8 * torch.randn(8, 24, generator=g)[y]
    return x * torch.logspace(0, -1.5, 24), y


@pytest.mark.slow
def test_objective_and_accuracy_at_all_45():
    x, y = drawn(4500)
    x, y, x_test, y_test = x[:500], y[:500], x[500:], y[500:]
    found = fit(x, y, ALL)
    for r, C in enumerate(ALL):
        w, b = sklearns(x, y, C)
        ratio = found.objective[r] / objective(w, b, x, y, C)
        assert 1 - 1e-3 <= ratio <= 1 + 1e-4, C
        ours = (found.odds(x_test, r).argmax(1) == y_test).double().mean().item()
        assert abs(ours - accuracy(w, b, x_test, y_test)) <= 0.001, C


@pytest.mark.parametrize("problem", [digits, separable, overlapping])
def test_gradient_is_zero_at_the_solution(problem):
    x, y = problem()
    found = fit(x.double(), y, [1e-3, 1.0, 100.0], tolerance=1e-12)
    for r, C in enumerate([1e-3, 1.0, 100.0]):
        w, b = (t[r].clone().requires_grad_() for t in (found.weight, found.bias))
        grads = torch.autograd.grad(objective(w, b, x, y, C) / (C * len(x)), (w, b))
        assert all(g.abs().max() < 1e-5 for g in grads)


@pytest.mark.slow
def test_a_batch_finds_what_each_finds_alone():
    x, y = digits()
    together = fit(x, y, ALL)
    for r, C in enumerate(ALL):
        alone = fit(x, y, [C])
        torch.testing.assert_close(alone.objective[0], together.objective[r], rtol=1e-4, atol=0)


def test_float32_is_enough():
    x, y = separable()
    single, double = fit(x, y, ALL), fit(x.double(), y, ALL, tolerance=1e-9)
    assert single.weight.dtype == torch.float32 and double.weight.dtype == torch.float64
    torch.testing.assert_close(single.objective, double.objective, rtol=1e-4, atol=0)


def test_cs_in_any_order_and_twice():
    x, y = digits()
    a, b = fit(x, y, [10.0, 1e-3, 0.1, 10.0]), fit(x, y, [1e-3, 0.1, 10.0])
    torch.testing.assert_close(a.objective, b.objective[[2, 0, 1, 2]], rtol=1e-5, atol=0)


def test_turned_and_shifted_features_change_nothing():
    x, y = digits()
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]
    a, b = fit(x, y, ALL), fit(x @ turn + 3, y, ALL)
    torch.testing.assert_close(a.objective, b.objective, rtol=1e-4, atol=0)


def test_larger_features_are_a_larger_c():
    x, y = digits()  # weights W/2 for features 2x: the same scores, a quarter of the penalty
    a, b = fit(x, y, [4 * C for C in CS]), fit(2 * x, y, CS)
    torch.testing.assert_close(a.objective, 4 * b.objective, rtol=1e-4, atol=0)


def test_order_of_samples_does_not_matter():
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    a, b = fit(x, y, CS), fit(x[order], y[order], CS)
    torch.testing.assert_close(a.objective, b.objective, rtol=1e-4, atol=0)


def test_limits():
    x, y = overlapping()
    frequencies = y.bincount() / len(y)
    torch.testing.assert_close(fit(x, y, [1e-12]).scores(x).exp(), frequencies.expand(len(x), -1), atol=1e-5, rtol=0)
    constant = fit(torch.ones(len(y), 3), y, [1.0])  # nothing to learn from
    assert (constant.weight == 0).all() and constant.converged.all()
    torch.testing.assert_close(constant.scores(torch.ones(1, 3)).exp()[0], frequencies, atol=1e-6, rtol=0)
    x, y = separable()
    found = fit(x, y, [1e5])
    assert found.converged.all() and accuracy(found.weight[0].double(), found.bias[0].double(), x, y) == 1


def test_more_features_than_samples_and_an_absent_class():
    x, y = digits()
    x, y = x[y != 4][:40], y[y != 4][:40]
    found = fit(x, y, [1.0], 11)
    assert found.weight.shape == (1, 64, 11) and (found.scores(x).exp()[:, [4, 10]] == 0).all()
    w, b = sklearns(x, y, 1.0)
    seen = y.unique(return_inverse=True)[1]
    assert abs(found.objective[0] / objective(w, b, x, seen, 1.0) - 1) < 1e-4


def test_iterations_run_out():
    found = fit(*digits(), [1e5], iterations=2)
    assert not found.converged.any() and found.iterations.tolist() == [2]


def test_probe_chooses_on_validation_and_refits():
    x, y = digits()
    parts = x[:150], y[:150], x[150:200], y[150:200], x[200:]
    probe = logistic_probe(*parts, n_classes=10, Cs=CS[::-1])
    best = [C for C, a in zip(CS[::-1], probe.validation) if a == max(probe.validation)]
    assert probe.C == min(best)
    torch.testing.assert_close(probe.scores, fit(x[:200], y[:200], [probe.C]).scores(x[200:]), atol=0.05, rtol=0.05)
    assert (probe.scores.argmax(1) == y[200:]).double().mean() > 0.8


@pytest.mark.parametrize("words, change", [
    ("C = \\[-1\\]", dict(Cs=[1, -1])), ("C = \\[nan\\]", dict(Cs=[float("nan")])), ("at least one", dict(Cs=[])),
    ("2 samples have no label", dict(y=torch.tensor([0, 1, -1, -1]))),
    ("all labels are 1", dict(y=torch.ones(4).long())),
    ("NaN or infinity", dict(x=torch.full((4, 2), torch.nan))), ("must be N×D and N", dict(x=torch.ones(5, 2))),
    ("below n_classes = 2", dict(n_classes=2))])
def test_bad_input_is_named(words, change):
    given = dict(x=torch.randn(4, 2), y=torch.tensor([0, 1, 2, 0]), Cs=[1.0]) | change
    with pytest.raises(SettingError, match=words): fit(**given)


def labelled():
    "Five labels that depend on 12 features, some samples left out for one or all of them."
    g = torch.Generator().manual_seed(4)
    x = torch.randn(600, 12, generator=g)
    y = (x @ torch.randn(12, 5, generator=g) + 2 * torch.randn(600, 5, generator=g)
         > torch.tensor([0, 1, -2, 3, 4])).long()
    y[torch.rand(600, 5, generator=g) < 0.1] = -1
    y[7] = -1
    return x, y


def test_labels_as_scikit_learn_of_two_classes():
    x, y = labelled()
    found = fit_labels(x, y, ALL)
    assert found.converged.all() and found.weight.isfinite().all() and found.weight.shape == (45, 12, 5)
    for r in range(0, 45, 4):
        for label in range(5):
            use = y[:, label] >= 0
            model = LogisticRegression(C=ALL[r], tol=1e-9, max_iter=3000).fit(x[use].double().numpy(),
                                                                              y[use, label].numpy())
            w, b = torch.from_numpy(model.coef_[0]), torch.from_numpy(model.intercept_)
            loss = F.binary_cross_entropy_with_logits(x[use].double() @ w + b, y[use, label].double(), reduction="sum")
            theirs = ALL[r] * loss + w.square().sum() / 2
            assert abs(found.objective[r, label] / theirs - 1) <= 1e-4, (r, label)


def test_left_out_samples_do_not_count():
    x, y = labelled()
    use = y[:, 1] >= 0
    a, b = fit_labels(x, y, [0.01, 1.0]), fit_labels(x[use], y[use][:, 1:2], [0.01, 1.0])
    torch.testing.assert_close(a.weight[:, :, 1:2], b.weight, atol=1e-2, rtol=1e-2)


def test_average_precision_as_scikit_learns():
    g = torch.Generator().manual_seed(5)
    y = torch.randint(-1, 2, (200, 4), generator=g)
    for scores in (torch.randn(200, 4, generator=g), torch.randint(3, (200, 4), generator=g).float(),
                   torch.zeros(200, 4)):
        expected = [average_precision_score(y[y[:, c] >= 0, c], scores[y[:, c] >= 0, c]) for c in range(4)]
        torch.testing.assert_close(average_precision(scores, y), torch.tensor(expected, dtype=torch.float64))


def test_labels_probe_gives_each_label_its_own_c():
    x, y = labelled()
    parts = x[:300], y[:300], x[300:450], y[300:450], x[450:]
    probe = labels_probe(*parts, Cs=ALL[::4])
    assert probe.scores.shape == (150, 5) and probe.validation.shape == (12, 5) and len(set(probe.C)) > 1
    for label, C in enumerate(probe.C):
        assert probe.validation[ALL[::4].index(C), label] == probe.validation[:, label].max()
        use = (y[:450, label] >= 0).nonzero()[:, 0]
        alone = fit_labels(x[use], y[use][:, label:label + 1], [C]).odds(x[450:])[:, 0]
        torch.testing.assert_close(probe.scores[:, label], alone, atol=0.05, rtol=0.05)
    assert average_precision(probe.scores, y[450:]).mean() > 0.6


@pytest.mark.slow
def test_the_probe_chooses_by_what_is_reported():
    x, y = drawn(900)
    rare = (y > 1) | (torch.arange(900) % 9 == 0)  # a ninth of two of the eight classes
    x, y = x[rare], y[rare]
    parts = x[:300], y[:300], x[300:], y[300:], x[300:]
    by_class = logistic_probe(*parts, n_classes=8, measure=mean_per_class)
    for r in (0, 20, 44):
        predicted = fit(x[:300], y[:300], ALL, 8).odds(x[300:], r).argmax(1)
        recalls = [(predicted[y[300:] == c] == c).double().mean() for c in range(8)]
        assert by_class.validation[r] == pytest.approx(sum(recalls).item() / 8)
    assert by_class.validation != logistic_probe(*parts, n_classes=8).validation
    x, y = labelled()
    parts = x[:300], y[:300], x[300:450], y[300:450], x[450:]
    measures = average_precision_11, average_precision
    points, area = (labels_probe(*parts, Cs=ALL[::4], measure=m).validation for m in measures)
    assert (points - area).abs().max() > 1e-3 and (points - area).abs().max() < 0.1


def test_average_precision_at_eleven_recalls():
    "As the VOC development kit computes it, one image after the other in the order of the scores."
    g = torch.Generator().manual_seed(6)
    y, scores = (torch.rand(300, 1, generator=g) < 0.1).long(), torch.randn(300, 1, generator=g)
    has = y[scores[:, 0].argsort(descending=True), 0].double()
    recall, precision = has.cumsum(0) / has.sum(), has.cumsum(0) / torch.arange(1, 301)
    expected = sum(precision[recall >= t / 10 - 1e-9].max() for t in range(11)) / 11
    torch.testing.assert_close(average_precision_11(scores, y)[0], expected)
    assert average_precision_11(y.double(), y) == 1
    torch.testing.assert_close(average_precision_11(0 * scores, y)[0], y.double().mean())
    assert (average_precision_11(scores, y) - average_precision(scores, y)).abs() > 1e-3


def test_a_class_that_training_or_validation_lacks():
    x, y = digits()
    no_nine, no_eight = y[:150] != 9, y[150:200] != 8
    parts = x[:150][no_nine], y[:150][no_nine], x[150:200][no_eight], y[150:200][no_eight], x[200:]
    assert logistic_probe(*parts, n_classes=10, Cs=CS).scores.shape == (100, 10)
    low, low_val = parts[1] < 8, parts[3] < 8
    parts = parts[0][low], parts[1][low], parts[2][low_val], parts[3][low_val], x[200:]
    found = logistic_probe(*parts, n_classes=10, Cs=CS)
    assert found.scores.shape == (100, 10) and (found.scores[:, 8:].exp() == 0).all()


def test_labels_that_cannot_be_learnt_are_named():
    x, y = labelled()
    none = y.clone()
    none[:, 3] = 0
    with pytest.raises(SettingError, match=r"validation: labels \[3\] have no positive"): labels_probe(x, y, x, none, x)
    with pytest.raises(SettingError, match=r"training: labels \[3\] have no positive"): fit_labels(x, none, [1.0])
    with pytest.raises(SettingError, match=r"training: labels \[0, 1, 2, 3, 4\] have no negative"):
        fit_labels(x, y * 0 + 1, [1.0])
    with pytest.raises(SettingError, match="each 1, 0 or −1"): fit_labels(x, y + 1, [1.0])
    with pytest.raises(SettingError, match="must be N×L"): fit_labels(x, y[:, 0], [1.0])
