"""Portraits from a frozen StyleGAN2: latents, networks, checkpoints, sampling."""

from .checkpoints import load_discriminator, load_generator, save_network
from .latents import Latents, draw_latents, draw_noise, random_stream
from .networks import Discriminator, Generator, grow_from
from .sampler import Sample, sample

__all__ = [
    "Discriminator",
    "Generator",
    "Latents",
    "Sample",
    "draw_latents",
    "draw_noise",
    "grow_from",
    "load_discriminator",
    "load_generator",
    "random_stream",
    "sample",
    "save_network",
]
