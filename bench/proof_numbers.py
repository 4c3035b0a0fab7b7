"""Numbers of a proof: means over people and seeds, their intervals, and what one arm changes against another.

Intervals are 95 % percentile intervals of a hierarchical, paired bootstrap: seeds and test identities are drawn anew,
each with replacement, and every draw is applied to all arms alike, so that a relative change loses the spread that is
common to both. Three seeds tell little of the spread between seeds: drawn with replacement they show two thirds of it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mattesmith.shards.manifest import differences

Floats = NDArray[np.float64]

NUM_DRAWS = 4000
INTERVAL = (0.025, 0.975)
COLUMNS: Mapping[str, tuple[str, float]] = {  # heading: what is measured, and what it is multiplied by
    "SAD": ("sad/whole", 1.0), "MSE x1000": ("mse/whole", 1e3), "Grad": ("grad/whole", 1.0),
    "Conn": ("conn/whole", 1.0), "SAD unknown": ("sad/unknown", 1.0), "hair MAD x1000": ("mad/hair", 1e3),
}  # fmt: skip
SAD = list(COLUMNS).index("SAD")
WANTED = -0.15  # change of SAD against a and b that the proof asks for


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and where it may lie."""

    value: float
    low: float
    high: float

    def is_apart_from(self, other: "Interval") -> bool:
        """Whether the two intervals share nothing."""
        return self.high < other.low or other.high < self.low


# Reading


def read_values(files: Sequence[Path], identities: Mapping[str, str]) -> Floats:
    """What was measured, [seeds, people, columns]; NaN where a person has no such region.

    Args:
        files: one a seed, as `proof_training.write_measured` writes them.
        identities: who is in each picture; pictures of one person are averaged.
    """
    people = sorted(set(identities.values()))
    place = {person: i for i, person in enumerate(people)}
    values = np.empty((len(files), len(people), len(COLUMNS)))
    for seed, file in enumerate(files):
        found = json.loads(file.read_text())
        if found.keys() != identities.keys():
            raise ValueError(f"{file} has measured {len(found)} pictures, the test set has {len(identities)}: "
                             "remove it, and run again")  # fmt: skip
        for column, (measured, scale) in enumerate(COLUMNS.values()):
            total, count = np.zeros(len(people)), np.zeros(len(people))
            for name, numbers in found.items():
                if measured in numbers:
                    total[place[identities[name]]] += numbers[measured] * scale
                    count[place[identities[name]]] += 1
            values[seed, :, column] = np.divide(total, count, out=np.full(len(people), np.nan), where=count > 0)
    return values


