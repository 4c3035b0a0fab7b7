"""A stricter selection of a finished dataset, from its stored scores, without generating anything again.

The portraits keep their keys and their bytes. The tables keep every candidate: one that this selection leaves out is
dropped by its name ("where", "quantile", "expected_mad"), so that `stats` tells what the selection did.
"""

import hashlib
import io
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..filters import Calibration
from ..filters.where import column, where
from .encode import Record
from .manifest import DATASET, config_hash, finish, open_dataset, read_config
from .members import samples_of
from .verify import file_problems, recorded_shards
from .writer import commit, pack, parquet_bytes, publish

EXPECTED_MAD = "expected_mad"
NUM_WITHIN = 10  # groups of portraits alike in a score
Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is kept, and what the others are dropped by."""

    dropped_by: str
    settings: dict[str, Any]  # into the new dataset's configuration
    chosen: Callable[[Columns], NDArray[np.bool_]]  # of the portraits kept so far


def by_condition(condition: str) -> Selection:
    """Portraits that fulfil a condition, see `filters.where`."""

    def chosen(columns: Columns) -> NDArray[np.bool_]:
        need_calibration(condition, columns)
        return where(condition, columns)

    return Selection("where", {"where": condition}, chosen)


def by_quantile(share: float, score: str, *, within: str | None = None) -> Selection:
    """The share of the portraits with the lowest score; equal ones in order.

    Args:
        share: in (0, 1].
        score: what is looked at.
        within: another score; each tenth of the portraits in its order keeps its own best. An error grows with the
            hair there is, so that by it alone the people with short hair are kept: "soft_share" keeps them in
            proportion.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share to keep must be above 0 and at most 1, got {share}")

    def chosen(columns: Columns) -> NDArray[np.bool_]:
        need_calibration(f"{score} {within}", columns)
        values = column(score, columns)
        alike = [np.arange(len(values))]
        if within is not None:
            alike = np.array_split(np.argsort(column(within, columns), kind="stable"), NUM_WITHIN)
        kept, seen = np.zeros(len(values), np.bool_), 0
        for part in alike:
            num = round(share * (seen + len(part))) - round(share * seen)  # over all of them exactly the share
            kept[part[np.argsort(values[part], kind="stable")[:num]]] = True
            seen += len(part)
        return kept

    settings = {"keep_quantile": share, "by": score} | ({} if within is None else {"within": within})
    return Selection("quantile", settings, chosen)


def by_expected_mad(limit: float) -> Selection:
    """Portraits whose expected mean absolute error (x1000) is at most the limit."""

    def chosen(columns: Columns) -> NDArray[np.bool_]:
        need_calibration(EXPECTED_MAD, columns)
        return np.asarray(columns[EXPECTED_MAD] <= limit)

    return Selection(EXPECTED_MAD, {"max_expected_mad": limit}, chosen)


def need_calibration(text: str, columns: Columns) -> None:
    """Refuses a selection that names the expected error where nobody knows it."""
    if EXPECTED_MAD in text and EXPECTED_MAD not in columns:
        raise ValueError(
            f"this dataset has no {EXPECTED_MAD}: it is uncalibrated, made without a calibration for its networks; "
            "select by a score it has (--where, --keep-quantile with --by), or fit a calibration first "
            "(python cli.py studio calibrate)"
        )


