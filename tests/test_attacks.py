"Attacks against torchattacks and foolbox; everything that must not happen (closed forms: nbs/lib/18_attacks.ipynb)."
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchattacks
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sslnb import attacks, data
from sslnb.attacks import (apgd, attack_curve, dlr, ensemble, fgsm, fgsm_normalized, images_at_once, noise, pgd,
                           pgd_rising, square_attack, under_attack)
from sslnb.augment import to_float
from sslnb.behaviour import behaviour_of
from sslnb.core import SettingError, rng
from sslnb.models import encoder, frozen

with warnings.catch_warnings():  # an import that scipy has moved
    warnings.filterwarnings("ignore", message="Please import `gaussian_filter`", category=DeprecationWarning)
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfFastGradientAttack, LinfPGD

EPS = [0, 1 / 255, 4 / 255]


@pytest.fixture(scope="module")
def test_set(): return data.load("shapes", "test")[:128]  # a power of 2: torchattacks' mean loss has our exact signs


@pytest.fixture(scope="module")
def trained():
    "The tiny encoder with a linear layer, after 200 steps: half of its answers are right, on every processor."
    torch.manual_seed(0)
    images = data.load("shapes")[:2000]
    net = nn.Sequential(e := encoder("tiny", images), nn.Linear(e.dim, images.n_classes))
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _step in range(200):
        some = images[torch.randint(2000, (64,))]
        optimizer.zero_grad()
        F.cross_entropy(net(to_float(some.pixels)), some.labels).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@pytest.fixture
def net(trained):
    "The trained network, in evaluation mode, whatever the test before did."
    return trained.eval().requires_grad_()


@pytest.fixture(scope="module")
def x(test_set): return to_float(test_set.pixels)


@pytest.fixture(scope="module")
def y(test_set): return test_set.labels


def right(net, x, y):
    with torch.no_grad(): return (net(x).argmax(1) == y).float().mean().item()


def same(ours, theirs, share=1e-3):
    "Equal but for a `share` of the pixels: where a gradient is nearly 0, rounding may turn its sign."
    assert ((ours - theirs).abs() > 1e-6).float().mean() <= share


# -- the same as others' -----------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("eps", EPS)
def test_fgsm_is_torchattacks_and_foolboxs(net, x, y, eps):
    ours = fgsm(net, x, y, eps)
    torch.testing.assert_close(ours, torchattacks.FGSM(net, eps)(x, y), atol=1e-6, rtol=0)
    same(ours, LinfFastGradientAttack()(PyTorchModel(net, (0, 1), "cpu"), x, y, epsilons=eps)[1])


def test_pgd_without_a_random_start_is_torchattacks_and_foolboxs(net, x, y):
    eps, alpha, steps = 2 / 255, 0.5 / 255, 5
    ours = pgd(net, x, y, eps, alpha, steps, random_start=False)
    theirs = torchattacks.PGD(net, eps, alpha, steps, random_start=False)(x, y)
    foolboxs = LinfPGD(abs_stepsize=alpha, steps=steps, random_start=False)(PyTorchModel(net, (0, 1), "cpu"), x, y,
                                                                            epsilons=eps)[1]
    for other in (theirs, foolboxs):
        same(ours, other, share=0.01)
        assert right(net, ours, y) == pytest.approx(right(net, other, y), abs=0.005)


def test_random_starts_leave_the_accuracy_that_torchattacks_leaves(net, x, y):
    eps, alpha, steps = 0.5 / 255, 0.2 / 255, 5
    torch.manual_seed(0)
    ours = [right(net, pgd(net, x, y, eps, alpha, steps, generator=rng(seed)), y) for seed in range(3)]
    theirs = [right(net, torchattacks.PGD(net, eps, alpha, steps)(x, y), y) for _ in range(3)]
    assert sum(ours) / 3 == pytest.approx(sum(theirs) / 3, abs=0.005) and 0.1 < sum(ours) / 3 < 0.9


def both_left(net, x, y, ours, theirs):
    "What two attacks leave, and what is left without."
    torch.manual_seed(0)
    return right(net, ours, y), right(net, theirs(x, y), y), right(net, x, y)


