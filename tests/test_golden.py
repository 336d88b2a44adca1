"""A change of behaviour is never silent: golden numbers of everything that has a version (`sslnb.behaviour`).

Where these fail, either a change was not meant to change results: mend it. Or it was: raise the `@version` of what
behaves in another way, and write the numbers again with `python tests/test_golden.py`. Float32, one thread, so that
rounding is the same.
"""
import importlib
import json
import pkgutil
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn

import sslnb
from sslnb import (attacks, augment, clustering, data, embedding, evaluate, geometry, judge, logistic, losses, models,
                   optim, race, train, vit)
from sslnb.augment import RECIPES
from sslnb.behaviour import behaviour_of
from sslnb.core import rng
from sslnb.methods import METHODS
from sslnb.train import TrainConfig, Training, resolve

FILE = Path(__file__).with_name("golden.json")
CPU = torch.device("cpu")
CASES = {}


def case(*fns):
    "Register a function that gives numbers, as the golden case of `fns`."
    def add(compute):
        CASES[compute.__name__] = fns, compute
        return compute
    return add


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed, "golden"))


def images(n=64):
    return data.load("shapes", "test").sample(n, seed=0)


def encoder(name="tiny"):
    "One with weights that no version of torch changes: numbers of our own."
    net = models.encoder(name, images()).eval()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(normal(*p.shape, seed=i) * (2 / p[0].numel()) ** 0.5 if p.ndim > 1 else
                    1 + 0.1 * normal(*p.shape, seed=i))
    return net


def classifier():
    net = nn.Sequential(encoder(), nn.Linear(64, 10)).eval()
    with torch.no_grad(): net[1].weight.copy_(normal(10, 64) / 8), net[1].bias.zero_()
    return net


def summary(x):
    "What stands for a tensor: its first numbers, mean and root mean square."
    x = torch.as_tensor(x).detach().double().flatten()
    return [*x[:6].tolist(), x.mean().item(), x.square().mean().sqrt().item()]


# Training: four steps of each method, and of each optimiser

METHOD_OPTIONS = {
    "simclr": dict(options=dict(hidden=32, out=16)),
    "supcon": dict(options=dict(hidden=32, out=16), optimizer="lars", lr=1.0),
    "rotnet": dict(optimizer="sgd"),
    "deepcluster": dict(encoder="small-alexnet", options=dict(clusters=5, components=8), optimizer="sgd"),
    "mae": dict(encoder="vit_tiny", options=dict(decoder="transformer", norm_pix=True)),
    # a small rate: with a larger one four steps through its batch norms differ between processors in the third digit
    "simsiam": dict(options=dict(hidden=32, out=16, bottleneck=8), optimizer="sgd", schedule="cosine", warmup=1,
                    lr=0.001),
    "simclic": dict(options=dict(hidden=32, out=16, bottleneck=8, perturbation="history"), optimizer="sgd"),
    "supce": dict(optimizer="sgd"),
    "vicreg": dict(options=dict(hidden=32, out=16), optimizer="sgd", lr=0.001),
    "barlow-twins": dict(options=dict(hidden=32, out=16), optimizer="sgd", lr=0.001),
    "many-views": dict(options=dict(hidden=32, out=16, n_views=3)),
    "fastsiam": dict(options=dict(hidden=32, out=16, bottleneck=8, n_views=3), optimizer="sgd", lr=0.001),
    "emp-ssl": dict(options=dict(hidden=32, out=16, n_views=4), optimizer="sgd", lr=0.0001),
    "nnclr": dict(options=dict(hidden=32, out=16, bottleneck=8, queue=100), optimizer="sgd", lr=0.001),
}


def trained(method):
    config = TrainConfig(**dict(method=method, steps=4, batch_size=32, lr=0.01, encoder="tiny", precision="fp32")
                         | METHOD_OPTIONS[method])
    training = Training(resolve(config, CPU, images()), CPU)
    for _ in range(4): training.take_step()
    weights = torch.cat([p.detach().flatten() for p in training.method.parameters()])
    return training.config, [*training.losses.tolist(), weights.abs().mean().item()]