def refilter(
    folder: Path,
    out: Path,
    selection: Selection,
    *,
    calibration: Calibration | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write the selected portraits of a dataset as a dataset of its own; run again, it resumes.

    Args:
        folder: a finished dataset.
        out: another folder.
        calibration: of the dataset's networks: what is expected of portraits that were made before it was fitted.
            They are selected by it; what is stored of them stays as it was.
        progress: called after every shard with the number of its portraits.

    Returns:
        What was written to dataset.json.

    Raises:
        ValueError: nothing fulfils the selection, a score is unknown, or the dataset is unfinished or damaged.
    """
    if out.resolve() == folder.resolve():
        raise ValueError(f"{out} is the dataset itself; name another folder for the selection")
    config = read_config(folder)
    shards, problems = recorded_shards(folder, config)
    problems += [problem for fields in shards.values() for problem in file_problems_of(folder, fields, "parquet")]
    if problems:
        raise ValueError(f"{folder} is not a whole dataset: {problems[0]}; finish or mend it first (see `verify`)")
    parent = json.loads((folder / DATASET).read_text())
    candidates = read_candidates(folder, shards)
    later = None if EXPECTED_MAD in columns_of(candidates) else calibration
    table = selected(candidates, selection, later)
    keys = [key for key in table["key"].to_pylist() if key]
    if not keys:
        options = ((name.replace("_", "-"), shlex.quote(str(value))) for name, value in selection.settings.items())
        said = " ".join(f"--{name} {value}" for name, value in options)
        raise ValueError(f"none of the {parent['count']} portraits of {folder} fulfils {said}; loosen it")

    size = int(config.get("shard_size", max(fields["count"] for fields in shards.values())))
    sums = hashlib.sha256("".join(fields["tar"]["sha256"] for fields in shards.values()).encode()).hexdigest()
    origin = {"config_hash": config_hash(config), "tars_sha256": sums, "count": parent["count"], "config": config}
    own = {"format": 1, "n": len(keys), "shard_size": size, "selection": selection.settings, "parent": origin}
    if later:
        own["calibration"] = later.sha256
    with open_dataset(out, own) as committed:
        for number, part in enumerate(divided(table, size)):
            if number not in committed:
                copy_shard(folder, shards, out, number, part)
            if progress is not None:
                progress(len(part_keys(part)))
        return finish(out, config=own, n=len(keys), networks=parent["networks"])


def file_problems_of(folder: Path, fields: Mapping[str, Any], kind: str) -> list[Any]:
    """What size and sum say against a shard's tar or parquet."""
    return list(file_problems(folder / fields[kind]["name"], fields[kind]))


def read_candidates(folder: Path, shards: Mapping[int, Mapping[str, Any]]) -> pa.Table:
    """All candidates, in order, with one more column: `tar`, the number of the shard that holds the portrait."""
    tables = []
    for number, fields in shards.items():
        table = pq.read_table(io.BytesIO((folder / fields["parquet"]["name"]).read_bytes()))
        missing = [name for name in ("key", "dropped_by") if name not in table.column_names]
        if missing:
            raise ValueError(f"{folder / fields['parquet']['name']} lacks the columns {', '.join(missing)}")
        tables.append(table.append_column("tar", pa.array([number] * len(table), pa.int64())))
    if not tables:
        raise ValueError(f"{folder} holds no portraits: there is nothing to select from")
    if any(table.schema != tables[0].schema for table in tables):
        raise ValueError(f"{folder}: its shards' tables have different columns; it was made by different versions")
    return pa.concat_tables(tables)


def sums_of(folder: Path) -> dict[str, str]:
    """sha256 of the networks that made a finished dataset, by role; of others there is nothing to find."""
    try:
        cards = json.loads((folder / DATASET).read_text())["networks"]
        return {card["role"]: card["sha256"] for card in cards if {"role", "sha256"} <= card.keys()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # `refilter` says what is wrong with it


def columns_of(table: pa.Table, calibration: Calibration | None = None) -> dict[str, NDArray[np.float64]]:
    """Numbers by name; a score goes by its bare name too.

    An expected error that nobody knows is left out, or is that of a calibration.
    """
    columns: dict[str, NDArray[np.float64]] = {}
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and name != "tar":
            values = np.asarray(table[name].to_numpy(), np.float64)
            if name != EXPECTED_MAD or not (values < 0).any():
                columns |= {name.removeprefix("scores."): values, name: values}
    if calibration and EXPECTED_MAD not in columns:
        names = [term.score for term in calibration.terms]
        scores = zip(*(column(name, columns) for name in names), strict=True)
        columns[EXPECTED_MAD] = np.array(
            [calibration.expected_mad(dict(zip(names, one, strict=True))) for one in scores], np.float64
        )
    return columns


def selected(table: pa.Table, selection: Selection, calibration: Calibration | None) -> pa.Table:
    """The table with the portraits that are left out marked as dropped, their keys taken away."""
    keys = np.array(table["key"].to_pylist(), object)
    reasons = np.array(table["dropped_by"].to_pylist(), object)
    kept = keys != ""
    out = np.flatnonzero(kept)[~selection.chosen(columns_of(table.filter(pa.array(kept)), calibration))]
    keys[out], reasons[out] = "", selection.dropped_by
    for name, values in (("key", keys), ("dropped_by", reasons)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table


def part_keys(part: pa.Table) -> list[tuple[int, str]]:
    """(parent's shard, key) of the portraits of a part, in order."""
    pairs = zip(part["tar"].to_pylist(), part["key"].to_pylist(), strict=True)
    return [(tar, key) for tar, key in pairs if key]


def divided(table: pa.Table, size: int) -> Iterator[pa.Table]:
    """Parts with `size` portraits each, the last with the rest, and with all candidates after its last portrait."""
    kept = np.flatnonzero(np.array(table["key"].to_pylist(), object) != "")
    ends = [*(int(kept[i - 1]) + 1 for i in range(size, len(kept), size)), len(table)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield table.slice(start, end - start)


def copy_shard(
    folder: Path, shards: Mapping[int, Mapping[str, Any]], out: Path, number: int, part: pa.Table
) -> dict[str, Any]:
    """Publish one shard of the selection."""
    members: list[str] = []

    def write_tar(stream: BinaryIO) -> None:
        members[:] = pack(stream, copied(folder, shards, part_keys(part)))

    tar = publish(out / f"{number:05d}.tar", write_tar)
    dropped = Counter(reason for reason in part["dropped_by"].to_pylist() if reason)
    return commit(
        out, number, tar=tar, table=parquet_bytes(part.drop_columns(["tar"])), members=members,
        count=len(part_keys(part)), candidates=len(part), dropped=dropped,
    )  # fmt: skip


def copied(folder: Path, shards: Mapping[int, Mapping[str, Any]], wanted: list[tuple[int, str]]) -> Iterator[Record]:
    """Records of the wanted portraits, their members byte for byte, from tars whose sums are right."""
    for number, group in groupby(wanted, key=lambda pair: pair[0]):
        keys = [key for _, key in group]
        for problem in file_problems_of(folder, shards[number], "tar"):
            raise ValueError(f"{folder} is damaged: {problem}; see `verify`")
        missing = set(keys)
        for key, files in samples_of(folder / shards[number]["tar"]["name"]):
            if key in missing:
                missing.remove(key)
                yield Record(key, files)
        if missing:
            raise ValueError(f"{folder / shards[number]['tar']['name']} lacks the sample {min(missing)}; see `verify`")
