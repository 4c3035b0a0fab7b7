"""Principal codes are standard in mean and spread; the anchor compares only the portraits drawn from them."""

import torch

from mattesmith.studio.codes import SIDE, PrincipalCodes
from mattesmith.studio.train_generator import resemblance


def blends(num: int) -> torch.Tensor:
    """Portraits [num, 3, 48, 48] that are random mixtures of twelve fixed pictures."""
    draws = torch.Generator().manual_seed(0)
    pictures = torch.randn(12, 3, 48, 48, generator=draws)
    return torch.einsum("nk,kchw->nchw", torch.randn(num, 12, generator=draws), pictures)


def test_codes_have_mean_0_and_variance_1_over_what_they_were_fitted_on() -> None:
    portraits = blends(400)
    codes = PrincipalCodes(8)
    codes.fit(portraits)
    fitted = codes(portraits)
    assert fitted.shape == (400, 8)
    assert fitted.mean(0).abs().max() < 1e-3
    assert (fitted.std(0) - 1).abs().max() < 0.01
    assert (fitted.T @ fitted / 400 - torch.eye(8)).abs().max() < 0.01


def test_a_code_is_a_small_copys_not_a_large_ones() -> None:
    codes = PrincipalCodes(4)
    codes.fit(blends(100))
    large = torch.rand(2, 3, 4 * SIDE, 4 * SIDE)
    small = torch.nn.functional.avg_pool2d(large, 4)
    assert torch.allclose(codes(large), codes(small), atol=1e-4)


def test_the_anchor_is_0_for_the_same_portraits_and_blind_to_the_others() -> None:
    real = torch.rand(4, 3, 16, 16)
    fake = real.clone()
    fake[2:] = 0
    real_features, fake_features = [[real]], [[fake]]
    assert resemblance(fake, real, fake_features, real_features, num=2) == 0
    assert resemblance(fake, real, fake_features, real_features, num=3) > 0
