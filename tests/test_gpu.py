"""Everything also runs on a GPU, and gives what it gives on the CPU. On machines without one a stand-in is used (tests/standin.py), which also notes
what a GPU would be waited for."""
import pytest
import torch
import torch.nn.functional as F
from standin import DEVICE, gpu

from sslnb import clustering, data, evaluate, geometry, logistic, models
from sslnb.attacks import fgsm, fgsm_normalized, noise, pgd, under_attack
from sslnb.augment import RECIPES, apply_views, augment, draw, rotations, to_float
from sslnb.core import rng
from sslnb.methods import METHODS
from sslnb.train import TrainConfig, Training, resolve

CPU = torch.device("cpu")
STANDIN = DEVICE.type == "meta"  # a real GPU draws other numbers, and adds in another order
SMALL = {"simclr": {"hidden": 16, "out": 8}, "supcon": {"hidden": 16, "out": 8}, "deepcluster": {"clusters": 4, "components": 4},
         "simsiam": {}, "simclic": {}}


@pytest.fixture(scope="module")
def images(): return data.load("shapes", "test")[:40]


@pytest.fixture
def waits():
    with gpu() as found: yield found


@pytest.fixture
def points():
    "Features of four classes, labels: 120 to learn from, 40 to test."
    g = rng("points")
    y = torch.arange(160) % 4
    x = F.one_hot(y, 4).float() @ torch.randn(4, 12, generator=g) * 2 + torch.randn(160, 12, generator=g)
    return x[:120], y[:120], x[120:], y[120:]


def net(device):
    "A classifier of 4 classes, the same at every call."
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 4, 3, stride=4)
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 4)).to(device).eval()


def same(on_gpu, on_cpu, close=1e-5):
    "Equal on both; of a real GPU only type and shape can be asked where chance is involved."
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=close, rtol=close)


def test_the_stand_in_refuses_what_a_gpu_refuses(waits):
    if not STANDIN: pytest.skip("a real GPU is here")
    here, there = torch.ones(3), torch.ones(3, device=DEVICE)
    for mix in (lambda: here + there, lambda: here[torch.arange(2, device=DEVICE)], lambda: torch.cat([here, there]),
                lambda: there.index_select(0, torch.arange(2)), lambda: here.mul_(there), lambda: here + there.sum(),
                lambda: torch.nn.Linear(3, 3)(there), lambda: there.add_(here)):
        with pytest.raises(RuntimeError, match="same device"): mix()
    assert (there + torch.tensor(1.)).tolist() == [2, 2, 2] and there[torch.arange(2)].device.type == "meta"
    assert rng("a", device=DEVICE).device.type == "meta"
    waits.clear()
    there.sum().item(), there.cpu(), bool(there.any()), there[there > 0], torch.tensor([1.], device=DEVICE)
    assert len(waits) == 5


@pytest.mark.parametrize("recipe", RECIPES)
def test_views(waits, images, recipe):
    x = images.pixels.to(DEVICE)
    drawn = draw(RECIPES[recipe], 40, rng("views"))
    same(apply_views(x, RECIPES[recipe], drawn), apply_views(images.pixels, RECIPES[recipe], drawn))
    generator = rng("views", device=DEVICE)
    waits.clear()
    views = augment(x, RECIPES[recipe], generator)
    assert not waits and views.device == x.device
    if STANDIN: same(views, augment(images.pixels, RECIPES[recipe], rng("views")))


def test_rotations(waits, images):
    for on_gpu, on_cpu in zip(rotations(images.pixels.to(DEVICE)), rotations(images.pixels)): same(on_gpu, on_cpu)


