"""Portraits from a frozen StyleGAN2: latents, networks, checkpoints, sampling."""

from .checkpoints import load_discriminator, load_generator, save_network
from .fetch import fetch, sum_of
from .known import GENERATOR_FILES, KnownFile, embedded_file, file_of
from .latents import Latents, draw_latents, draw_noise, random_stream
from .layouts import Absent
from .memory import keep_freed_memory
from .networks import Discriminator, Generator, compiled_synthesis, grow_from
from .sampler import Sample, sample

__all__ = [
    "GENERATOR_FILES",
    "Absent",
    "Discriminator",
    "Generator",
    "KnownFile",
    "Latents",
    "Sample",
    "compiled_synthesis",
    "draw_latents",
    "draw_noise",
    "embedded_file",
    "fetch",
    "file_of",
    "grow_from",
    "keep_freed_memory",
    "load_discriminator",
    "load_generator",
    "random_stream",
    "sample",
    "save_network",
    "sum_of",
]
