"Views: what they may not touch, and the numbers that stored runs rest on."
import math

import pytest
import torch
import torchvision.transforms.v2.functional as TF

from sslnb.augment import RECIPES, Augment, apply_views, augment, draw_numbers, resample, to_float
from sslnb.core import SettingError, rng


@pytest.fixture
def pixels(): return torch.randint(256, (150, 3, 12, 12), generator=rng("pixels"), dtype=torch.uint8)


@pytest.mark.parametrize("recipe", [*RECIPES.values(), Augment(jitter=1., brightness=.5, hue=.1), Augment(grey=1.),
                                    Augment(blur=1.)])
def test_images_given_stay_as_they_are(pixels, recipe):
    x = to_float(pixels)
    before = x.clone()
    augment(x, recipe, rng("views"))
    assert torch.equal(x, before)


def test_numbers_are_drawn_in_this_order():
    "A stored run goes on with these numbers: another order would need another version of `draw_numbers`."
    g, a = rng("order"), RECIPES["simclr-large"]
    area, aspect = (torch.rand(5, 10, generator=g) for _ in range(2))
    place, flip, b, c, s, h = (torch.rand(*n, generator=g) for n in [(5, 2), *[(5,)] * 5])
    order, jitter, grey, blurred, sigma = (torch.rand(*n, generator=g) for n in [(5, 4), *[(5,)] * 4])
    found = draw_numbers(a, 5, rng("order"))
    size = found.boxes[:, 2:]
    assert ((found.boxes[:, :2] - size / 2) / (1 - size)).allclose(place, atol=1e-4)
    area, aspect = area * .92 + .08, (aspect * 2 * math.log(4 / 3) - math.log(4 / 3)).exp()
    assert all(((area * aspect).sqrt() - w).abs().min(1).values.max() < 1e-5 for w in size[:, :1].split(5))
    assert torch.equal(found.flip, flip < .5) and torch.equal(found.order, order.argsort(1))
    changed = jitter < .8
    assert found.factors[changed].allclose(
        torch.stack([b * 1.6 + .2, c * 1.6 + .2, s * 1.6 + .2, h * .4 - .2], 1)[changed], atol=1e-6)
    assert (found.factors[~changed] == torch.tensor([1., 1, 1, 0])).all()
    assert torch.equal(found.grey, grey < .2) and torch.equal(found.blurred, blurred < .5)
    assert found.sigma.allclose(sigma * 1.9 + .1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recipe", ["simclr", "simclr-large"])
def test_colours_are_torchvisions(pixels, recipe, channels):
    "More images than a CPU recolours at a time; grey, blur and the crop with them."
    a, pixels = RECIPES[recipe], pixels[:, :channels]
    d = draw_numbers(a, len(pixels), rng("colours"))
    steps = TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue
    expected = resample(to_float(pixels), d.boxes, d.flip)
    for i, image in enumerate(expected):
        for op in d.order[i]: image = steps[op](image, d.factors[i, op].item())
        if d.grey[i] and channels == 3: image = TF.rgb_to_grayscale(image, 3)
        if a.blur and d.blurred[i]: image = TF.gaussian_blur(image, [3, 3], [d.sigma[i].item()])
        expected[i] = image
    torch.testing.assert_close(apply_views(pixels, a, d), expected, atol=1e-5, rtol=0)


def test_a_part_makes_its_part_of_the_views(pixels):
    for recipe in RECIPES.values():
        d = draw_numbers(recipe, 150, rng("part"))
        whole = apply_views(pixels, recipe, d)
        for rows in (slice(0, 7), slice(100, 150), torch.tensor([149, 3, 3])):
            torch.testing.assert_close(apply_views(pixels[rows], recipe, d.rows(rows)), whole[rows], atol=1e-6, rtol=0)


def test_no_images(): assert augment(torch.empty(0, 3, 8, 8), RECIPES["simclr"], rng("none")).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("wrong, says", [(dict(pad=2, scale=(.5, 1.)), "either `pad` or `scale`"),
                                         (dict(scale=(.5, .2)), "smaller number first"),
                                         (dict(ratio=(2., 1.)), "smaller number first")])
def test_contradictions_are_one_sentence(pixels, wrong, says):
    with pytest.raises(SettingError, match=says): augment(pixels, Augment(**wrong), rng("wrong"))
