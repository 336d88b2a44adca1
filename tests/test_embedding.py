"Measures of embeddings against scipy's and scikit-learn's, and at their edges (more: nbs/lib/10_embedding.ipynb)."
import math
import re
import sys
import types

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch
from sklearn.neighbors import NearestNeighbors

from sslnb import embedding
from sslnb.core import SettingError
from sslnb.embedding import (alignment, alpha_req, cka, effective_rank, lidar, neighbours, overlap, procrustes, rankme,
                             same_class, tsne, umap, uniformity)

N, D = 300, 24


@pytest.fixture
def x():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.linspace(3, 0.1, D)) + 2


@pytest.fixture
def y(x):
    return x.tanh() + 0.3 * torch.randn(N, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("block", [1, 7 * N, 1 << 24])  # one query at a time, seven, all
def test_neighbours_are_scikit_learns_whatever_the_block(x, y, block, monkeypatch):
    monkeypatch.setattr(embedding, "_BLOCK", block)
    theirs = NearestNeighbors(n_neighbors=9, metric="cosine").fit(x.double().numpy())
    unit = torch.nn.functional.normalize
    def cosines(queries, near): return (unit(queries)[:, None] * unit(x)[near]).sum(2)
    near = torch.from_numpy(theirs.kneighbors(y.double().numpy(), return_distance=False))
    torch.testing.assert_close(cosines(y, neighbours(x, y, 9)), cosines(y, near))
    itself = torch.from_numpy(theirs.kneighbors(x.double().numpy(), return_distance=False))
    torch.testing.assert_close(cosines(x, neighbours(x, x, 8, torch.arange(N))), cosines(x, itself[:, 1:]))


def test_never_more_cosines_at_once_than_a_block(x, monkeypatch):
    sizes, topk = [], torch.Tensor.topk
    monkeypatch.setattr(embedding, "_BLOCK", 10 * N)
    monkeypatch.setattr(torch.Tensor, "topk", lambda c, k: sizes.append(c.numel()) or topk(c, k))
    neighbours(x, x, 5)
    assert max(sizes) == 10 * N and sum(sizes) == N * N


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(x, dtype):
    assert overlap(x, x.to(dtype), 10) > 0.9
    assert procrustes(x, x.to(dtype)) < 0.01 and cka(x, x.to(dtype)) > 0.999
    assert tsne(x.to(dtype)[:50], perplexity=5).dtype == torch.float32


def test_procrustes_is_scipys(x, y):
    def unit(e): return (e - e.mean(0)) / np.linalg.norm(e - e.mean(0))
    a, b = unit(x.double().numpy()), unit(y.double().numpy())
    turn, total = scipy.linalg.orthogonal_procrustes(a, b)
    moved = np.linalg.norm(a @ turn - b, axis=1)
    assert math.isclose(procrustes(x, y), moved.mean() * math.sqrt(N), rel_tol=1e-6)
    disparity = scipy.spatial.procrustes(a, b)[2]  # 1 - s²; without its rescaling the squares sum to 2 - 2s
    assert math.isclose((moved ** 2).sum(), 2 - 2 * total, rel_tol=1e-6)
    assert math.isclose(1 - total ** 2, disparity, rel_tol=1e-6)


def test_displacement_does_not_depend_on_how_many_images(x, y):
    assert math.isclose(procrustes(x, y), procrustes(x.repeat(4, 1), y.repeat(4, 1)), rel_tol=1e-9)


def test_displacement_of_a_square_pulled_long():
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    long = square * torch.tensor([2.0, 1])
    radius = math.sqrt(2.5)  # root mean square distance of the long one's corners from its centre
    assert math.isclose(procrustes(square, long), ((2 / radius - 1) + (1 - 1 / radius)) / 2, rel_tol=1e-6)


@pytest.mark.parametrize("measure", [procrustes, cka])
def test_turn_shift_and_scale_mean_nothing(measure, x, y):
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(2))).Q
    for other in (x @ turn, x.flip(1), 100 * x, x - 30, 0.01 * x @ turn + 1):
        assert abs(measure(other, y) - measure(x, y)) < 1e-4
        assert abs(measure(other, x) - measure(x, x)) < 1e-4
    skew = x @ torch.diag(torch.linspace(0.1, 5, D))
    assert abs(measure(skew, y) - measure(x, y)) > 0.01


