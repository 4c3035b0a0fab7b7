"""Latents -> ws (truncated towards the mean w) -> image."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from .latents import Latents, draw_noise
from .networks import Generator


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One portrait as sampled; its tensors are float32, on the generator's device, and share memory with no other.

    A photo that was found again in the generator is a sample, too, though the generator only comes close to it.
    """

    latents: Latents
    ws: Tensor  # [num_ws, w_dim]
    noise: tuple[Tensor, ...]  # one [1, r, r] a layer
    image: Tensor  # [3, H, W] in [-1, 1]
    is_photo: bool = False  # the image is not the generator's: what this lacks of it stays added in an enhancement


def sample(generator: Generator, latents: Iterable[Latents], *, psi: float = 0.7, batch: int = 8) -> Iterator[Sample]:
    """One portrait for each of `latents`, in order.

    The network always runs on exactly `batch` portraits, the last of them repeated where fewer are left, so that the
    shapes, and with them every rounding, are the same for a portrait wherever it stands in the stream (exactly so on
    a CPU for widths that are multiples of 16, as in every public network; else up to the last bit).

    Args:
        psi: truncation; 1 for the full variety of the generator, 0 for its mean portrait.
        batch: portraits a call; the same portrait made with another batch may differ by rounding.
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    stream = iter(latents)
    while group := list(islice(stream, batch)):
        yield from _portraits(generator, group, psi=psi, batch=batch)


@torch.no_grad()
def _portraits(generator: Generator, group: list[Latents], *, psi: float, batch: int) -> list[Sample]:
    """The portraits of one call of the network; `group` holds 1 to `batch` latents.

    The mapping network takes them one by one: a matrix product's rounding may depend on the row it stands in.
    """
    device = generator.mean_w.device
    padded = group + [group[-1]] * (batch - len(group))
    ws = torch.cat([generator.mapping(one.z[None].to(device), psi) for one in padded])  # [batch, num_ws, w_dim]
    noise = [draw_noise(one, generator.noise_sizes) for one in padded]
    maps = [torch.stack(layer).to(device) for layer in zip(*noise, strict=True)]  # each [batch, 1, r, r]
    images = generator.synthesis(ws, maps).clamp(-1, 1)
    return [
        Sample(one, ws[i].clone(), tuple(map_[i].clone() for map_ in maps), images[i].contiguous().clone())
        for i, one in enumerate(group)
    ]
