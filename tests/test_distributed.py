"Two processes train as one does with the whole batch. This file is also what the two are made to run."
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sslnb import data
from sslnb.core import SettingError
from sslnb.distributed import (Silent, average_gradients, all_reduce_mean, check_batch, broadcast_object, all_gather,
                               broadcast, local_shard, map_shards, synchronised, world)
from sslnb.losses import nt_xent, sup_con
from sslnb.models import encoder
from sslnb.runs import Run, load_tensors
from sslnb.train import TrainConfig, Training, _find_or_train, _keep_model, resolve, train_all

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CONFIG = dict(dataset="shapes", split="test", encoder="tiny", steps=3, batch_size=16, lr=0.02, optimizer="sgd",
              precision="fp32")
METHODS = {
    "simclr": dict(options=dict(hidden=32, out=16)),
    "supcon": dict(options=dict(hidden=32, out=16)),
    "rotnet": dict(),
    "deepcluster": dict(encoder="small-alexnet", options=dict(clusters=5, components=8)),
    "mae": dict(encoder="vit_tiny"),
    "simsiam": dict(options=dict(hidden=32, out=16, bottleneck=8)),
    "simclic": dict(options=dict(hidden=32, out=16, bottleneck=8, perturbation="history")),
    "supce": dict(),
    "vicreg": dict(options=dict(hidden=32, out=16)),
    "barlow-twins": dict(options=dict(hidden=32, out=16)),
    "many-views": dict(options=dict(hidden=32, out=16, n_views=3)),
    "fastsiam": dict(options=dict(hidden=32, out=16, bottleneck=8, n_views=3)),
    "emp-ssl": dict(options=dict(hidden=32, out=16, n_views=3), lr=0.001),
    "nnclr": dict(options=dict(hidden=32, out=16, bottleneck=8, queue=100)),
}


def job(method, **changes):
    images = data.load("shapes", "test")[:37]  # two steps an epoch; an odd number, so that parts differ in size
    return resolve(TrainConfig(**CONFIG | dict(method=method) | METHODS[method] | changes), CPU, images)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# What every process does, and one alone to compare with. Each function gives named tensors.

class Contrast(nn.Module):
    "A loss of the embeddings of `views` views each."
    def __init__(self, loss, views):
        super().__init__()
        self.embed, self.loss, self.views = nn.Linear(6, 4), loss, views
        with torch.no_grad(): self.embed.weight.copy_(drawn(4, 6)), self.embed.bias.zero_()

    def forward(self, x, labels):
        self.z = self.embed(x)
        self.z.retain_grad()
        return self.loss(all_gather(self.z, self.views), all_gather(labels))


def contrast(loss, views, precision=torch.float32):
    net = Contrast(loss, views)
    x, labels = local_shard((drawn(views * 8, 6), torch.tensor([0, 1, 0, 2, 1, 0, 3, 2])), 8)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32): loss = net(x, labels)
    loss.backward()
    average_gradients(net)
    return {"loss": all_reduce_mean(loss.detach()), "weight": net.embed.weight.grad,
            "z": all_gather(net.z.grad.float(), views)}


def normalise(layers, *shape):
    net = synchronised(layers)
    for m in net.modules():
        if hasattr(m, "running_mean"): nn.init.uniform_(m.weight, generator=torch.Generator().manual_seed(1))
    x = local_shard(5 + 3 * drawn(*shape), shape[0]).requires_grad_()
    for _ in range(2): y = net(x)
    (y ** 3).mean().backward()
    average_gradients(net)
    grads = {f"grad.{k}": p.grad for k, p in net.named_parameters()}
    return net.state_dict() | grads | {"y": all_gather(y), "x": all_gather(x.grad), "eval": all_gather(net.eval()(x))}


def train(method, double=True):
    training = Training(job(method), CPU)
    if double: in_double(training.method)
    training.take_step()
    first = {f"grad.{k}": p.grad.clone() for k, p in training.method.named_parameters()}
    while training.step < training.config.steps: training.take_step()
    return training.method.state_dict() | first | {"losses": training.losses, "order": training.order}


def in_double(method):
    "So that no activation is nearer to a ReLU's zero than rounding goes."
    method.double()
    if hasattr(method, "memory"): method.memory = method.memory.float()


def interrupted():
    "Four steps, a state that the first process saves, and two more by way of the store."
    long = job("mae", steps=6, save_at=(0, 3))
    run, training = Run(long.config), Training(long, CPU)
    with run.lock(): pass
    for _ in range(4):
        if world().is_main_process and training.step in (0, 3): _keep_model(run, training)
        training.take_step()
    if world().is_main_process: training.save(run.state_file)
    world().wait_for_everyone()
    return load_tensors(train_all([long])[0].model_file(6))[0]