@pytest.mark.parametrize("loss, options", [("ce", {}), ("dlr", dict(loss=dlr))])
def test_apgd_leaves_what_torchattacks_leaves(net, x, y, loss, options):
    eps, steps = 0.5 / 255, 20
    ours, theirs, clean = both_left(net, x, y, apgd(net, x, y, eps, steps, generator=rng(0), **options),
                                    torchattacks.APGD(net, eps=eps, steps=steps, loss=loss, seed=0))
    assert ours == pytest.approx(theirs, abs=0.016) and ours < clean - 0.1  # two of the 128 images


def test_square_leaves_what_torchattacks_leaves(net, x, y):
    eps, queries = 2 / 255, 200
    ours, theirs, clean = both_left(net, x, y, square_attack(net, x, y, eps, queries, rng(0)),
                                    torchattacks.Square(net, eps=eps, n_queries=queries, seed=0))
    assert ours == pytest.approx(theirs, abs=0.04) and ours < clean - 0.1  # chance has a larger part in it


@pytest.mark.slow
def test_the_ensemble_leaves_what_autoattack_leaves(net, x, y):
    "Theirs has FAB and targeted losses, too."
    x, y, eps = x[:40], y[:40], 0.5 / 255
    whole = torchattacks.AutoAttack(net, eps=eps, seed=0)
    whole._autoattack.attacks[3].n_queries = 500  # as many as ours: 5,000 leave the same images
    ours, theirs, clean = both_left(net, x, y, ensemble(net, x, y, eps, queries=500, generator=rng(0)), whole)
    assert theirs <= ours + 1e-6 and ours <= theirs + 0.026 and ours < clean - 0.1  # at most one image more


# -- determinism, restarts, early stop ---------------------------------------------------------------------------------

def test_a_generator_decides_everything(net, x, y):
    def attack(name): return pgd(net, x[:32], y[:32], EPS, 1 / 255, 2, restarts=2, generator=rng(name))
    assert torch.equal(attack("a"), attack("a")) and not torch.equal(attack("a"), attack("b"))
    assert torch.equal(noise(x, EPS, rng("a")), noise(x, EPS, rng("a")))


def test_restarts_and_early_stop_never_help_the_model(net, x, y):
    def attack(**more): return pgd(net, x, y, 0.5 / 255, 0.2 / 255, 4, generator=rng("r"), **more)
    once = right(net, attack(), y)
    assert right(net, attack(restarts=4), y) <= once and right(net, attack(stop_early=True), y) <= once
    assert right(net, attack(restarts=4, stop_early=True), y) <= right(net, attack(stop_early=True), y)


def test_what_is_misclassified_from_the_start_is_left_alone(net, x, y):
    wrong = net(x).argmax(1) != y
    found = pgd(net, x, y, 4 / 255, 1 / 255, 3, random_start=False, stop_early=True)
    assert wrong.any() and torch.equal(found[wrong], x[wrong])
    assert ((found != x).flatten(1).any(1) == ~wrong).all()


def test_a_callers_autocast_and_no_grad_change_nothing(net, x, y):
    plain = pgd(net, x[:32], y[:32], 2 / 255, 1 / 255, 2, generator=rng(0))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(pgd(net, x[:32], y[:32], 2 / 255, 1 / 255, 2, generator=rng(0)), plain)


def test_what_is_the_same_image_gets_the_same_answer(net, test_set):
    "It is asked once."
    def repeated(model, x, y, eps): return torch.stack([x, x, noise(x, 0.2, rng(0)), noise(x, 0.2, rng(0)), x])
    few = test_set[:20]
    found, direct = under_attack(net, few, [0.0] * 5, repeated), to_float(few.pixels)
    for row, images in zip((0, 1, 2, 3, 4), repeated(net, direct, None, None)):
        torch.testing.assert_close(found.confidence[row], net(images).softmax(1).amax(1).detach())
        assert torch.equal(found.predicted[row], net(images).argmax(1))


