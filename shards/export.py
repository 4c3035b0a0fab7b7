"""A dataset as the plain folders of PNG files that known trainers read.

Every sample has the same name in every folder. Where a trainer wants backgrounds, they are estimated from the picture
and its matte: in linear light, and in no other, alpha F + (1 - alpha) B is the stored picture again.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ..enhance import foreground_method
from .encode import png, rgb_from_image
from .manifest import config_hash, locked, read_config, sweep
from .members import decode, samples_of
from .verify import file_problems, recorded_shards
from .writer import PARTIAL, naming, publish_bytes, publish_json

RECORD = "export.json"  # of what a folder holds, so that an interrupted export goes on and another is refused
BACKGROUND = "background"  # estimated; every other value below is a member's name without its ending

# Folder -> what lies in it. The sources of the layouts:
LAYOUTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # JizhiziLi/P3M, core/config.py: the training part of P3M-10k
        "p3m": {"train/blurred_image": "image", "train/mask": "alpha", "train/fg": "fg", "train/bg": BACKGROUND},
        # ZHKKKe/MODNet, src/trainer.py: (image, trimap, matte)
        "modnet": {"image": "image", "trimap": "trimap", "matte": "alpha"},
        # GCA, ViTMatte: foregrounds and mattes, composited by the trainer; merged and trimap are what their tests read
        "composition1k": {"fg": "fg", "alpha": "alpha", "merged": "image", "trimap": "trimap"},
        # PeterL1n/RobustVideoMatting: the image part; backgrounds are a folder apart
        "rvm": {"fgr": "fg", "pha": "alpha", "bgr": BACKGROUND},
        "folder": {"image": "image", "alpha": "alpha", "fg": "fg", "trimap": "trimap"},
    }
)


def export(folder: Path, out: Path, to: str, *, progress: Callable[[], object] | None = None) -> int:
    """Write every portrait of a dataset into a trainer's folders; run again, it goes on where it stopped.

    Args:
        folder: the dataset.
        out: another folder, empty or begun by the same export.
        to: a name in LAYOUTS.
        progress: called after every portrait.

    Returns:
        Number of portraits.

    Raises:
        ValueError: the dataset is damaged, `out` holds something else, or another run is working on it.
    """
    if to not in LAYOUTS:
        raise ValueError(f"unknown layout {to!r}; known: {', '.join(LAYOUTS)}")
    config = read_config(folder)
    shards, problems = recorded_shards(folder, config)
    if problems:
        raise ValueError(f"{folder} is not a whole dataset: {problems[0]}; finish or mend it first (see `verify`)")
    begin(out, {"format": 1, "to": to, "dataset": config_hash(config)})
    with locked(out):
        sweep(out)
        for name in LAYOUTS[to]:
            with naming(out / name):
                (out / name).mkdir(parents=True, exist_ok=True)
            sweep(out / name)
        return write_portraits(folder, shards, out, LAYOUTS[to], progress=progress)


def write_portraits(
    folder: Path,
    shards: Mapping[int, Mapping[str, Any]],
    out: Path,
    layout: Mapping[str, str],
    *,
    progress: Callable[[], object] | None = None,
) -> int:
    """The files of all portraits; returns how many portraits there are."""
    num_portraits = 0
    for fields in shards.values():
        for problem in file_problems(folder / fields["tar"]["name"], fields["tar"]):
            raise ValueError(f"{folder} is damaged: {problem}; see `verify`")
        for key, files in samples_of(folder / fields["tar"]["name"]):
            write_sample(out, layout, key, files)
            num_portraits += 1
            if progress is not None:
                progress()
    return num_portraits


def begin(out: Path, record: Mapping[str, object]) -> None:
    """Take a folder for an export: an empty one, or one that the same export has begun."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder")
    there = out / RECORD
    if there.exists():
        try:
            same = json.loads(there.read_text()) == record
        except ValueError:
            same = False
        if not same:
            raise ValueError(f"{out} holds another export (see {RECORD}); use another folder")
        return
    if out.exists() and not all(path.match(f"{RECORD}.*{PARTIAL}") for path in out.iterdir()):
        raise ValueError(f"{out} is not empty and no export has begun in it; use an empty folder")
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    publish_json(there, dict(record))


def write_sample(out: Path, layout: Mapping[str, str], key: str, files: Mapping[str, bytes]) -> None:
    """The files of one portrait, each whole or not at all; those that are there already are left alone."""
    for path, content in contents(out, layout, key, files):
        publish_bytes(path, content)


def contents(
    out: Path, layout: Mapping[str, str], key: str, files: Mapping[str, bytes]
) -> Iterator[tuple[Path, bytes]]:
    """Paths and bytes of the files that are missing."""
    for name, member in layout.items():
        path = out / name / f"{key}.png"
        if path.exists():
            continue
        if member == BACKGROUND:
            yield path, png(background_of(key, files))
        elif f"{member}.png" in files:
            yield path, files[f"{member}.png"]  # byte for byte
        else:
            yield path, png(decoded(key, files, member))


def decoded(key: str, files: Mapping[str, bytes], member: str) -> np.ndarray:
    """Pixels of a member, whichever ending it has."""
    name = next((f"{member}.{ending}" for ending in ("png", "jpg") if f"{member}.{ending}" in files), None)
    if name is None:
        raise ValueError(f"sample {key} lacks {member}.png; it has {', '.join(files)}")
    try:
        pixels: np.ndarray = decode(name, files[name])
    except (OSError, ValueError) as error:
        raise ValueError(f"sample {key}: {name} cannot be decoded: {error}") from error
    return pixels


def background_of(key: str, files: Mapping[str, bytes]) -> np.ndarray:
    """Estimated background [H, W, 3] uint8, its colours extended behind the person."""
    rgb, alpha = decoded(key, files, "image"), decoded(key, files, "alpha")
    image = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    _, background = foreground_method("fast")(image, torch.from_numpy(alpha.astype(np.float32))[None, None] / 255)
    return rgb_from_image(background[0])
