"""Decisions: the first reason in a fixed order, and nothing dropped on a limit itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mattesmith.enhance import Enhanced
from mattesmith.filters import decide, is_hopeless
from mattesmith.gen import Latents, Sample

GOOD = {
    "certainty": 0.0,
    "stability": 0.0,
    "agreement": 0.1,
    "agreement_before": 0.1,
    "recomposition": 0.0,
    "realism": 0.5,
    "drift": 0.0,
    "coverage": 0.4,
    "soft_share": 0.05,
    "components": 0.0,
    "holes": 0.0,
    "border_contact": 0.0,
    "finite": 1.0,
}


def a_portrait(*, steps: int = 5, **losses: float) -> Enhanced:
    image = torch.zeros(3, 2, 2)
    sample = Sample(Latents(0, 0, 0, torch.zeros(1)), torch.zeros(1, 1), (), image)
    own = {"outside_before": 0.2, "outside_after": 0.1, "rejected": 0.0, "diverged": 0.0} | losses
    return Enhanced(sample, sample.ws, (), image, image[:1], image, own, steps)


def reason(portrait: Enhanced | None = None, *, limits: Any = None, **changed: float) -> str | None:
    return decide(portrait or a_portrait(), GOOD | changed, **(limits or {})).dropped_by


def test_a_good_portrait_is_kept_with_its_scores() -> None:
    portrait = a_portrait()
    scored = decide(portrait, GOOD)
    assert scored.dropped_by is None and scored.enhanced is portrait and scored.scores == GOOD


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("coverage", 0.01),
        ("coverage", 0.99),
        ("soft_share", 0.0),
        ("soft_share", 0.9),
        ("components", 0.5),
        ("holes", 0.5),
        ("border_contact", 1.0),
        ("certainty", 0.69),
        ("stability", 1.0),
        ("agreement", 1.0),
        ("recomposition", 1.0),
        ("realism", 100.0),
        ("drift", 6.0),
    ],
)
def test_a_limit_passed_is_the_reason(name: str, value: float) -> None:
    changed: Any = {name: value}
    assert reason(a_portrait(steps=0), **changed) == name


def test_a_limit_itself_is_kept_and_limits_are_the_callers() -> None:
    assert reason(coverage=0.25, limits={"min_coverage": 0.25}) is None
    assert reason(coverage=0.25, limits={"min_coverage": 0.26}) == "coverage"
    assert reason(holes=0.2, limits={"max_holes": 0.2}) is None


def test_an_expected_error_is_stored_and_limited_last_of_all() -> None:
    assert decide(a_portrait(), GOOD).expected_mad == -1
    limited = {"expected_mad": 5.0, "max_expected_mad": 4.0}
    scored = decide(a_portrait(), GOOD, **limited)
    assert scored.expected_mad == 5 and scored.dropped_by == "expected_mad"
    assert reason(limits={"expected_mad": 4.0, "max_expected_mad": 4.0}) is None
    assert reason(limits=limited, drift=6.0) == "drift"
    with pytest.raises(ValueError, match="needs an expected error"):
        reason(limits={"max_expected_mad": 4.0})


def test_the_first_reason_in_a_fixed_order_wins() -> None:
    everything: Any = {"coverage": 0.0, "soft_share": 0.0, "certainty": 0.69, "holes": 1.0}
    assert reason(**everything, finite=0.0) == "nan"
    assert reason(a_portrait(rejected=1.0), **everything) == "rejected"
    assert reason(**everything) == "coverage"
    assert reason(certainty=0.69, holes=1.0) == "holes"


def test_an_enhancement_that_helped_only_its_own_reference_is_an_attack() -> None:
    assert reason(agreement=0.2) == "attack"
    assert reason(agreement=0.2, limits={"max_agreement_growth": 0.2}) is None
    assert reason(a_portrait(outside_after=0.3), agreement=0.2) is None
    assert reason(a_portrait(steps=0), agreement=0.2) is None


def test_a_loop_that_diverged_late_does_not_spoil_its_best_step() -> None:
    assert reason(a_portrait(diverged=1.0)) is None


def a_disc(*, radius: int = 20, side: int = 64) -> Tensor:
    """A hard disc in the middle [1, H, W]."""
    grid = torch.arange(side) - side // 2
    return (grid[:, None].square() + grid.square() < radius**2).float()[None]


def test_only_a_matte_far_beyond_the_limits_is_hopeless() -> None:
    assert not is_hopeless(a_disc())
    assert is_hopeless(torch.zeros(1, 64, 64)) and is_hopeless(torch.ones(1, 64, 64))
    assert is_hopeless(torch.full((1, 64, 64), 0.5))
    assert is_hopeless((torch.arange(64)[:, None] < 40).float().expand(1, 64, 64))  # all of the upper border
    two = a_disc(radius=10).roll(-20, dims=-1) + a_disc(radius=10).roll(20, dims=-1)
    assert is_hopeless(two)
    assert is_hopeless(a_disc(radius=20) - a_disc(radius=10)) and not is_hopeless(a_disc(radius=20) - a_disc(radius=3))
    unsure = a_disc()
    unsure[:, 28:36, 24:40] = 0.5
    assert is_hopeless(unsure)
