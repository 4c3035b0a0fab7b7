"""Latents of rendered portraits: what was drawn for a scene, each number brought to a standard normal one.

The studio draws a person's traits independently, so a scene's traits, made normal one by one, are a sample of the
latents that a generator is asked with later. A generator that has learnt to draw the renders from them (a paired start)
knows people, poses and hair before any discriminator is there, and cannot fall back to one face.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

IGNORED = ("identity", "size", "seed", "up", "iris", "freckles", "roughness")
HEAD_SHAPE = (
    "head-fat-incr",
    "head-scale-vert-incr",
    "head-scale-horiz-incr",
    "head-scale-depth-incr",
    "neck-scale-vert-incr",
    "neck-scale-horiz-incr",
    "chin-jaw-drop-incr",
    "nose-scale-vert-incr",
)

Codes = NDArray[np.float32]


def read_records(folder: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON of some renders."""
    return [json.loads((folder / f"{key}.json").read_text()) for key in keys]


def traits(record: Mapping[str, Any], prefix: str = "") -> dict[str, float | str]:
    """The scene's numbers and words by their path; of the many shapes of a face only those seen from afar."""
    flat: dict[str, float | str] = {}
    for name, value in record.items():
        path = f"{prefix}{name}"
        if name in IGNORED or name.endswith("Right") or (prefix.endswith("changes.") and name not in HEAD_SHAPE):
            continue
        if path == "light":  # "key-environment"
            flat |= traits(dict(zip(("key", "environment"), str(value).split("-", 1), strict=False)), "light.")
        elif isinstance(value, Mapping):
            flat |= traits(value, f"{path}.")
        elif isinstance(value, list):
            flat |= traits({str(index): one for index, one in enumerate(value)}, f"{path}.")
        else:
            flat[path] = value if isinstance(value, str) else float(value)
    return flat


def normal_scores(column: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """[N] numbers -> their normal scores; equal ones in random order."""
    order = np.lexsort((rng.random(len(column)), column))
    ranks = np.empty(len(column))
    ranks[order] = np.arange(len(column))
    return np.asarray(ndtri((ranks + 0.5) / len(column)))


def word_scores(words: Sequence[str], rng: np.random.Generator) -> NDArray[np.float64]:
    """[N] words -> [N, number of words] normal numbers, the largest of which stands at the word's place."""
    names = sorted(set(words))
    scores = rng.standard_normal((len(words), len(names)))
    rows, place, largest = np.arange(len(words)), np.array([names.index(word) for word in words]), scores.argmax(1)
    scores[rows, place], scores[rows, largest] = scores[rows, largest], scores[rows, place]
    return scores


def scene_codes(records: Sequence[Mapping[str, Any]], *, seed: int = 0) -> Codes:
    """The traits of N scenes as [N, K] standard normal numbers, K the same for the same kinds of traits."""
    rng = np.random.default_rng(seed)
    rows = [traits(record) for record in records]
    columns = []
    for name in sorted(set().union(*rows)):
        values = [row.get(name, 0.0) for row in rows]
        if any(isinstance(value, str) for value in values):
            columns.append(word_scores([str(value) for value in values], rng))
        elif len(set(values)) > 1:
            columns.append(normal_scores(np.array(values, dtype=np.float64), rng)[:, None])
    return np.concatenate(columns, axis=1).astype(np.float32)


def background_codes(backgrounds: NDArray[np.uint8], *, seed: int = 0) -> Codes:
    """The mean colours of the quarters of N backgrounds [N, S, S, 3], as [N, 12] standard normal numbers."""
    rng = np.random.default_rng(seed)
    num, side = len(backgrounds), backgrounds.shape[1] // 2
    quarters = backgrounds[:, : 2 * side, : 2 * side].reshape(num, 2, side, 2, side, 3).mean((2, 4)).reshape(num, 12)
    return np.stack([normal_scores(column, rng) for column in quarters.T], axis=1).astype(np.float32)


def latents(codes: Sequence[Codes], *, dim: int, draws: torch.Generator) -> torch.Tensor:
    """Codes [N, K] each, side by side, filled up with fresh normal numbers to [N, dim]."""
    known = torch.from_numpy(np.concatenate(codes, axis=1))
    if known.shape[1] > dim:
        raise ValueError(f"{known.shape[1]} traits do not fit into {dim} latent numbers")
    return torch.cat([known, torch.randn(len(known), dim - known.shape[1], generator=draws)], dim=1)
