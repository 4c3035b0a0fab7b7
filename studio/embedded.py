"""The embedded StyleGAN2: its size, and how its portraits are drawn while it is trained."""

import torch
from torch import Tensor

from ..enhance import autocast
from ..gen.networks import Generator

CHANNELS = {4: 256, 8: 256, 16: 256, 32: 128, 64: 64, 128: 32, 256: 16}
DIMS = {"z_dim": 256, "w_dim": 256, "num_mapping_layers": 4}


def new_generator(size: int) -> Generator:
    """The embedded architecture at `size` pixels, untrained."""
    return Generator(resolution=size, channels=CHANNELS, **DIMS)


def random_noise(generator: Generator, batch: int, draws: torch.Generator) -> list[Tensor]:
    """Standard normal maps for every layer, on the generator's device; `draws` is of the CPU."""
    device = generator.mean_w.device
    return [torch.randn(batch, 1, r, r, generator=draws).to(device) for r in generator.noise_sizes]


@torch.no_grad()
def draw_portraits(generator: Generator, num: int, *, psi: float = 1.0, seed: int = 1, batch: int = 32) -> Tensor:
    """The same `num` latents for every call, [num, 3, size, size], not clamped."""
    draws = torch.Generator().manual_seed(seed)
    device = generator.mean_w.device
    z = torch.randn(num, generator.z_dim, generator=draws).to(device)
    with autocast(device.type):
        return torch.cat(
            [generator(part, psi, random_noise(generator, len(part), draws)).float() for part in torch.split(z, batch)]
        )


@torch.no_grad()
def estimate_mean_w(generator: Generator, *, num: int = 10_000) -> None:
    """Sets the mean w, from `num` latents."""
    z = torch.randn(num, generator.z_dim, generator=torch.Generator().manual_seed(0)).to(generator.mean_w.device)
    generator.mean_w.copy_(generator.mapping(z)[:, 0].mean(0))
