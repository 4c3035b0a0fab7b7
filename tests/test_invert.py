"""Inversion: a generator's own portraits are found again, and neither slot nor neighbour changes a bit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mattesmith.enhance import Inverted, invert
from mattesmith.enhance.invert import noise_correlation, rate_at, whitened
from mattesmith.gen import Generator, Latents, draw_latents, draw_noise

SIDE = 16
Target = tuple[Latents, Tensor]


class TinyPerceptual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.conv(image)]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).square().flatten(1).mean(1)


@pytest.fixture(scope="module")
def networks() -> tuple[Any, Any]:
    torch.manual_seed(3)
    # Widths in multiples of 16, as in every public network: only then is a slot's result exact (see sampler.py).
    generator = Generator(resolution=SIDE, channels={4: 16, 8: 16, 16: 16}, z_dim=16, w_dim=16, num_mapping_layers=2)
    with torch.no_grad():
        generator.mean_w.copy_(generator.mapping(torch.randn(256, 16))[:, 0].mean(0))
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.01)
            if name.endswith("to_rgb.weight"):
                parameter.mul_(0.3)  # colours in [-1, 1], as a trained generator's are
    return tuple(network.eval().requires_grad_(False) for network in (generator, TinyPerceptual()))


def a_target(generator: Generator, candidate: int) -> Target:
    """A portrait that the generator can make, under a name that tells nothing of how."""
    latents = draw_latents(7, 0, candidate, z_dim=16)
    noise = [map_[None] for map_ in draw_noise(latents, generator.noise_sizes)]
    with torch.no_grad():
        image = generator.synthesis(generator.mapping(latents.z[None]), noise).clamp(-1, 1)[0]
    return Latents(99, 0, candidate, torch.zeros(16)), image


def run(networks: tuple[Any, Any], candidates: Any, **knobs: Any) -> list[Inverted]:
    targets = [a_target(networks[0], candidate) for candidate in candidates]
    fixed: dict[str, Any] = {"steps": 6, "slots": 4, "precision": "float32"}
    return list(invert(targets, *networks, **fixed | knobs))


def same(a: Inverted, b: Inverted) -> bool:
    pairs = zip((a.sample.ws, *a.sample.noise, a.sample.image), (b.sample.ws, *b.sample.noise, b.sample.image),
                strict=True)  # fmt: skip
    return a.losses == b.losses and all(torch.equal(x, y) for x, y in pairs)


def test_a_generators_own_portrait_is_found_again_from_the_mean_w(networks: tuple[Any, Any]) -> None:
    for one in run(networks, range(2), steps=120, slots=2):
        assert one.losses["pixel_after"] < one.losses["pixel_before"] / 10
        assert one.losses["perceptual_after"] < one.losses["perceptual_before"] / 5
        assert one.losses["steps"] == 120


def test_the_noise_stays_noise_and_without_its_regulariser_it_does_not(networks: tuple[Any, Any]) -> None:
    (kept,) = run(networks, [0], steps=30, slots=1)
    (free,) = run(networks, [0], steps=30, slots=1, noise_weight=0.0)
    assert kept.losses["noise_after"] < free.losses["noise_after"] / 10
    for map_ in kept.sample.noise:
        assert float(map_.mean()) == pytest.approx(0, abs=1e-5)
        assert float(map_.square().mean()) == pytest.approx(1, abs=1e-4)


def test_what_is_handed_on_fits_together(networks: tuple[Any, Any]) -> None:
    generator, (one,) = networks[0], run(networks, [0])
    latents, image = a_target(generator, 0)
    assert one.sample.latents.candidate == latents.candidate and torch.equal(one.target, image)
    with torch.no_grad():
        again = generator.synthesis(one.sample.ws[None], [map_[None] for map_ in one.sample.noise]).clamp(-1, 1)
    assert torch.equal(again[0], one.sample.image)
    assert one.losses["pixel_after"] == pytest.approx(float((one.sample.image - image).square().mean()))


def test_a_portrait_is_the_same_bits_in_any_slot_with_any_neighbours(networks: tuple[Any, Any]) -> None:
    (alone,) = run(networks, [0])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [4, 5, 6, 7, 0]):
        out = run(networks, order)
        assert [one.sample.latents.candidate for one in out] == order
        assert same(alone, out[order.index(0)])


def test_nan_in_one_portrait_stops_that_one_and_touches_no_other(networks: tuple[Any, Any]) -> None:
    clean = run(networks, range(3))
    targets = [a_target(networks[0], candidate) for candidate in range(3)]
    targets[1][1].fill_(float("nan"))
    out = list(invert(targets, *networks, steps=6, slots=4, precision="float32"))
    assert out[1].losses["steps"] == 0 and out[1].sample.image.isfinite().all()
    assert same(out[0], clean[0]) and same(out[2], clean[2])


def test_without_a_step_it_is_the_mean_portrait(networks: tuple[Any, Any]) -> None:
    (one,) = run(networks, [0], steps=0)
    assert torch.equal(one.sample.ws, networks[0].mean_w.expand(networks[0].num_ws, -1))
    assert one.losses["pixel_after"] == one.losses["pixel_before"]


def test_what_is_brighter_than_white_is_drawn_back(networks: tuple[Any, Any]) -> None:
    """With a clamp in the loop nothing held it, and whole portraits ran away into saturated colours."""
    generator = copy.deepcopy(networks[0])
    with torch.no_grad():
        generator._blocks()[-1].to_rgb.bias.fill_(2.0)
    white = (Latents(99, 0, 0, torch.zeros(16)), torch.ones(3, SIDE, SIDE))

    def excess(steps: int) -> float:
        (one,) = invert([white], generator, networks[1], steps=steps, slots=1, precision="float32")
        with torch.no_grad():
            noise = [map_[None] for map_ in one.sample.noise]
            return float((generator.synthesis(one.sample.ws[None], noise) - 1).clamp_min(0).mean())

    assert excess(60) < excess(0) / 2


def test_bf16_is_for_the_loop_alone_and_comes_close(networks: tuple[Any, Any]) -> None:
    full, half = (run(networks, [0], steps=40, slots=1, precision=kind)[0] for kind in ("float32", "bf16"))
    assert half.sample.image.dtype == torch.float32 and not torch.equal(half.sample.ws, full.sample.ws)
    assert half.losses["pixel_after"] < full.losses["pixel_before"] / 4


def test_wrong_sizes_and_settings_are_named(networks: tuple[Any, Any]) -> None:
    latents = a_target(networks[0], 0)[0]
    with pytest.raises(ValueError, match=r"\[3, 16, 16\], got \[3, 8, 8\]"):
        list(invert([(latents, torch.zeros(3, 8, 8))], *networks))
    with pytest.raises(ValueError, match="slots 1 or more, got 3 and 0"):
        run(networks, [0], steps=3, slots=0)
    with pytest.raises(ValueError, match="'fp8'"):
        run(networks, [0], precision="fp8")


# Parts with answers known by hand


def test_equal_neighbours_cost_at_every_scale_and_white_noise_little() -> None:
    assert float(noise_correlation([torch.ones(1, 1, 8, 8)])) == 2
    assert float(noise_correlation([torch.ones(1, 1, 16, 16)])) == 2 + 2 * 4**2  # halved, ones become twos
    squares = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert float(noise_correlation([squares.view(1, 1, 8, 8)])) == 2
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(noise_correlation([noise])) < 0.1


def test_whitened_maps_have_no_mean_and_unit_variance_each() -> None:
    maps = whitened(torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 5 + 2)
    assert torch.allclose(maps.mean((2, 3)), torch.zeros(3, 1), atol=1e-6)
    assert torch.allclose(maps.square().mean((2, 3)), torch.ones(3, 1), atol=1e-5)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and rates[5:75] == [1.0] * 70
    assert rates[87] == pytest.approx(0.5314, abs=1e-3) and 0 < rates[99] < 0.005
    assert [rate_at(0, 1), rate_at(0, 2)] == [1.0, 1.0]