def test_a_rising_curve_is_pgds_and_cannot_rise(net, test_set):
    eps, options = [0.0, 0.25 / 255, 0.5 / 255, 1 / 255], dict(alpha=0.2 / 255, steps=4)
    rising, alone = (under_attack(net, test_set, eps, a, generator=rng(0), **options, **more).correct
                     for a, more in ((pgd_rising, {}), (pgd, dict(stop_early=True))))
    assert (rising[1:] <= rising[:-1]).all()
    torch.testing.assert_close(rising.float().mean(1), alone.float().mean(1), atol=0.02, rtol=0)


def test_the_ensemble_is_the_worst_case(net, x, y):
    found = ensemble(net, x, y, 0.5 / 255, steps=10, queries=30, generator=rng(0))
    alone = [apgd(net, x, y, 0.5 / 255, 10, generator=rng(0)), apgd(net, x, y, 0.5 / 255, 10, dlr, rng(0)),
             square_attack(net, x, y, 0.5 / 255, 30, rng(0))]
    assert right(net, found, y) <= min(right(net, one, y) for one in alone) + 0.008  # starts differ: one image


def test_a_masked_gradient_does_not_stop_the_ensemble(net, x, y):
    class Loud(nn.Module):
        def forward(self, x): return 1e5 * net(x)
    few = x[:48], y[:48], 2 / 255
    assert right(net, pgd(Loud(), *few, 0.5 / 255, 10, generator=rng(0)), y[:48]) > 0.2
    assert right(net, ensemble(Loud(), *few, steps=20, queries=10, generator=rng(0)), y[:48]) < 0.05


@pytest.mark.parametrize("attack", [lambda *a: apgd(*a, steps=3), lambda *a: square_attack(*a, queries=5),
                                    lambda *a: ensemble(*a, steps=2, queries=3)], ids=["apgd", "square", "ensemble"])
def test_new_attacks_stay_inside_and_leave_what_is_wrong(net, x, y, attack):
    x, y, wrong = x[:32], y[:32], (net(x).argmax(1) != y)[:32]
    found = attack(net, x, y, EPS)
    assert found.shape == (3, *x.shape) and torch.equal(found[0], x) and (found[:, wrong] == x[wrong]).all()
    assert ((found - x).abs().amax((1, 2, 3, 4)) <= torch.tensor(EPS) + 1e-6).all()
    assert found.min() >= 0 and found.max() <= 1 and attack(net, x, y, 0.1).shape == x.shape


class Spy(nn.Module):
    "A network that notes under which settings it is called."
    def __init__(self, net): super().__init__(); self.net, self.seen = net, set()
    def forward(self, x):
        multipliers = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul,
                       torch.backends.mkldnn.conv)
        self.seen.add((*(m.fp32_precision for m in multipliers), torch.is_autocast_enabled("cpu"),
                       torch.backends.cudnn.deterministic,
                       torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()))
        return self.net(x)


@pytest.mark.parametrize("call", [
    lambda net, s, x, y: fgsm(net, x, y, 0.1),
    lambda net, s, x, y: pgd(net, x, y, 0.1, 0.1, 2, restarts=2, stop_early=True),
    lambda net, s, x, y: fgsm_normalized(net, x, y, 0.1, torch.ones(3)),
    lambda net, s, x, y: pgd_rising(net, x, y, [0.1], 0.1, 2), lambda net, s, x, y: apgd(net, x, y, 0.1, 2),
    lambda net, s, x, y: square_attack(net, x, y, 0.1, 2), lambda net, s, x, y: ensemble(net, x, y, 0.1, 2, 2),
    lambda net, s, x, y: under_attack(net, s, [0.1], fgsm)],
    ids=["fgsm", "pgd", "normalized", "rising", "apgd", "square", "ensemble", "under_attack"])
def test_true_float32_whatever_the_caller_has_set(net, test_set, x, y, call):
    "Convolutions, too, which on a GPU are TF32 by default."
    matmul, conv, spy = torch.backends.cuda.matmul, torch.backends.cudnn.conv, Spy(net).eval()
    before, (matmul.fp32_precision, conv.fp32_precision) = ((matmul.fp32_precision, conv.fp32_precision),
                                                            ("tf32", "tf32"))
    try:
        with torch.autocast("cpu", torch.bfloat16): call(spy, test_set[:4], x[:4], y[:4])
        assert spy.seen == {("ieee", "ieee", "ieee", "ieee", False, True, False, False)}
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "tf32")
    finally: matmul.fp32_precision, conv.fp32_precision = before


