"""A change of behaviour is never silent: golden numbers of everything that has a version (`sslnb.behaviour`).

Where these fail, either a change was not meant to change results: mend it. Or it was: raise the `@version` of what behaves in
another way, and write the numbers again with `python tests/test_golden.py`. Float32, one thread, so that rounding is the same.
"""
import importlib
import json
import pkgutil
from pathlib import Path

import pytest
import torch
from torch import nn

import sslnb
from sslnb import attacks, augment, clustering, data, embedding, evaluate, geometry, logistic, losses, models, vit
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
            if p.ndim > 1: p.copy_(normal(*p.shape, seed=i) * (2 / p[0].numel()) ** 0.5)
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
    "simsiam": dict(options=dict(hidden=32, out=16, bottleneck=8), optimizer="sgd", schedule="cosine", warmup=1),
    "simclic": dict(options=dict(hidden=32, out=16, bottleneck=8, perturbation="history"), optimizer="sgd"),
    "supce": dict(optimizer="sgd"),
}


def trained(method):
    config = TrainConfig(**dict(method=method, steps=4, batch_size=32, lr=0.01, encoder="tiny", precision="fp32") | METHOD_OPTIONS[method])
    config, some = resolve(config, CPU, images())
    training = Training(config, some, CPU)
    for _ in range(4): training.take_step()
    weights = torch.cat([p.detach().flatten() for p in training.method.parameters()])
    return config, [*training.losses.tolist(), weights.abs().mean().item()]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def golden():
    return json.loads(FILE.read_text("utf-8"))


def found(name):
    "Behaviour and numbers of a case now."
    if name in METHODS:
        config, numbers = trained(name)
        return {"behaviour": config.behaviour, "numbers": numbers}
    fns, compute = CASES[name]
    return {"behaviour": behaviour_of(*fns), "numbers": [float(v) for v in compute()]}


@pytest.mark.parametrize("name", [*METHODS, *CASES])
def test_results_are_those_of_their_version(name):
    now, then = found(name), golden().get(name)
    raised = "a version was raised, or a part is new: write the golden numbers again (python tests/test_golden.py), and say why in the commit"
    assert then and now["behaviour"] == then["behaviour"], raised
    same = "the results differ though no version was raised: mend the code, or raise the @version of what behaves in another way"
    torch.testing.assert_close(torch.tensor(now["numbers"]), torch.tensor(then["numbers"]), rtol=2e-3, atol=1e-5, equal_nan=True,
                               msg=lambda m: f"{name}: {same}\n{m}")


def versioned():
    "The names of all functions and classes of the library that have a version."
    names = set()
    for module in pkgutil.iter_modules(sslnb.__path__):
        if module.name.startswith("_"): continue
        members = vars(importlib.import_module(f"sslnb.{module.name}"))
        names |= {f"{module.name}.{v.__qualname__}" for v in members.values()
                  if isinstance(getattr(v, "__dict__", {}).get("version"), int) and v.__module__ == f"sslnb.{module.name}"}
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
