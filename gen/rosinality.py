"""rosinality's StyleGAN2 files (github.com/rosinality/stylegan2-pytorch) -> the layout of networks.py."""

import re
from collections.abc import Mapping

from torch import Tensor

from .nvidia import without_filters

INSIDE = {
    "conv.weight": "weight",
    "conv.modulation.weight": "style.weight",
    "conv.modulation.bias": "style.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
DISCRIMINATOR_LAYERS = {
    "conv1.0.weight": "conv.weight",
    "conv1.1.bias": "conv.bias",
    "conv2.1.weight": "down.weight",
    "conv2.2.bias": "down.bias",
    "skip.1.weight": "skip.weight",
}
DISCRIMINATOR_ENDS = {
    "convs.0.0.weight": "from_rgb.weight",
    "convs.0.1.bias": "from_rgb.bias",
    "final_conv.0.weight": "conv.weight",
    "final_conv.1.bias": "conv.bias",
    "final_linear.0.weight": "dense.weight",
    "final_linear.0.bias": "dense.bias",
    "final_linear.1.weight": "out.weight",
    "final_linear.1.bias": "out.bias",
}


def is_rosinality(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has rosinality's names."""
    return "input.input" in state or "final_conv.0.weight" in state


def rename_generator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """rosinality's names and shapes -> ours, without mean_w; a name it does not know stays as it is."""
    ours = {}
    for key, value in without_filters(state, ".kernel").items():
        if key == "input.input":
            key = "blocks.4.const"
        elif match := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
            key = f"dense.{int(match[1]) - 1}.{match[2]}"
        elif match := re.fullmatch(r"noises\.noise_(\d+)", key):
            key = f"{_conv(int(match[1]))}.noise"
        elif match := re.fullmatch(r"(conv1|convs\.\d+|to_rgb1|to_rgbs\.\d+)\.(.+)", key):
            key = f"{_layer(match[1])}.{INSIDE.get(match[2], match[2])}"
            value = _reshaped(value, match[2])
        ours[key] = value
    return ours


def rename_discriminator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """rosinality's names -> ours; a name it does not know stays as it is."""
    blocks = [int(match[1]) for key in state if (match := re.fullmatch(r"convs\.(\d+)\.conv1\.0\.weight", key))]
    top = 2 ** (min(max(blocks, default=1), 20) + 2)  # convs.1 is the top block, the last one has side 8
    ours = {}
    for key, value in without_filters(state, ".kernel").items():
        if key in DISCRIMINATOR_ENDS:
            key = DISCRIMINATOR_ENDS[key]
        elif (match := re.fullmatch(r"convs\.(\d+)\.(.+)", key)) and match[2] in DISCRIMINATOR_LAYERS:
            key = f"blocks.{top >> (int(match[1]) - 1)}.{DISCRIMINATOR_LAYERS[match[2]]}"
        ours[key] = value
    return ours


def _conv(index: int) -> str:
    """Our name of the convolution that takes the noise map of this index: 0 at side 4, then two a side."""
    side = 2 ** (min(index + 5, 50) // 2)
    return f"blocks.{side}.{'conv' if index % 2 == 0 else 'up'}"


def _layer(name: str) -> str:
    """conv1, convs.{i}, to_rgb1, to_rgbs.{j} -> our name of the layer."""
    if name in ("conv1", "to_rgb1"):
        return "blocks.4.conv" if name == "conv1" else "blocks.4.to_rgb"
    kind, index = name.split(".")
    return _conv(int(index) + 1) if kind == "convs" else f"blocks.{2 ** min(int(index) + 3, 25)}.to_rgb"


def _reshaped(value: Tensor, inside: str) -> Tensor:
    """Drops the axes of length 1 that only this layout has; a value of another shape is left for the strict check."""
    if inside == "conv.weight" and value.ndim == 5:
        return value.squeeze(0)
    if inside == "noise.weight" and value.shape == (1,):
        return value[0]
    if inside == "bias" and value.ndim == 4:
        return value.flatten()
    return value
