"""The exact-alpha benchmark: people that no network has learnt from, over backgrounds that none has seen.

Its folder is what proofs run on: one PNG a portrait below image/, alpha/, hair/, fg/, bg/ and trimap/, and
attributes.csv, which says who is who.
"""

import csv
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..enhance.light import LINEAR, blend
from ..enhance.trimap import trimap_from_alpha
from .backgrounds import ALL, UNSEEN, Family, background_pool, family_name
from .composites import Portraits, load_portraits, planes
from .grids import to_rgb

BACKGROUND_SEED = 2_000_000  # of no training's pool
TRIMAP_WIDTH = 4  # px at 128, scaled with the size
VERSION = 2  # of what a seed gives; in 1 tests showed parts of the photographs that trainings show
LAYERS = ("image", "alpha", "hair", "fg", "bg", "trimap")


def write_benchmark(
    renders: Path,
    out: Path,
    *,
    size: int,
    num: int | None = None,
    seed: int = 0,
    split: str = "test",
    keys: Collection[str] | None = None,
) -> int:
    """Makes the benchmark from the renders of the test split; the same seed gives the same bytes.

    Args:
        renders: as `studio render` writes them.
        out: folder; files of the same names are replaced, attributes.csv comes last.
        size: of the pictures, px.
        num: portraits; None takes each identity once, more than there are gives them several backgrounds.
        seed: of the backgrounds, and which identity gets which.
        split: "test"; a proof makes its training set in the same way from "train", over what trainings see.
        keys: names of the renders that may be taken; None for all of the split.

    Returns:
        How many portraits were written.

    Raises:
        FileNotFoundError: there are no such renders.
        ValueError: none of them has one of these names.
    """
    portraits = load_portraits(renders, split, size=size)
    taken = np.array([i for i, key in enumerate(portraits.keys) if keys is None or key in keys], np.int64)
    if not len(taken):
        raise ValueError(f"none of the {len(portraits)} renders in {renders / split} has one of the names asked for")
    who = taken[np.resize(np.random.default_rng(seed).permutation(len(taken)), num or len(taken))]
    for layer in LAYERS:
        (out / layer).mkdir(parents=True, exist_ok=True)
    rows = []
    families = UNSEEN if split == "test" else ALL
    for number, index in enumerate(tqdm(who, desc="benchmark", unit="portrait")):
        name = f"{number:05d}"
        layers = composed(portraits, int(index), number, size=size, seed=seed, families=families)
        for layer, pixels in layers.items():
            Image.fromarray(pixels).save(out / layer / f"{name}.png")
        record = json.loads((renders / split / f"{portraits.keys[index]}.json").read_text())
        named: dict[str, str | float] = {"name": name}
        family = family_name(background_seed(number, seed), 0, families=families)
        rows.append(named | described(record, layers["alpha"], layers["hair"]) | {"background": family})
    partial = out / f"attributes.csv.{os.getpid()}.partial"
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(out / "attributes.csv")
    return len(rows)


def background_seed(number: int, seed: int) -> int:
    """Of the pool that background `number` is the first of."""
    return BACKGROUND_SEED + 100_000 * seed + number


def composed(
    portraits: Portraits, index: int, number: int, *, size: int, seed: int, families: Mapping[Family, float]
) -> dict[str, np.ndarray]:
    """One portrait over background `number`: every layer [S, S] or [S, S, 3] uint8; composited in linear light."""
    picture = background_pool(1, size, seed=background_seed(number, seed), families=families)
    one = np.array([index])
    foreground, background = (LINEAR[planes(array, row).long()] for array, row in
                              ((portraits.foreground, one), (picture, np.array([0]))))  # fmt: skip
    alpha = planes(portraits.alpha, one).float() / 255
    trimap = trimap_from_alpha(alpha, width=max(1, round(TRIMAP_WIDTH * size / 128)))
    return {
        "image": to_rgb(blend(foreground, alpha, background))[0],
        "alpha": portraits.alpha[index],
        "hair": portraits.hair[index],
        "fg": portraits.foreground[index],
        "bg": picture[0],
        "trimap": _grey(trimap),
    }


def _grey(plane: Tensor) -> np.ndarray:
    return np.asarray((plane[0, 0] * 255).round().to(torch.uint8).numpy())  # 0.5 becomes 128


def described(record: Mapping[str, Any], alpha: np.ndarray, hair: np.ndarray) -> dict[str, str | float]:
    """The attributes that results are broken down by, of one render's JSON and its layers [S, S] uint8."""
    person = record["attributes"]
    soft = (alpha > 5) & (alpha < 250)
    return {
        "identity": record["identity"],
        "age": round(person["age"], 1),
        "gender": round(person["gender"], 2),
        "tone": round(person["skin"]["tone"], 2),
        "hair": person["hair"]["style"],
        "light": record["light"],
        "yaw": round(person["yaw"], 1),
        "coverage": round(float(alpha.mean()) / 255, 4),
        "soft_share": round(float(soft.mean()), 4),
        "hair_share": round(float(hair.mean()) / 255, 4),
    }
