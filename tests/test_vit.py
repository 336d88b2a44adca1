"The masked autoencoder's parts against lightly's and torchvision's (their own checks are in nbs/lib/06_vit.ipynb)."
import pytest
import torch
from lightly.models import utils
from torch import nn
from torchvision.models import VisionTransformer

from sslnb.behaviour import behaviour_of
from sslnb.core import SettingError, rng
from sslnb.models import Normalize
from sslnb.vit import (PRESETS, MLPDecoder, TransformerDecoder, ViT, masked_mse, patch_for, patchify, pick, put,
                       random_mask, sincos, unpatchify, vit)


def small(channels=3, side=16, patch=4) -> ViT:
    torch.manual_seed(0)
    return ViT(Normalize(torch.full((channels,), 0.4), torch.full((channels,), 0.2)), channels, side, patch, 32, 2, 2)


def decoders(net: ViT) -> list[nn.Module]:
    sizes = net.dim, net.grid, net.embed.in_features
    return [MLPDecoder(*sizes, hidden=24), TransformerDecoder(*sizes, width=64, depth=1)]


@pytest.mark.parametrize("channels, side, patch", [(3, 32, 4), (1, 28, 4), (3, 64, 8), (2, 6, 3)])
def test_patches_are_lightlys_and_lead_back(channels, side, patch):
    x = torch.rand(3, channels, side, side)
    patches = patchify(x, patch)
    assert torch.equal(patches, utils.patchify(x, patch))
    assert torch.equal(unpatchify(patches, patch), x)
    assert torch.equal(unpatchify(patches, patch), utils.unpatchify(patches, patch, channels))