@pytest.mark.parametrize("n", [D, D - 1, 6])
def test_more_features_than_images(x, y, n):
    "By way of matrices of the images, what the matrices of the features give."
    a, b = x[:n], y[:n]
    turn, _ = scipy.linalg.orthogonal_procrustes(*(embedding._centred(e).numpy() for e in (a, b)))
    moved = (embedding._centred(a) @ torch.from_numpy(turn) - embedding._centred(b)).norm(dim=1)
    assert math.isclose(procrustes(a, b), moved.mean().item() * math.sqrt(n), rel_tol=1e-6)
    c, d = embedding._centred(a), embedding._centred(b)
    assert math.isclose(cka(a, b), ((c.T @ d).norm() ** 2 / ((c.T @ c).norm() * (d.T @ d).norm())).item(), rel_tol=1e-9)
    wide = torch.cat([x, x.flip(1)], 1)[:n]
    top = torch.linalg.svd(embedding._centred(wide)).U[:, :2]
    at = torch.from_numpy(embedding._principal_axes(wide)).double()
    torch.testing.assert_close((torch.nn.functional.normalize(at, dim=0) * top).sum(0).abs(), torch.ones(2).double())


def test_pixels_of_large_images_need_no_matrix_of_their_features():
    a, b = torch.rand(2, 20, 3 * 224 * 224, generator=torch.Generator().manual_seed(5))
    assert 0 < procrustes(a, b) < math.sqrt(2) and 0 < cka(a, b) < 1 and procrustes(a, a) < 1e-6
    assert embedding._principal_axes(a).shape == (20, 2)


def test_order_of_the_images_matters(x):
    shuffled = x[torch.randperm(N, generator=torch.Generator().manual_seed(3))]
    assert cka(x, shuffled) < 0.5 and procrustes(x, shuffled) > 0.5 and overlap(x, shuffled, 10) < 0.1


@pytest.mark.slow
def test_maps_from_one_start_can_be_compared():
    draw = torch.Generator().manual_seed(4)
    groups = 4 * torch.randn(6, D, generator=draw).repeat(25, 1)
    early, late = (groups + torch.randn(150, D, generator=draw) for _ in range(2))
    maps = [tsne(e, start=early, perplexity=10) for e in (early, early, late)]
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], tsne(early, perplexity=10))
    assert maps[0].shape == (150, 2) and maps[0].dtype == torch.float32
    middle = [m.view(25, 6, 2).mean(0) for m in maps]  # of every group
    gaps = torch.pdist(middle[0])
    assert (middle[0] - middle[2]).norm(dim=1).max() < gaps.min() / 2  # still where it was, without any turning


def test_umap_begins_where_tsne_does_and_nothing_in_it_is_random(x, y, monkeypatch):
    class Recorded:  # in place of umap-learn, which is not installed for the tests
        def __init__(self, **settings): self.settings = settings

        def fit_transform(self, points):
            assert np.array_equal(points, y.numpy())
            return self.settings["init"] + self.settings["random_state"]
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Recorded))
    at = umap(y, x)
    assert at.shape == (N, 2) and np.array_equal(at, embedding._principal_axes(x))
    assert torch.equal(at, embedding.map_2d(y, x, "umap"))


