"""Scores -> one number with a unit: the expected mean absolute error of alpha, x1000.

    log(error) = bias + sum_j f_j(log score_j),    f_j never falling

So a worse score never lowers the number, and the whole is a page of JSON; `fitting.py` makes it. A calibration holds
for the networks it was fitted with. With others a portrait has no expected error: it is then -1.0 (UNCALIBRATED), in
every record, so that no schema changes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

UNCALIBRATED = -1.0
WEIGHTS = Path(__file__).parent / "weights"
FLOOR = 1e-4  # added to scores before their logarithm; they are 0 where nothing is wrong
ADVICE = "make it anew: python cli.py studio calibrate"
NETWORKS = ("generator", "matting", "second")
TRIMAP = "trimap"  # one more where the matting network needs trimaps: what makes them


@dataclass(frozen=True, slots=True)
class Term:
    """One score's part: a line through knots, level outside."""

    score: str
    knots: tuple[float, ...]  # log(score + FLOOR), rising
    values: tuple[float, ...]  # of log error, never falling


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns scores into an expected error, and how well."""

    bias: float
    terms: tuple[Term, ...]
    networks: dict[str, str]  # what it is bound to, see `bound_to`
    fit: dict[str, float]  # what it was fitted on, and its error on identities it never saw
    version: str  # of mattesmith

    def expected_mad(self, scores: Mapping[str, float]) -> float:
        """Expected mean absolute error of alpha x1000.

        Args:
            scores: as `score` makes them; all that a term names must be there.

        Returns:
            Above 0, and at most 1000.
        """
        total = self.bias
        for term in self.terms:
            total += float(np.interp(logarithm(scores[term.score]), term.knots, term.values))
        return float(min(np.exp(total), 1000.0))

    def fits(self, networks: Mapping[str, str]) -> bool:
        """Whether it was fitted with these networks (as `bound_to` names them), and with no other's trimaps."""
        return all(networks.get(name) == self.networks.get(name) for name in {*self.networks, TRIMAP})

    @property
    def sha256(self) -> str:
        """Of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """As text; `from_json` gives the same calibration back, to the last bit."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


def logarithm(score: Any) -> Any:
    """log(score + FLOOR); a score below 0 counts as 0."""
    return np.log(np.maximum(score, 0.0) + FLOOR)


# Reading


def from_json(text: str, *, name: str) -> Calibration:
    """What `Calibration.to_json` wrote.

    Raises:
        ValueError: one line that names what is wrong with it.
    """
    try:
        fields = json.loads(text)
        terms = tuple(
            Term(str(term["score"]), tuple(map(float, term["knots"])), tuple(map(float, term["values"])))
            for term in fields["terms"]
        )
        networks = {key: str(fields["networks"][key]) for key in fields["networks"]}
        fit = {key: float(value) for key, value in fields["fit"].items()}
        calibration = Calibration(float(fields["bias"]), terms, networks, fit, str(fields["version"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is no calibration ({error!r}); {ADVICE}") from error
    if fault := fault_of(calibration):
        raise ValueError(f"{name} is no calibration ({fault}); {ADVICE}")
    return calibration


def fault_of(calibration: Calibration) -> str:
    """What a calibration must not be; "" if it is none of it."""
    if set(NETWORKS) - calibration.networks.keys():
        return f"it must name the sha256 of {', '.join(NETWORKS)}"
    numbers = [calibration.bias, *calibration.fit.values()]
    for term in calibration.terms:
        numbers += [*term.knots, *term.values]
        if not term.knots or len(term.knots) != len(term.values):
            return f"{term.score} needs as many values as knots, and at least one"
        if np.any(np.diff(term.knots) <= 0) or np.any(np.diff(term.values) < 0):
            return f"the knots of {term.score} must rise and its values must not fall"
    return "" if all(map(isfinite, numbers)) else "it holds numbers that are not finite"


def bound_to(cards: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What a calibration is bound to: each network's sha256, and behind an @ the normalisation if its card names one.

    Args:
        cards: by role: those of NETWORKS, and TRIMAP where there is one; any others do no harm.
    """
    return {
        role: "@".join(str(card[key]) for key in ("sha256", "normalisation") if card.get(key))
        for role, card in cards.items()
    }


def calibration_file(networks: Mapping[str, str] | None, *, folder: Path = WEIGHTS) -> Path:
    """Where a calibration is looked for: that of the embedded networks (None), or of others (see `bound_to`)."""
    if networks is None:
        return folder / "calibration.json"
    name = "".join([*(networks[name] for name in NETWORKS), networks.get(TRIMAP, "")])
    return folder / f"calibration-{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"


def find_calibration(networks: Mapping[str, str], *, folder: Path = WEIGHTS) -> Calibration | None:
    """The calibration that was fitted with these networks (see `bound_to`); None where there is none."""
    for file in sorted(folder.glob("calibration*.json")):
        calibration = from_json(file.read_text(encoding="utf-8"), name=file.name)
        if calibration.fits(networks):
            return calibration
    return None
