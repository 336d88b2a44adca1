"Losses against other people's implementations (their own checks are beside them, in nbs/lib/08_losses.ipynb)."
import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss
from lightly.loss.emp_ssl_loss import tcr_loss

from sslnb.core import SettingError
from sslnb.losses import (barlow_twins, coding_rate, info_nce, nt_xent, nt_xent_as_published, sup_con,
                          sup_con_as_published, vicreg)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 20.0])
@pytest.mark.parametrize("n, dim", [(2, 3), (64, 128)])
def test_nt_xent_is_lightlys(n, dim, temperature):
    torch.manual_seed(n)
    z1, z2 = torch.randn(2, n, dim)
    z1.requires_grad_()
    ours, theirs = nt_xent(z1, z2, temperature), NTXentLoss(temperature)(z1, z2)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z1)[0] for loss in (ours, theirs)), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("n, dim", [(3, 2), (64, 48)])
@pytest.mark.parametrize("mine, other", [(vicreg, VICRegLoss()), (barlow_twins, BarlowTwinsLoss())])
def test_losses_of_channels_are_lightlys(mine, other, n, dim):
    torch.manual_seed(n)
    z1, z2 = 2 * torch.randn(2, n, dim) + 1
    z1.requires_grad_()
    ours, theirs = mine(z1, z2), other(z1, z2)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-4)  # theirs adds 1e-5 to variances
    torch.testing.assert_close(*(torch.autograd.grad(loss, z1)[0] for loss in (ours, theirs)), atol=1e-4, rtol=1e-3)


def test_the_coding_rate_is_lightlys():
    z = torch.nn.functional.normalize(torch.randn(3, 20, 8), dim=2)
    torch.testing.assert_close(coding_rate(z, 0.2).mean(), tcr_loss(z, 0.2))


def test_info_nce_of_views_that_see_only_the_other_half_is_a_part_of_nt_xent():
    z1, z2 = torch.randn(2, 8, 5)
    similar = torch.nn.functional.cosine_similarity(z1[:, None], z2, dim=2) / 0.3
    torch.testing.assert_close(info_nce(z1, z2, 0.3), (similar.logsumexp(1) - similar.diagonal()).mean())
    assert info_nce(z1, z2, 0.3) < nt_xent(z1, z2, 0.3) or info_nce(z2, z1, 0.3) < nt_xent(z1, z2, 0.3)
    with pytest.raises(SettingError, match="temperature = 0"): info_nce(z1, z2, 0)


def some_views(views=2, n=24, dim=16, classes=5):
    g = torch.Generator().manual_seed(views)
    return torch.randn(views * n, dim, generator=g), torch.randint(classes, (n,), generator=g)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 20.0])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_sup_con_is_pytorch_metric_learnings(views, temperature):
    theirs = pytest.importorskip("pytorch_metric_learning.losses").SupConLoss(temperature)
    z, labels = some_views(views)
    labels[0] = 9  # an image of a class of its own: without a positive where there is one view
    z.requires_grad_()
    a, b = sup_con(z, labels, temperature), theirs(z, labels.repeat(views))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (a, b)), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 20.0])
def test_sup_con_is_nt_xent_where_every_label_is_its_own(temperature):
    z, _ = some_views()
    z.requires_grad_()
    labels = torch.randperm(24)
    for loss in (sup_con, sup_con_as_published):
        ours, other = loss(z, labels, temperature), nt_xent(*z.chunk(2), temperature)
        torch.testing.assert_close(ours, other)
        torch.testing.assert_close(*(torch.autograd.grad(f, z)[0] for f in (ours, other)), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", [sup_con, sup_con_as_published])
def test_anchors_without_positives_are_left_out_of_value_and_gradient(loss):
    z, labels = some_views(1)
    labels[:4] = torch.arange(10, 14)
    z.requires_grad_()
    gradient, = torch.autograd.grad(loss(z, labels), z)
    assert gradient.isfinite().all()
    alone = loss(z[:4], labels[:4])
    alone.backward()
    assert alone == 0 and not z.grad.any()


def test_sup_con_in_half_precision_is_computed_in_full():
    z, labels = some_views()
    torch.testing.assert_close(sup_con(z.bfloat16(), labels), sup_con(z.bfloat16().float(), labels))
    assert sup_con(z.bfloat16(), labels).dtype == torch.float32


def test_l_in_is_never_above_l_out():
    for views in (1, 2, 3):
        z, labels = some_views(views)
        assert sup_con_as_published(z, labels) <= sup_con(z, labels)


def test_the_misprinted_loss_has_one_push_for_all_negatives_and_no_value_below_zero():
    z1, z2 = torch.rand(2, 8, 4) + 0.5
    assert nt_xent_as_published(z1, z2).isfinite() and nt_xent_as_published(z1, -z2).isnan()


@pytest.mark.parametrize("z, labels, temperature, words", [
    (torch.ones(6, 4), torch.zeros(4), 0.1, r"z is \(6, 4\), labels \(4,\): must be V·N×D"),
    (torch.ones(6, 4), torch.zeros(0), 0.1, r"labels \(0,\)"),
    (torch.ones(6, 4), torch.zeros(3, 2), 0.1, r"labels \(3, 2\)"),
    (torch.ones(3, 2, 4), torch.zeros(2), 0.1, r"z is \(3, 2, 4\)"),
    (torch.ones(1, 4), torch.zeros(1), 0.1, "at least 2 rows"),
    (torch.ones(6, 4), torch.zeros(3), 0, "temperature = 0"),
    (torch.ones(6, 4), torch.zeros(3), -1.0, "temperature = -1.0"),
    (torch.ones(6, 4), torch.zeros(3), float("nan"), "temperature = nan")])
def test_what_sup_con_refuses(z, labels, temperature, words):
    for loss in (sup_con, sup_con_as_published):
        with pytest.raises(SettingError, match=words): loss(z, labels.long(), temperature)


@pytest.mark.parametrize("loss", [lambda z: nt_xent(*z.chunk(2), 0.07),
                                  lambda z: sup_con(z, torch.arange(16) % 3, 0.07)])
def test_bf16_around_a_loss_does_not_reach_its_similarities(loss):
    z = (1 + 0.01 * torch.randn(32, 16, generator=torch.Generator().manual_seed(0))).requires_grad_()  # cosines near 1
    plain = loss(z)
    with torch.autocast("cpu", torch.bfloat16): mixed = loss(z)
    assert mixed.dtype == torch.float32 and torch.equal(plain, mixed)
    grads = [torch.autograd.grad(value, z)[0] for value in (plain, mixed)]
    torch.testing.assert_close(grads[1], grads[0])
