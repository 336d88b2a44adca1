"Logistic regression against scikit-learn's and closed forms (its own checks: nbs/lib/logistic.ipynb)."
import warnings

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from sslnb.core import SettingError
from sslnb.logistic import fit, logistic_probe

CS = [1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0, 1e3, 1e5]


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


@pytest.mark.parametrize("problem", [digits, separable, overlapping])
def test_same_minimum_as_scikit_learn(problem):
    x, y = problem()
    found = fit(x, y, CS)
    assert found.converged[:6].all()  # beyond C = 10 the last iterations change the objective by less than 1e-6
    for r, C in enumerate(CS):
        w, b = sklearns(x, y, C)
        theirs = objective(w, b, x, y, C).item()
        assert found.objective[r] <= theirs * (1 + 1e-4), C
        if C <= 1e3 and problem is not overlapping:  # elsewhere scikit-learn stops early, and ours may be lower
            assert found.objective[r] >= theirs * (1 - 1e-4), C
        torch.testing.assert_close(found.objective[r], objective(found.weight[r], found.bias[r], x, y, C), rtol=1e-6, atol=0)
        if problem is not overlapping:
            assert abs(accuracy(found.weight[r], found.bias[r], x, y) - accuracy(w, b, x, y)) <= 0.001


@pytest.mark.parametrize("problem", [digits, separable, overlapping])
def test_gradient_is_zero_at_the_solution(problem):
    x, y = problem()
    found = fit(x, y, [1e-3, 1.0, 100.0], tolerance=1e-8)
    for r, C in enumerate([1e-3, 1.0, 100.0]):
        w, b = (t[r].clone().requires_grad_() for t in (found.weight, found.bias))
        grads = torch.autograd.grad(objective(w, b, x, y, C) / (C * len(x)), (w, b))
        assert all(g.abs().max() < 1e-5 for g in grads)


def test_a_batch_finds_what_each_finds_alone():
    x, y = digits()
    together = fit(x, y, CS[:6], tolerance=1e-7)
    for r, C in enumerate(CS[:6]):
        alone = fit(x, y, [C], tolerance=1e-7)
        torch.testing.assert_close(alone.objective[0], together.objective[r], rtol=1e-6, atol=0)
        torch.testing.assert_close(alone.scores(x), together.scores(x, r), rtol=1e-2, atol=1e-2)


def test_order_of_samples_does_not_matter():
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    a, b = fit(x, y, CS), fit(x[order], y[order], CS)
    torch.testing.assert_close(a.objective, b.objective, rtol=1e-5, atol=0)


def test_limits():
    x, y = overlapping()
    frequencies = (y.bincount() / len(y)).double()
    torch.testing.assert_close(fit(x, y, [1e-12]).scores(x).exp(), frequencies.expand(len(x), -1), atol=1e-5, rtol=0)
    constant = fit(torch.ones(len(y), 3), y, [1.0])  # nothing to learn from
    assert (constant.weight == 0).all() and constant.converged.all()
    torch.testing.assert_close(constant.scores(torch.ones(1, 3)).exp()[0], frequencies, atol=1e-6, rtol=0)
    x, y = separable()
    assert accuracy(*(t[0] for t in fit(x, y, [1e5])[:2]), x, y) == 1


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
    assert not found.converged.any() and found.iterations.tolist() == [4]


def test_probe_chooses_on_validation_and_refits():
    x, y = digits()
    parts = x[:150], y[:150], x[150:200], y[150:200], x[200:]
    probe = logistic_probe(*parts, Cs=CS[::-1])
    best = [C for C, a in zip(CS[::-1], probe.validation) if a == max(probe.validation)]
    assert probe.C == min(best)
    torch.testing.assert_close(probe.scores, fit(x[:200], y[:200], [probe.C]).scores(x[200:]))
    assert (probe.scores.argmax(1) == y[200:]).double().mean() > 0.8


@pytest.mark.parametrize("words, change", [
    ("C = \\[-1\\]", dict(Cs=[1, -1])), ("C = \\[nan\\]", dict(Cs=[float("nan")])), ("at least one", dict(Cs=[])),
    ("2 samples have no label", dict(y=torch.tensor([0, 1, -1, -1]))), ("all labels are 1", dict(y=torch.ones(4).long())),
    ("NaN or infinity", dict(x=torch.full((4, 2), torch.nan))), ("must be N×D and N", dict(x=torch.ones(5, 2))),
    ("below n_classes = 2", dict(n_classes=2))])
def test_bad_input_is_named(words, change):
    given = dict(x=torch.randn(4, 2), y=torch.tensor([0, 1, 2, 0]), Cs=[1.0]) | change
    with pytest.raises(SettingError, match=words): fit(**given)
