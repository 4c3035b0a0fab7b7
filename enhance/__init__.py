"""Portraits made easier to matte, with their matte and foreground: matting networks, losses, the batched loop."""

from .align import FRAMINGS, Framing, Square, framing_of
from .closed_form import FOREGROUNDS, closed_form_alpha, foreground_method, multilevel_foreground
from .faces import Detector, Face, load_detector
from .foreground import estimate_foreground
from .invert import Inverted, invert
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
from .photo import Portrait, portrait_of, read_photo, reduced
from .photos import STATES, EnhancedPhoto, enhance_photos
from .portrait import Enhanced, averaged_matte, final_matte
from .precision import PRECISIONS, autocast, bf16_pays, check_device, chosen_precision
from .trimap import trimap_from_alpha

__all__ = [
    "FOREGROUNDS",
    "FRAMINGS",
    "MATTING_FILES",
    "PRECISIONS",
    "PRESETS",
    "STATES",
    "Detector",
    "Enhanced",
    "EnhancedPhoto",
    "Face",
    "Framing",
    "Inverted",
    "Matting",
    "Perceptual",
    "Portrait",
    "Preset",
    "Square",
    "adversarial",
    "area_change",
    "autocast",
    "averaged_matte",
    "bf16_pays",
    "check_device",
    "chosen_precision",
    "closed_form_alpha",
    "colour_gradient",
    "composite",
    "enhance",
    "enhance_photos",
    "entropy",
    "entropy_map",
    "estimate_foreground",
    "final_matte",
    "foreground_method",
    "framing_of",
    "invert",
    "latent_drift",
    "load_detector",
    "load_matting",
    "load_perceptual",
    "matting_name",
    "multilevel_foreground",
    "noise_drift",
    "outside_band",
    "perceptual",
    "perceptual_features",
    "pixel",
    "portrait_of",
    "random_control",
    "read_photo",
    "reduced",
    "save_network",
    "softness",
    "trimap_entropy",
    "trimap_from_alpha",
]
