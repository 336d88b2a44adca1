"""Everything that computes on a GPU: do all tensors meet on one device? On a machine with a GPU these tests run there;
on others on a pretended one (`pretended_gpu`), which stops where CUDA would."""
from unittest import mock

import pytest
import torch
from pretended_gpu import Mixed, pretended_gpu

from sslnb import attacks, clustering, embedding, evaluate, geometry, logistic, models
from sslnb.core import rng
from sslnb.data import Images
from sslnb.train import TrainConfig, Training, resolve

REAL = torch.cuda.is_available()


@pytest.fixture
def gpu():
    "The device of the GPU, which there is while the test runs."
    if REAL: yield torch.device("cuda")
    else:
        with pretended_gpu(): yield torch.device("cuda")


def some_images(n=32, side=16):
    g = rng("images of a GPU")
    pixels = torch.randint(256, (n, 3, side, side), generator=g, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 4, tuple("abcd"), "made/train")


def points(device, n=60):
    "Features (N×8) of three classes on `device`, and their labels there."
    x, y = torch.randn(n, 8, generator=rng("points of a GPU")), torch.arange(n) % 3
    return (x + y[:, None]).to(device), y.to(device)


def classifier(device, name="tiny"):
    images = some_images()
    encoder = models.encoder(name, images)
    return torch.nn.Sequential(encoder, torch.nn.Linear(encoder.dim, images.n_classes)).to(device).eval(), images


# -- the pretence

@pytest.mark.skipif(REAL, reason="a real GPU stops by itself")
@pytest.mark.parametrize("meet", [
    lambda x, y: x + y, lambda x, y: y * x, lambda x, y: torch.cat([x, y]), lambda x, y: x @ y.T,
    lambda x, y: y[x.argmax(1)],
    lambda x, y: x.__setitem__(0, y[0]), lambda x, y: torch.nn.functional.linear(x, y),
    lambda x, y: torch.stack([x[0], y[0]]),
    lambda x, y: torch.rand(2, generator=rng("a"), device="cuda"),
    lambda x, y: torch.randperm(2, generator=rng("a", device="cuda")),
    lambda x, y: torch.where(x > 0, x, y), lambda x, y: torch.eye(3, device="cuda") @ y.T,
    lambda x, y: torch.nn.Linear(3, 2)(x),
])
def test_what_meets_on_two_devices_stops(gpu, meet):
    x, y = torch.rand(3, 3).to(gpu), torch.rand(3, 3)
    with pytest.raises(Mixed): meet(x, y)


@pytest.mark.skipif(REAL, reason="a real GPU stops by itself")
def test_no_numpy_from_a_gpu(gpu):
    with pytest.raises(TypeError): torch.rand(3, device=gpu).numpy()
    assert torch.rand(3, device=gpu).cpu().numpy().shape == (3,)


@pytest.mark.skipif(REAL, reason="a real GPU does so by itself")
def test_what_may_meet(gpu):
    x = torch.rand(3, 3, device=gpu)
    for t in (x * torch.tensor(2.0), x[torch.tensor([0, 2])], torch.rand(2, generator=rng("a", device=gpu), device=gpu),
              x.new_zeros(2), torch.zeros_like(x), torch.tensor([1.0], device=gpu), torch.ones(2).to(x),
              x.copy_(torch.ones(3, 3))):
        assert t.is_cuda and t.device.type == "cuda"
    for t in (x.cpu(), torch.zeros_like(x, device="cpu"), x.to("cpu"), torch.ones(2)):
        assert not t.is_cuda and t.device.type == "cpu"
    x.cpu().zero_()
    assert x.sum().item() == 9  # a copy


# -- training

METHODS = [("simclr", {"hidden": 8, "out": 4}), ("supcon", {"hidden": 8, "out": 4}), ("rotnet", {}),
           ("deepcluster", {"clusters": 4, "components": 4}), ("mae", {}),
           ("mae", {"decoder": "transformer", "norm_pix": True}),
           ("simsiam", {"hidden": 8, "out": 4, "bottleneck": 4}), ("supce", {}), ("vicreg", {"hidden": 8, "out": 4}),
           ("barlow-twins", {"hidden": 8, "out": 4}), ("many-views", {"hidden": 8, "out": 4}),
           ("fastsiam", {"hidden": 8, "out": 4, "bottleneck": 4}), ("emp-ssl", {"hidden": 8, "out": 4, "n_views": 3}),
           ("nnclr", {"hidden": 8, "out": 4, "bottleneck": 4, "queue": 40})]
