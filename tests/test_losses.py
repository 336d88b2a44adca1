"Losses against other people's implementations (their own checks are beside them, in nbs/lib/losses.ipynb)."
import pytest
import torch
from lightly.loss import NTXentLoss

from sslnb.losses import nt_xent


@pytest.mark.parametrize("temperature", [0.07, 0.5, 20.0])
@pytest.mark.parametrize("n, dim", [(2, 3), (64, 128)])
def test_nt_xent_is_lightlys(n, dim, temperature):
    torch.manual_seed(n)
    z1, z2 = torch.randn(2, n, dim)
    z1.requires_grad_()
    ours, theirs = nt_xent(z1, z2, temperature), NTXentLoss(temperature)(z1, z2)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z1)[0] for loss in (ours, theirs)), atol=1e-6, rtol=1e-4)
