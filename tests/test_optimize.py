"""The slot engine: order, keep-best, guards, and that neither slot, neighbour nor refill changes a bit."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mattesmith.enhance import (
    PRESETS,
    Enhanced,
    Preset,
    averaged_matte,
    colour_gradient,
    enhance,
    entropy,
    final_matte,
    foreground_method,
    outside_band,
    random_control,
)
from mattesmith.enhance.light import decoded, encoded
from mattesmith.enhance.objective import Networks
from mattesmith.enhance.slots import Slots, adam_step
from mattesmith.gen import Discriminator, Generator, Sample, draw_latents, draw_noise

SIDE = 16
FREE = Preset(steps=10, patience=10, lr_ws=0.02, lr_noise=0.02, mode="all", pixel=0.1, perceptual=0.1)
COMPARED = replace(FREE, consistency=1.0, recomposition=1.0)


class TinyMatting(nn.Module):
    """Two convolutions and a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(3 * self.last(F.leaky_relu(self.first(image))))


class TinyPerceptual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.conv(image)]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).square().flatten(1).mean(1)


def frozen(network: Any) -> Any:
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def networks() -> Networks:
    torch.manual_seed(3)
    channels = {4: 8, 8: 8, 16: 8}
    generator = Generator(resolution=SIDE, channels=channels, z_dim=8, w_dim=8, num_mapping_layers=2)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.2)
    return Networks(
        frozen(generator),
        frozen(Discriminator(resolution=SIDE, channels=channels)),
        frozen(TinyMatting()),
        frozen(TinyPerceptual()),
    )


def a_sample(networks: Networks, candidate: int) -> Sample:
    latents = draw_latents(7, 0, candidate, z_dim=8)
    noise = draw_noise(latents, networks.generator.noise_sizes)
    with torch.no_grad():
        ws = networks.generator.mapping(latents.z[None])
        image = networks.generator.synthesis(ws, [map_[None] for map_ in noise]).clamp(-1, 1)
    return Sample(latents, ws[0].clone(), noise, image[0])


def run(networks: Networks, candidates: Any, **knobs: Any) -> list[Enhanced]:
    samples = (a_sample(networks, candidate) for candidate in candidates)
    fixed: Any = {"preset": FREE, "precision": "float32", "slots": 4}
    return list(enhance(samples, *networks, **fixed | knobs))


