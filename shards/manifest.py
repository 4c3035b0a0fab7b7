"""A dataset's folder: what may lie in it, which configuration made it, which shards are done, who works on it.

No file here holds a time, a host name or a duration: the same command gives the same bytes, whoever runs it.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .card import croissant, dataset_card, dataset_licence
from .members import Problem
from .writer import PARTIAL, naming, publish_json, publish_text, sync_folder

CONFIG, LOCK, DATASET = "config.json", ".lock", "dataset.json"
DESCRIPTIONS = {DATASET, "index.json", "sizes.json", "README.md", "croissant.json"}
OWN_FILES = {CONFIG, LOCK, *DESCRIPTIONS, "report.html", "sheet.png"}  # the last two where the user asks for them
SHARD_FILE = re.compile(r"(\d{5})\.(tar|parquet|json)")
LIBRARIES = ("torch", "numpy", "pillow", "webdataset", "pyarrow")


def mattesmith_version() -> str:
    """Version of this package."""
    return version("mattesmith")


def package_versions() -> dict[str, str]:
    """Versions of the libraries whose arithmetic or encoding reaches the stored bytes."""
    return {name: version(name) for name in LIBRARIES}


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON (sorted keys, no spaces); the order of the settings does not matter.

    >>> config_hash({"n": 1, "psi": 0.7}) == config_hash({"psi": 0.7, "n": 1})
    True
    """
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Settings in which two configurations differ, as "name: there / here"; nested names are joined by dots.

    >>> differences({"psi": 0.7, "knobs": {"steps": 8}}, {"psi": 0.5, "knobs": {"steps": 8}})
    ['psi: 0.7 / 0.5']
    """
    flat_there, flat_here = flattened(there), flattened(here)
    names = sorted(flat_there.keys() | flat_here.keys())
    return [
        f"{name}: {flat_there.get(name, '(not set)')} / {flat_here.get(name, '(not set)')}"
        for name in names
        if name not in flat_there or name not in flat_here or flat_there[name] != flat_here[name]
    ]


def flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted names, in order.

    >>> flattened({"psi": 0.7, "knobs": {"steps": 8}})
    {'psi': 0.7, 'knobs.steps': 8}
    """
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@contextmanager
def open_dataset(out: Path, config: Mapping[str, Any]) -> Iterator[set[int]]:
    """Open a folder for one run, and hold it until the run ends.

    Args:
        out: the dataset's folder; made where it is missing.
        config: everything that changes a byte of the dataset, and nothing else; plain JSON values.

    Yields:
        The shards that are committed already.

    Raises:
        ValueError: foreign files, another configuration, or another run; nothing has been changed then.
        OSError: the folder cannot be made or written.
    """
    config = json.loads(json.dumps(config, allow_nan=False))  # as it will be read back: tuples are lists
    _make_folder(out)
    _refuse_foreign(out)
    with locked(out):
        _check_config(out, config)
        sweep(out)
        if not (out / CONFIG).exists():
            publish_json(out / CONFIG, config)
        yield _committed(out)


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder")
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)


