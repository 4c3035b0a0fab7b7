"""Tables about a dataset, from the parquet files of all its candidates."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .manifest import read_config
from .members import Problem
from .verify import UNFINISHED, recorded_shards

QUANTILES = [0.05, 0.5, 0.95]


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What the candidates of a dataset were, and what of it could not be read."""

    candidates: pd.DataFrame  # one row a candidate, in order; the parquet files' columns, `tar` (its number) and `fate`
    problems: list[Problem]


def read_statistics(out: Path) -> Statistics:
    """Candidates of every shard that can be read; the others are named.

    Raises:
        FileNotFoundError: the folder is not a dataset at all.
    """
    shards, problems = recorded_shards(out, read_config(out))
    problems = [problem for problem in problems if problem != UNFINISHED]  # what there is can be told already
    tables = []
    for number, fields in shards.items():
        tar, parquet = out / f"{number:05d}.tar", out / f"{number:05d}.parquet"
        try:
            if tar.stat().st_size != fields["tar"]["bytes"]:
                problems.append(Problem(tar.name, "", f"is not {fields['tar']['bytes']} bytes long, as recorded"))
            content = parquet.read_bytes()
            if hashlib.sha256(content).hexdigest() != fields["parquet"]["sha256"]:
                raise ValueError("has another SHA-256 than recorded")
            tables.append(_checked(pd.read_parquet(io.BytesIO(content))).assign(tar=number))
        except OSError as error:
            problems.append(Problem(Path(error.filename or parquet).name, "", error.strerror or str(error)))
        except ValueError as error:
            problems.append(Problem(parquet.name, "", f"{error}; its candidates are not counted"))
    empty = pd.DataFrame({"shard": [], "candidate": [], "key": [], "dropped_by": [], "steps": [], "tar": []})
    candidates = pd.concat(tables, ignore_index=True) if tables else empty
    candidates["fate"] = candidates["dropped_by"].where(candidates["dropped_by"] != "", "kept")
    return Statistics(candidates, problems)


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table, if it has what every table has; whatever the file says, texts are texts and measures numbers."""
    missing = [name for name in ("shard", "candidate", "key", "dropped_by", "steps") if name not in table]
    if missing:
        raise ValueError(f"lacks the columns {', '.join(missing)}")
    types: dict[str, type] = {"key": str, "dropped_by": str}
    return table.astype(types | dict.fromkeys(columns_measured(table), float))


def fates(candidates: pd.DataFrame) -> pd.DataFrame:
    """Kept and dropped by reason: candidates and their share, kept first, then by number."""
    counts = candidates["fate"].value_counts()
    order = sorted(counts.index, key=lambda fate: (fate != "kept", -counts[fate], fate))
    table = pd.DataFrame({"candidates": counts.reindex(order).astype(int)})
    table["share"] = table["candidates"] / max(len(candidates), 1)
    return table.rename_axis("fate")


def columns_measured(candidates: pd.DataFrame) -> list[str]:
    """Names of the numbers measured on each candidate: steps, the expected error where there is one, losses, scores."""
    own = ["steps", "expected_mad"] if is_calibrated(candidates) else ["steps"]
    return [name for name in candidates if name in own or str(name).startswith(("losses.", "scores."))]


def is_calibrated(candidates: pd.DataFrame) -> bool:
    """Whether the candidates have expected errors; without a calibration all are -1."""
    return "expected_mad" in candidates and bool((candidates["expected_mad"].astype(float) >= 0).all())


def quantiles(candidates: pd.DataFrame) -> pd.DataFrame:
    """Quantiles of every measured column, kept and dropped side by side; values that are not finite do not count."""
    kept = candidates["fate"] == "kept"
    measured = candidates[columns_measured(candidates)].astype(float)
    measured = measured.where(measured.abs() < float("inf"))
    sides = {"kept": measured[kept].quantile(QUANTILES).T}
    if not kept.all():
        sides["dropped"] = measured[~kept].quantile(QUANTILES).T
    return pd.concat(sides, axis=1).rename_axis("measure")


def pairs(candidates: pd.DataFrame) -> list[tuple[str, str]]:
    """Columns measured before and after the enhancement: X_before with X_after, or else with X."""
    names = columns_measured(candidates)
    stems = [name.removesuffix("_before") for name in names if name.endswith("_before")]
    return [(f"{stem}_before", after) for stem in stems for after in (f"{stem}_after", stem) if after in names]


def changes(candidates: pd.DataFrame) -> pd.DataFrame:
    """What the enhancement did to each measure: means before and after, share of candidates in which it fell."""
    rows = {}
    for before, after in pairs(candidates):
        both = candidates[[before, after]].astype(float).dropna()
        rows[after.removesuffix("_after")] = {
            "before": both[before].mean(),
            "after": both[after].mean(),
            "fell": (both[after] < both[before]).mean(),
            "candidates": len(both),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["before", "after", "fell", "candidates"])


def tables(statistics: Statistics) -> dict[str, pd.DataFrame]:
    """All tables, by title, ready for `to_string` or for the report; empty ones are left out."""
    candidates = statistics.candidates
    made = {
        "Kept and dropped": fates(candidates),
        "Before and after the enhancement": changes(candidates),
        "Quantiles": quantiles(candidates),
    }
    return {title: table for title, table in made.items() if len(table)}