def same(a: Enhanced, b: Enhanced) -> bool:
    pairs = zip(tensors_of(a), tensors_of(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs) and a.losses == b.losses and a.steps == b.steps


def tensors_of(one: Enhanced) -> tuple[Tensor, ...]:
    return one.ws, *one.noise, one.image, one.alpha, one.foreground


# What a result may depend on


@pytest.mark.parametrize("preset", [FREE, COMPARED])
def test_a_portrait_is_the_same_bits_in_any_slot_with_any_neighbours(networks: Networks, preset: Preset) -> None:
    alone = run(networks, [0], preset=preset)[0]
    assert alone.steps > 0
    for order in ([0, 1, 2, 3], [1, 0, 2, 3], [4, 5, 0], [6, 7, 8, 0]):
        assert same(alone, run(networks, order, preset=preset)[order.index(0)])


@pytest.mark.parametrize("preset", [FREE, COMPARED])
def test_a_portrait_is_the_same_bits_after_a_refill(networks: Networks, preset: Preset) -> None:
    order = [1, 2, 3, 4, 5, 6, 0]
    hasty = replace(preset, patience=2, lr_ws=0.2, lr_noise=0.2, max_recomposition_growth=0.0)
    many = run(networks, order, preset=hasty)
    alone = run(networks, [0], preset=hasty)[0]
    assert same(alone, many[-1])


@pytest.mark.parametrize(("steps", "computed"), [(4, 4), (5, 5), (6, 6), (7, 8), (20, 20)])
def test_looks_at_equal_distances_waste_few_steps(
    networks: Networks, monkeypatch: pytest.MonkeyPatch, steps: int, computed: int
) -> None:
    counted = []
    step = Slots.step
    monkeypatch.setattr(Slots, "step", lambda slots: (counted.append(1), step(slots)))
    run(networks, [0, 1, 2, 3], preset=replace(FREE, steps=steps, patience=steps))
    assert len(counted) == computed


def test_portraits_leave_in_the_order_in_which_they_came_whoever_is_done_first(networks: Networks) -> None:
    order = [5, 3, 1, 0, 2, 4, 6, 8, 7]
    fickle = replace(FREE, patience=2, lr_ws=0.1, lr_noise=0.1)
    out = run(networks, order, preset=fickle, check_every=1, slots=3)
    assert [one.sample.latents.candidate for one in out] == order
    assert len({one.steps for one in out}) > 1


def test_a_candidate_is_drawn_only_when_a_slot_is_free(networks: Networks) -> None:
    drawn = []

    def samples() -> Iterator[Sample]:
        for candidate in range(100):
            drawn.append(candidate)
            yield a_sample(networks, candidate)

    next(enhance(samples(), *networks, preset=FREE, precision="float32", slots=3))
    assert drawn == [0, 1, 2]


def test_the_callers_gradient_mode_is_left_alone(networks: Networks) -> None:
    for _ in enhance([a_sample(networks, 0)], *networks, preset=FREE):
        assert torch.is_grad_enabled()


# Divergence


class Poison(nn.Module):
    """A generator whose portrait of one candidate turns to NaN, at once or once it has moved."""

    def __init__(self, generator: Generator, original: Tensor, *, tolerance: float) -> None:
        super().__init__()
        self.generator, self.original, self.tolerance = generator, original, tolerance

    def synthesis(self, ws: Tensor, noise: Any) -> Tensor:
        image = self.generator.synthesis(ws, noise)
        distance = (ws.detach() - self.original).abs().amax((1, 2))
        sick = (distance >= self.tolerance) & (distance < 0.5)
        return image + torch.where(sick, float("nan"), 0.0).view(-1, 1, 1, 1)


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_nan_in_one_slot_stops_that_one_and_touches_no_other(networks: Networks, tolerance: float) -> None:
    sick = a_sample(networks, 1)
    poisoned: Any = Poison(networks.generator, sick.ws, tolerance=tolerance)
    clean = run(networks, range(6))
    samples = [a_sample(networks, candidate) for candidate in range(6)]
    out = list(enhance(samples, poisoned, *networks[1:], preset=FREE, precision="float32", slots=4))
    assert out[1].losses["diverged"] == 1 and out[1].steps == 0
    assert torch.equal(out[1].image, sick.image) and torch.equal(out[1].ws, sick.ws)
    assert all(same(out[index], clean[index]) for index in (0, 2, 3, 4, 5))


def test_a_portrait_that_is_nan_from_the_start_is_still_accounted_for_with_finite_losses(networks: Networks) -> None:
    broken = replace(a_sample(networks, 0), image=torch.full((3, SIDE, SIDE), float("nan")))
    (out,) = enhance([broken], *networks, preset=FREE, precision="float32")
    assert out.steps == 0 and out.losses["diverged"] == 1
    assert all(torch.tensor(value).isfinite() for value in out.losses.values())


# Trimaps


class TinyTrimapMatting(TinyMatting):
    """A tiny network that estimates only what a trimap leaves unknown, and notes what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Tensor] = []

    def forward(self, image: Tensor, trimap: Tensor | None = None) -> Tensor:
        trimap = torch.full_like(image[:, :1], 0.5) if trimap is None else trimap
        self.told.append(trimap)
        return torch.where(trimap == 0.5, super().forward(image), trimap)


class TinyCoarse(TinyMatting):
    """Another matte, from which trimaps are derived."""

    makes_trimap = False


class Alternating(nn.Module):
    """A matte that is full at every other call, and empty in between."""

    makes_trimap = False
    num_asked = 0

    def forward(self, image: Tensor) -> Tensor:
        self.num_asked += 1
        return torch.full_like(image[:, :1], self.num_asked % 2)


class TinyClasses(nn.Module):
    """Logits of three classes, straight from the colours, through the attribute that real ones have."""

    makes_trimap = True

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Conv2d(3, 3, 1)


@pytest.fixture(scope="module", params=[TinyCoarse, TinyClasses])
def trimap_networks(request: pytest.FixtureRequest, networks: Networks) -> Networks:
    torch.manual_seed(5)
    return networks._replace(matting=frozen(TinyTrimapMatting()), trimap=frozen(request.param()))


def test_with_derived_trimaps_too_a_portrait_is_the_same_bits_wherever_it_is(trimap_networks: Networks) -> None:
    """Neighbours come at other times, so that their trimaps are due at other steps of the batch."""
    fickle = replace(FREE, consistency=0.01, recomposition=0.01, patience=3, trimap_every=3)
    alone = run(trimap_networks, [0], preset=fickle, check_every=1)[0]
    assert alone.steps > 0
    for order in ([0, 1, 2, 3], [1, 2, 0], [4, 5, 1, 2, 3, 6, 7, 0]):
        assert same(alone, run(trimap_networks, order, preset=fickle, check_every=1)[order.index(0)])


def test_a_slots_trimap_is_derived_anew_every_so_many_steps_of_its_own(networks: Networks) -> None:
    """The coarse matte is full when it is first asked for, empty the second time."""
    matting, coarse = TinyTrimapMatting(), Alternating()
    both = networks._replace(matting=frozen(matting), trimap=frozen(coarse))
    fixed: Any = {"steps": 6, "patience": 6, "trimap_every": 3}
    list(enhance([a_sample(networks, 0)], *both, preset=replace(FREE, **fixed), slots=1, check_every=6))
    told = [trimap.unique().tolist() for trimap in matting.told[1:7]]  # the first call is of the original
    assert told == [[1], [1], [1], [0], [0], [0]]


def test_the_entropy_of_a_trimap_networks_classes_is_what_the_paper_charges(networks: Networks) -> None:
    classes: Any = frozen(TinyClasses())
    sample = a_sample(networks, 0)
    all_of_it = networks._replace(matting=frozen(TinyTrimapMatting()), trimap=classes)
    (out,) = enhance([sample], *all_of_it, preset="paper", steps=0)
    log_p = classes.network(sample.image[None]).log_softmax(1)
    expected = -(log_p.exp() * log_p).sum(1).mean().item()
    assert out.losses["entropy_before"] == pytest.approx(expected, rel=1e-5)
    moved = run(all_of_it, [0], preset=replace(FREE, entropy=10.0))[0]
    assert moved.steps > 0 and moved.losses["entropy_after"] < moved.losses["entropy_before"]


def test_the_entropy_is_alphas_where_no_network_has_classes(networks: Networks) -> None:
    matting = frozen(TinyTrimapMatting())
    sample = a_sample(networks, 0)
    (out,) = enhance([sample], *networks._replace(matting=matting, trimap=frozen(TinyCoarse())), steps=0)
    expected = entropy(matting(sample.image[None])).item()
    assert out.losses["entropy_before"] == pytest.approx(expected, rel=1e-5)


# Without a discriminator, other foregrounds


def test_without_a_discriminator_there_is_no_adversarial_term(networks: Networks) -> None:
    deaf = networks._replace(discriminator=None)
    (out,) = run(deaf, [0])
    assert out.steps > 0 and not [name for name in out.losses if "adversarial" in name]
    (same_weight,) = run(networks, [0], preset=replace(FREE, adversarial=0.0))
    assert torch.allclose(out.image, same_weight.image, atol=1e-5)


def test_the_foreground_is_the_one_that_was_asked_for(networks: Networks, need_pymatting: Callable[[], None]) -> None:
    need_pymatting()
    (out,) = run(networks, [0], foreground="pymatting", steps=0)
    expected, _ = foreground_method("pymatting")(out.image[None], out.alpha[None])
    assert torch.equal(out.foreground, expected[0])
    (fast,) = run(networks, [0], foreground="fast", steps=0)
    assert not torch.equal(out.foreground, fast.foreground)


# Comparing with the original's averaged matte


def test_consistency_is_the_distance_from_the_originals_averaged_matte_in_the_band(networks: Networks) -> None:
    only = replace(FREE, entropy=0.0, adversarial=0.0, consistency=10.0)
    (moved,) = run(networks, [0], preset=only)
    image = moved.sample.image[None]
    alpha = networks.matting(image)
    off, band = (alpha - averaged_matte(networks.matting, image)).abs(), 1 - outside_band(alpha)
    assert band.sum() > 0
    assert moved.losses["consistency_before"] == pytest.approx(float((off * band).sum() / band.sum()), rel=1e-5)
    assert moved.steps > 0 and moved.losses["consistency_after"] < moved.losses["consistency_before"]


def test_recomposition_is_the_distance_of_the_mirrored_matte_over_another_background(networks: Networks) -> None:
    only = replace(FREE, entropy=0.0, adversarial=0.0, recomposition=10.0)
    (moved,) = run(networks, [0], preset=only)
    image = moved.sample.image[None]
    alpha, cut = networks.matting(image), averaged_matte(networks.matting, image)
    foreground, _ = foreground_method("fast")(image, alpha)
    background = colour_gradient(moved.sample.latents, SIDE)[None]
    mixed = encoded(cut * decoded(foreground) + (1 - cut) * decoded(background))  # light adds up, sRGB values do not
    again = networks.matting(mixed.flip(-1)).flip(-1)
    assert moved.losses["recomposition_before"] == pytest.approx(float((again - cut).abs().mean()), rel=1e-4)
    assert moved.steps > 0 and moved.losses["recomposition_after"] < moved.losses["recomposition_before"]


def test_a_term_without_a_weight_is_not_computed(networks: Networks) -> None:
    (bare,) = run(networks, [0], preset=replace(FREE, adversarial=0.0))
    assert not [name for name in bare.losses if name.startswith(("consistency", "recomposition", "adversarial"))]


# Keep-best, guards, presets


def test_a_kept_step_has_a_lower_objective_and_the_losses_always_have_the_same_keys(networks: Networks) -> None:
    out = run(networks, range(6)) + run(networks, [0], steps=0)
    for one in out:
        after, before = one.losses["objective_after"], one.losses["objective_before"]
        assert after < before if one.steps else after == before
    assert len({tuple(one.losses) for one in out}) == 1
    assert all(type(value) is float for one in out for value in one.losses.values())


def test_where_no_step_helps_the_original_is_kept(networks: Networks) -> None:
    sample = a_sample(networks, 0)
    (out,) = enhance([sample], *networks, preset=replace(FREE, lr_ws=0.0, lr_noise=0.0), precision="float32")
    assert out.steps == 0 and torch.equal(out.image, sample.image) and torch.equal(out.ws, sample.ws)
    assert out.losses["drift_ws"] == 0 and out.losses["rejected"] == 0


@pytest.mark.parametrize(
    ("bound", "name", "limit"),
    [
        ("max_area_change", "area_change", 0.002),
        ("max_drift_ws", "drift_ws", 0.02),
        ("max_drift_noise", "drift_noise", 0.02),
        ("max_perceptual", "perceptual", 0.001),
    ],
)
def test_no_kept_step_passes_a_guard(networks: Networks, bound: str, name: str, limit: float) -> None:
    free = run(networks, range(4))
    bounds: Any = {bound: limit}
    guarded = run(networks, range(4), preset=replace(FREE, **bounds))
    assert max(one.losses[name] for one in free) > limit
    assert max(one.losses[name] for one in guarded) <= limit


def test_the_soft_share_inside_the_band_keeps_its_floor(networks: Networks) -> None:
    out = run(networks, range(4), preset=replace(FREE, min_soft_ratio=0.99, entropy=100.0))
    assert all(one.losses["soft_loss"] <= 0.0101 for one in out)


def test_where_the_entropy_outside_the_band_may_not_grow_it_does_not(networks: Networks) -> None:
    sly = replace(FREE, entropy=-1.0)
    grown = run(networks, range(4), preset=sly)
    assert max(one.losses["outside_growth"] for one in grown) > 0
    guarded = run(networks, range(4), preset=replace(sly, max_outside_growth=0.0))
    assert all(one.losses["outside_after"] <= one.losses["outside_before"] for one in guarded)


def test_where_the_recomposition_may_not_get_worse_it_does_not(networks: Networks) -> None:
    sly = replace(FREE, recomposition=-10.0)
    grown = run(networks, range(4), preset=sly)
    assert max(one.losses["recomposition_growth"] for one in grown) > 0
    guarded = run(networks, range(4), preset=replace(sly, max_recomposition_growth=0.0))
    assert all(one.losses["recomposition_after"] <= one.losses["recomposition_before"] for one in guarded)


def test_only_the_chosen_variables_move(networks: Networks) -> None:
    sample = a_sample(networks, 0)
    (noise,) = run(networks, [0], variables="noise")
    (latent,) = run(networks, [0], variables="latent")
    assert noise.steps and torch.equal(noise.ws, sample.ws) and not torch.equal(noise.noise[-1], sample.noise[-1])
    assert latent.steps and not torch.equal(latent.ws, sample.ws)
    assert all(torch.equal(a, b) for a, b in zip(latent.noise, sample.noise, strict=True))


def test_the_preset_of_the_paper_is_its_table() -> None:
    paper = PRESETS["paper"]
    assert (paper.entropy, paper.adversarial, paper.pixel, paper.perceptual) == (1, 1, 10, 100)
    assert paper.consistency == paper.recomposition == 0
    assert (paper.steps, paper.lr_ws, paper.lr_noise, paper.variables, paper.mode) == (500, 1e-4, 1e-4, "both", "all")
    bounds = (paper.max_area_change, paper.max_drift_ws, paper.max_drift_noise, paper.max_perceptual)
    assert paper.guard == paper.min_soft_ratio == 0 and {*bounds, paper.max_outside_growth} == {float("inf")}


def test_a_rejected_portrait_takes_no_step_and_is_still_yielded_in_its_place(networks: Networks) -> None:
    samples = [a_sample(networks, candidate) for candidate in range(5)]
    out = list(
        enhance(
            samples, *networks, preset=FREE, slots=2, reject=lambda sample, alpha: sample.latents.candidate in (1, 4)
        )
    )
    assert [one.losses["rejected"] for one in out] == [0, 1, 0, 0, 1]
    assert [one.sample.latents.candidate for one in out] == [0, 1, 2, 3, 4] and out[1].steps == 0


def test_a_photo_keeps_what_the_generator_lacks_of_it(networks: Networks) -> None:
    found = a_sample(networks, 0)
    photo = replace(found, image=(0.5 * found.image + 0.2).flip(-1), is_photo=True)
    fixed: Any = {"preset": FREE, "precision": "float32", "slots": 1}
    (kept,) = enhance([photo], *networks, **fixed, steps=0)
    assert torch.equal(kept.image, photo.image)
    (one,) = enhance([photo], *networks, **fixed)
    assert one.steps > 0 and one.losses["objective_after"] < one.losses["objective_before"]
    with torch.no_grad():
        before, after = (
            networks.generator.synthesis(x.ws[None], [map_[None] for map_ in x.noise])[0] for x in (found, one)
        )
    torch.testing.assert_close(one.image, (photo.image + after - before).clamp(-1, 1), rtol=0, atol=1e-5)
    assert float((one.image - photo.image).abs().mean()) > 1e-4


def test_bfloat16_is_of_the_loop_alone(networks: Networks) -> None:
    (out,) = run(networks, [0], precision="bf16")
    assert out.steps > 0 and all(tensor.dtype == torch.float32 for tensor in tensors_of(out))
    with torch.no_grad():
        image = networks.generator.synthesis(out.ws[None], [map_[None] for map_ in out.noise]).clamp(-1, 1)
    assert torch.equal(image[0], out.image)


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"preset": "best"}, "best"),
        ({"variables": "w"}, "variables"),
        ({"steps": -1}, "steps"),
        ({"slots": 0}, "slots"),
        ({"precision": "fp8"}, "precision"),
        ({"foreground": "slow"}, "foreground"),
        ({"preset": replace(FREE, trimap_every=0)}, "trimap_every"),
    ],
)
def test_a_wrong_knob_is_named_before_any_sample_is_drawn(networks: Networks, knobs: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        enhance([], *networks, **knobs)


# Parts


def test_adam_with_a_step_count_per_slot_is_torchs_adam_of_each_slot() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(6, 2, 3)
    value, first, second = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)
    count = torch.zeros(2, dtype=torch.long)
    for step in range(6):
        active = torch.tensor([step < 4, step >= 2])  # the second slot starts two steps later
        count += active
        adam_step(value, gradients[step], first, second, count, active=active, lr=0.1)
    for slot, steps in ((0, range(4)), (1, range(2, 6))):
        reference = torch.zeros(3, requires_grad=True)
        adam = torch.optim.Adam([reference], lr=0.1)
        for step in steps:
            reference.grad = gradients[step, slot].clone()
            adam.step()
        assert torch.allclose(value[slot], reference.detach(), atol=1e-6)


def test_adam_leaves_an_inactive_slot_alone_whatever_its_gradient() -> None:
    value, first, second = torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2, 1)
    gradient = torch.tensor([[float("nan")], [1.0]])
    count = torch.ones(2, dtype=torch.long)
    adam_step(value, gradient, first, second, count, active=torch.tensor([False, True]), lr=0.5)
    assert value[0] == 1 and first[0] == 0 and second[0] == 0
    assert value[1].item() == pytest.approx(0.5)


def test_a_known_plain_matte_changes_nothing_of_the_averaged_one(networks: Networks) -> None:
    image = a_sample(networks, 0).image[None]
    direct = networks.matting(image)
    torch.testing.assert_close(averaged_matte(networks.matting, image, direct=direct),
                               averaged_matte(networks.matting, image), rtol=0, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("recomposition", [0.0, 1.0])
def test_a_kept_original_has_its_final_matte(networks: Networks, recomposition: float) -> None:
    sample = a_sample(networks, 0)
    (out,) = run(networks, [0], preset=replace(FREE, recomposition=recomposition), steps=0)
    torch.testing.assert_close(out.alpha, final_matte(networks.matting, sample.image[None])[0], rtol=0, atol=1e-5)
    if recomposition:
        assert out.losses["recomposition_before"] == out.losses["recomposition_after"] > 0


def test_a_final_matte_is_whole_where_a_sigmoid_is_all_but_whole_and_one_half_stays() -> None:
    for said, stored in ((0.996, 1), (0.995, 1), (0.99, 0.9949), (0.5, 0.5), (0.01, 0.0051), (0.005, 0), (0.001, 0)):
        even: Any = lambda image, said=said: torch.full_like(image[:, :1], said)  # noqa: E731
        alpha = final_matte(even, torch.zeros(1, 3, 8, 8))
        assert alpha.min() == alpha.max() and alpha.max().item() == pytest.approx(stored, abs=1e-4)


def test_the_averaged_matte_of_a_pixelwise_network_is_its_matte_and_stays_in_range() -> None:
    left: Any = lambda image: (image.mean(1, keepdim=True) > 0).float() * 1.5  # noqa: E731
    image = -torch.ones(1, 3, 8, 8)
    image[..., :4] = 1
    alpha = averaged_matte(left, image)
    assert alpha.shape == (1, 1, 8, 8) and alpha[..., :4].min() == 1 and alpha[..., 4:].max() == 0


def test_the_averaged_matte_is_the_mean_over_the_mirror_image_as_sharp_as_they_are() -> None:
    place: Any = lambda image: torch.linspace(0, 1, 8).expand(len(image), 1, 8, 8)  # noqa: E731
    assert averaged_matte(place, torch.zeros(2, 3, 8, 8)).flatten().tolist() == pytest.approx([0.5] * 128)
    dots: Any = lambda image: image[:, :1]  # noqa: E731
    image = torch.eye(8).expand(1, 3, 8, 8)
    torch.testing.assert_close(averaged_matte(dots, image)[0, 0], torch.eye(8))


def test_a_background_belongs_to_its_candidate() -> None:
    a, b = draw_latents(1, 0, 0, z_dim=2), draw_latents(1, 0, 1, z_dim=2)
    assert torch.equal(colour_gradient(a, 8), colour_gradient(a, 8))
    assert not torch.equal(colour_gradient(a, 8), colour_gradient(b, 8))
    assert colour_gradient(a, 8).shape == (3, 8, 8) and colour_gradient(a, 8).abs().max() <= 1


def test_the_random_control_moves_every_part_as_far_as_the_enhancement_did(networks: Networks) -> None:
    out = run(networks, [0])
    (control,) = random_control(out, *networks, preset=FREE)
    sample = out[0].sample
    moved, random = (out[0].ws - sample.ws).norm(dim=1), (control.ws - sample.ws).norm(dim=1)
    assert torch.allclose(moved, random, rtol=1e-4) and not torch.allclose(out[0].ws, control.ws)
    assert control.losses["drift_noise"] == pytest.approx(out[0].losses["drift_noise"], rel=1e-3)
    assert tuple(control.losses) == tuple(out[0].losses)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_compiled_it_finds_the_same_portrait_but_for_rounding(networks: Networks) -> None:
    sample = a_sample(networks, 0)
    settings: Any = {"preset": replace(FREE, steps=4), "slots": 2, "precision": "float32"}
    plain, compiled = (next(enhance([sample], *networks, **settings, compiled=each)) for each in (False, True))
    assert compiled.steps == plain.steps > 0
    torch.testing.assert_close(compiled.image, plain.image, rtol=0, atol=1e-3)


def test_without_a_compiler_compiling_is_refused(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler, and found no no-such-compiler"):
        enhance([], *networks, compiled=True)
