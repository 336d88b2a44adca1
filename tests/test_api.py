"What a researcher types first: `import sslnb`, the README's example, images and networks of one's own."
import configparser
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import sslnb
from sslnb import attacks, data, models
from sslnb.behaviour import behaviour_of, plain
from sslnb.core import SettingError
from sslnb.models import IMAGENET, Normalize, fast_precision, features, make_encoder, pretrained, wrap

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torchvision", "sklearn", "scipy", "pandas", "matplotlib", "IPython", "sympy", "torch._dynamo"}
FAST = {"method": "supce", "steps": 2, "batch_size": 16, "lr": 1e-3, "precision": "fp32"}


@pytest.fixture
def images():
    "32 images that belong to no set, in two classes."
    pixels = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return data.Images.from_arrays(pixels, torch.arange(32) % 2)


class Mine(nn.Module):
    "A network that is not a Sequential, with parts to be named."
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3)

    def forward(self, x): return self.second(self.norm(self.first(x)).relu_())


# --- import sslnb


def imported(*modules):
    "What heavy modules are there after each of `modules`, imported in turn by one process."
    ask = "import sys\n" + "\n".join(f"import {m}\nprint({m!r}, *({HEAVY} & set(sys.modules)))" for m in modules)
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, encoding="utf-8", check=True)
    return done.stdout.splitlines()


def test_import_takes_nothing_along():
    done = subprocess.run([sys.executable, "-c", "import sys, sslnb; dir(sslnb), sslnb.__version__, sslnb.__all__\n"
                           "assert not {'torch', 'numpy', 'pandas', 'pydantic'} & set(sys.modules)"])
    assert done.returncode == 0


@pytest.mark.slow
def test_modules_import_what_they_need_when_they_need_it():
    modules = [f"sslnb.{m}" for m in ("core", "behaviour", "data", "augment", "vit", "models", "losses", "clustering",
                                      "embedding",
                                      "logistic", "methods", "attacks")]
    assert imported(*modules) == modules


@pytest.mark.slow
def test_modules_that_train_take_pandas_and_no_more():  # half a second, for the histories
    modules = [f"sslnb.{m}" for m in ("runs", "train", "evaluate", "protocols")]
    assert imported(*modules) == [f"{m} pandas" for m in modules]


def test_every_name_is_there_and_means_one_thing():
    modules = {p.stem for p in (ROOT / "sslnb").glob("[!_]*.py")}
    modules |= {p.parent.name for p in (ROOT / "sslnb").glob("*/__init__.py")}
    assert set(dir(sslnb)) == set(sslnb.__all__) | modules
    assert not set(sslnb.__all__) & modules
    for name in set(sslnb.__all__) - {"__version__"}:
        home = sslnb.__getattr__(sslnb._WHERE[name])
        assert getattr(sslnb, name) is getattr(home, name) and name in home.__all__, name
    for name in modules: assert getattr(sslnb, name) is sys.modules[f"sslnb.{name}"]
    from sslnb import evaluate
    assert evaluate is sys.modules["sslnb.evaluate"] is sslnb.evaluate
    with pytest.raises(AttributeError, match="sslnb has no 'pretrian'; it has: .*pretrain"): sslnb.pretrian
    with pytest.raises(ImportError): from sslnb import pretrian  # noqa: F401


def test_what_a_function_takes_from_sslnb_is_part_of_its_behaviour():
    def short(model, x, y): return sslnb.fgsm(model, x, y, 0.1)
    def long(model, x, y): return sslnb.attacks.fgsm(model, x, y, 0.1)
    for fn in (short, long): assert "attacks.fgsm" in behaviour_of(fn)


def test_the_export_leaves_the_file_alone_but_for_the_version(tmp_path):
    shutil.copytree(ROOT / "nbs" / "lib", tmp_path / "nbs" / "lib")
    shutil.copytree(ROOT / "sslnb", tmp_path / "sslnb", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, tmp_path)
    ini, config = tmp_path / "settings.ini", configparser.ConfigParser(delimiters=["="])
    config.read(ini, encoding="utf-8")
    version = config["DEFAULT"]["version"]
    ini.write_text(ini.read_text(encoding="utf-8").replace(f"version = {version}\n", "version = 9.8.7\n"),
                   encoding="utf-8")
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=tmp_path, check=True, capture_output=True)
    before = (ROOT / "sslnb" / "__init__.py").read_text(encoding="utf-8")
    after = (tmp_path / "sslnb" / "__init__.py").read_text(encoding="utf-8")
    assert after == before.replace(f'__version__ = "{version}"', '__version__ = "9.8.7"') != before