def test_a_step_larger_than_the_ball_stays_inside(net, x, y):
    found = pgd(net, x[:32], y[:32], EPS, 1.85, 2, generator=rng(0))
    assert ((found - x[:32]).abs().amax((1, 2, 3, 4)) <= torch.tensor(EPS) + 1e-6).all()
    assert found.min() >= 0 and found.max() <= 1


def test_a_blind_gradient_shows_by_a_transferred_attack(net, x, y):
    class Loud(nn.Module):  # the same decisions, but a softmax that is 0 or 1 to the last bit
        def forward(self, x): return 1000 * net(x)
    own, transferred = (pgd(m, x, y, 8 / 255, 2 / 255, 4, generator=rng(0)) for m in (Loud(), net))
    assert right(net, own, y) > right(net, transferred, y) + 0.2


# -- the model is left as it was ---------------------------------------------------------------------------------------

def state(net):
    return ([m.training for m in net.modules()], [p.requires_grad for p in net.parameters()],
            [p.grad for p in net.parameters()], {k: v.clone() for k, v in net.state_dict().items()})


@pytest.mark.parametrize("attack", [
    lambda *a: fgsm(*a, EPS), lambda *a: pgd(*a, EPS, 0.01, 2, restarts=2, stop_early=True),
    lambda *a: fgsm_normalized(*a, EPS, torch.ones(3)), lambda *a: pgd_rising(*a, EPS, 0.01, 2),
    lambda *a: ensemble(*a, EPS, 2, 2), lambda net, x, y: fgsm(net, x, y + 5, EPS),
    lambda net, x, y: fgsm(net, x[:, :1], y, EPS)],
    ids=["fgsm", "pgd", "normalized", "rising", "ensemble", "bad labels", "bad channels"])
def test_modes_flags_buffers_and_gradients_come_back(net, x, y, attack):
    net.zero_grad()
    net.train()[0].stages[1].eval()
    net[0].stem.requires_grad_(False)
    before = state(net)
    try: attack(net, x[:16], y[:16])
    except (SettingError, RuntimeError): pass
    after = state(net)
    assert before[:3] == after[:3] and all(torch.equal(v, after[3][k]) for k, v in before[3].items())


def test_frozen_restores_a_shared_module_once(net):
    pair = nn.ModuleList([net[0].stem, net[0].stem]).train()
    with frozen(pair): assert not pair[0].training
    assert pair[0].training and all(p.requires_grad for p in pair.parameters())


# -- many images -------------------------------------------------------------------------------------------------------

def test_parts_of_any_size_give_the_whole(net, test_set):
    whole, parts = (under_attack(net, test_set, EPS, fgsm, batch_size=b) for b in (10_000, 50))
    assert whole.predicted.shape == whole.confidence.shape == (3, 128)
    assert (whole.predicted == parts.predicted).float().mean() > 0.99
    torch.testing.assert_close(whole.accuracy(), torch.stack([c.float().mean() for c in whole.correct]))


def test_the_verdict_is_that_of_the_model_in_evaluation_mode(net, test_set, x):
    expected = net(x).softmax(1).max(1)
    with torch.autocast("cpu", torch.bfloat16): found = under_attack(net.train(), test_set, [0.0], fgsm)
    assert net.training and torch.equal(found.predicted[0], expected.indices)
    torch.testing.assert_close(found.confidence[0], expected.values.detach())


STEPS = dict(alpha=0.5 / 255, steps=2)


@pytest.mark.parametrize("attack, options", [
    (pgd, STEPS), (pgd, STEPS | dict(restarts=3)), (pgd, STEPS | dict(stop_early=True)), (pgd_rising, STEPS),
    (apgd, dict(steps=3)), (square_attack, dict(queries=10)), (ensemble, dict(steps=2, queries=5))])
