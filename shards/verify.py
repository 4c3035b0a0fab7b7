"""Read a dataset back and compare it with what it says of itself.

A tar cut exactly between two members is read without an error by every loader, and a flipped byte of an image is never
noticed: only count, size and sum find them. So all three are checked, and then every member is decoded. Members are
read in memory, never extracted.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from .encode import trimap_of
from .manifest import CONFIG, DATASET, SHARD_FILE, checked_record, config_hash, flattened, read_config, read_shards
from .members import IMAGE_MODES, Problem, decode, members_of
from .writer import PARTIAL

UNFINISHED = Problem(DATASET, "", "is missing: the run has not finished")


def verify(out: Path, *, progress: Callable[[str, list[Problem]], None] | None = None) -> list[Problem]:
    """Every problem of a dataset; an empty list means that it is whole.

    Args:
        out: the dataset's folder.
        progress: called after every shard with its name and its problems.

    Raises:
        FileNotFoundError: the folder is not a dataset at all.
    """
    shards, problems = recorded_shards(out, read_config(out))
    for path in sorted(out.glob(f"*{PARTIAL}")):
        problems.append(Problem(path.name, "", "is left of a killed run: run the same command again, or remove it"))
    schema: dict[str, Any] = {}
    for number in sorted(shards):
        found = verify_shard(out, number, shards[number], schema)
        problems += found
        if progress is not None:
            progress(f"{number:05d}", found)
    return problems


def damaged(problems: list[Problem]) -> list[str]:
    """JSON files of the shards that these problems are of; without its JSON a shard is made anew."""
    found = (SHARD_FILE.fullmatch(problem.shard) for problem in problems)
    return sorted({f"{match[1]}.json" for match in found if match})


def recorded_shards(out: Path, config: Mapping[str, Any]) -> tuple[dict[int, dict[str, Any]], list[Problem]]:
    """What dataset.json says of each shard, or the shards' own JSON where that is missing; and how the two differ."""
    own, problems = read_shards(out)
    recorded = own
    try:
        dataset = json.loads((out / DATASET).read_text())
        recorded = {shard["shard"]: checked_record(shard, shard["shard"]) for shard in dataset["shards"]}
        if dataset["config"] != config or dataset["config_hash"] != config_hash(config):
            problems.append(Problem(DATASET, "", f"has another configuration than {CONFIG}"))
        if dataset["count"] != sum(shard["count"] for shard in recorded.values()):
            problems.append(Problem(DATASET, "", "counts other portraits than its shards hold"))
    except FileNotFoundError:
        problems.append(UNFINISHED)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        problems.append(Problem(DATASET, "", f"cannot be read: {error!r}"))
        recorded = own
    for number, fields in recorded.items():
        name = f"{number:05d}.json"
        if not (out / name).exists():
            problems.append(Problem(name, "", "is missing"))
        elif own.get(number, fields) != fields:
            problems.append(Problem(name, "", f"differs from what {DATASET} says of it"))
    for path in sorted(out.iterdir()):
        if (match := SHARD_FILE.fullmatch(path.name)) and int(match[1]) not in recorded:
            problems.append(Problem(path.name, "", "belongs to no committed shard"))
    return recorded, problems


def verify_shard(out: Path, number: int, fields: Mapping[str, Any], schema: dict[str, Any]) -> list[Problem]:
    """Problems of one shard.

    Args:
        out: the dataset's folder.
        number: the shard's.
        fields: what is recorded of it.
        schema: keys and types of the first sample's JSON; filled by the first shard, compared by all others.
    """
    problems = []
    keys: list[str] = []
    for kind in ("tar", "parquet"):
        problems += file_problems(out / f"{number:05d}.{kind}", fields[kind])
    tar = out / f"{number:05d}.tar"
    if tar.is_file():
        problems += _tar_problems(tar, fields, schema, keys)
    parquet = out / f"{number:05d}.parquet"
    if parquet.is_file():
        problems += _parquet_problems(parquet, fields, keys)
    return problems


def file_problems(path: Path, recorded: Mapping[str, Any]) -> list[Problem]:
    """What size and sum say against a file: missing, cut or changed."""
    if not path.is_file():
        return [Problem(path.name, "", "is missing")]
    size = path.stat().st_size
    if size != recorded["bytes"]:
        return [Problem(path.name, "", f"is {size} bytes long, recorded are {recorded['bytes']}")]
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != recorded["sha256"]:
            return [Problem(path.name, "", "has another SHA-256 than recorded: bytes have changed")]
    return []


