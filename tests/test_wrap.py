"A run of a wrapped network: trains a copy, is loaded again, belongs to the code and the settings of the network."
import copy

import pytest
import torch
from torch import nn

from sslnb import data
from sslnb.behaviour import digest_of
from sslnb.core import SettingError
from sslnb.data import Images
from sslnb.models import outputs, wrap
from sslnb.train import TrainConfig, load_classifier, load_encoder, pretrain, resolve

CPU = torch.device("cpu")


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x): return self.norm(self.conv(x)).relu()


class Squared(Plain):
    "Other features with the same weights."
    def forward(self, x): return self.norm(self.conv(x)).square()


@pytest.fixture(scope="module")
def images():
    pixels = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images.from_arrays(pixels, torch.arange(64) % 2)


def config(encoder, method="supce"):
    return TrainConfig(method=method, encoder=encoder.name, steps=2, batch_size=32, lr=1e-2)


@pytest.mark.parametrize("method", ["supce", "simclr", "simclic"])
def test_a_run_trains_a_copy_and_is_loaded_again(method, images):
    encoder = wrap(Plain(), images)
    before = copy.deepcopy(encoder.state_dict())
    run = pretrain(config(encoder, method), images, start=encoder, device=CPU)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    loaded = load_encoder(run, device=CPU, like=encoder)
    assert not torch.equal(loaded.module.conv.weight, encoder.module.conv.weight)
    with pytest.raises(SettingError, match="give one of its kind as like="): load_encoder(run, device=CPU)
    with pytest.raises(SettingError, match="is not like the one given"):
        load_encoder(run, device=CPU, like=wrap(nn.Conv2d(3, 8, 3), images))
    if method == "supce": assert load_classifier(run, device=CPU, like=encoder)(images.pixels[:2] / 255).shape == (2, 2)


def test_other_code_or_settings_with_the_same_weights_are_another_run(images):
    one, other = Plain(), Squared()
    other.load_state_dict(one.state_dict())
    encoders = [wrap(module, images, resize=size, name="mine")
                for module, size in ((one, None), (other, None), (one, 32))]
    assert len({digest_of(e) for e in encoders}) == 1
    found = [resolve(config(e), CPU, images, e).config for e in encoders]
    assert found[0] != found[1] and found[0] != found[2]
    assert resolve(config(encoders[0]), CPU, images, copy.deepcopy(encoders[0])).config == found[0]


def test_of_large_images_few_are_taken_at_once_wherever_the_encoder_is():
    images, sizes = data.load("shapes").at_most(300), []
    class Large(nn.Module):
        def resize(self): "Not a size: a network of yours may call anything so."
        def forward(self, x):
            sizes.append((len(x), x.shape[2]))
            return x.mean((2, 3))
    for resize, model in ((None, Large()), (224, Large())):
        made = wrap(model, images, resize=resize)
        for one in (made, nn.Sequential(made)):
            sizes.clear()
            assert len(outputs(one, one, images)) == 300
            assert sizes[0] == ((16, 224) if resize else (min(200, 100 * torch.get_num_threads()), 32))