def test_contributing_names_the_files_written_by_hand():
    by_hand = [p.name for p in (ROOT / "sslnb").glob("*.py")
               if "AUTOGENERATED" not in p.read_text(encoding="utf-8") and p.name != "_modidx.py"]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert by_hand and all(f"`{name}`" in text for name in by_hand)


@pytest.mark.slow
def test_readme_example_runs_as_it_stands(tmp_path):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## From Python")[1].split("\n## ")[0]
    code, = re.findall(r"^```python\n(.*?)^```$", section, re.S | re.M)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    trained, yours, attacked = done.stdout.splitlines()
    assert 0 < float(trained) < 1 and 0 < float(yours) < 1 and attacked.startswith("tensor([")


# --- images of one's own


def test_pretrain_on_images_that_belong_to_no_set(images):
    config = sslnb.TrainConfig(**FAST | {"method": "simclr", "encoder": "tiny"}, options={"hidden": 16, "out": 8})
    run = sslnb.pretrain(config, images)
    assert len(run.history) == 2 and features(sslnb.load_encoder(run), images).shape == (32, 64)
    assert sslnb.pretrain(config, images).hash == run.hash


def test_an_encoder_registered_in_a_notebook_trains_by_its_name(images, monkeypatch):
    def mine(normalize, channels, side):
        return wrap(nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU()), normalize, side=side)
    monkeypatch.setitem(models.ENCODERS, "mine", mine)
    run = sslnb.pretrain(sslnb.TrainConfig(**FAST, encoder="mine"), images)
    loaded = sslnb.load_encoder(run)
    assert (loaded.name, loaded.side, loaded.dim) == ("mine", 16, 8)
    torch.testing.assert_close(loaded.normalize.mean.flatten(), images.mean_std()[0])


# --- networks of one's own


def test_wrapped_network_is_judged_attacked_trained_and_loaded(images):
    mine = wrap(Mine(), images, layers=["first", "norm"])
    assert (mine.name, mine.side, mine.dim) == ("wrapped:Mine", 16, 12)
    assert [features(mine, images, stage).shape[1] for stage in (0, 1, 2)] == [8, 8, 12]
    assert 0 <= sslnb.evaluate.evaluate(mine, images, images).metrics["top1"] <= 1
    run = sslnb.pretrain(sslnb.TrainConfig(**FAST, encoder=mine.name), images, start=mine)
    classifier = sslnb.load_classifier(run, like=mine)
    assert not torch.equal(classifier[0].module.first.weight, mine.module.first.weight)
    x = images.pixels[:4] / 255
    moved = attacks.fgsm(classifier, x, images.labels[:4], 8 / 255)
    assert 0 < (moved - x).abs().max() <= 8 / 255 + 1e-6
    again = sslnb.load_encoder(run, like=mine)
    with torch.no_grad(): torch.testing.assert_close(again(x), classifier[0](x))


def fine_tuned(encoder, images): return sslnb.fine_tune(encoder, images, 1.0, epochs=1, batch_size=16)


def test_wrapped_network_is_fine_tuned_and_loaded(images):
    mine = wrap(Mine(), images)
    assert features(sslnb.load_encoder(fine_tuned(mine, images), like=mine), images).shape == (32, 12)


@pytest.mark.slow
def test_pretrained_network_is_fine_tuned_and_loaded(images, tmp_path, monkeypatch):
    theirs(tmp_path, monkeypatch)
    encoder, few = pretrained("resnet18"), images[:2]
    classifier = sslnb.load_classifier(sslnb.fine_tune(encoder, few, 1.0, epochs=1))
    assert classifier[0].resize == 224 and classifier(few.pixels / 255).shape == (2, 2)


def theirs(tmp_path, monkeypatch):
    "A ResNet-18 with weights of our own making, where torch would keep the downloaded ones."
    net = resnet18(weights=None).eval()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    net.fc = nn.Identity()
    return net


@pytest.mark.slow
def test_pretrained_network_is_known_by_name_and_its_state_has_only_its_own_keys(tmp_path, monkeypatch):
    net = theirs(tmp_path, monkeypatch)
    encoder = pretrained("resnet18")
    assert (encoder.name, encoder.side) == ("resnet18@224", 224)
    plain_keys = set(models.resnet("resnet18", Normalize(*IMAGENET), 3, 224).state_dict())
    assert set(encoder.state_dict()) == plain_keys
    again = make_encoder(encoder.name, Normalize(torch.zeros(3), torch.ones(3)), 3, 32).eval()
    again.load_state_dict(encoder.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), encoder(x))
        torch.testing.assert_close(wrap(net, IMAGENET, side=32, resize=224)(x), encoder(x), atol=1e-3, rtol=1e-3)


