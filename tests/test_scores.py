"""Scores on mattes whose answer is known by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mattesmith.enhance import Enhanced
from mattesmith.filters import score
from mattesmith.filters import scores as s
from mattesmith.gen import Latents, Sample

SIDE = 40


def a_disc(side: int = SIDE) -> Tensor:
    """A foreground disc in the middle, [1, 1, side, side]."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 4) ** 2).float()[None, None]


def a_portrait(alpha: Tensor) -> Enhanced:
    """White where alpha is 1, black where it is 0."""
    image = (2 * alpha - 1).expand(3, -1, -1)
    sample = Sample(Latents(0, 0, 0, torch.zeros(2)), torch.zeros(1, 2), (), image)
    return Enhanced(sample, sample.ws, (), image, alpha, torch.ones_like(image), {}, 0)


class Perceptual:
    def features(self, image: Tensor) -> list[Tensor]:
        return [image.mean((2, 3))]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).abs().sum(1)


def a_discriminator(image: Tensor, *, group: int) -> Tensor:
    assert group == 1
    return torch.zeros(len(image), 1)


def scores_of(portrait: Enhanced, matting: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Any:
    networks: Any = (matting, second, Perceptual(), a_discriminator)
    return score(portrait, *networks)


def brightness(image: Tensor) -> Tensor:
    return ((image.mean(1, keepdim=True) + 1) / 2).clamp(0, 1)


# One score each


def test_the_worst_part_is_the_mean_of_the_largest_tenth() -> None:
    error = torch.zeros(2, 1, 10, 10)
    error[1, 0, 0, :5] = 1
    assert s.worst_part(error).tolist() == [0, 0.5]


def test_certainty_ignores_the_boundary_and_sees_an_unsure_patch_far_from_it() -> None:
    soft = a_disc(80)
    soft[..., 40, 20] = 0.5
    assert s.certainty(soft).item() == 0
    soft[..., :8, :80] = 0.4
    assert s.certainty(soft).item() == pytest.approx(-0.4 * np.log(0.4) - 0.6 * np.log(0.6), abs=1e-3)


def test_disagreement_is_zero_for_equal_mattes_and_one_for_opposite_ones() -> None:
    assert s.disagreement(a_disc(), [a_disc(), a_disc()]).item() == 0
    assert s.disagreement(a_disc(), [1 - a_disc()]).item() == 1


def test_coverage_and_soft_share_count_pixels() -> None:
    alpha = torch.tensor([0.0, 1.0, 0.5, 0.02]).view(1, 1, 2, 2)
    assert s.coverage(alpha).item() == pytest.approx(1.52 / 4)
    assert s.soft_share(alpha).item() == 0.25


def test_components_is_the_share_outside_the_largest_part() -> None:
    alpha = torch.zeros(3, 1, 6, 6)
    alpha[1:, 0, :3, :3] = 1
    alpha[2, 0, 5, 3:6] = 1
    assert s.components(alpha).tolist() == [0, 0, 0.25]


def test_parts_that_share_a_corner_are_one() -> None:
    alpha = torch.eye(5)[None, None]
    assert s.components(alpha).item() == 0


def test_holes_are_enclosed_background_and_open_bays_are_not() -> None:
    ring = torch.zeros(2, 1, 5, 5)
    ring[:, 0, 1:4, 1:4] = 1
    ring[:, 0, 2, 2] = 0
    ring[1, 0, 2, 3] = 0
    assert s.holes(ring).tolist() == pytest.approx([1 / 8, 0])


def test_a_diagonal_line_of_foreground_closes_a_hole() -> None:
    diamond = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).float()[None, None]
    assert s.holes(torch.nn.functional.pad(diamond, (1, 1, 1, 1))).item() == pytest.approx(1 / 4)


def test_border_contact_leaves_out_the_bottom_and_the_shoulders() -> None:
    bust = torch.zeros(2, 1, 10, 10)
    bust[:, 0, 5:] = 1
    bust[1, 0, 0] = 1
    assert s.border_contact(bust).tolist() == pytest.approx([0, 10 / 18])


def flood(mask: Any, *, diagonal: bool) -> list[tuple[int, bool]]:
    """Regions by filling from pixel to pixel: slow and plainly right."""
    left, found = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while left:
        todo, region = [left.pop()], []
        while todo:
            y, x = todo.pop()
            region.append((y, x))
            near = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if diagonal or not i or not j]
            todo += [each for each in near if each in left]
            left -= set(near)
        height, width = mask.shape
        found.append((len(region), any(y in (0, height - 1) or x in (0, width - 1) for y, x in region)))
    return sorted(found)


@pytest.mark.parametrize("diagonal", [True, False])
def test_regions_of_random_masks_are_those_of_a_flood_fill(diagonal: bool) -> None:
    stream = np.random.default_rng(0)
    for density in (0.0, 0.3, 0.5, 0.6, 0.8, 1.0):
        for _ in range(10):
            mask = stream.random((13, 17)) < density
            assert sorted(s.regions(mask, diagonal=diagonal)) == flood(mask, diagonal=diagonal)


# All of them


def test_a_sure_and_stable_matte_has_no_error() -> None:
    alpha = a_disc()

    def sure(image: Tensor) -> Tensor:
        return alpha.expand(len(image), -1, -1, -1)

    perfect = scores_of(a_portrait(alpha[0]), sure, sure)
    for name in ("certainty", "agreement", "agreement_before", "recomposition", "drift"):
        assert perfect[name] == 0
    assert perfect["coverage"] == pytest.approx(alpha.mean().item()) and perfect["finite"] == 1


def test_recomposition_sees_a_network_that_followed_the_background() -> None:
    portrait = a_portrait(a_disc()[0])
    assert scores_of(portrait, brightness, brightness)["recomposition"] > 0.3


def test_agreement_is_of_the_enhanced_and_agreement_before_of_the_original() -> None:
    alpha = a_disc()[0]
    portrait = a_portrait(alpha)
    darker = replace(portrait, sample=replace(portrait.sample, image=-torch.ones(3, SIDE, SIDE)))
    out = scores_of(darker, brightness, lambda image: torch.zeros(len(image), 1, SIDE, SIDE))
    assert out["agreement"] == 1 and out["agreement_before"] == 0


def test_scores_are_finite_and_have_the_same_keys_even_where_everything_is_nan() -> None:
    good = scores_of(a_portrait(a_disc()[0]), brightness, brightness)
    nan = scores_of(a_portrait(torch.full((1, SIDE, SIDE), float("nan"))), brightness, brightness)
    assert list(good) == list(nan) and nan["finite"] == 0
    assert all(type(value) is float and np.isfinite(value) for value in nan.values())


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_and_a_full_matte_have_scores(value: float) -> None:
    out = scores_of(a_portrait(torch.full((1, SIDE, SIDE), value)), brightness, brightness)
    assert out["finite"] == 1 and out["coverage"] == value and out["components"] == out["holes"] == 0
