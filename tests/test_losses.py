"""Losses and guarded measures, by hand."""

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from mattesmith.enhance import losses
from mattesmith.enhance.light import encoded


def a_matte(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_entropy_is_log_two_where_alpha_is_a_half_and_nothing_where_it_is_decided() -> None:
    assert losses.entropy(a_matte(0.5, 0.5)).item() == pytest.approx(log(2), abs=2e-4)
    assert losses.entropy(a_matte(0.0, 1.0)).item() == 0
    assert losses.entropy(a_matte(0.5, 0.0)).item() == pytest.approx(log(2) / 2, abs=2e-4)


def test_entropy_is_charged_only_where_it_weighs() -> None:
    assert losses.entropy(a_matte(0.5, 0.0), a_matte(0.0, 1.0)).item() == 0
    assert losses.entropy(a_matte(0.5, 0.0), a_matte(1.0, 0.0)).item() == pytest.approx(log(2), abs=2e-4)
    assert losses.entropy(a_matte(0.5, 0.5), a_matte(0.0, 0.0)).item() == 0


def test_the_gradient_of_entropy_is_finite_and_alive_at_zero_and_one() -> None:
    alpha = a_matte(0.0, 1.0, 1e-9, 0.3).requires_grad_()
    (slope,) = torch.autograd.grad(losses.entropy(alpha).sum(), alpha)
    assert slope.isfinite().all() and slope.flatten()[0] > 0 > slope.flatten()[1]


def test_trimap_entropy_of_three_equal_classes_is_log_three_and_of_a_sure_one_nothing() -> None:
    logits = torch.zeros(2, 3, 1, 1)
    logits[1, 0] = 1e4
    assert losses.trimap_entropy(logits).tolist() == pytest.approx([log(3), 0])


def test_adversarial_is_softplus_of_minus_the_logit_with_each_image_alone() -> None:
    groups = []

    def discriminator(image: Tensor, *, group: int) -> Tensor:
        groups.append(group)
        return image.mean((1, 2, 3))[:, None]

    image = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 100.0)])
    fake: Any = discriminator
    assert losses.adversarial(fake, image).tolist() == pytest.approx([log(2), 0])
    assert groups == [1]


def test_pixel_is_the_mean_squared_difference_of_each_image() -> None:
    image = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    assert losses.pixel(image, -image).tolist() == [0, 4]


class Colour:
    """Features: the image itself."""

    def features(self, image: Tensor) -> list[Tensor]:
        return [image]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).abs().flatten(1).mean(1)


def test_perceptual_compares_with_the_stored_features_at_the_given_size() -> None:
    network: Any = Colour()
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 3, 8, 8)
    for max_side, distance in ((8, 1.0), (4, 0.0)):  # block means do not see single-pixel stripes
        features = losses.perceptual_features(network, torch.zeros(1, 3, 8, 8), max_side=max_side)
        assert losses.perceptual(network, stripes, features, max_side=max_side).item() == distance


def test_composite_takes_the_foreground_where_alpha_is_one() -> None:
    mixed = losses.composite(a_matte(1.0, 0.0, 0.5), torch.ones(1, 3, 1, 3), -torch.ones(1, 3, 1, 3))
    half = 1.055 * 0.5 ** (1 / 2.4) - 0.055  # of the light, as sRGB says it
    assert mixed[0, 0, 0].tolist() == pytest.approx([1, -1, 2 * half - 1], abs=1e-6)


def test_a_composites_slope_is_finite_in_black_too() -> None:
    foreground = torch.tensor([-1.0, -0.999, 0.9]).expand(1, 3, 1, 3).clone().requires_grad_()
    losses.composite(a_matte(0.5, 0.5, 0.5), foreground, foreground.detach()).sum().backward()
    assert foreground.grad is not None and foreground.grad.isfinite().all() and (foreground.grad[..., 1:] > 0).all()


def test_encoding_has_a_finite_slope_at_exactly_no_light_whatever_a_clamp_passes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clamp = Tensor.clamp
    monkeypatch.setattr(Tensor, "clamp", lambda x, low, high: x + (clamp(x, low, high) - x).detach())  # all of it
    black = torch.full((1, 3, 2, 2), -1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(encoded(black).sum(), black)
    assert slope.unique().tolist() == pytest.approx([12.92])


def test_encoding_is_the_formula_to_the_last_bit() -> None:
    light = torch.cat([torch.linspace(0, 1, 1_000_001), torch.linspace(0.0031, 0.0032, 10_001)])
    image = light * 2 - 1
    light = ((image + 1) / 2).clamp(0, 1)
    formula = torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 2 - 1
    assert torch.equal(encoded(image), formula)


def test_the_band_lies_around_the_boundary_and_a_speck_has_none() -> None:
    alpha = torch.zeros(1, 1, 64, 64)
    alpha[..., 32:] = 1
    alpha[..., 10, 5] = 1
    outside = losses.outside_band(alpha, width=4 / 64)
    assert outside[0, 0, 50, 28:36].sum() == 0
    assert outside[0, 0, 50, :28].min() == 1 and outside[0, 0, 50, 36:].min() == 1
    assert outside[0, 0, 5:15, :10].min() == 1


def test_area_change_is_relative_to_the_original_and_bounded_for_an_empty_one() -> None:
    assert losses.area_change(a_matte(1.0, 0.5), a_matte(1.0, 0.0)).item() == pytest.approx(0.5)
    assert losses.area_change(a_matte(1.0, 1.0), a_matte(0.0, 0.0)).item() == pytest.approx(100)


def test_softness_is_one_at_a_half_and_zero_where_decided() -> None:
    assert losses.softness(a_matte(0.5, 1.0)).item() == 0.5
    assert losses.softness(a_matte(0.5, 1.0), a_matte(1.0, 0.0)).item() == 1


def test_drifts_are_root_mean_squares_each_sample_of_its_own() -> None:
    ws = torch.full((2, 3, 4), 2.0)
    drift = losses.latent_drift(ws * torch.tensor([1.0, 1.5]).view(2, 1, 1), ws)
    assert drift.tolist() == pytest.approx([0, 0.5], abs=1e-5)
    noise = (torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 2, 2))
    moved = (torch.tensor([0.0, 5.0]).view(2, 1, 1, 1), torch.zeros(2, 1, 2, 2))
    assert losses.noise_drift(moved, noise).tolist() == pytest.approx([0, 5**0.5], abs=1e-5)


def test_a_drift_of_nothing_has_a_finite_gradient() -> None:
    ws = torch.ones(1, 2, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.latent_drift(ws, torch.ones(1, 2, 2)).sum(), ws)
    assert slope.isfinite().all()


def test_excess_is_zero_below_the_bound() -> None:
    assert losses.excess(torch.tensor([0.5, 1.0, 1.5]), 1.0).tolist() == [0, 0, 0.5]
