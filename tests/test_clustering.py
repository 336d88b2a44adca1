"Clustering against scikit-learn, in blocks and on bad input (closed forms and pictures: nbs/lib/09_clustering.ipynb)."
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA as SklearnPCA

from sslnb import clustering, data, models
from sslnb.clustering import hungarian, kmeans, nmi, on_sphere, pca, pca_at_most, purity
from sslnb.core import SettingError, rng


def heaps(n, d, k, spread=1.0, seed=0):
    "`n` points around `k` places."
    g = rng("heaps", n, d, k, seed)
    places = torch.randn(k, d, generator=g) * 2
    return places[torch.randint(k, (n,), generator=g)] + spread * torch.randn(n, d, generator=g)


def sklearns(x, start, **more):
    return KMeans(len(start), init=start.numpy(), n_init=1, algorithm="lloyd", **more).fit(x.numpy())


# -- the same as scikit-learn's ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("n, d, k", [(50, 1, 2), (500, 2, 3), (2000, 16, 10), (3000, 64, 100), (300, 500, 7),
                                     (40, 3, 40)])
@pytest.mark.parametrize("start", ["k-means++", "random", "first"])
def test_kmeans_is_sklearns_from_the_same_start(n, d, k, start):
    x = heaps(n, d, k, spread=3)
    first = x[:k] if start == "first" else clustering._drawn(x, k, start, rng("start", n))
    ours = kmeans(x, k, start=first, iterations=20, tolerance=0)
    assert ours.refilled == 0
    theirs = sklearns(x, first, max_iter=20, tol=0)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-4, abs=1e-6)
    assert (ours.labels.numpy() == theirs.labels_).mean() > 0.999
    np.testing.assert_allclose(ours.centres.numpy(), theirs.cluster_centers_, atol=1e-3)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-4])
def test_kmeans_stops_where_sklearn_does(tolerance):
    x = heaps(2000, 8, 10, spread=3)
    ours = kmeans(x, 10, start=x[:10], iterations=200, tolerance=tolerance)
    assert ours.iterations == sklearns(x, x[:10], max_iter=200, tol=tolerance).n_iter_ < 200


@pytest.mark.parametrize("shift, scale", [(0, 1), (1e3, 1), (0, 1e-6), (0, 1e6)])
def test_inertia_far_from_the_origin_and_at_any_scale(shift, scale):
    x = (heaps(1000, 8, 5) * scale + shift)
    ours = kmeans(x, 5, start=x[:5])
    x64 = x.double()
    exact = (x64 - torch.stack([x64[ours.labels == j].mean(0) for j in range(5)])[ours.labels]).square().sum().item()
    assert ours.inertia == pytest.approx(exact, rel=1e-4)
    assert ours.inertia == pytest.approx(sklearns(x64, x64[:5], max_iter=20).inertia_, rel=1e-3)


@pytest.mark.parametrize("n, d", [(200, 5), (1000, 64), (30, 100)])
@pytest.mark.parametrize("whiten", [True, False])
def test_pca_is_sklearns(n, d, whiten):
    x = heaps(n, d, 6) @ torch.diag(torch.linspace(1, 3, d)) + 10
    ours, theirs = pca(x, 4, whiten), SklearnPCA(4, whiten=whiten, svd_solver="full").fit(x.double().numpy())
    signs = np.sign((ours.components.numpy() * theirs.components_).sum(1))
    np.testing.assert_allclose(ours.components.numpy(), theirs.components_ * signs[:, None], atol=1e-4)
    new = heaps(50, d, 6, seed=1)
    expected = theirs.transform(new.double().numpy()) * signs
    np.testing.assert_allclose(ours.project(new).numpy(), expected, atol=2e-3, rtol=1e-3)
    assert ours.project(x).equal(ours.projected)


@pytest.mark.parametrize("n, d", [(30, 31), (30, 1500), (200, 600)])
def test_more_features_than_points_is_the_same_pca(n, d, monkeypatch):
    x = heaps(n, d, 6) @ torch.diag(torch.linspace(1, 3, d)) + 10
    by_gram = pca(x, 20)
    monkeypatch.setattr(clustering, "_gram", clustering._covariance)  # D×D, as where there are more points
    for a, b in zip(by_gram, pca(x, 20)): torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)
    with pytest.raises(SettingError, match=f"must be from 1 to {n - 1}, the rank"): pca(x, n)