@pytest.mark.parametrize("method", METHODS)
def test_training(waits, images, method):
    encoder = "vit_tiny" if method == "mae" else "small-alexnet" if method == "deepcluster" else "small"
    config = TrainConfig(dataset="shapes", method=method, steps=3, batch_size=8, lr=1e-3, encoder=encoder, precision="fp32",
                         options=SMALL.get(method, {}))
    made = {}
    for device in (DEVICE, CPU):
        training = made[device] = Training(*resolve(config, device, images), device)
        training.take_step()
        waits.clear()
        training.take_step()  # not the first of an epoch
        assert not waits
        training.check_finite()
    if STANDIN: same(made[DEVICE].losses, made[CPU].losses, 1e-4)
    assert all(p.device.type == DEVICE.type for p in made[DEVICE].method.state_dict().values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lars"])
def test_saved_and_restored(waits, images, optimizer, tmp_path):
    config = TrainConfig(dataset="shapes", method="rotnet", steps=3, batch_size=8, lr=1e-3, optimizer=optimizer, precision="fp32")
    first, second = (Training(*resolve(config, DEVICE, images), DEVICE) for _ in range(2))
    first.take_step()
    first.save(tmp_path / "state")
    second.restore(tmp_path / "state")
    for training in (first, second): training.take_step()
    if STANDIN: assert torch.equal(first.losses.cpu(), second.losses.cpu())


@pytest.mark.parametrize("encoder", ["small", "resnet18", "small-alexnet-sobel", "vit_tiny"])
def test_features(waits, images, encoder):
    some = images[:4]
    made = [models.encoder(encoder, some) for _ in range(2)]
    made[1].load_state_dict(made[0].state_dict())
    for where in (some, some.to(DEVICE)):
        same(models.features(made[0].to(DEVICE), where), models.features(made[1], some), 2e-2)  # bf16 where there is


def test_linear_probe_and_neighbours(waits, points):
    x, y, x_test, y_test = points
    on_gpu = [t.to(DEVICE) for t in points]
    probe = evaluate.linear_probe(*on_gpu[:3], epochs=3)
    expected = evaluate.linear_probe(x, y, x_test, epochs=3)
    same(probe.scores, expected.scores, 1e-3)
    same(probe.head(on_gpu[2]), expected.head(x_test), 1e-3)
    same(evaluate.knn(*on_gpu[:3], k=5), evaluate.knn(x, y, x_test, k=5))
    assert evaluate.metrics(probe.scores, on_gpu[3]) == pytest.approx(evaluate.metrics(expected.scores, y_test), abs=0.01)


def test_logistic(waits, points):
    x, y, x_test, y_test = points
    same(logistic.fit(x.to(DEVICE), y.to(DEVICE), [.1, 1.]).weight, logistic.fit(x, y, [.1, 1.]).weight, 1e-2)
    half = x[:60], y[:60], x[60:], y[60:], x_test
    same(logistic.logistic_probe(*(t.to(DEVICE) for t in half), Cs=(.1, 1.)).scores, logistic.logistic_probe(*half, Cs=(.1, 1.)).scores, 1e-2)
    labels = F.one_hot(y, 4)
    half = x[:60], labels[:60], x[60:], labels[60:], x_test
    same(logistic.labels_probe(*(t.to(DEVICE) for t in half), Cs=(.1, 1.)).scores, logistic.labels_probe(*half, Cs=(.1, 1.)).scores, 1e-2)


def test_principal_components(waits, points):
    x = points[0]
    same(clustering.pca(x.to(DEVICE), 3).projected.abs(), clustering.pca(x, 3).projected.abs(), 1e-3)
    same(clustering.on_sphere(x.to(DEVICE), 3).abs(), clustering.on_sphere(x, 3).abs(), 1e-3)


@pytest.mark.parametrize("start", ["k-means++", "random"])
@pytest.mark.parametrize("drawn_on", [CPU, DEVICE], ids=str)
def test_kmeans(waits, points, start, drawn_on):
    x, y = points[:2]
    found = clustering.kmeans(x.to(DEVICE), 4, start=start, generator=rng("k", device=drawn_on))
    expected = clustering.kmeans(x, 4, start=start, generator=rng("k"))
    if STANDIN or drawn_on == CPU: same(found.labels, expected.labels)
    before = torch.full((120,), -1)
    clustering.health(found.labels, before.to(DEVICE), y.to(DEVICE), 4)
    clustering.balanced_order(found.labels, rng("order"))
    assert clustering.nmi(found.labels, y.to(DEVICE)) > 0.5


def test_attacks(waits, images):
    x, y, eps = to_float(images.pixels[:6]), images.labels[:6] % 4, [0, .01, .1]
    ours, theirs = net(DEVICE), net(CPU)
    xg, yg = x.to(DEVICE), y.to(DEVICE)
    same(fgsm(ours, xg, yg, eps), fgsm(theirs, x, y, eps))
    std = torch.full((3,), .2)
    same(fgsm_normalized(ours, xg, yg, eps, std), fgsm_normalized(theirs, x, y, eps, std))
    same(noise(xg, eps, rng("n")), noise(x, eps, rng("n")))
    for more in ({}, {"stop_early": True}, {"restarts": 2}):
        same(pgd(ours, xg, yg, eps, .02, 2, generator=rng("p"), **more), pgd(theirs, x, y, eps, .02, 2, generator=rng("p"), **more))
    def attack(model, x, y, eps): return pgd(model, x, y, eps, .02, 2, generator=rng("p", device=x.device))
    few = images[images.labels < 4][:6]
    for some in (few, few.to(DEVICE)):
        same(under_attack(ours, some, eps, attack).confidence, under_attack(theirs, few, eps, attack).confidence, 1e-4)


def test_landscape_and_hessian(waits, images):
    few = images[images.labels < 4][:8]
    rises = {}
    for device, some in ((DEVICE, few), (DEVICE, few.to(DEVICE)), (CPU, few)):
        model = net(device)
        directions = geometry.filter_directions(model, 2, rng("d"))
        for recalibrate in (False, True):
            rise = geometry.loss_rise(model, some, directions, 0.5, recalibrate)
            same(rise, rises.setdefault(recalibrate, rise.cpu()), 1e-4)
        h = geometry.Hessian(model, some)
        top = torch.tensor([geometry.top_eigenvalue(h, rng("v")), *geometry.trace(h, 2, rng("t"))])
        same(top, rises.setdefault("hessian", top.cpu()), 1e-2)


def test_maps_of_predictions(waits):
    p, labels = torch.rand(6, 20, 3, generator=rng("p")).softmax(2), torch.arange(20) % 3
    on_gpu = p.to(DEVICE)
    same(geometry.distances(on_gpu, on_gpu), geometry.distances(p, p))
    same(geometry.progress(on_gpu, labels.to(DEVICE)), geometry.progress(p, labels), 1e-3)
    same(geometry.inpca(on_gpu).values, geometry.inpca(p).values, 1e-4)
    same(geometry.geodesic(labels.to(DEVICE), 3, [0, .5, 1]), geometry.geodesic(labels, 3, [0, .5, 1]))