METHODS += [("simclic", {"perturbation": p, "hidden": 8, "out": 4, "bottleneck": 4})
            for p in ("history", "dropout", "noise")]


def training(method, options, device, **settings):
    config = TrainConfig(method=method, steps=5, batch_size=16, lr=1e-3,
                         encoder="vit_tiny" if method == "mae" else "tiny", options=options, **settings)
    with mock.patch("sslnb.train._behaviour", lambda *_: {}):  # reads the source of all code, that of the pretence, too
        job = resolve(config, device, some_images())
    return Training(job, device)


@pytest.mark.parametrize("room", [True, False], ids=["images on the GPU", "images in memory"])
@pytest.mark.parametrize("method, options", METHODS)
def test_steps(gpu, method, options, room, monkeypatch):
    "Three steps: an epoch and the first of the next."
    if not room: monkeypatch.setattr("sslnb.train._fits", lambda *_: False)
    t = training(method, options, gpu)
    assert t.images.pixels.is_cuda == room
    for _ in range(3): t.take_step()
    t.check_finite()
    assert t.losses.is_cuda and all(p.is_cuda and p.grad.is_cuda for p in t.method.parameters() if p.grad is not None)
    assert all(v.is_cuda for v in t.model().values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lars"])
def test_state_is_saved_and_restored(gpu, optimizer, tmp_path):
    settings = dict(optimizer=optimizer, schedule="cosine", warmup=1)
    before, after = (training("simclic", METHODS[-3][1], gpu, **settings) for _ in range(2))
    for _ in range(3): before.take_step()
    before.save(tmp_path / "state.safetensors")
    after.restore(tmp_path / "state.safetensors")
    for t in (before, after): t.take_step()
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(before.model().values(), after.model().values()))


@pytest.mark.parametrize("recipe", ["none", "crop-flip", "simclr", "simclr-large"])
def test_views(gpu, recipe):
    from sslnb.augment import RECIPES, augment
    assert augment(some_images().pixels.to(gpu), RECIPES[recipe], rng("views", device=gpu)).is_cuda


# -- what is read off features

@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["tiny", "vit_tiny"])
def test_features(gpu, name, where):
    model, images = classifier(gpu, name)
    for stage in (0, -1): assert models.features(model[0], images.to(where), stage).isfinite().all()


def test_linear_probe(gpu):
    x, y = points(gpu)
    assert evaluate.linear_probe(x, y, x, epochs=2, n_classes=3).scores.shape == (60, 3)


def test_linear_tuning(gpu):
    x, y = points(gpu)
    head, way = evaluate.linear_tuning(x, y, [x], epochs=2, n_classes=3)
    assert way[0].shape == (3, 60, 3)


def test_knn(gpu):
    x, y = points(gpu)
    assert evaluate.knn(x, y, x, n_classes=3).exp().sum(1).cpu().allclose(torch.ones(60), atol=1e-3)


def test_logistic(gpu):
    x, y = points(gpu)
    for labels in (y, y.cpu()): assert logistic.fit(x, labels, [0.01], 3).converged.all()
    scores = logistic.logistic_probe(x, y, x, y, x, Cs=(0.01,), n_classes=3).scores
    assert evaluate.metrics(scores, y)["top1"] > 0.5


def test_logistic_of_labels(gpu):
    x, y = points(gpu)
    several = torch.stack([y == 0, y > 0], 1).long()
    for labels in (several, several.cpu()):
        found = logistic.labels_probe(x, labels, x, labels, x, Cs=(0.01,))
        assert (logistic.average_precision(found.scores, labels) > 0.5).all()


@pytest.mark.parametrize("start", ["k-means++", "random", "given"])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_kmeans(gpu, start, where):
    x, y = points(gpu)
    start = x[:3].to(where) if start == "given" else start
    found = clustering.kmeans(x, 3, start=start, generator=rng("start", device=where))
    assert found.centres.is_cuda and (found.assign(x) == found.labels).all()
    assert found.sizes.sum() == 60 and clustering.nmi(y, found.labels) > 0


def test_empty_clusters_are_refilled(gpu):
    x, _ = points(gpu)
    assert clustering.kmeans(x, 3, start=torch.cat([x[:2], x[:1] + 1000]), generator=rng("push")).refilled


