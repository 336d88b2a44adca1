"LARS against another implementation, and stored in the middle of a training (its own checks: nbs/lib/13_optim.ipynb)."
import copy

import pytest
import torch
import torch.nn.functional as F
from lightly.utils.lars import LARS as LightlyLARS
from torch import nn

from sslnb.optim import LARS
from sslnb.train import TrainConfig, Training, resolve

CPU = torch.device("cpu")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def take_steps(net, optimizer, steps, seed=0):
    data = torch.Generator().manual_seed(seed)
    for step in range(steps):
        x, y = torch.randn(16, 3, 8, 8, generator=data), torch.randint(5, (16,), generator=data)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        for group in optimizer.param_groups: group["lr"] = 2.0 / (1 + step)
        optimizer.step()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_is_lightlys(network, momentum, nesterov):
    other = copy.deepcopy(network)
    take_steps(network, LARS(network.parameters(), 2.0, momentum, 1e-2, trust=0.02, nesterov=nesterov), 20)
    wide, narrow = ([p for p in other.parameters() if (p.ndim > 1) == is_wide] for is_wide in (True, False))
    groups = [{"params": wide, "weight_decay": 1e-2}, {"params": narrow, "weight_decay": 0}]  # 0: not adapted
    take_steps(other, LightlyLARS(groups, 2.0, momentum, trust_coefficient=0.02, nesterov=nesterov), 20)
    for ours, theirs in zip(network.parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_memory_layout_changes_nothing(network):
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    for net in (network, other): take_steps(net, LARS(net.parameters(), 2.0, trust=0.02), 5)
    for a, b in zip(network.parameters(), other.parameters()): torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_state_dict_carries_the_momentum(network):
    optimizer = LARS(network.parameters(), 1.0, weight_decay=1e-3)
    take_steps(network, optimizer, 3)
    other = copy.deepcopy(network)
    restored = LARS(other.parameters(), 7.0)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, optim in ((network, optimizer), (other, restored)): take_steps(net, optim, 3, seed=1)
    for a, b in zip(network.parameters(), other.parameters()): assert torch.equal(a, b)


def with_lars(job):
    training = Training(job, CPU)
    training.optimizer = LARS(training.method.parameters(), job.config.lr, weight_decay=1e-4, nesterov=True)
    return training


def test_a_training_goes_on_to_the_bit(tmp_path):
    job = resolve(TrainConfig(dataset="digits", method="supce", encoder="tiny", steps=8, batch_size=32, lr=2.0,
                              schedule="cosine"), CPU)
    straight, stopped, taken_up = (with_lars(job) for _ in range(3))
    for _ in range(8): straight.take_step()
    for _ in range(3): stopped.take_step()
    stopped.save(tmp_path / "state")
    taken_up.restore(tmp_path / "state")
    for _ in range(5): taken_up.take_step()
    for a, b in zip(straight.method.parameters(), taken_up.method.parameters()): assert torch.equal(a, b)
    assert torch.equal(straight.losses, taken_up.losses) and straight.losses.isfinite().all()


def test_a_closure_is_called_with_gradients_on():
    p = nn.Parameter(torch.full((1, 1), 2.0))
    def closure():
        p.grad = None
        loss = (p ** 2).sum()
        loss.backward()
        return loss
    assert LARS([p], lr=1.0, trust=0.1).step(closure) == 4
    torch.testing.assert_close(p.detach(), torch.full((1, 1), 1.8))  # a tenth of its length