def test_wrapping_changes_nothing_of_the_network():
    net = Mine().train()
    net.norm.eval()
    net.first.weight.requires_grad_(False)
    state, rng = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    wrap(net, IMAGENET, side=16, layers=["norm"])
    assert (all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
            and torch.equal(rng, torch.get_rng_state()))
    assert (net.training and not net.norm.training
            and not net.first.weight.requires_grad and net.second.weight.requires_grad)
    assert not any(m._forward_hooks for m in net.modules())


def test_wrapped_network_keeps_its_memory_format():
    net = wrap(nn.Sequential(nn.Conv2d(3, 8, 3)), IMAGENET, side=16)
    assert net.module[0].weight.is_contiguous()


def test_what_wrapping_adds_is_part_of_what_a_result_is_known_by():
    net = Mine()
    keys = [plain(wrap(net, IMAGENET, side=16, **options)) for options in ({}, {"resize": 20}, {"layers": ["norm"]})]
    assert len({str(k) for k in keys}) == 3
    resized = [models.resnet("resnet18", Normalize(*IMAGENET), 3, 96, resize) for resize in (None, 96)]
    resized[1].load_state_dict(resized[0].state_dict())
    assert str(plain(resized[0])) != str(plain(resized[1]))


def test_stages_that_are_not_on_the_way():
    net = Mine()
    net.unused = nn.Linear(2, 2)
    with pytest.raises(SettingError, match="Mine does not call unused"): wrap(net, IMAGENET, side=16, layers=["unused"])
    with pytest.raises(SettingError, match="no part 'conv'; it has: first, norm, second"):
        wrap(net, IMAGENET, side=16, layers=["conv"])


def test_tokens_and_features_that_are_no_numbers():
    class Tokens(nn.Module):
        def forward(self, x): return x.flatten(2).mT
    with pytest.raises(SettingError, match=r"shape \(2, 256, 3\): features are N×D"): wrap(Tokens(), IMAGENET, side=16)
    net = Mine()
    nn.init.constant_(net.second.bias, torch.nan)
    with pytest.raises(SettingError, match="wrapped:Mine, its output: NaN or infinity"): wrap(net, IMAGENET, side=16)
    with pytest.raises(SettingError, match="fails on images of 3×2×2"): wrap(Mine(), IMAGENET, side=2)


def test_timm(images):
    timm = pytest.importorskip("timm")
    net = wrap(timm.create_model("resnet10t", num_classes=0), images, resize=64, layers=["layer1"])
    assert features(net, images[:4], 0).shape == (4, 64) and features(net, images[:4]).shape == (4, net.dim)


# --- sizes, channels, precision


def test_images_that_are_not_square(images):
    wide = replace(images, pixels=torch.randint(0, 256, (32, 3, 64, 96), dtype=torch.uint8))
    net = models.encoder("resnet18", wide)
    assert net.side == 64 and len(net.stem) == 3  # the stem for the shorter side, as for 64×64
    assert features(net, wide[:4]).shape == (4, 512)
    assert wrap(Mine(), wide).side == 64
    with pytest.raises(SettingError, match=r"64×96 pixels: vit_tiny takes square ones, e.g. load\(…, size=64\)"):
        models.encoder("vit_tiny", wide)


def test_a_builder_that_makes_no_encoder(images, monkeypatch):
    monkeypatch.setitem(models.ENCODERS, "mine", lambda normalize, channels, side: Mine())
    with pytest.raises(SettingError, match=r"ENCODERS\['mine'\] makes a Mine, not an encoder: let it return wrap"):
        models.encoder("mine", images)


def test_a_constant_channel_is_no_nan():
    x = torch.rand(8, 3, 16, 16)
    x[:, 2] = 0.25
    y = Normalize(x.mean((0, 2, 3)), torch.stack([x[:, 0].std(), x[:, 1].std(), torch.tensor(0.)]))(x)
    assert y.isfinite().all() and y[:, 2].abs().max() < 1e-6


@pytest.mark.parametrize("capability, expected", [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_gpu_that_emulates_bf16_is_not_asked_for_it(monkeypatch, capability, expected):
    def of(device): return capability if device == torch.device("cuda:1") else (9, 9)
    monkeypatch.setattr(torch.cuda, "get_device_capability", of)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # what older cards say, too
    assert fast_precision(torch.device("cuda:1")) == expected


@pytest.mark.parametrize("found, expected", [({"avx2": True, "avx512_f": True}, "fp32"),
                                             ({"avx512_bf16": True}, "bf16"),
                                             ({"amx_bf16": True}, "bf16"), ({"neon": True}, "fp32"),
                                             ({"sve_bf16": True}, "bf16")])
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert fast_precision(torch.device("cpu")) == expected
    assert fast_precision(torch.device("mps")) == "fp32"  # the CPU's answer is not another device's