def test_principal_components(gpu):
    x, _ = points(gpu)
    for some in (x, x[:6]):
        basis = clustering.pca(some, 3)
        assert basis.projected.is_cuda and basis.project(x.cpu()).is_cuda
    assert clustering.on_sphere(x, 3).norm(dim=1).cpu().allclose(torch.ones(60), atol=1e-4)


def test_health_and_order_of_clusters(gpu):
    x, y = points(gpu)
    for labels in (y, y.cpu()): assert clustering.health(y, y, labels, 3)["nmi_labels"] == 1
    assert len(clustering.balanced_order(y, rng("order"))) == 60
    assert clustering.hungarian(y, y) == clustering.purity(y, y.cpu()) == 1


def test_clusters_are_judged(gpu):
    x, y = points(gpu)
    for components in (None, 3):
        assert evaluate.cluster_accuracy(x, x, y, 3, components=components, starts=2)["purity"] > 0.3


def test_embeddings(gpu):
    x, y = points(gpu)
    near = embedding.neighbours(x, x, 3, own=torch.arange(60, device=gpu))
    assert 0 < embedding.same_class(near, y, y) <= 1
    assert embedding.overlap(x, x, 3) == 1 and embedding.procrustes(x, x) == pytest.approx(0, abs=1e-3)
    assert embedding.cka(x, x) == pytest.approx(1, abs=1e-3)
    assert embedding.channel_deviation(x) > 0 and embedding.effective_rank(x) > 1


# -- attacks

@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_attacks(gpu, where):
    model, images = classifier(gpu)
    x, y = images.pixels.to(gpu) / 255, images.labels.to(gpu)
    for found in (attacks.fgsm(model, x, y, 0.1), attacks.fgsm_normalized(model, x, y, 0.1, torch.ones(3)),
                  attacks.noise(x, 0.1, rng("noise", device=where)),
                  attacks.pgd(model, x, y, [0.05, 0.1], 0.02, 2, restarts=2, generator=rng("pgd", device=where),
                              stop_early=True),
                  attacks.pgd_rising(model, x, y, [0.05, 0.1], 0.02, 2, generator=rng("pgd", device=where)),
                  attacks.apgd(model, x, y, [0.05, 0.1], 2, attacks.dlr, rng("apgd", device=where)),
                  attacks.square_attack(model, x, y, 0.1, 5, rng("square", device=where)),
                  attacks.ensemble(model, x, y, [0.05, 0.1], 2, 3, rng("ensemble", device=where))):
        assert found.is_cuda and found.isfinite().all()


@pytest.mark.parametrize("name", ["tiny", "vit_tiny"])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_under_attack(gpu, where, name):
    model, images = classifier(gpu, name)
    how = dict(alpha=0.05, steps=2, generator=rng("pgd"))
    found = attacks.under_attack(model, images.to(where), [0.0, 0.1], attacks.pgd, **how)
    assert found.accuracy().shape == (2,) and found.predicted.device.type == "cpu"


# -- landscapes and maps

@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("recalibrate", [False, True])
def test_landscape(gpu, recalibrate, where):
    model, images = classifier(gpu)
    directions = geometry.filter_directions(model, 2, rng("directions", device=where))
    images = images.to(where)
    grid = torch.linspace(-1, 1, 2)
    assert geometry.loss_rise(model, images, directions, 0.5, recalibrate=recalibrate).shape == (2,)
    assert geometry.loss_surface(model, images, directions, grid, recalibrate=recalibrate).shape == (2, 2)


@pytest.mark.filterwarnings("ignore:top eigenvalue")
@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["tiny", "vit_tiny"])
def test_hessian(gpu, name, where):
    model, images = classifier(gpu, name)
    h = geometry.Hessian(model, images[:4].to(where))
    assert isinstance(geometry.top_eigenvalue(h, rng("start", device=where), steps=2), float)
    assert geometry.trace(h, 1, rng("signs", device=where)).isfinite().all()


def test_maps(gpu):
    probs, labels = torch.randn(4, 30, 3, generator=rng("maps")).softmax(2).to(gpu), torch.arange(30, device=gpu) % 3
    assert geometry.inpca(probs).embed(probs).isfinite().all()
    for y in (labels, labels.cpu()):
        assert geometry.progress(probs, y).isfinite().all() and geometry.geodesic(y, 3, [0, 0.5, 1]).isfinite().all()
    assert geometry.distances(probs, probs).shape == (4, 4)