def _tar_problems(path: Path, fields: Mapping[str, Any], schema: dict[str, Any], keys: list[str]) -> list[Problem]:
    """Members of a tar against the order they must have; decodes each. Fills `keys` with the keys in order."""
    problems: list[Problem] = []
    expected = list(fields["members"])
    seen: set[str] = set()
    begun: set[str] = set()  # as `keys`, but quick to search
    sample: dict[str, bytes] = {}

    def close() -> None:
        if keys and (missing := [name for name in expected if name not in sample]):
            problems.append(Problem(path.name, keys[-1], f"lacks {', '.join(missing)}"))
        elif keys and list(sample) != expected:
            problems.append(Problem(path.name, keys[-1], "has its members in another order, or more than it should"))
        if keys:
            problems.extend(_sample_problems(path.name, keys[-1], sample, schema))
        sample.clear()

    for name, content in members_of(path):
        if isinstance(content, Problem):
            problems.append(content)
            continue
        if name in seen:
            problems.append(Problem(path.name, name, "stands there twice"))
            continue
        seen.add(name)
        key, _, member = name.partition(".")
        if not keys or key != keys[-1]:
            close()
            if key in begun:
                problems.append(Problem(path.name, name, "stands apart from the rest of its sample"))
            begun.add(key)
            keys.append(key)
        sample[member] = content
    close()
    if len(keys) != fields["count"]:
        problems.append(Problem(path.name, "", f"holds {len(keys)} samples, recorded are {fields['count']}"))
    return problems


def _sample_problems(tar: str, key: str, files: Mapping[str, bytes], schema: dict[str, Any]) -> list[Problem]:
    """Decode every member of a sample, and compare them with each other."""
    problems = []
    decoded: dict[str, Any] = {}
    for name, content in files.items():
        try:
            decoded[name] = decode(name, content)
        except Exception as error:  # whatever a decoder makes of broken bytes, it is this member's problem
            problems.append(Problem(tar, f"{key}.{name}", f"cannot be decoded: {error}"))
    sizes = {name: array.shape[:2] for name, array in decoded.items() if name.split(".")[0] in IMAGE_MODES}
    if len(set(sizes.values())) > 1:
        problems.append(Problem(tar, key, f"has images of different sizes: {sizes}"))
    if "trimap.png" in decoded:
        problems += [Problem(tar, f"{key}.trimap.png", what) for what in _trimap_problems(decoded)]
    if "json" in decoded:
        problems += [Problem(tar, f"{key}.json", what) for what in _json_problems(key, decoded["json"], sizes, schema)]
    return problems


def _trimap_problems(decoded: Mapping[str, Any]) -> list[str]:
    """A trimap has three levels, and follows from the matte by the recipe in the JSON."""
    trimap, alpha = decoded["trimap.png"], decoded.get("alpha.png")
    if not np.isin(trimap, (0, 128, 255)).all():
        return ["holds other values than 0, 128 and 255"]
    try:
        recipe = decoded["json"]["trimap"]
        width, low, high = int(recipe["width"]), float(recipe["low"]), float(recipe["high"])
    except (KeyError, TypeError, ValueError, IndexError):
        return []  # without its recipe it cannot be compared; that the JSON lacks it is said elsewhere
    if alpha is None or alpha.shape != trimap.shape:
        return []
    if not (0 <= width <= max(alpha.shape) and 0 <= low < high <= 1):
        return [f"has an impossible recipe: {recipe}"]
    same = np.array_equal(trimap_of(alpha, width=width, low=low, high=high), trimap)
    return [] if same else [f"does not follow from alpha.png by its recipe {recipe}"]


def _json_problems(key: str, fields: Any, sizes: Mapping[str, Any], schema: dict[str, Any]) -> list[str]:
    if not isinstance(fields, dict):
        return ["is not an object"]
    # 1 and 1.0 are of different types.
    here = {name: type(value).__name__ for name, value in flattened(fields).items()}
    if not schema:
        schema.update(here)
    problems = []
    if list(here.items()) != list(schema.items()):
        names = [name for name in {**schema, **here} if schema.get(name) != here.get(name)] or ["their order"]
        problems.append(f"has other keys or types than the first sample's: {', '.join(names)}")
    if fields.get("key") != key:
        problems.append(f"says its key is {fields.get('key')!r}")
    if sizes and (fields.get("height"), fields.get("width")) not in sizes.values():
        problems.append(f"says {fields.get('width')} x {fields.get('height')}, the images are not")
    return problems


def _parquet_problems(path: Path, fields: Mapping[str, Any], keys: list[str]) -> list[Problem]:
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()), columns=["candidate", "key"])
    except Exception as error:  # whatever the reader makes of broken bytes, it is this file's problem
        return [Problem(path.name, "", f"cannot be read: {error}")]
    problems = []
    if table.num_rows != fields["candidates"]:
        what = f"has {table.num_rows} candidates, recorded are {fields['candidates']}"
        problems.append(Problem(path.name, "", what))
    # Where samples are missing, that has been said already.
    if len(keys) == fields["count"] and [key for key in table["key"].to_pylist() if key] != keys:
        problems.append(Problem(fields["tar"]["name"], "", f"holds other keys than {path.name} names"))
    return problems
