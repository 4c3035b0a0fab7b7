"""Scores and limits -> kept, or dropped with its reason."""

from dataclasses import dataclass
from math import inf

from torch import Tensor

from ..enhance import Enhanced
from .calibration import UNCALIBRATED
from .scores import FINITE, border_contact, certainty, components, coverage, holes, soft_share


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One candidate with all its scores, kept or not."""

    enhanced: Enhanced
    scores: dict[str, float]  # the same keys in the same order for every candidate, always finite
    expected_mad: float  # mean absolute error of alpha x1000, see `calibration`; -1.0 where nothing can be expected
    dropped_by: str | None  # None: kept


def decide(
    enhanced: Enhanced,
    scores: dict[str, float],
    *,
    expected_mad: float = UNCALIBRATED,
    max_expected_mad: float = inf,
    min_coverage: float = 0.1,
    max_coverage: float = 0.9,
    min_soft_share: float = 0.002,
    max_soft_share: float = 0.35,
    max_components: float = 0.03,
    max_holes: float = 0.03,
    max_border_contact: float = 0.35,
    max_agreement_growth: float = 0.05,
    max_certainty: float = 0.15,
    max_stability: float = 0.15,
    max_agreement: float = 0.3,
    max_recomposition: float = 0.25,
    max_realism: float = 5.0,
    max_drift: float = 0.3,
) -> Scored:
    """Keeps a candidate, or names the first limit that it passes.

    The order is fixed: what is broken, then what is no portrait, then what is no matte to learn from. A limit itself
    is still kept.

    Args:
        scores: as `score` makes them.
        expected_mad: what a calibration makes of the scores.
        max_expected_mad: its limit; inf for none.
        min_coverage .. max_drift: limits of the scores of these names.
        max_agreement_growth: how much further the second network may lie from the reference network after the
            enhancement than before; past it the change was an attack on the reference, not a better portrait.
    """
    if expected_mad < 0 and max_expected_mad < inf:
        raise ValueError(f"a limit of {max_expected_mad:g} needs an expected error, and this portrait has none")
    passed = {
        "nan": not scores[FINITE],
        "rejected": bool(enhanced.losses["rejected"]),
        "coverage": not min_coverage <= scores["coverage"] <= max_coverage,
        "soft_share": not min_soft_share <= scores["soft_share"] <= max_soft_share,
        "components": scores["components"] > max_components,
        "holes": scores["holes"] > max_holes,
        "border_contact": scores["border_contact"] > max_border_contact,
        "attack": is_attack(enhanced, scores, max_agreement_growth),
        "certainty": scores["certainty"] > max_certainty,
        "stability": scores["stability"] > max_stability,
        "agreement": scores["agreement"] > max_agreement,
        "recomposition": scores["recomposition"] > max_recomposition,
        "realism": scores.get("realism", 0.0) > max_realism,  # without a discriminator there is no such score
        "drift": scores["drift"] > max_drift,
        "expected_mad": expected_mad > max_expected_mad,
    }
    dropped_by = next((reason for reason in passed if passed[reason]), None)
    return Scored(enhanced, scores, expected_mad, dropped_by)


def is_hopeless(alpha: Tensor) -> bool:
    """Whether a first matte [1, H, W] in [0, 1] lies so far beyond the limits that steps on it are wasted.

    Twice as far, and more, as `decide` allows: the default preset's bounds let an enhancement change an area by 3 %
    only, but averaging over views may close a hole. It needs no network.
    """
    matte = alpha[None]
    covered = float(coverage(matte))
    return (
        not 0.05 <= covered <= 0.95
        or float(soft_share(matte)) > 0.6
        or float(border_contact(matte)) > 0.7
        or float(components(matte)) > 0.1
        or float(holes(matte)) > 0.1
        or float(certainty(matte)) > 0.3
    )


def is_attack(enhanced: Enhanced, scores: dict[str, float], max_growth: float) -> bool:
    """Whether only the reference network came out surer, while the second one moved away from it."""
    surer = enhanced.losses["outside_after"] < enhanced.losses["outside_before"]
    return enhanced.steps > 0 and surer and scores["agreement"] - scores["agreement_before"] > max_growth
