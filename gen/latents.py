"""(seed, shard, candidate) -> z and noise maps, by a counter-based generator: no order, batch or device enters."""

import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """What one candidate portrait is made from, and the name under which it can be made again."""

    seed: int
    shard: int
    candidate: int
    z: Tensor  # [z_dim], standard normal, float32, on the CPU


def random_stream(seed: int, shard: int, candidate: int, purpose: str) -> np.random.Generator:
    """The stream of random numbers for one purpose of one candidate.

    The four parts are hashed into the 128-bit key of a Philox generator (Salmon et al. 2011), so that streams are
    independent of one another and of the order in which they are opened.

    Args:
        seed, shard, candidate: integers of any size; numpy integers count as the same number.
        purpose: what the numbers are for, for example "z" or "background".

    >>> float(random_stream(1, 2, 3, "z").random()) == float(random_stream(1, 2, 3, "z").random())
    True
    """
    name = f"{operator.index(seed)}/{operator.index(shard)}/{operator.index(candidate)}/{purpose}"
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


def draw_latents(seed: int, shard: int, candidate: int, *, z_dim: int) -> Latents:
    """The candidate's z; noise maps come from the same name later (`draw_noise`), when their sizes are known."""
    z = random_stream(seed, shard, candidate, "z").standard_normal(z_dim, dtype=np.float32)
    return Latents(operator.index(seed), operator.index(shard), operator.index(candidate), torch.from_numpy(z))


def draw_noise(latents: Latents, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The candidate's noise maps.

    Every map has a stream of its own, so that a larger generator sees the same coarse maps as a smaller one.

    Args:
        sizes: the side of each map in pixels, coarse to fine (`Generator.noise_sizes`).

    Returns:
        One [1, r, r] standard normal float32 tensor a size, on the CPU.
    """
    name = (latents.seed, latents.shard, latents.candidate)
    return tuple(
        torch.from_numpy(random_stream(*name, f"noise/{layer}").standard_normal((1, size, size), dtype=np.float32))
        for layer, size in enumerate(sizes)
    )
