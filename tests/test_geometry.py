"""The geometry of predictions and of weights against scipy's minimiser, full matrices and closed forms (more:
nbs/lib/19_geometry.ipynb)."""
import copy
import math
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sslnb import data, geometry
from sslnb.augment import to_float
from sslnb.behaviour import behaviour_of
from sslnb.core import SettingError, rng
from sslnb.geometry import (Hessian, distances, filter_directions, flatness, geodesic, inpca, loss_rise, loss_surface,
                            progress, top_eigenvalue, trace)
from sslnb.models import Normalize
from sslnb.runs import store_folder
from sslnb.vit import ViT


def models(m=12, n=40, c=5, seed=0):
    "Probabilities m×n×c from almost uniform to almost sure, and labels n."
    g = rng(seed, "models")
    labels = torch.randint(c, (n,), generator=g)
    towards = torch.linspace(0, 6, m)[:, None, None] * F.one_hot(labels, c)
    return (towards + torch.randn(m, n, c, generator=g).double()
            * torch.linspace(0.1, 4, m)[:, None, None]).softmax(2), labels


# Distances and maps

@pytest.mark.parametrize("block", [1, 7 * 144, 2**20])  # an image at a time, seven, all
def test_distances_are_the_direct_ones_whatever_the_block(block, monkeypatch):
    p, _ = models()
    direct = -np.log(np.einsum("anc,bnc->abn", np.sqrt(p.numpy()), np.sqrt(p.numpy()))).mean(2)
    monkeypatch.setattr(geometry, "_BLOCK", block)
    np.testing.assert_allclose(distances(p, p), direct, atol=1e-13)
    np.testing.assert_allclose(inpca(p).distances, direct, atol=1e-13)


def with_ends(m=12, n=40, c=5):
    p, labels = models(m, n, c)
    # P₀, P*, all wrong
    return torch.cat([p, geodesic(labels, c, [0, 1]), F.one_hot((labels + 1) % c, c).double()[None]])


@pytest.mark.parametrize("c", [2, 5, 20])
def test_signed_distances_are_recovered_exactly(c):
    found = inpca(with_ends(c=c))
    x, signs = found.coordinates, found.eigenvalues.sign()
    again = ((x[:, None] - x) ** 2 * signs).sum(2)
    torch.testing.assert_close(again, found.distances, atol=1e-11, rtol=1e-11)
    assert found.distances.isfinite().all() and abs(found.distances.max() + math.log(geometry.FLOOR)) < 1e-9
    torch.testing.assert_close((x ** 2).sum(0), found.eigenvalues.abs())