def test_large_images_need_no_matrix_of_their_pixels():
    x = torch.rand(60, 3 * 224 * 224, generator=rng("large"))  # a covariance of 181 GB
    found = pca(x, 10)
    torch.testing.assert_close(found.projected.T.cov(), torch.eye(10), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.components @ found.components.T, torch.eye(10), atol=1e-4, rtol=0)


def test_what_does_not_fit_is_said_first(monkeypatch):
    monkeypatch.setattr(clustering, "free_memory", lambda device: 10_000)
    words = "2000 points with 64 features need .* take fewer points"
    with pytest.raises(SettingError, match=words): pca(heaps(2000, 64, 5), 3)
    assert pca(heaps(20, 64, 5), 3).projected.shape == (20, 3)


@pytest.mark.filterwarnings("always")
def test_features_of_low_rank_are_clustered_all_the_same():
    digits = data.load("digits")
    torch.manual_seed(0)
    x = models.features(models.encoder("tiny", digits), digits)
    x[:, 5] = 0  # a channel that died
    with pytest.raises(SettingError, match="the rank"): pca(x, 64)
    with pytest.warns(UserWarning, match="fewer than 64 directions"): points = on_sphere(x, 64)
    assert points.shape[1] < 64 and kmeans(points, 10, generator=rng("digits")).sizes.min() > 0
    torch.testing.assert_close(points.norm(dim=1), torch.ones(len(x)))
    with pytest.raises(SettingError, match="constant"): on_sphere(torch.ones(20, 4), 2)
    with pytest.raises(SettingError, match="rank 0"): pca_at_most(1e4 + 1e-3 * torch.eye(4), 2)


# -- blocks, randomness, empties ---------------------------------------------------------------------------------------

def test_blocks_change_nothing(monkeypatch):
    x = heaps(1000, 8, 20)
    def all_of_it():
        found = kmeans(x, 20, generator=rng("blocks"), tolerance=0)
        labels = torch.stack([found.labels, found.assign(x)]).float()
        return [pca(x, 5).projected, found.centres, labels, torch.tensor(found.inertia)]
    whole = all_of_it()
    for block in (1, 7 * 20, 999 * 20):
        monkeypatch.setattr(clustering, "_BLOCK", block)
        for a, b in zip(whole, all_of_it()): torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", ["k-means++", "random"])
def test_the_generator_decides(start):
    x = heaps(500, 4, 30, spread=3)
    same = [kmeans(x, 30, start=start, generator=rng("a")) for _ in range(2)]
    other = kmeans(x, 30, start=start, generator=rng("b"))
    assert same[0].centres.equal(same[1].centres) and same[0].inertia == same[1].inertia
    assert not same[0].centres.equal(other.centres)


@pytest.mark.parametrize("start", ["k-means++", "random"])
def test_first_centres_are_different_points(start):
    x = heaps(200, 3, 5)
    for seed in range(20):
        first = clustering._drawn(x, 200, start, rng(seed))
        assert len(first.unique(dim=0)) == 200


@pytest.mark.parametrize("n_empty", [1, 5, 19])
def test_empty_clusters_come_back(n_empty):
    x, g = heaps(2000, 6, 20), rng("far", n_empty)
    start = x[:20].clone()
    start[20 - n_empty:] = 1e3 + torch.arange(n_empty)[:, None]
    found = kmeans(x, 20, start=start, iterations=50, generator=g)
    assert found.refilled >= n_empty and found.sizes.min() > 0 and found.centres.isfinite().all()
    assert found.inertia < 1.5 * kmeans(x, 20, generator=g, iterations=50).inertia
    again = kmeans(x, 20, start=start, iterations=50, generator=rng("far", n_empty))
    assert again.centres.equal(found.centres)


def test_a_collapsed_majority_is_not_split():
    "900 equal points and 100 others: the empty clusters go to the others."
    x = torch.cat([torch.zeros(900, 4), heaps(100, 4, 10) + 20])
    start = torch.cat([x[:1], x[-1:], torch.full((8, 4), -1e3) - torch.arange(8)[:, None]])
    found = kmeans(x, 10, start=start, iterations=50, generator=rng("collapsed"))
    assert found.sizes.min() > 0 and found.sizes.max() == 900


def test_fewer_different_points_than_clusters():
    found = kmeans(torch.eye(3).repeat(10, 1), 6, generator=rng("few"))
    assert found.inertia < 1e-9 and (found.sizes > 0).sum() == 3 and found.centres.isfinite().all()