def read_run(file: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run wrote with --json: the same as this one, but for the seeds.

    Args:
        run: this one: "material", a dict, "training", a dict for every training, "people", the names of the tested.

    Raises:
        ValueError: more than the seeds differs, or less, or it is another file.
    """
    try:
        other: dict[str, Any] = json.loads(file.read_text())
        there, people = _without_seeds(other), other["people"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no --json of bench/proof.py ({error!r}); name one of this version") from error
    if different := differences(there, _without_seeds(run)):
        raise ValueError(f"{file} was made with other settings (there / here): {'; '.join(different)}; use the same")
    if people != run["people"]:
        raise ValueError(f"{file} was measured on {len(people)} other people; use renders of the same ones")
    if twice := {job["seed"] for job in other["training"]} & {job["seed"] for job in run["training"]}:
        raise ValueError(f"{file} holds seed {min(twice)}, too; use another --first-seed")
    return other


def _without_seeds(run: Mapping[str, Any]) -> dict[str, Any]:
    jobs = {job["arm"]: {name: value for name, value in job.items() if name != "seed"} for job in run["training"]}
    return {"material": run["material"], "training": jobs}


def joined(runs: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Values by arm, [seeds, people, columns], of all runs; those of networks that none has trained, of the first."""
    return {
        name: np.concatenate(
            [np.array(run["values"][name], np.float64) for run in runs[: None if len(name) == 1 else 1]]
        )
        for name in runs[0]["values"]
    }


# Intervals


def draw_weights(
    num_seeds: int, num_people: int, *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> tuple[Floats, Floats]:
    """How often each seed and each person comes in each draw, [draws, seeds] and [draws, people]."""
    rng = np.random.default_rng(seed)
    weights = (rng.multinomial(num, np.full(num, 1 / num), num_draws) for num in (num_seeds, num_people))
    seeds, people = (each.astype(np.float64) for each in weights)
    return seeds, people


def means(values: Floats, seeds: Floats, people: Floats) -> Floats:
    """Weighted means over seeds and people, [draws, columns].

    Args:
        values: [seeds, people, columns]; what is NaN does not count.
        seeds, people: weights, [draws, seeds] and [draws, people].
    """
    known = np.isfinite(values)
    total = np.einsum("ds,spc,dp->dc", seeds, np.where(known, values, 0), people, optimize=True)
    count = np.einsum("ds,spc,dp->dc", seeds, known.astype(np.float64), people, optimize=True)
    found: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return found


class Numbers:
    """All arms under the same draws.

    Args:
        values: by arm, [seeds, people, columns]; the same seeds and people everywhere, or a single seed for networks
            that were not trained here.
    """

    def __init__(self, values: Mapping[str, Floats], *, num_draws: int = NUM_DRAWS, seed: int = 0) -> None:
        num_seeds = max(len(one) for one in values.values())
        num_people = next(iter(values.values())).shape[1]
        seeds, people = draw_weights(num_seeds, num_people, num_draws=num_draws, seed=seed)
        self.means = {name: means(one, *_even(one)) for name, one in values.items()}  # [1, columns]
        self.draws = {
            name: means(one, seeds if len(one) == num_seeds else np.ones((num_draws, len(one))), people)
            for name, one in values.items()
        }

    def mean(self, name: str, column: int) -> Interval:
        """Of an arm."""
        low, high = np.nanquantile(self.draws[name][:, column], INTERVAL)
        return Interval(float(self.means[name][0, column]), float(low), float(high))

    def change(self, name: str, against: str, column: int = SAD) -> Interval:
        """Relative change of the mean, -0.1 for 10 % less."""
        low, high = np.nanquantile(self.draws[name][:, column] / self.draws[against][:, column] - 1, INTERVAL)
        value = self.means[name][0, column] / self.means[against][0, column] - 1
        return Interval(float(value), float(low), float(high))


def _even(values: Floats) -> tuple[Floats, Floats]:
    return np.ones((1, values.shape[0])), np.ones((1, values.shape[1]))


# Showing


def table(numbers: Numbers, words: Mapping[str, str]) -> list[str]:
    """Markdown: a line an arm, "mean [low, high]" a column."""
    rows = [["", "trained on", *COLUMNS]]
    for name, said in words.items():
        cells = [numbers.mean(name, column) for column in range(len(COLUMNS))]
        rows.append([name, said, *(f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]" for one in cells)])
    return aligned(rows)


def changes(numbers: Numbers, words: Mapping[str, str]) -> list[str]:
    """Markdown: the change of SAD of each arm against a, against b, and against the arm before it."""
    names = [name for name in words if len(name) == 1]
    rows = [["", "against a", "against b", "against the arm before"]]
    for i, name in enumerate(names[1:], 1):
        others = ["a", "b", names[i - 1]]
        rows.append([name, *(percent(numbers.change(name, one)) if one in names[:i] else "" for one in others)])
    return aligned(rows)


def percent(change: Interval) -> str:
    """ "-12.3 % [-15.0, -9.1]"."""
    return f"{100 * change.value:+.1f} % [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def aligned(rows: list[list[str]]) -> list[str]:
    """A Markdown table whose columns also stand under each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]


def verdicts(numbers: Numbers, names: Collection[str]) -> list[str]:
    """What was asked, answered by the numbers alone."""
    lines = []
    for against in ("a", "b"):
        if "f" in names and against in names:
            change = numbers.change("f", against)
            is_apart = numbers.mean("f", SAD).is_apart_from(numbers.mean(against, SAD))
            answer = "yes" if change.value <= WANTED and is_apart else "no"
            lines.append(
                f"Is f at least {-100 * WANTED:.0f} % better than {against} in SAD, their intervals apart? {answer}: "
                f"{percent(change)}, the intervals are {'apart' if is_apart else 'not apart'}."
            )
    for name in ("e", "f"):
        if name in names and "c" in names:
            change = numbers.change(name, "c")
            answer = "yes" if change.high < 0 else "no, it is worse" if change.low > 0 else "not shown"
            lines.append(f"Is {name} better than c in SAD (paired interval below 0)? {answer}: {percent(change)}.")
    return lines


def to_json(numbers: Numbers, words: Mapping[str, str]) -> dict[str, dict[str, list[float]]]:
    """Value, low and high by arm and column."""
    return {
        name: {
            heading: [one.value, one.low, one.high]
            for column, heading in enumerate(COLUMNS)
            for one in (numbers.mean(name, column),)
        }
        for name in words
    }


def plain(values: Mapping[str, Floats]) -> dict[str, Any]:
    """All values as lists, None where a person has no such region."""
    return {
        name: np.where(np.isfinite(one), one.astype(object), np.array(None)).tolist() for name, one in values.items()
    }