def test_random_starts_do_not_depend_on_the_parts(net, test_set, attack, options):
    "One generator goes through all parts; an image's numbers are drawn together."
    def curve(batch_size):
        options_ = options | dict(generator=rng("parts"))  # a new one
        return under_attack(net, test_set[:60], [0.5 / 255, 1 / 255], attack, batch_size, **options_)
    whole, parts = curve(1000), curve(14)
    assert (whole.predicted == parts.predicted).float().mean() > 0.99
    torch.testing.assert_close(whole.confidence, parts.confidence, atol=0.02, rtol=0)


def test_a_kept_curve_belongs_to_all_of_its_arguments(net, test_set, tmp_path):
    def curve(net=net, images=test_set[:8], eps=(0, 0.01), attack=pgd, seed=0, **options):
        attack_curve(net, images, list(eps), attack, **dict(alpha=0.01, steps=1, generator=rng(seed)) | options)
        return len(list((tmp_path / "runs" / "results").iterdir()))
    assert curve() == curve() == 1
    other = nn.Sequential(net[0], nn.Linear(net[0].dim, 10))
    for i, change in enumerate([dict(eps=(0, 0.02)), dict(alpha=0.02), dict(alpha=[0.01, 0.02]), dict(steps=2),
                                dict(restarts=2), dict(seed=1), dict(stop_early=True), dict(random_start=False),
                                dict(images=test_set[:9]), dict(net=other)], start=2):
        assert curve(**change) == i
    assert curve() == 11


def test_a_replaced_attack_is_not_answered_from_the_store(net, test_set, monkeypatch):
    def strong():
        found = attack_curve(net, test_set[:8], [0.5], attacks.pgd, alpha=0.1, steps=5, generator=rng(0))
        return found["confidence"].tolist()

    def nothing(model, x, y, eps, **options): return x.expand(len(eps), *x.shape)
    found = strong()
    monkeypatch.setattr(attacks, "pgd", nothing)
    assert strong() != found
    monkeypatch.undo()
    monkeypatch.setattr(attacks, "_pgd_steps", lambda model, at, x, *more: x)  # a part of it
    assert strong() != found


ATTACKS = (apgd, ensemble, fgsm, fgsm_normalized, noise, pgd, pgd_rising, square_attack, under_attack)


def test_what_is_stored_names_its_versions():
    assert {f"attacks.{what.__name__}" for what in ATTACKS} == {*behaviour_of(*ATTACKS)}


def plain_net(): return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 30 * 30, 10))


def test_on_a_gpu_parts_fill_half_of_what_is_free(monkeypatch):
    "Without a GPU: tensors without contents say where they would be, and how large."
    memory = dict(mem_get_info=lambda device: (10**9, 80 * 10**9), memory_reserved=lambda device: 3 * 10**8,
                  memory_allocated=lambda device: 10**8)
    for name, value in memory.items(): monkeypatch.setattr(torch.cuda, name, value)
    net, x = plain_net(), torch.rand(2, 3, 32, 32)
    with attacks._Weighed() as weighed, frozen(net): net(x[:1].requires_grad_())
    with FakeTensorMode():
        with torch.device("cuda"): fake = plain_net()
        found = [images_at_once(fake, torch.rand(2, 3, 32, 32, device="cuda"), 250, copies) for copies in (1, 2)]
    assert found[0] == pytest.approx(6 * 10**8 / weighed.bytes, rel=0.1) and abs(found[0] - 2 * found[1]) < 2
    assert images_at_once(net, x, 250, 2) == 250  # the model is on the CPU, whatever the GPU has


def test_on_a_cpu_a_large_network_takes_fewer_images_at_once(monkeypatch):
    net, x = plain_net(), torch.rand(2, 3, 32, 32)
    with attacks._Weighed() as weighed, frozen(net): net(x[:1].requires_grad_())
    for free, fit in ((10**12, 250), (200 * weighed.bytes, 50), (10, 1)):
        monkeypatch.setattr(attacks, "free_memory", lambda device: free)
        assert images_at_once(net, x, 250, 2) == pytest.approx(fit, rel=0.1)


def test_an_unlabelled_image_is_named(net, test_set):
    labels = test_set.labels.clone()
    labels[100] = -1
    with pytest.raises(data.DataError, match=r"shapes/test: label\[100\] is -1: the model knows classes 0 to 9"):
        under_attack(net, replace(test_set, labels=labels), EPS, fgsm, batch_size=30)