@case(optim.Muon)
def muon():
    weights = [nn.Parameter(normal(*shape)) for shape in ((6, 4), (4, 3, 3, 3), (5,))]
    optimizer = optim.Muon(weights, 0.1, weight_decay=0.1)
    for _ in range(3):
        for p in weights: p.grad = p.detach() ** 3
        optimizer.step()
    return [n for p in weights for n in summary(p)]


@case(augment.augment)
def smaller_views():
    return summary(augment.augment(images(16).pixels, replace(RECIPES["simclr"], side=12), rng("small views")))


@case(race.neighbour_accuracy)
def neighbours():
    x, y = normal(60, 4), torch.arange(60) % 3
    return [race.neighbour_accuracy(x[:40], y[:40], x[40:], y[40:])]


@case(race.InParts, race.Mirrored, race.Whitened)
def what_is_read():
    white = race.Whitened(race.Mirrored(race.InParts(encoder(), 2)), images(16))
    x = models.outputs(white, white, images(16))
    return summary(x @ x.T)  # the directions' order and signs are nobody's business


# Views, images, encoders

@case(augment.augment, augment.rotations)
def views():
    x = images(16).pixels
    made = [augment.augment(x, RECIPES[r], rng("views")) for r in ("crop-flip", "simclr", "simclr-large")]
    return [n for v in made for n in summary(v)] + summary(augment.rotations(made[0])[0])


@case(data.stratified, evaluate.hold_out, evaluate.few_labels)
def draws():
    labels = torch.arange(60) % 7
    few = evaluate.few_labels(images(), 0.3, seed=1)
    return [*data.stratified(labels, 10, 3).tolist(), *evaluate.hold_out(labels, 0.1, 0)[1].tolist(),
            *few.labels[:8].tolist()]


ENCODERS = ("tiny", "resnet18", "small-alexnet-sobel", "vit_tiny")


@case(models.encoder, models.small_resnet, models.resnet, models.alexnet, models.Sobel, vit.vit)
def encoders():
    with torch.no_grad(): return [n for name in ENCODERS for n in summary(encoder(name)(images(4).pixels / 255))]


@case(train.mean_encoder)
def mean_of_two_encoders():
    config = TrainConfig(method="supce", encoder="tiny", steps=4, save_at=(2,), batch_size=32, lr=1e-3,
                         precision="fp32")  # at 0.01 four steps make roundings of 1e-7 seen
    with tempfile.TemporaryDirectory() as folder:
        run = train.pretrain(config, images(), store=Path(folder), device=CPU)
        mean = train.mean_encoder(run, (2, 4), CPU)
    with torch.no_grad(): return summary(mean(images(4).pixels / 255))


@case(models.wrap, models.features)
def wrapped():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    with torch.no_grad():
        for p in net.parameters(): p.copy_(normal(*p.shape))
    return summary(models.features(models.wrap(net, images()), images(8)))


@case(models.mlp, models.normed_mlp)
def heads():
    nets = models.mlp(4, 8, 2), models.normed_mlp(4, 8, 2)
    with torch.no_grad():
        for net in nets:
            for i, p in enumerate(net.parameters()): p.copy_(normal(*p.shape, seed=i))
        return [n for net in nets for n in summary(net(normal(6, 4)))]


@case(vit.patchify, vit.unpatchify, vit.sincos, vit.random_mask, vit.pick, vit.put, vit.patch_mean_std, vit.masked_mse)
def patches():
    x = images(4).pixels / 255
    cut, (shown, masked) = vit.patchify(x, 4), vit.random_mask(4, 64, 0.75, rng("mask"))
    kept = vit.put(cut, masked, torch.zeros_like(vit.pick(cut, masked)))
    loss = vit.masked_mse(normal(4, masked.shape[1], 48), cut, masked, normalize=True)
    return [*summary(vit.unpatchify(kept, 4)), *summary(vit.sincos(4, 8)), *summary(shown),
            *summary(vit.patch_mean_std(cut)[1]), loss]


