"""Foreground colours of composites whose foreground is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mattesmith.enhance.foreground import estimate_foreground, level_sizes, neighbours

RED, BLUE = torch.tensor([0.8, -0.2, -0.9]).view(1, 3, 1, 1), torch.tensor([-0.7, 0.5, 0.9]).view(1, 3, 1, 1)


def hair_like(side: int) -> Tensor:
    """A disc with a wide ring of strands around it, [1, 1, side, side] in [0, 1]."""
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    radius, angle = (xs**2 + ys**2).sqrt(), torch.atan2(ys, xs)
    strands = torch.sigmoid((torch.sin(angle * 40) + 0.6 - (radius - 0.5) * 4) * 4) * torch.sigmoid((0.8 - radius) * 40)
    alpha = torch.where(radius < 0.5, torch.ones(()), strands)
    return F.avg_pool2d(alpha[None, None], 3, 1, 1)


def smooth_colours(seed: int, side: int) -> Tensor:
    few = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(F.interpolate(few, (side, side), mode="bicubic") / 2)


def composite(foreground: Tensor, background: Tensor, alpha: Tensor) -> Tensor:
    return alpha * foreground + (1 - alpha) * background


def test_constant_colours_come_back() -> None:
    alpha = hair_like(96)
    foreground, background = estimate_foreground(composite(RED, BLUE, alpha), alpha)
    assert (foreground - RED).abs().max() < 0.02 and (background - BLUE).abs().max() < 0.02


def test_varying_colours_come_back_where_the_person_is() -> None:
    alpha, red, blue = hair_like(128), smooth_colours(1, 128), smooth_colours(2, 128)
    image = composite(red, blue, alpha)
    foreground, background = estimate_foreground(image, alpha)
    error = (foreground - red).abs().mean(1, keepdim=True)
    assert error[alpha > 0.5].mean() < 0.02 and error[alpha > 0.1].mean() < 0.03
    untouched = (image - red).abs().mean(1, keepdim=True)
    assert error[(alpha > 0.1) & (alpha < 0.9)].mean() < untouched[(alpha > 0.1) & (alpha < 0.9)].mean() / 2
    assert (composite(foreground, background, alpha) - image).abs().max() < 1e-3


def test_a_sure_pixel_keeps_its_colour() -> None:
    alpha = torch.zeros(1, 1, 16, 16)
    alpha[..., 4:12, 4:12] = 1
    image = smooth_colours(3, 16)
    foreground, background = estimate_foreground(image, alpha)
    inside = (alpha == 1).expand_as(image)
    torch.testing.assert_close(foreground[inside], image[inside])
    torch.testing.assert_close(background[~inside], image[~inside])


def test_the_two_composite_to_the_image_again_even_for_a_wrong_alpha() -> None:
    image, alpha = smooth_colours(8, 32) * 0.5, hair_like(32)
    torch.testing.assert_close(composite(*estimate_foreground(image, alpha), alpha), image)


def test_the_foregrounds_colour_goes_on_outside_without_dark_fringes() -> None:
    alpha = hair_like(64)
    foreground, _ = estimate_foreground(composite(torch.full((1, 3, 1, 1), 0.9), torch.tensor(-1.0), alpha), alpha)
    assert foreground.min() > 0.85


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_or_full_matte_gives_finite_colours(value: float) -> None:
    image = smooth_colours(4, 20)
    found = estimate_foreground(image, torch.full((1, 1, 20, 20), value))
    assert all(bool(each.isfinite().all()) and each.shape == image.shape for each in found)
    torch.testing.assert_close(found[0 if value else 1], image, atol=1e-3, rtol=0)


def test_an_image_gives_the_same_colours_whatever_its_batch() -> None:
    image = torch.cat([smooth_colours(seed, 24) for seed in (5, 6)])
    alpha = hair_like(24).expand(2, 1, 24, 24)
    torch.testing.assert_close(estimate_foreground(image, alpha)[0][1:], estimate_foreground(image[1:], alpha[1:])[0])


def test_a_mirrored_image_gives_mirrored_colours() -> None:
    image, alpha = smooth_colours(7, 32), hair_like(32)
    mirrored = estimate_foreground(image.flip(3), alpha.flip(3))[0].flip(3)
    torch.testing.assert_close(mirrored, estimate_foreground(image, alpha)[0], atol=1e-4, rtol=0)


def test_an_alpha_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"alpha must be \[1, 1, 8, 8\] for this image, got \[1, 1, 8, 4\]"):
        estimate_foreground(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 4))


def test_levels_halve_with_rounding_up() -> None:
    assert level_sizes((5, 2)) == [(1, 1), (2, 1), (3, 1), (5, 2)]


def test_neighbours_by_hand() -> None:
    above, below, left, right = neighbours(torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None])
    assert above.flatten().tolist() == [1, 2, 1, 2] and below.flatten().tolist() == [3, 4, 3, 4]
    assert left.flatten().tolist() == [1, 1, 3, 3] and right.flatten().tolist() == [2, 2, 4, 4]
