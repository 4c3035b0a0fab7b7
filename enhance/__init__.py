"""Portraits made easier to matte, with their matte and foreground: matting networks, losses, the batched loop."""

from .closed_form import FOREGROUNDS, closed_form_alpha, foreground_method, multilevel_foreground
from .foreground import estimate_foreground
from .losses import (
    adversarial,
    area_change,
    composite,
    entropy,
    entropy_map,
    latent_drift,
    noise_drift,
    outside_band,
    perceptual,
    perceptual_features,
    pixel,
    softness,
    trimap_entropy,
)
from .matting import MATTING_FILES, Matting, load_matting, matting_name, save_network
from .objective import PRESETS, Preset, colour_gradient
from .optimize import enhance, random_control
from .perceptual import Perceptual, load_perceptual
from .portrait import Enhanced, averaged_matte
from .trimap import trimap_from_alpha

__all__ = [
    "FOREGROUNDS",
    "MATTING_FILES",
    "PRESETS",
    "Enhanced",
    "Matting",
    "Perceptual",
    "Preset",
    "adversarial",
    "area_change",
    "averaged_matte",
    "closed_form_alpha",
    "colour_gradient",
    "composite",
    "enhance",
    "entropy",
    "entropy_map",
    "estimate_foreground",
    "foreground_method",
    "latent_drift",
    "load_matting",
    "load_perceptual",
    "matting_name",
    "multilevel_foreground",
    "noise_drift",
    "outside_band",
    "perceptual",
    "perceptual_features",
    "pixel",
    "random_control",
    "save_network",
    "softness",
    "trimap_entropy",
    "trimap_from_alpha",
]