def _refuse_foreign(out: Path) -> None:
    foreign = sorted(
        path.name
        for path in out.iterdir()
        if not path.is_file()
        or not (path.name in OWN_FILES or SHARD_FILE.fullmatch(path.name) or path.name.endswith(PARTIAL))
    )
    if foreign:
        named = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise ValueError(f"{out} holds files that are not this dataset's: {named}; use an empty folder")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock; the system drops it when the process dies, however it dies."""
    with naming(out / LOCK):
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run is working on {out}; wait for its end or use another folder") from error
        yield
    finally:
        os.close(descriptor)


def read_config(out: Path) -> dict[str, Any]:
    """The configuration a folder was made with."""
    try:
        config = json.loads((out / CONFIG).read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{out} is not a dataset: it has no {CONFIG}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{out / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{out / CONFIG} must hold an object, got {type(config).__name__}")
    return config


def _check_config(out: Path, config: Mapping[str, Any]) -> None:
    if (out / CONFIG).exists():
        different = differences(read_config(out), config)
        if different:
            raise ValueError(
                f"{out} was made with other settings (there / here): {'; '.join(different)}; "
                "use the same settings or another folder"
            )
    elif any(SHARD_FILE.fullmatch(path.name) for path in out.iterdir()):
        raise ValueError(f"{out} has shards but no {CONFIG}, so nobody knows how they were made; use another folder")


def sweep(out: Path) -> None:
    """Remove the partial files of those who were killed; the lock says that nobody writes them any more."""
    for path in out.glob(f"*{PARTIAL}"):
        with naming(path):
            path.unlink(missing_ok=True)


def _committed(out: Path) -> set[int]:
    """Shards whose JSON stands and whose files have the size it says; the JSON of any other is taken back."""
    shards, problems = read_shards(out)
    broken = {problem.shard for problem in problems}
    for number, fields in list(shards.items()):
        if not all(_has_size(out / fields[kind]["name"], fields[kind]["bytes"]) for kind in ("tar", "parquet")):
            broken.add(f"{number:05d}.json")
            del shards[number]
    for name in broken:
        with naming(out / name):
            (out / name).unlink()
            sync_folder(out)
    return set(shards)


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes


def read_shards(out: Path) -> tuple[dict[int, dict[str, Any]], list[Problem]]:
    """The JSON of every committed shard by its number, in order; one that cannot be used is a Problem instead."""
    shards: dict[int, dict[str, Any]] = {}
    problems = []
    for path in sorted(out.glob("*.json")):
        if not (match := SHARD_FILE.fullmatch(path.name)):
            continue
        try:
            shards[int(match[1])] = checked_record(json.loads(path.read_text()), int(match[1]))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            problems.append(Problem(path.name, "", f"cannot be read: {error!r}"))
    return shards, problems


def checked_record(fields: Any, number: int) -> dict[str, Any]:
    """What is recorded of a shard, if it has the shape it must have; trusted in nothing else."""
    counts = [fields["shard"], fields["count"], fields["candidates"], *fields["dropped"].values()]
    files = [fields["tar"], fields["parquet"]]
    names = [file["name"] for file in files]
    if fields["shard"] != number or names != [f"{number:05d}.tar", f"{number:05d}.parquet"]:
        raise ValueError(f"it is of shard {fields['shard']} and names {', '.join(map(str, names))}")
    sums = [fields["members"][0], *(file["sha256"] for file in files)]
    if not all(type(count) is int for count in (*counts, *(file["bytes"] for file in files))):
        raise ValueError("it counts in other things than integers")
    if not all(isinstance(text, str) for text in (*fields["members"], *sums)):
        raise ValueError("its members and sums must be text")
    return dict(fields)


def finish(out: Path, *, config: Mapping[str, Any], n: int, networks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write what describes the whole dataset, once every shard is committed and no worker writes any more.

    Args:
        out: its folder, still held by `open_dataset`.
        config: as given to `open_dataset`.
        n: kept portraits planned.
        networks: a card each (name, licence, source, sha256) of the networks that made it.

    Returns:
        What was written to dataset.json.
    """
    config = json.loads(json.dumps(config, allow_nan=False))
    sweep(out)  # a worker that was killed, and its shard made by another, has left its partial
    numbered, problems = read_shards(out)
    shards = list(numbered.values())
    count = sum(fields["count"] for fields in shards)
    if count != n or problems or list(numbered) != list(range(len(shards))):
        raise ValueError(f"{out} has {count} of {n} portraits in {len(shards)} shards; run the same command again")
    dataset = {
        "name": "mattesmith",
        "version": mattesmith_version(),
        "count": count,
        "config": config,
        "config_hash": config_hash(config),
        "libraries": package_versions(),
        "licence": dataset_licence(networks),
        "networks": [dict(card) for card in networks],
        "shards": shards,
    }
    tars = [{"url": s["tar"]["name"], "nsamples": s["count"], "filesize": s["tar"]["bytes"]} for s in shards]
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "train", "shardlist": tars}
    publish_json(out / "index.json", index)
    publish_json(out / "sizes.json", {fields["tar"]["name"]: fields["count"] for fields in shards})
    publish_text(out / "README.md", dataset_card(dataset))
    publish_json(out / "croissant.json", croissant(dataset))
    publish_json(out / DATASET, dataset)
    return dataset