def test_order_of_models_and_images_does_not_matter():
    p, g = with_ends(), rng("order")
    models_, images = torch.randperm(len(p), generator=g), torch.randperm(p.shape[1], generator=g)
    first, second = inpca(p), inpca(p[models_][:, images])
    torch.testing.assert_close(second.coordinates[:, :6], first.coordinates[models_, :6], atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(second.eigenvalues[:6], first.eigenvalues[:6])


def test_two_models_and_an_imaginary_axis_in_closed_form():
    sure, other, unsure = torch.tensor([[1.0, 0]]), torch.tensor([[0, 1.0]]), torch.tensor([[0.5, 0.5]])
    d = math.log(2) / 2
    two = inpca(torch.stack([sure, unsure]))
    assert two.coordinates.shape == (2, 1) and abs(two.eigenvalues[0] - d / 2) < 1e-12 and two.stress.tolist() == [1]
    three = inpca(torch.stack([sure, other, unsure]))  # the way round by the third is shorter than the direct one
    assert three.imaginary.tolist() == [False, True] and three.eigenvalues[0] > 0 > three.eigenvalues[1]


def test_explained_stress_is_the_share_of_w():
    p = with_ends()
    found, centring = inpca(p), torch.eye(len(p)).double() - 1 / len(p)
    w = -centring @ distances(p, p) @ centring / 2
    for k in (1, 2, 5):
        x = found.coordinates[:, :k]
        part = x * found.eigenvalues[:k].sign() @ x.T
        assert abs(found.stress[k - 1] - (1 - (w - part).norm() / w.norm())) < 1e-9


def test_embedding_leaves_the_map_and_puts_old_models_where_they_are():
    p = with_ends()
    found = inpca(p[:-2])
    before = found.coordinates.clone()
    new = found.embed(p)
    torch.testing.assert_close(new[:-2, :6], before[:, :6], atol=1e-8, rtol=1e-6)
    assert new.shape == (len(p), before.shape[1]) and found.coordinates.equal(before)
    middle = inpca(p).embed(p[3:4])
    torch.testing.assert_close(middle[0, :4], inpca(p).coordinates[3, :4], atol=1e-8, rtol=1e-6)


FULL_SIZE = """
import resource, time, torch
from sslnb.geometry import inpca, progress
p = torch.randn(400, 2500, 5, generator=torch.Generator().manual_seed(0)).mul_(3).softmax(2)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
before, start = peak(), time.process_time()
found = inpca(p)
t = progress(p, torch.arange(2500) % 5)
print(time.process_time() - start, peak() - before, len(found.eigenvalues))
"""


@pytest.mark.slow
def test_400_models_of_2500_images_take_less_than_10_seconds_of_two_cores_and_1_gib():
    done = subprocess.run([sys.executable, "-c", FULL_SIZE], capture_output=True, encoding="utf-8",
                          env=os.environ.copy())
    seconds, gib, axes = map(float, done.stdout.split())
    # of processor time; beyond what Python, torch and p need (0.8 GiB)
    assert seconds < 20 and gib < 0.5 and axes == 399


# Progress

def nearest(p, labels):
    "The place on the way from P₀ to P* that scipy finds, with the arcs written out (`geometry`, Eq. 5 to 7)."
    start, end = np.full(p.shape, p.shape[1] ** -0.5), np.eye(p.shape[1])[labels]
    angle = np.arccos((start * end).sum(1))[:, None]
    def distance(t):
        arc = (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
        return -np.log((arc * np.sqrt(p)).sum(1)).mean()
    return minimize_scalar(distance, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x


@pytest.mark.parametrize("n, c", [(1, 2), (40, 5), (200, 100)])
def test_progress_is_scipys(n, c):
    p, labels = models(20, n, c, seed=n)
    found = progress(p, labels)
    assert found.shape == (20,) and found.dtype == torch.float64
    np.testing.assert_allclose(found, [nearest(q, labels.numpy()) for q in p.numpy()], atol=1e-5)


def test_progress_where_the_truth_has_no_probability():
    p, labels = models()
    p[:, :3] = F.one_hot((labels[:3] + 1) % 5, 5).double()  # sure, and wrong
    np.testing.assert_allclose(progress(p, labels), [nearest(q, labels.numpy()) for q in p.numpy()], atol=1e-5)
    assert progress(F.one_hot((labels + 1) % 5, 5)[None].double(), labels) < 1e-9


def test_there_is_one_valley():
    p, labels = models(30)
    p[::3, :5] = F.one_hot((labels[:5] + 2) % 5, 5).double()
    d = distances(p, geodesic(labels, 5, torch.linspace(0, 0.999, 500)))
    falls = d.diff(dim=1) < 0
    assert not (falls[:, 1:] & ~falls[:, :-1]).any()  # having risen, it never falls again


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", [2, 5, 100])
def test_progress_on_the_way_itself(c, dtype):
    labels, times = torch.arange(60) % c, torch.linspace(0, 1, 31).double()
    way = geodesic(labels, c, times)
    np.testing.assert_allclose(progress(way.to(dtype), labels), times, atol=1e-6)
    np.testing.assert_allclose(way[0], np.full((60, c), 1 / c), atol=1e-15)
    np.testing.assert_allclose(way[-1], np.eye(c)[labels], atol=1e-15)


def test_probabilities_are_not_confused_with_their_roots():
    labels, times = torch.arange(40) % 5, torch.linspace(0.2, 0.8, 4).double()
    way = geodesic(labels, 5, times)
    scaled = F.normalize(way.sqrt(), p=1, dim=2)
    assert (progress(scaled, labels) - times).abs().min() > 0.03
    with pytest.raises(SettingError, match="no probabilities"): progress(way.sqrt(), labels)


def test_progress_does_not_depend_on_the_order_of_images_or_names_of_classes():
    p, labels = models()
    order, names = torch.randperm(40, generator=rng(1)), torch.randperm(5, generator=rng(2))
    torch.testing.assert_close(progress(p[:, order], labels[order]), progress(p, labels), atol=1e-12, rtol=0)
    torch.testing.assert_close(progress(p[:, :, names], names.argsort()[labels]), progress(p, labels),
                               atol=1e-12, rtol=0)


def with_row(row):
    p = models()[0]
    p[2, 7] = torch.tensor(row).double()
    return p


@pytest.mark.parametrize("p, words", [
    (with_row([0.5, 0.5, 0.5, 0, 0]), r"1 rows of probs are no probabilities, the first is model 2, image 7 \(sum 1.5"),
    (with_row([1.2, -0.2, 0, 0, 0]), r"model 2, image 7 .*least -0.2"), (with_row([math.nan] * 5), "model 2, image 7"),
    (with_row([math.inf, 0, 0, 0, 0]), "model 2, image 7"),
    (torch.ones(3, 0, 5), r"probs is \(3, 0, 5\): must be M×N×C"),
    (torch.ones(0, 3, 5), r"probs is \(0, 3, 5\)"), (torch.ones(3, 5) / 5, "must be M×N×C"),
    (torch.ones(2, 3, 1), "two classes")])
def test_rows_that_are_no_probabilities(p, words):
    for call in (inpca, lambda p: progress(p, torch.zeros(40).long()), lambda p: distances(p, p)):
        with pytest.raises(SettingError, match=words): call(p)


@pytest.mark.parametrize("labels, words", [
    (torch.tensor([0] * 39 + [5]), r"labels\[39\] is 5: the classes are 0 to 4"),
    (torch.full((40,), -1), r"labels\[0\] is -1"),
    (torch.zeros(39).long(), "40 images, but there are 39 labels"), (torch.zeros(40), "must be N integers"),
    (torch.zeros(0).long(), "at least one")])
def test_labels_that_do_not_fit(labels, words):
    with pytest.raises(SettingError, match=words): progress(models()[0], labels)


def test_maps_that_cannot_be_made():
    p, _ = models()
    with pytest.raises(SettingError, match="1 equal models"): inpca(p[:1])
    with pytest.raises(SettingError, match="4 equal models"): inpca(p[:1].expand(4, -1, -1))
    with pytest.raises(SettingError, match="the 40 images and 5 classes of the map"): inpca(p).embed(p[:, :3])
    with pytest.raises(SettingError, match="same images and classes"): distances(p, p[:, :3])


# The loss around a network

@pytest.fixture(scope="module")
def images():
    return data.load("digits")[:60]


@pytest.fixture
def net():
    "A convolution, BatchNorm with statistics that are not 0 and 1, a linear layer."
    torch.manual_seed(0)
    net = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(),
                        nn.Linear(100, 10))
    with torch.no_grad(): net.train()(torch.rand(50, 1, 28, 28))
    return net.eval()


def moved(net, *steps):
    other = copy.deepcopy(net)
    with torch.no_grad():
        for a, d in steps:
            for k, w in other.named_parameters(): w += a * d[k]
    return other


def loss(net, images): return F.cross_entropy(net(to_float(images.pixels)), images.labels).item()


def test_directions_have_the_length_of_each_filter(net):
    one, two = filter_directions(net, 2, rng("directions"))
    for k, w in net.named_parameters():
        if w.ndim < 2: assert not one[k].any() and one[k].shape == w.shape
        else: torch.testing.assert_close(one[k].flatten(1).norm(dim=1), w.detach().flatten(1).norm(dim=1))
    assert [k for k in one if one[k].any()] == ["1.weight", "5.weight"] and not one["1.weight"].equal(two["1.weight"])
    again = filter_directions(net, 2, rng("directions"))
    assert all(again[1][k].equal(two[k]) for k in two)


@pytest.mark.parametrize("points", [1, 4, 100])
@pytest.mark.parametrize("part", [7, 500])
def test_surface_is_that_of_moved_copies(net, images, points, part, monkeypatch):
    monkeypatch.setattr(geometry, "_at_once", lambda *about: (part, points))
    d1, d2 = filter_directions(net, 2, rng("directions"))
    grid = torch.tensor([-1, -0.3, 0, 0.8])
    expected = torch.tensor([[loss(moved(net, (a, d1), (b, d2)), images) for b in grid] for a in grid])
    torch.testing.assert_close(loss_surface(net, images, [d1, d2], grid), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss_surface(net, images, [d1], grid), expected[:, 2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("points", [1, 4])
def test_recalibrated_is_batchnorm_with_the_images_own_statistics(net, images, points, monkeypatch):
    monkeypatch.setattr(geometry, "_at_once", lambda *about: (500, points))
    d, = filter_directions(net, 1, rng("directions"))
    grid = torch.linspace(-1, 1, 5)
    expected = torch.tensor([loss(moved(net, (a, d)).train(), images) for a in grid])
    torch.testing.assert_close(loss_surface(net, images, [d], grid, recalibrate=True), expected, atol=1e-5, rtol=1e-5)


def test_rise_is_the_mean_of_both_sides(net, images):
    directions = filter_directions(net, 3, rng("directions"))
    expected = [(loss(moved(net, (0.7, d)), images) + loss(moved(net, (-0.7, d)), images)) / 2 - loss(net, images)
                for d in directions]
    torch.testing.assert_close(loss_rise(net, images, directions, 0.7), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(net, images, training):
    net.train(training)[1].bias.requires_grad_(False)
    before, flags = copy.deepcopy(net.state_dict()), [p.requires_grad for p in net.parameters()]
    directions = filter_directions(net, 2, rng("directions"))
    for recalibrate in (False, True): loss_surface(net, images, directions, torch.linspace(-1, 1, 3), recalibrate)
    Hessian(net, images) @ torch.ones(sum(p.numel() for p in net.parameters()))
    assert all(m.training == training for m in net.modules()) and [p.requires_grad for p in net.parameters()] == flags
    assert (all(before[k].equal(t) for k, t in net.state_dict().items())
            and all(p.grad is None for p in net.parameters()))


def n_kept():
    "How many results are in the store."
    return len(list((store_folder() / "results").glob("*.json")))


def test_a_surface_is_remembered_until_something_changes(net, images, monkeypatch):
    d1, d2 = filter_directions(net, 2, rng("directions"))
    grid = torch.linspace(-1, 1, 3)
    first = loss_surface(net, images, [d1], grid)
    assert loss_surface(copy.deepcopy(net), images, [d1], grid).equal(first) and n_kept() == 1
    with_other_slope = copy.deepcopy(net)
    with_other_slope[3] = nn.LeakyReLU()
    for changed in ((moved(net, (0.1, d2)), images, [d1], grid), (net, images[:50], [d1], grid),
                    (net, images, [d2], grid), (net, images, [d1], 2 * grid), (net, images, [d1], grid, True),
                    (with_other_slope, images, [d1], grid)):
        assert not loss_surface(*changed).equal(first)
    assert n_kept() == 7
    monkeypatch.setattr(geometry, "_loss", lambda *about: about[1]["5.bias"].sum())
    assert not loss_surface(net, images, [d1], grid).equal(first)  # other code


class Scaled(nn.Module):
    "A module from elsewhere, in the middle of a network."
    def forward(self, x): return 2 * x


def test_code_from_elsewhere_is_part_of_what_is_remembered(net, images, monkeypatch):
    "The weights and the text of the network are the same, what its module does is not."
    net, grid = nn.Sequential(net, Scaled()), torch.linspace(-1, 1, 3)
    d, = filter_directions(net, 1, rng("directions"))
    first, flat = loss_surface(net, images, [d], grid), flatness(net, images, 0.5, 1, seed=0)
    def forward(self, x): return 3 * x
    monkeypatch.setattr(Scaled, "forward", forward)
    assert not loss_surface(net, images, [d], grid).equal(first) and flatness(net, images, 0.5, 1, seed=0) != flat


def test_networks_and_images_that_do_not_fit(net, images):
    d, = filter_directions(net, 1, rng("directions"))
    grid = torch.linspace(-1, 1, 3)
    few = nn.Sequential(*net[:5], nn.Linear(100, 4))
    for call in (lambda n, i: loss_surface(n, i, [d], grid), lambda n, i: loss_rise(n, i, [d], 1), Hessian):
        with pytest.raises(SettingError, match="no images"): call(net, images[:0])
        with pytest.raises(SettingError, match="the classes are 0 to 3"): call(few, images)
        with pytest.raises(SettingError, match="must be scores"): call(net[:2], images)
    with pytest.raises(SettingError, match="does not fit the model's parameters"): loss_surface(net, images, [{}], grid)
    with pytest.raises(SettingError, match="radius = -1"): loss_rise(net, images, [d], -1)


# Curvature

def full_hessian(net, images):
    names, weights = zip(*((k, w.detach()) for k, w in net.named_parameters()))
    sizes = [w.numel() for w in weights]
    def of(flat):
        parts = {k: t.view(w.shape) for k, t, w in zip(names, flat.split(sizes), weights)}
        return F.cross_entropy(torch.func.functional_call(net, parts, (to_float(images.pixels),)), images.labels)
    return torch.func.jacrev(torch.func.jacrev(of))(torch.cat([w.flatten() for w in weights]))


@pytest.mark.slow
@pytest.mark.parametrize("part", [25, 500])
def test_hessian_is_the_full_one(net, images, part):
    full, h = full_hessian(net, images), Hessian(net, images)
    h.part = part
    assert h.shape == full.shape
    v = torch.randn(len(full), generator=rng("v"))
    torch.testing.assert_close(h @ v, full @ v, atol=1e-4 * full.norm().item(), rtol=1e-3)
    top = torch.linalg.eigvalsh(full.double())[-1].item()
    for seed in range(3): assert abs(top_eigenvalue(h, rng(seed)) / top - 1) < 1e-3
    estimates = trace(h, 100, rng("signs"))
    assert abs(estimates.mean() - full.trace()) < 4 * estimates.std() / math.sqrt(100)


@pytest.mark.parametrize("values", [[3.0], [2.0, 2, 2], [5.0, 4.999, 1, -8], [-1.0, -2, -3], [0.0, 0], list(range(50))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvalues_that_are_known(values, dtype):
    turn = torch.linalg.qr(torch.randn(len(values), len(values), generator=rng("turn")).double()).Q
    matrix = (turn * torch.tensor(values).double() @ turn.T).to(dtype)
    found = top_eigenvalue(matrix, rng("lanczos"), tolerance=1e-5)
    assert abs(found - max(values)) <= 1e-4 * max(1, max(map(abs, values)))


def test_a_search_that_is_too_short_says_so():
    matrix = torch.diag(torch.linspace(0.9, 1, 300))
    with pytest.warns(UserWarning, match="top eigenvalue: not known to 1e-08 after 3 products"):
        top_eigenvalue(matrix, rng(0), 1e-8, steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        top_eigenvalue(matrix[:3, :3], rng(0), 1e-8, steps=3)


def test_trace_of_a_diagonal_is_exact_and_of_others_unbiased():
    assert trace(torch.diag(torch.arange(5.0)), 4, rng(0)).tolist() == [10] * 4
    a = torch.randn(30, 30, generator=rng("a"))
    found = trace(a + a.T, 2000, rng("signs"))
    assert abs(found.mean() - 2 * a.trace()) < 4 * found.std() / math.sqrt(2000)
    with pytest.raises(SettingError, match="n = 0"): trace(a, 0, rng(0))


def test_flatness_is_its_parts_and_remembered(net, images):
    found = flatness(net, images, 0.5, 4, seed=3)
    directions = filter_directions(net, 4, rng(3, "directions"))
    torch.testing.assert_close(torch.tensor(found["rise"]), loss_rise(net, images, directions, 0.5))
    torch.testing.assert_close(torch.tensor(found["recalibrated"]),
                               loss_rise(net, images, directions, 0.5, recalibrate=True))
    assert len(found["trace"]) == 4 and found["eigenvalue"] > 0
    assert flatness(copy.deepcopy(net), images, 0.5, 4, seed=3) == found and n_kept() == 1
    for changed in ((net, images[:50], 0.5, 4, 3), (net, images, 0.4, 4, 3), (net, images, 0.5, 3, 3),
                    (net, images, 0.5, 4, 2)):
        assert flatness(*changed) != found
    assert n_kept() == 5


# Everywhere the same arithmetic

@pytest.fixture
def vit():
    torch.manual_seed(0)
    return nn.Sequential(ViT(Normalize(torch.tensor([0.2]), torch.tensor([0.4])), 1, 28, 7, 16, 2, 2),
                         nn.Linear(16, 10))


@pytest.mark.parametrize("gradients", [torch.enable_grad, torch.no_grad])
def test_a_transformer_is_differentiated_twice(vit, images, gradients):
    "The fused attention, which the caller asks for, cannot be. Against differences of gradients in double precision."
    v = torch.randn(sum(w.numel() for w in vit.parameters()), generator=rng("v"))
    with gradients(), sdpa_kernel(SDPBackend.FLASH_ATTENTION): found = Hessian(vit, images) @ v
    def slope(step):
        other = copy.deepcopy(vit).double()
        flat = torch.nn.utils.parameters_to_vector(other.parameters()) + step * v.double()
        torch.nn.utils.vector_to_parameters(flat, other.parameters())
        with sdpa_kernel(SDPBackend.MATH):
            value = F.cross_entropy(other(to_float(images.pixels).double()), images.labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, [*other.parameters()])])
    expected = (slope(1e-5) - slope(-1e-5)) / 2e-5
    torch.testing.assert_close(found.double(), expected, atol=1e-4 * expected.norm().item(), rtol=1e-3)


@pytest.mark.parametrize("points", [1, 4])
def test_a_transformers_surface(vit, images, points, monkeypatch):
    monkeypatch.setattr(geometry, "_at_once", lambda *about: (25, points))
    d, = filter_directions(vit, 1, rng("directions"))
    grid = torch.linspace(-1, 1, 5)
    expected = torch.tensor([loss(moved(vit, (a, d)), images) for a in grid])
    torch.testing.assert_close(loss_surface(vit, images, [d], grid), expected, atol=1e-5, rtol=1e-5)


def test_a_callers_autocast_changes_nothing(net, images):
    d, = filter_directions(net, 1, rng("directions"))
    def everything():
        return (loss_surface(net, images, [d], torch.linspace(-1, 1, 3)), loss_rise(net, images, [d], 0.5),
                Hessian(net, images) @ torch.ones(sum(p.numel() for p in net.parameters())))
    with torch.autocast("cpu", torch.bfloat16): low = everything()
    shutil.rmtree(store_folder())  # or the surface would be the same in any case
    for a, b in zip(low, everything()): assert a.dtype == torch.float32 and a.equal(b)


@pytest.mark.parametrize("recalibrate", [False, True])
def test_parts_follow_the_memory_of_the_models_device(net, images, recalibrate, monkeypatch):
    assert geometry._at_once(net, images, recalibrate) == (500, 1) and Hessian(net, images).part == 500
    monkeypatch.setattr(geometry, "images_at_once", lambda model, x, on_cpu, copies: 1200 // copies)
    assert geometry._at_once(net, images, recalibrate) == (500, 2) and Hessian(net, images).part == 200
    monkeypatch.setattr(geometry, "images_at_once", lambda *about, copies: 60)
    assert geometry._at_once(net, images, recalibrate) == ((500, 1) if recalibrate else (60, 1))


@pytest.mark.parametrize("call, words", [
    (lambda net, i, d: flatness(net, i, 0.5, 0, 0), "n = 0: must be at least 1"),
    (lambda net, i, d: flatness(net, i, math.nan, 1, 0), "radius = nan: must be above 0"),
    (lambda net, i, d: loss_rise(net, i, [d], math.inf), "radius = inf: must be above 0"),
    (lambda net, i, d: loss_rise(net, i, [], 1), "no directions"),
    (lambda net, i, d: loss_surface(net, i, [], torch.zeros(1)), "no directions"),
    (lambda net, i, d: loss_surface(net, i, [d], torch.tensor([0, math.nan])),
     r"grid = \[0.0, nan\]: must be a list of numbers"),
    (lambda net, i, d: loss_surface(net, i, [d], torch.zeros(0)), r"grid = \[\]"),
    (lambda net, i, d: filter_directions(net, 1.5, rng(0)), "n = 1.5: must be at least 1, and a whole number"),
    (lambda net, i, d: top_eigenvalue(torch.eye(3), rng(0), steps=0), "steps = 0: must be at least 1"),
    (lambda net, i, d: top_eigenvalue(torch.eye(3), rng(0), tolerance=math.nan), "tolerance = nan: must be above 0"),
    (lambda net, i, d: top_eigenvalue(torch.zeros(0, 0), rng(0)), "the matrix is 0×0: must be square"),
    (lambda net, i, d: trace(torch.zeros(3, 4), 1, rng(0)), "the matrix is 3×4: must be square"),
    (lambda net, i, d: geodesic(torch.zeros(3).long(), 1, [0]), "n_classes = 1: a guess needs at least two"),
    (lambda net, i, d: geodesic(torch.zeros(3).long(), 2, [math.nan]), "times: nan is not between 0"),
    (lambda net, i, d: geodesic(torch.zeros(3).long(), 2, [-0.1]), "times: -0.1 is not between 0")])
def test_settings_out_of_range(net, images, call, words):
    with pytest.raises(SettingError, match=words): call(net, images, filter_directions(net, 1, rng(0))[0])


def test_what_is_stored_names_its_versions():
    everything = (distances, geodesic, progress, inpca, filter_directions, loss_surface, loss_rise, Hessian,
                  top_eigenvalue, trace)
    assert {f"geometry.{what.__name__}" for what in everything} <= {*behaviour_of(flatness, *everything)}