def stored():
    "A run into the store: the weights; and what this process wrote on the way."
    short, wrote, store = job("rotnet", steps=2, save_at=(0, 1)), [], os.environ["SSLNB_STORE"]

    def watch(event, args):
        opened = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if (opened or event in ("os.mkdir", "os.rename", "os.remove")) and str(args[0]).startswith(store):
            wrote.append(args[0])
    sys.addaudithook(watch)
    run = Run(short.config, job=short)
    assert [_find_or_train(run, Silent(), CPU, save_every=0) for _ in range(2)] == [False, True]
    assert world().is_main_process == bool(wrote)
    return load_tensors(run.model_file(2))[0] | {"loss": torch.tensor(run.history.loss.tolist())}


def small_words():
    here, images = world(), data.load("shapes", "test")[:5]
    mine = torch.full((2, 3), float(here.process_index))
    broadcast(mine)
    refused = ""
    try: check_batch(7)
    except SettingError as err: refused = str(err)
    assert refused == ("batch_size = 7: 2 processes need a multiple of 2" if here.num_processes == 2 else "")
    assert broadcast_object(lambda: here.process_index) == 0
    refused = ""
    try: synchronised(encoder("small-ghost", images))
    except SettingError as err: refused = str(err)
    assert ("GhostNorm's groups" in refused) == (here.num_processes == 2)
    return {"same": mine, "spread": map_shards(lambda some: some.pixels.float().mean((2, 3)), images),
            "numbers": all_gather(local_shard(torch.arange(24), 8), 3)}


def pairs(z, _): return nt_xent(*z.chunk(2))


DONE = {
    "nt_xent": lambda: contrast(pairs, 2),
    "nt_xent in bf16": lambda: contrast(pairs, 2, torch.bfloat16),
    "sup_con": lambda: contrast(sup_con, 2),
    "sup_con of one view": lambda: contrast(sup_con, 1),  # an image alone in its class: not an anchor
    "sup_con of three views": lambda: contrast(sup_con, 3),
    "BatchNorm1d": lambda: normalise(nn.BatchNorm1d(5), 8, 5),
    "BatchNorm2d": lambda: normalise(nn.Sequential(nn.BatchNorm2d(3)), 8, 3, 4, 4),
    "small words": small_words, "stored": stored, "interrupted": interrupted,
    **{f"training {name}": (lambda name=name: train(name)) for name in METHODS},
    "training mae in single precision": lambda: train("mae", double=False),  # no ReLU in it
    "training supce in single precision": lambda: train("supce", double=False),
    "loss of simclr in single precision": lambda: {"loss": train("simclr", double=False)["losses"][:1]},
}


def do_all():
    torch.manual_seed(0)
    return {name: {k: v.detach().clone() for k, v in done().items()} for name, done in DONE.items()}


# The tests

def launch(folder, *args):
    "This file, run by two processes."
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"SSLNB_STORE": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*torchrun, __file__, folder, *args], env=env, capture_output=True, encoding="utf-8",
                          timeout=400)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "What the two processes have, and what one has."
    folder, alone = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    ended = launch(folder)
    assert ended.returncode == 0, ended.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLNB_STORE", str(alone))
        one = do_all()
    return [torch.load(folder / f"{i}.pt") for i in range(2)], one, folder


@pytest.mark.parametrize("what", DONE)
def test_two_processes_do_what_one_does(results, what):
    both, one, _ = results
    for mine in both:
        assert mine[what].keys() == one[what].keys()
        for k, expected in one[what].items():
            # the gradient of the sum of the losses; parameters get that of the mean
            factor = 2 if k in ("z", "x") else 1
            close = 1e-2 if "bf16" in what else 1e-5
            torch.testing.assert_close(mine[what][k], factor * expected, atol=close, rtol=close,
                                       equal_nan=k == "memory",  # NaN: not seen yet
                                       msg=lambda m: f"{k}: {m}")


def test_the_store_has_one_run_each_and_says_how_many_trained_it(results):
    _, _, folder = results
    jobs = job("rotnet", steps=2, save_at=(0, 1)), job("mae", steps=6, save_at=(0, 3))
    assert {p.name for p in folder.glob("runs/*")} == {Run(j.config).hash for j in jobs}  # the hash of one process
    for j in jobs:
        run = Run(j.config, folder / "runs")
        run.verify()
        assert run.provenance["device"].startswith("2 × ") and not list(run.folder.glob("*.part"))


WITHOUT = """
import os, sys
sys.modules["accelerate"] = None
from sslnb.core import SettingError
from sslnb.distributed import world
import sslnb.train
assert world().num_processes == 1
os.environ.update(LOCAL_RANK="0", WORLD_SIZE="2")
world.cache_clear()
try: world()
except SettingError as err: print(err)
"""


def test_without_accelerate_one_process_works_and_several_are_an_error(python):
    out, err = python(WITHOUT).communicate(timeout=60)
    assert ("2 processes were launched to train together, which needs accelerate: pip install -e '.[distributed]'"
            in out), err


if __name__ == "__main__":
    mine = do_all()
    torch.save(mine, Path(sys.argv[1]) / f"{world().process_index}.pt")
    world().wait_for_everyone()