@case(vit.MLPDecoder)
def mlp_decoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = vit.MLPDecoder(16, 4, 12, 8)
    shown, masked = vit.random_mask(2, 16, 0.5, rng("mask"))
    return summary(decoder(normal(2, 8, 16), shown, masked))


@case(models.varied_resnet, models.GhostNorm)
def relatives_of_small():
    net, x = encoder("small-ghost").train(), images(48).pixels / 255
    others = [encoder(f"small-{name}") for name in ("fine", "se", "plain")]
    with torch.no_grad(): return [n for made in (net(x), *(other(x[:4]) for other in others)) for n in summary(made)]


@case(losses.vicreg, losses.barlow_twins, losses.coding_rate, losses.info_nce)
def losses_of_the_race():
    a, b = normal(12, 4).chunk(2)
    return [losses.vicreg(a, b), losses.barlow_twins(a, b), losses.coding_rate(a), losses.info_nce(a, b)]


@case(losses.decoupled_nt_xent)
def decoupled():
    return [losses.decoupled_nt_xent(*normal(12, 4).chunk(2), 0.2)]


@case(losses.nt_xent, losses.sup_con, losses.nt_xent_as_published, losses.sup_con_as_published)
def all_losses():
    z, y = normal(12, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    return [losses.nt_xent(*z.chunk(2), 0.2), losses.sup_con(z, y, 0.1),
            losses.nt_xent_as_published(z[:6].abs(), z[6:].abs(), 0.2), losses.sup_con_as_published(z, y, 0.1)]


# Evaluation

def cloud(n=300, d=12, k=4):
    "Points of k classes."
    y = torch.arange(n) % k
    return normal(n, d) + 1.5 * normal(k, d, seed=1)[y], y


@case(evaluate.score, evaluate.linear_probe, evaluate.knn, evaluate.metrics, evaluate.linear_tuning)
def probes():
    x, y = cloud()
    found = evaluate.score(x[:200], y[:200], x[200:], y[200:], n_classes=4)
    head, way = evaluate.linear_tuning(x[:200], y[:200], [x[200:]], epochs=3, n_classes=4)
    near = evaluate.knn(x[:200], y[:200], x[200:], n_classes=4)
    return [*found.metrics.values(), *summary(way[0]), *summary(near)]


@case(evaluate.evaluate_classifier, evaluate.raw_pixels)
def classifiers():
    return [*evaluate.evaluate_classifier(classifier(), images()).metrics.values(),
            *summary(evaluate.raw_pixels(images(4)))]


@case(judge.Pixels)
def pixels_as_an_encoder():
    net = judge.Pixels(images(4))
    return summary(models.features(net, images(4)))


@case(evaluate.logistic_score, logistic.logistic_probe, logistic.fit, logistic.accuracy, logistic.mean_per_class)
def logistic_regression():
    x, y = cloud()
    found = logistic.logistic_probe(x[:150], y[:150], x[150:200], y[150:200], x[200:], n_classes=4, Cs=(0.01, 0.1, 1.0))
    guess = found.scores.argmax(1)
    return [*summary(found.scores), found.C, logistic.accuracy(guess, y[200:]), logistic.mean_per_class(guess, y[200:])]


@case(logistic.labels_probe, logistic.fit_labels, logistic.average_precision, logistic.average_precision_11)
def many_labels():
    x, y = cloud()
    y = torch.stack([y == 0, y >= 2], 1).long()
    found = logistic.labels_probe(x[:150], y[:150], x[150:200], y[150:200], x[200:], Cs=(0.01, 1.0))
    return [*summary(found.scores), *logistic.average_precision(found.scores, y[200:]),
            *logistic.average_precision_11(found.scores, y[200:])]


@case(evaluate.cluster_accuracy, evaluate._on_sphere, clustering.kmeans, clustering.pca, clustering.on_sphere,
      clustering.nmi, clustering.hungarian, clustering.purity, clustering.balanced_order, clustering.health)
def clusters():
    x, y = cloud()
    found = clustering.kmeans(x, 5, generator=rng("k"))
    return [*evaluate.cluster_accuracy(x[:200], x[200:], y[200:], 4, components=6).values(), found.inertia,
            *summary(clustering.on_sphere(x, 5).abs()), *clustering.balanced_order(found.labels, rng("b"))[:6],
            *clustering.health(found.labels, y, y, 5).values()]


@case(embedding.same_class, embedding.overlap, embedding.procrustes, embedding.cka, embedding.channel_deviation,
      embedding.effective_rank, embedding.neighbours)
def embeddings():
    x, y = cloud(60)
    other = x + normal(60, 12, seed=2)
    near = embedding.neighbours(x, x, 5, torch.arange(60))
    return [embedding.same_class(near, y, y), embedding.overlap(x, other, 5), embedding.procrustes(x, other),
            embedding.cka(x, other), embedding.channel_deviation(x), embedding.effective_rank(x)]


@case(embedding.alignment, embedding.uniformity, embedding.rankme, embedding.alpha_req, embedding.lidar)
def without_labels():
    x, _ = cloud(60)
    views = x[:, None] + 0.3 * normal(60, 3, 12, seed=3)
    return [embedding.alignment(views[:, 0], views[:, 1]), embedding.uniformity(x), embedding.rankme(x),
            embedding.alpha_req(x), embedding.lidar(views)]


@case(evaluate.label_free)
def encoder_without_labels():
    return evaluate.label_free(encoder(), images(), RECIPES["simclr"]).values()


@case(embedding.tsne)
def map_of_embeddings():
    x, y = cloud(60)  # where each image is depends on the last bit; how far the classes are apart does not
    at = embedding.tsne(x, perplexity=10)
    inside = torch.stack([at[y == c].std(0).mean() for c in range(4)]).mean()
    return [round((inside / at.std()).item(), 1)]


# Attacks and geometry

@case(attacks.fgsm, attacks.fgsm_normalized, attacks.noise, attacks.pgd, attacks.under_attack)
def attacked():
    some, net, eps = images(8), classifier(), [0.0, 0.02]
    x, y = some.pixels / 255, some.labels
    found = attacks.under_attack(net, some, eps, attacks.fgsm)
    moved = [attacks.fgsm(net, x, y, eps), attacks.fgsm_normalized(net, x, y, eps, torch.tensor([0.2, 0.3, 0.4])),
             attacks.noise(x, eps, rng("noise")),
             attacks.pgd(net, x, y, eps, 0.01, 3, restarts=2, generator=rng("pgd"))]
    return [*found.accuracy(), *summary(found.confidence), *(n for m in moved for n in summary(m))]


@case(attacks.attack_curve)
def kept_under_attack():
    found = attacks.attack_curve(classifier(), images(11), [0.0, 0.002, 0.01], attacks.fgsm)
    return [*found["correct"].flatten().float(), *found["confidence"]]


@case(attacks.pgd_rising, attacks.apgd, attacks.square_attack, attacks.ensemble)
def attacked_without_a_step_size():
    some, net = images(8), classifier()
    x, y = some.pixels / 255, net(some.pixels / 255).argmax(1)  # it is right, so there is something to do
    moved = [attacks.pgd_rising(net, x, y, [0.0, 0.002], 0.001, 2, generator=rng("rising")),
             attacks.apgd(net, x, y, [0.0, 0.002], 6, generator=rng("apgd")),
             attacks.apgd(net, x, y, 0.002, 6, attacks.dlr, rng("apgd")),
             attacks.square_attack(net, x, y, 0.002, 20, rng("square")),
             attacks.ensemble(net, x, y, 0.002, 4, 10, rng("ensemble"))]
    return [n for m in moved for n in summary(m)]


@case(geometry.distances, geometry.geodesic, geometry.progress, geometry.inpca)
def ways():
    probs, y = normal(5, 20, 3).softmax(2), torch.arange(20) % 3
    found = geometry.inpca(probs)
    return [*summary(geometry.distances(probs, probs[:2])), *summary(geometry.geodesic(y, 3, [0.2, 0.7])),
            *geometry.progress(probs, y), *found.eigenvalues, *found.coordinates.abs()[0]]


@case(geometry.filter_directions, geometry.loss_surface, geometry.loss_rise, geometry.Hessian,
      geometry.top_eigenvalue, geometry.trace, geometry.flatness)
def landscape():
    net, some = classifier(), images(32)
    directions = geometry.filter_directions(net, 2, rng("d"))
    surface = [geometry._losses(net, some, directions, torch.tensor([[0.0, 0.0], [0.3, -0.2]]), r)
               for r in (False, True)]
    hessian = geometry.Hessian(net, some)
    return [*surface[0], *surface[1], *geometry.loss_rise(net, some, directions, 0.3),
            geometry.top_eigenvalue(hessian, rng("e")), *geometry.trace(hessian, 2, rng("t"))]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def golden():
    return json.loads(FILE.read_text("utf-8"))


def found(name):
    "Behaviour and numbers of a case now, in float32 also where a CPU has bf16."
    with patch("torch.cpu.get_capabilities", dict):
        if name in METHODS:
            config, numbers = trained(name)
            return {"behaviour": config.behaviour, "numbers": numbers}
        fns, compute = CASES[name]
        return {"behaviour": behaviour_of(*fns), "numbers": [float(v) for v in compute()]}


@pytest.mark.parametrize("name", [*METHODS, *CASES])
def test_results_are_those_of_their_version(name):
    now, then = found(name), golden().get(name)
    raised = ("a version was raised, or a part is new: write the golden numbers again (python tests/test_golden.py), "
              "and say why in the commit")
    assert then and now["behaviour"] == then["behaviour"], raised
    same = ("the results differ though no version was raised: mend the code, "
            "or raise the @version of what behaves in another way")
    torch.testing.assert_close(torch.tensor(now["numbers"]), torch.tensor(then["numbers"]), rtol=2e-3, atol=1e-5,
                               equal_nan=True, msg=lambda m: f"{name}: {same}\n{m}")


def versioned():
    "The names of all functions and classes of the library that have a version."
    names = set()
    for module in pkgutil.iter_modules(sslnb.__path__):
        if module.name.startswith("_"): continue
        members = vars(importlib.import_module(f"sslnb.{module.name}"))
        names |= {f"{module.name}.{v.__qualname__}" for v in members.values()
                  if isinstance(getattr(v, "__dict__", {}).get("version"), int)
                  and v.__module__ == f"sslnb.{module.name}"}
    return names


def test_everything_that_has_a_version_has_golden_numbers():
    covered = {name for entry in golden().values() for name in entry["behaviour"]}
    assert versioned() <= covered, f"no golden case: {', '.join(sorted(versioned() - covered))}"


def test_a_change_without_a_new_version_is_noticed(monkeypatch):
    then = found("simclr")["numbers"]
    monkeypatch.setattr(losses, "_similarities", lambda z, t: (z @ z.T / t).fill_diagonal_(-torch.inf))
    assert abs(found("simclr")["numbers"][0] - then[0]) > 0.01


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(json.dumps({name: found(name) for name in [*METHODS, *CASES]}, indent=1) + "\n", "utf-8")
    print(f"{FILE}: {len(METHODS) + len(CASES)} cases")