@pytest.mark.parametrize("make, error, message", [
    (lambda net, s: under_attack(net, s[:0], EPS, fgsm), data.DataError, "shapes/test: no images to attack"),
    (lambda net, s: under_attack(net, s, [], fgsm), SettingError, "eps = .*must be a number or a list of numbers"),
    (lambda net, s: under_attack(net, s, [2], fgsm), SettingError, "eps = 2: must be between 0 and 1"),
    (lambda net, s: under_attack(net, s, 0.1, fgsm), SettingError, "eps = 0.1: must be a list"),
    (lambda net, s: under_attack(net, s, EPS, lambda m, x, y, eps: x), SettingError, "all of eps at once"),
    (lambda net, s: under_attack(net, s, EPS, fgsm, batch_size=0), SettingError, "batch_size = 0: must be at least 1"),
    (lambda net, s: under_attack(net, s, EPS, fgsm, batch_size=nan), SettingError,
     "batch_size = nan: must be at least 1"),
    (lambda net, s: under_attack(net, s, "0.1", fgsm), SettingError, "eps = 0.1: must be a list"),
    (lambda net, s: under_attack(net, replace(s, labels=F.one_hot(s.labels, 10)), EPS, fgsm), data.DataError,
     "several classes an image"),
])
def test_what_a_curve_cannot_be_made_of(net, test_set, make, error, message):
    with pytest.raises(error, match=message): make(net, test_set)


# -- bad input ---------------------------------------------------------------------------------------------------------

nan = float("nan")


@pytest.mark.parametrize("change, message", [
    (dict(eps=-0.1), "eps = -0.1: must be between 0 and 1"),
    (dict(eps=8), "eps = 8: must be between 0 and 1"),
    (dict(eps=nan), "eps = nan: must be between 0 and 1"),
    (dict(eps=[0, 0.1, 1.5]), "eps = 1.5: must be between 0 and 1"),
    (dict(eps=1 + 2j), "eps = .*must be a number or a list of numbers"),
    (dict(eps="a lot"), "eps = 'a lot': must be a number or a list of numbers"),
    (dict(eps=[]), "eps = .*must be a number or a list of numbers"),
    (dict(eps=[[0.1]]), "eps = .*must be a number or a list of numbers"),
    (dict(x=lambda x: (x * 255).byte()), "torch.uint8, not floats in .* use augment.to_float"),
    (dict(x=lambda x: x * 2 - 1), r"images go from -1 to 1: must be in \[0,1\]"),
    (dict(x=lambda x: x * nan), "images go from nan to nan"),
    (dict(x=lambda x: x[0]), r"images are \(3, 32, 32\): must be N×C×H×W"),
    (dict(x=lambda x: x[:0], y=lambda y: y[:0]), r"images are \(0, 3, 32, 32\): .* at least one"),
    (dict(y=lambda y: y[:-1]), r"8 images, but labels are \(7,\)"),
    (dict(y=lambda y: y.float()), "labels are .* of torch.float32: must be one integer each"),
    (dict(y=lambda y: y.index_fill(0, torch.tensor([2]), 10)), r"labels\[2\] is 10: the model knows classes 0 to 9"),
    (dict(y=lambda y: y.index_fill(0, torch.tensor([5]), -1)), r"labels\[5\] is -1"),
    (dict(model=lambda net: net[0].stem), r"the model gives \(2, 16, 16, 16\) for 2 images: must be logits, N×C"),
    (dict(model=lambda net: nn.Sequential(net, nn.Flatten(0))), r"the model gives \(20,\)"),
    (dict(model=lambda net: Pair()), "the model gives no tensor"),
    (dict(model=lambda net: nn.Sequential(net, Broken())), "the model gives NaN or infinity"),
])
@pytest.mark.parametrize("attack", [fgsm, lambda *a: pgd(*a, alpha=0.01, steps=2),
                                    lambda *a: fgsm_normalized(*a, torch.ones(3)), lambda *a: apgd(*a, steps=2),
                                    lambda *a: square_attack(*a, queries=2),
                                    lambda *a: ensemble(*a, steps=2, queries=2)],
                         ids=["fgsm", "pgd", "normalized", "apgd", "square", "ensemble"])