@pytest.mark.parametrize("grid, dim", [(8, 96), (14, 768), (7, 128), (1, 4)])
def test_positions_are_lightlys(grid, dim):
    theirs = torch.from_numpy(utils.get_2d_sine_cosine_positional_embedding(dim, grid, cls_token=False)).float()
    torch.testing.assert_close(sincos(grid, dim), theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("patches, ratio", [(64, 0.75), (196, 0.75), (49, 0.75), (64, 0.5), (10, 0.8), (2, 0.5)])
def test_a_mask_is_a_partition_and_repeats(patches, ratio):
    shown, masked = random_mask(9, patches, ratio, rng("mask"))
    assert torch.equal(torch.cat([shown, masked], 1).sort().values, torch.arange(patches).expand(9, patches))
    assert masked.shape[1] == round(ratio * patches)
    for a, b in zip((shown, masked), random_mask(9, patches, ratio, rng("mask"))): assert torch.equal(a, b)
    assert patches < 9 or not torch.equal(shown, random_mask(9, patches, ratio, rng("other"))[0])


@pytest.mark.parametrize("patches", [64, 196])
def test_as_many_are_masked_as_by_lightly(patches):
    keep, hide = utils.random_token_mask((2, patches + 1), 0.75)  # with a class token, which is always kept
    shown, masked = random_mask(2, patches, 0.75, rng(0))
    assert (shown.shape[1] + 1, masked.shape[1]) == (keep.shape[1], hide.shape[1])


def test_masks_are_uniform():
    "χ² of how often each of 16 patches, and each of the 6 pairs of 4, is masked: 5 standard deviations may pass."
    n = 16_000
    counts = random_mask(n, 16, 0.75, rng("once"))[1].flatten().bincount(minlength=16)
    # without replacement the variance of a count is n·p·(1 - p), and the counts are fixed to a sum
    assert ((counts - 0.75 * n) ** 2 / (n * 0.75 * 0.25)).sum() < 16 + 5 * (2 * 16) ** 0.5
    pairs = random_mask(n, 4, 0.5, rng("pairs"))[1].sort().values
    counts = (4 * pairs[:, 0] + pairs[:, 1]).bincount(minlength=16)[[1, 2, 3, 6, 7, 11]]
    assert ((counts - n / 6) ** 2 / (n / 6)).sum() < 5 + 5 * 10 ** 0.5


def test_the_encoder_is_torchvisions():
    "With its weights and without a class token: same tokens."
    theirs = VisionTransformer(16, 4, 2, 2, 32, 128).eval()
    net = small().eval()
    blocks = theirs.encoder.layers.state_dict()
    net.blocks.load_state_dict({k.replace("encoder_layer_", ""): v for k, v in blocks.items()})
    net.norm.load_state_dict(theirs.encoder.ln.state_dict())
    weight = theirs.conv_proj.weight.data  # dim × colour × row × column; a patch is row × column × colour
    net.embed.load_state_dict({"weight": weight.permute(0, 2, 3, 1).flatten(1), "bias": theirs.conv_proj.bias.data})
    theirs.encoder.pos_embedding.data = sincos(4, 32)[None]
    x = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        expected = theirs.encoder(theirs._process_input(net.normalize(x)))
        torch.testing.assert_close(net.encode(x), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(net(x), expected.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net.encode(x), expected, atol=1e-5, rtol=1e-4)  # with gradients: plain attention


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour(channels):
    net, x = small(channels), torch.rand(4, channels, 16, 16)
    layers = net.layers(x)
    assert [a.shape for a in layers] == [(4, 32)] * 2 and torch.equal(layers[-1], net(x))
    shown, masked = random_mask(4, 16, 0.75, rng(0))
    for decoder in decoders(net):
        out = decoder(net.encode(x, shown), shown, masked)
        assert out.shape == (4, 12, 16 * channels) and out.isfinite().all()


def test_features_do_not_depend_on_the_mask_when_nothing_is_masked():
    net, x = small().double(), torch.rand(4, 3, 16, 16).double()
    for seed in range(3):
        order = torch.rand(4, 16, generator=rng(seed)).argsort(1)
        torch.testing.assert_close(net.encode(x, order).mean(1), net(x))


def test_a_masked_patch_has_no_influence():
    net, x = small(), torch.rand(4, 3, 16, 16)
    shown, masked = random_mask(4, 16, 0.75, rng(0))
    other = unpatchify(put(patchify(x, 4), masked, torch.rand(4, 12, 48)), 4)
    for decoder in decoders(net):
        assert torch.equal(*(decoder(net.encode(z, shown), shown, masked) for z in (x, other)))
    assert not torch.allclose(net(x), net(other))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_compute_goes_with_the_visible_share(ratio):
    net, x, tokens = small(), torch.rand(2, 3, 16, 16), []
    def count(module, given, out): tokens.append(out.shape[1])
    for layer in (net.embed, *net.blocks, net.norm): layer.register_forward_hook(count)
    net.encode(x, random_mask(2, 16, ratio, rng(0))[0])
    assert tokens == [16 * (1 - ratio)] * 4


def test_gradients_reach_everything():
    net, x = small(), torch.rand(4, 3, 16, 16)
    shown, masked = random_mask(4, 16, 0.75, rng(0))
    for decoder in decoders(net):
        net.zero_grad()
        masked_mse(decoder(net.encode(x, shown), shown, masked), net.patches(x), masked).backward()
        for name, p in [*decoder.named_parameters(), *net.named_parameters()]:
            assert p.grad is not None and p.grad.abs().max() > 0, name


@torch.no_grad()
def test_the_transformer_decoder_is_lightlys_way_in_another_order():
    "lightly puts all tokens back in the order of the image; ours stay in two groups, with their positions."
    net, x = small(), torch.rand(4, 3, 16, 16)
    shown, masked = random_mask(4, 16, 0.75, rng(0))
    decoder, tokens = decoders(net)[1], net.encode(x, shown)
    sequence = utils.repeat_token(decoder.mask_token[None, None], (4, 16))
    sequence = utils.set_at_index(sequence, shown, decoder.embed(tokens)) + decoder.places
    for block in decoder.blocks: sequence = block(sequence)
    torch.testing.assert_close(decoder(tokens, shown, masked), decoder.head(utils.get_at_index(sequence, masked)),
                               atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_is_a_loop_over_masked_patches(normalize):
    torch.manual_seed(0)
    patches, guess = torch.rand(3, 16, 48), torch.randn(3, 12, 48, requires_grad=True)
    shown, masked = random_mask(3, 16, 0.75, rng(0))
    loss, each = masked_mse(guess, patches, masked, normalize), []
    for n in range(3):
        for m in range(12):
            target = patches[n, masked[n, m]]
            if normalize: target = utils.normalize_mean_var(target)
            each.append((guess[n, m] - target).square().mean())
    naive = sum(each) / len(each)
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(*(torch.autograd.grad(value, guess)[0] for value in (loss, naive)))
    changed = put(patches, shown, torch.rand(3, 4, 48))
    assert torch.equal(masked_mse(guess, changed, masked, normalize), loss)


def test_flat_patches_can_be_normalised():
    flat = torch.full((2, 16, 48), 0.3)
    _, masked = random_mask(2, 16, 0.75, rng(0))
    assert masked_mse(torch.zeros(2, 12, 48), flat, masked, True) < 1e-6


def test_pick_and_put_are_lightlys():
    x, values, places = torch.rand(3, 16, 5), torch.rand(3, 4, 5), random_mask(3, 16, 0.75, rng(0))[0]
    assert torch.equal(pick(x, places), utils.get_at_index(x, places))
    before = x.clone()
    assert torch.equal(put(x, places, values), utils.set_at_index(x.clone(), places, values)) and torch.equal(x, before)


@pytest.mark.parametrize("side, patch", [(28, 4), (32, 4), (48, 4), (64, 8), (96, 8), (128, 16), (224, 16)])
def test_the_patch_follows_the_image(side, patch): assert patch_for(side) == patch


@pytest.mark.parametrize("preset, dim, depth, millions", [("vit_128", 128, 12, 2.48), ("vit_base", 768, 12, 85.65)])
def test_presets(preset, dim, depth, millions):
    with torch.device("meta"): net = vit(preset, nn.Identity(), 3, 224)
    assert (net.dim, len(net.blocks), net.patch, net.grid) == (dim, depth, 16, 14)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(millions * 1e6, rel=0.001)


def test_weights_go_from_one_vit_to_another():
    "Positions are made, not stored: what is saved is what is learned."
    a, b = small(), vit("vit_tiny", nn.Identity(), 3, 32)
    assert not any("places" in k for k in b.state_dict())
    b = small()
    b.load_state_dict(a.state_dict())
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(a(x), b(x))


@pytest.mark.parametrize("wrong, says", [
    (lambda: patchify(torch.rand(1, 3, 30, 30), 4), r"30 pixels .* patch of 4: resize the images to 32"),
    (lambda: vit("vit_tiny", nn.Identity(), 3, 225), r"225 pixels .* patch of 16: resize the images to 224"),
    (lambda: random_mask(1, 64, 0.0, rng(0)), r"mask_ratio = 0.0 leaves nothing masked or nothing shown of 64"),
    (lambda: random_mask(1, 64, 1.0, rng(0)), r"mask_ratio = 1.0 leaves nothing"),
    (lambda: random_mask(1, 4, 0.95, rng(0)), r"of 4 patches: choose one between 0.25 and 0.75"),
    (lambda: random_mask(1, 64, float("nan"), rng(0)), r"mask_ratio = nan leaves nothing"),
    (lambda: random_mask(1, 64, -0.5, rng(0)), r"mask_ratio = -0.5 leaves nothing"),
    (lambda: random_mask(0, 64, 0.75, rng(0)), r"n = 0 images"),
    (lambda: patchify(torch.rand(1, 3, 48, 32), 4), r"images of 48×32 pixels are not square.* size=32"),
    (lambda: patchify(torch.rand(1, 3, 32, 32), 0), r"a patch of 0 pixels: both must be at least 1"),
    (lambda: unpatchify(torch.rand(1, 15, 48), 4), r"15 patches of 48 numbers are no square image"),
    (lambda: unpatchify(torch.rand(1, 16, 50), 4), r"16 patches of 50 numbers are no square image in patches of 4×4"),
    (lambda: masked_mse(torch.rand(2, 3, 1), torch.rand(2, 4, 8), torch.tensor([[0, 1, 2]] * 2)),
     r"predicted is \(2, 3, 1\), the masked"),
    (lambda: vit("vit_huge", nn.Identity(), 3, 32), r"no ViT is called 'vit_huge'; there are: vit_mini, vit_tiny"),
    (lambda: sincos(0, 32), r"0×0 patches"),
    (lambda: small()(torch.rand(1, 1, 16, 16)), r"3×16×16.*not 1×16×16: repeat their channel \(x.expand\(-1, 3, "),
    (lambda: small(1)(torch.rand(1, 3, 16, 16)), r"1×16×16.*not 3×16×16: build an encoder for these images"),
    (lambda: small()(torch.rand(1, 3, 16, 20)), r"not 3×16×20: load them with size=16, or"),
    (lambda: sincos(4, 30), r"a width of 30: positions need a multiple of 4"),
    (lambda: TransformerDecoder(32, 4, 48, 100, 1), r"width 100: its heads of 32 need a multiple of 32")])
def test_bad_input_is_named(wrong, says):
    with pytest.raises(SettingError, match=says): wrong()


def test_every_preset_builds():
    for name in PRESETS:
        with torch.device("meta"): assert vit(name, nn.Identity(), 1, 32).grid == 8


def test_what_is_stored_names_its_versions():
    assert {f"vit.{name}" for name in ("ViT", "patchify", "sincos", "run_block", "pick")} <= {*behaviour_of(ViT)}
    assert {"vit.masked_mse", "vit.patch_mean_std", "vit.random_mask", "vit.MLPDecoder", "vit._Decoder"} <= {
        *behaviour_of(masked_mse, random_mask, MLPDecoder)}