def test_input_is_left_alone():
    x = heaps(100, 3, 4).requires_grad_()
    before, start = x.detach().clone(), x[:4]
    found, reduced = kmeans(x, 4, start=start), pca(x, 2)
    assert x.equal(before) and start.equal(before[:4])
    assert not (found.centres.requires_grad or reduced.projected.requires_grad)


def test_other_precisions_and_layouts():
    x = heaps(300, 6, 4).half().float()
    want = kmeans(x, 4, start=x[:4])
    for y in (x.half(), x.double(), x.T.contiguous().T):
        found = kmeans(y, 4, start=y[:4])
        assert found.labels.equal(want.labels) and found.centres.dtype == torch.float32
    torch.testing.assert_close(pca(x.half(), 3).projected, pca(x, 3).projected)


# -- scores ------------------------------------------------------------------------------------------------------------

def test_scores_of_chance_and_of_truth():
    y = torch.randint(10, (5000,), generator=rng("y"))
    lot = torch.randint(10, (5000,), generator=rng("lot"))
    assert nmi(y, lot) < 0.01 and hungarian(y, lot) < 0.15 and purity(y, lot) < 0.16
    assert nmi(y, 9 - y) == pytest.approx(1) and hungarian(y, 9 - y) == purity(y, 9 - y) == 1
    halves = 2 * y + torch.randint(2, (5000,), generator=rng("halves"))  # each class in two clusters
    assert purity(y, halves) == 1 and 0.5 <= hungarian(y, halves) < 0.55 and 0.8 < nmi(y, halves) < 0.95
    assert hungarian(halves, y) == hungarian(y, halves)


# -- bad input ---------------------------------------------------------------------------------------------------------

X = heaps(20, 4, 3)


def with_value(value):
    x = X.clone()
    x[7, 2] = value
    return x


@pytest.mark.parametrize("fn", [lambda x: kmeans(x, 3), lambda x: pca(x, 2)], ids=["kmeans", "pca"])
@pytest.mark.parametrize("x, message", [
    (X[0], r"the features are \(4,\): must be N×D"), (X[:0], "at least one point"), (X[:, :0], "at least one point"),
    (X.view(20, 4, 1, 1), "must be N×D"), (with_value(torch.nan), "1 of 20 points have NaN .* the first is number 7"),
    (with_value(torch.inf), "number 7"), (with_value(-torch.inf), "number 7"), (with_value(1e30), "number 7"),
    (torch.ones(20, 4), "20 equal points"), (X[:1], "1 equal points")])
def test_features_that_cannot_be_clustered(fn, x, message):
    with pytest.raises(SettingError, match=message): fn(x)


@pytest.mark.parametrize("work, message", [
    (lambda: kmeans(X, 21), "k = 21: must be from 1 to 20, the number of points"), (lambda: kmeans(X, 0), "k = 0"),
    (lambda: kmeans(X, 3, start=X[:2]), r"start is \(2, 4\): must be k×D, 3×4"),
    (lambda: kmeans(X, 3, start=X[:3] * torch.nan), "NaN"), (lambda: kmeans(X, 3, start="kmeans"), "start = 'kmeans'"),
    (lambda: kmeans(X, 3, iterations=0), "iterations = 0"), (lambda: kmeans(X, 3, tolerance=-1), "tolerance = -1"),
    (lambda: kmeans(X, 3, tolerance=torch.nan), "tolerance = nan"),
    (lambda: kmeans(X, 3).assign(X[:, :2]), "2 features: must be 4"),
    (lambda: pca(X, 3).project(X[:, :2]), "2 features: must be 4"),
    (lambda: pca(X, 5), "d = 5: must be from 1 to 4, the rank"), (lambda: pca(X, 0), "d = 0"),
    (lambda: pca(X[:3], 3), "from 1 to 2, the rank of 3 points"),
    (lambda: pca(torch.cat([X, X.sum(1, keepdim=True), torch.ones(20, 1)], 1), 5), "from 1 to 4, the rank"),
    (lambda: pca(torch.cat([X, X.sum(1, keepdim=True)], 1) + 100, 5), "from 1 to 4, the rank"),
    (lambda: nmi(torch.arange(3), torch.arange(4)), "must be N and N"),
    (lambda: purity(torch.ones(3), torch.arange(3)), "fractions"),
    (lambda: hungarian(torch.tensor([0, -1]), torch.tensor([0, 1])), "without a label"),
    (lambda: nmi(torch.arange(0), torch.arange(0)), "at least 1")])
def test_settings_that_make_no_sense(work, message):
    with pytest.raises(SettingError, match=message): work()