def test_bad_input_is_named(net, x, y, attack, change, message):
    good = {"model": net, "x": x[:8].clone().index_fill_(2, torch.tensor([0]), 0).index_fill_(3, torch.tensor([9]), 1),
            "y": y[:8], "eps": 0.1}
    with pytest.raises(SettingError, match=message):
        attack(*({name: change[name](value) if callable(change.get(name)) else change.get(name, value)
                  for name, value in good.items()}.values()))


class Pair(nn.Module):
    def forward(self, x): return x, x


class Broken(nn.Module):
    def forward(self, x): return x * nan


@pytest.mark.parametrize("change, message", [
    (dict(alpha=0), "alpha = 0: must be above 0"), (dict(alpha=[0.1, -1, 0.1]), "alpha = -1: must be above 0"),
    (dict(alpha=nan), "alpha = nan"), (dict(alpha=float("inf")), "alpha = inf"),
    (dict(alpha=[0.1, 0.1]), "alpha has 2 values for 3 of eps"),
    (dict(alpha=[0.1, 0.1], eps=0.1), "alpha has 2 values for 1 of eps"),
    (dict(steps=nan), "steps = nan: must be at least 1, and a whole number"),
    (dict(steps=2.5), "steps = 2.5: must be at least 1"),
    (dict(restarts=1.5), "restarts = 1.5: must be at least 1"), (dict(alpha="x"), "alpha = 'x': must be a number"),
    (dict(steps=-1), "steps = -1: must be at least 1"),
    (dict(steps=0), "steps = 0: must be at least 1"), (dict(restarts=0), "restarts = 0: must be at least 1"),
    (dict(restarts=2, random_start=False), "2 restarts need random_start"),
])
def test_a_setting_that_makes_no_attack_is_named(net, x, y, change, message):
    with pytest.raises(SettingError, match=message):
        pgd(net, x[:8], y[:8], **dict(eps=EPS, alpha=0.1, steps=2) | change)


@pytest.mark.parametrize("attack, message", [
    (lambda *a: apgd(*a, 0.1, steps=0), "steps = 0: must be at least 1"),
    (lambda *a: square_attack(*a, 0.1, queries=0), "queries = 0: must be at least 1"),
    (lambda *a: ensemble(*a, 0.1, queries=1.5), "queries = 1.5: must be at least 1, and a whole"),
    (lambda *a: ensemble(*a, 0.1, steps=-1), "steps = -1: must be at least 1"),
    (lambda *a: pgd_rising(*a, 0.1, 0.1, 2), "eps = 0.1: must be a rising list"),
    (lambda *a: pgd_rising(*a, [0.1, 0.05], 0.1, 2), r"eps = \[0.1, 0.05\]: must be a rising list"),
    (lambda *a: pgd_rising(*a, [0.1, 0.2], [0.1, 0.2, 0.3], 2), "alpha has 3 values for 2 of eps"),
    (lambda net, x, y: apgd(two_classes(), x, y * 0, 0.1, 2, dlr), "2 classes: the DLR loss compares three")])
def test_settings_of_the_new_attacks_are_named(net, x, y, attack, message):
    with pytest.raises(SettingError, match=message): attack(net, x[:8], y[:8])


def two_classes():
    "A network of two classes that calls everything class 0."
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    with torch.no_grad(): net[1].bias.copy_(torch.tensor([100.0, 0]))
    return net


def test_one_sigma_per_channel(net, x, y):
    with pytest.raises(SettingError, match=r"std has shape \(1,\): must be one per channel"):
        fgsm_normalized(net, x, y, 0.1, torch.ones(1))


@pytest.mark.parametrize("std", [[0.2, 0, 0.2], [0.2, nan, 0.2], [0.2, -1, 0.2], [float("inf")] * 3])
def test_a_sigma_above_zero(net, x, y, std):
    with pytest.raises(SettingError, match="std = .*: each must be above 0"):
        fgsm_normalized(net, x, y, 0.1, torch.tensor(std))


def test_noise_checks_its_images_too(x):
    with pytest.raises(SettingError, match="augment.to_float"): noise((x * 255).byte(), 0.1)