def test_umap_says_what_to_install(x, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(SettingError, match=re.escape("pip install -e '.[umap]'")): embedding.map_2d(x, how="umap")


@pytest.mark.parametrize("call, name", [(lambda e, f: overlap(e, f, 5), "y"), (procrustes, "y"), (cka, "y"),
                                        (tsne, "start"), (umap, "start")])
def test_what_cannot_be_compared_is_refused_by_name(call, name, x):
    nan, infinite = x.clone(), x.clone()
    nan[0, 0], infinite[:2, 1] = math.nan, math.inf
    for bad, words in ((x[:-1], "x has 300 embeddings, {} 299"), (nan, "{}: 1 of 300 embeddings have NaN"),
                       (infinite, "{}: 2 of 300"), (torch.full((N, D), 0.1), "{}: all 300 embeddings are the same"),
                       (torch.zeros(N, D), "{}: all 300"), (x[None], "{} has shape (1, 300, 24)")):
        with pytest.raises(SettingError, match=re.escape(words.format(name))): call(x, bad)


@pytest.mark.parametrize("k", [-1, 0, N, N + 1])
def test_k_out_of_range(x, k):
    for call in (lambda: neighbours(x, x, k), lambda: overlap(x, x, k)):
        with pytest.raises(SettingError, match=f"k = {k}: choose from 1 to {N - 1}"): call()


def test_one_query_is_enough(x):
    near = neighbours(x, x[5:6], 3, torch.tensor([5]))
    assert near.shape == (1, 3) and 5 not in near
    assert same_class(near, torch.zeros(N), torch.ones(1)) == 0


def test_uniformity_and_alignment_are_the_equations_pair_by_pair(x, y):
    a, b = (e.double().numpy() / np.linalg.norm(e.double().numpy(), axis=1)[:, None] for e in (x, y))
    mean = np.mean([math.exp(-3 * ((a[i] - a[j]) ** 2).sum()) for i in range(N) for j in range(i)])
    assert math.isclose(uniformity(x, 3), math.log(mean), rel_tol=1e-4)
    apart = np.mean([((p - q) ** 2).sum() ** 0.75 for p, q in zip(a, b)])
    assert math.isclose(alignment(x, y, 1.5), apart, rel_tol=1e-4)


def test_lidar_is_the_equation_with_a_matrix_root(x):
    views = (x[:, None] + torch.randn(N, 4, D, generator=torch.Generator().manual_seed(1))).double().numpy()
    means = views.mean(1)
    off = (views - means[:, None]).reshape(-1, D)
    root = scipy.linalg.inv(scipy.linalg.sqrtm(off.T @ off / len(off) + 1e-4 * np.eye(D)).real)
    share = np.linalg.eigvalsh(root @ np.cov(means.T) @ root)
    share = share / share.sum()
    assert math.isclose(lidar(torch.from_numpy(views)), math.exp(-(share * np.log(share)).sum()), rel_tol=1e-6)


def test_alpha_is_the_slope_of_the_eigenvalues_of_the_covariance(x):
    values = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1][3:]
    slope = np.polyfit(np.log(np.arange(4, D + 1)), np.log(values), 1)[0]
    assert math.isclose(alpha_req(x), -slope, rel_tol=1e-6)


@pytest.mark.parametrize("n", [12, D])  # fewer images than features, and as many
def test_more_features_than_images_without_labels(x, n):
    views = x[:n, None] + torch.randn(n, 2, D, generator=torch.Generator().manual_seed(1))
    assert 1 < lidar(views) < n - 1 and 1 < rankme(x[:n]) <= n and math.isfinite(alpha_req(x[:n]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_measures_without_labels_in_other_precisions(x, dtype):
    views = torch.stack([x, x.roll(1, 1)], 1)
    for measure, e in ((lambda e: alignment(e, e.flip(1)), x), (uniformity, x), (rankme, x), (alpha_req, x),
                       (lidar, views)):
        assert math.isclose(measure(e), measure(e.to(dtype)), rel_tol=0.02)


def test_collapse_without_labels():
    flat = torch.full((N, D), 0.1)
    assert alignment(flat, 2 * flat) < 1e-6 and math.isclose(alignment(0 * flat, flat), 1, rel_tol=1e-5)
    assert abs(uniformity(flat)) < 1e-9 and abs(uniformity(0 * flat)) < 1e-9
    assert math.isclose(rankme(flat), 1, rel_tol=1e-4) and rankme(0 * flat) == effective_rank(flat) == 0
    assert lidar(flat[:, None].repeat(1, 2, 1)) == 0 and math.isnan(alpha_req(flat))
