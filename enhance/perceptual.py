"""A perceptual distance from the first three blocks of VGG16, whose frozen weights lie beside this code.

The form is that of LPIPS (Zhang et al. 2018, arXiv 1801.03924): features scaled to unit length at every position,
squared differences summed over channels, averaged over positions, summed over layers. But the trunk is an edge
detector's VGG16 and every channel weighs 1, so this is called `perceptual`; its numbers are not LPIPS numbers.
"""

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .matting.checkpoint import load_strictly, read_card, read_state

WEIGHTS = Path(__file__).parent / "weights" / "perceptual.safetensors"
MEAN_RGB = (122.67892, 116.66877, 104.00699)  # what the trunk was trained to have subtracted, in 0..255
MAX_SIDE = 256  # larger images are block-averaged to at most this (method.md; as StyleGAN2's projector does)


class Trunk(nn.Module):
    """VGG16's blocks 1 to 3 (Simonyan and Zisserman 2015, arXiv 1409.1556), 1.7 M parameters.

    The first convolution's weights take RGB and hold the factor 127.5. The mean is subtracted from the image and
    not folded into the bias: the zero padding around the image stands for a pixel of the mean colour.
    """

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.ModuleList([nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)])
        self.block2 = nn.ModuleList([nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)])
        self.block3 = nn.ModuleList(
            [nn.Conv2d(128, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)]
        )
        shift = 1 - torch.tensor(MEAN_RGB).view(1, 3, 1, 1) / 127.5
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, image: Tensor, *, depth: int = 3) -> list[Tensor]:
        """Block outputs after their last ReLU.

        Args:
            image: [N, 3, H, W] in [-1, 1].
            depth: how many blocks, 1 to 3.

        Returns:
            [N, 64, H, W], [N, 128, H/2, W/2], [N, 256, H/4, W/4] (sides rounded up), the first `depth` of them.
        """
        outputs: list[Tensor] = []
        x = image + self.shift
        for block in [self.block1, self.block2, self.block3][:depth]:
            x = F.max_pool2d(x, 2, ceil_mode=True) if outputs else x
            for conv in block:
                x = F.relu(conv(x))
            outputs.append(x)
        return outputs


class Perceptual(nn.Module):
    """The frozen distance. Compute a fixed target's features once: `P.distance(P.features(image), target)`."""

    def __init__(self, trunk: Trunk, *, card: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk  # image -> raw feature maps, for a projected discriminator
        self.card = card  # name, licence, source, sha256
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)

    def features(self, image: Tensor, *, depth: int = 3) -> list[Tensor]:
        """Features of unit length at every position.

        Args:
            image: [N, 3, H, W] in [-1, 1], block-averaged here to at most 256 px a side.
            depth: how many blocks, 1 to 3; one block costs a third of three.

        Returns:
            `depth` tensors as `Trunk.forward` shapes them.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image must be [N, 3, H, W], got {list(image.shape)}")
        if not 1 <= depth <= 3:
            raise ValueError(f"depth must be 1, 2 or 3, got {depth}")
        return [unit_length(feature) for feature in self.trunk(block_mean(image, max_side=MAX_SIDE), depth=depth)]

    def distance(self, features_a: list[Tensor], features_b: list[Tensor]) -> Tensor:
        """Sum over layers of the spatial mean of squared differences, [N], in [0, 2 * layers]."""
        layers = zip(features_a, features_b, strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in layers]).sum(0)

    def forward(self, image_a: Tensor, image_b: Tensor) -> Tensor:
        """Distance of images [N, 3, H, W] in [-1, 1], pair by pair, [N]."""
        return self.distance(self.features(image_a), self.features(image_b))


def unit_length(feature: Tensor) -> Tensor:
    """Scale to unit length over channels, in float32; epsilon keeps the gradient finite where every channel is 0."""
    feature = feature.float()  # differences of bfloat16 features lose the small distances
    return feature * torch.rsqrt(feature.square().sum(1, keepdim=True) + 1e-8)


def block_mean(image: Tensor, *, max_side: int) -> Tensor:
    """Means over k x k blocks, k the smallest that leaves no side above `max_side`; k = 1 changes nothing."""
    k = -(-max(image.shape[-2:]) // max_side)
    return image if k <= 1 else F.avg_pool2d(image, k, ceil_mode=True)


def load_perceptual(file: Path = WEIGHTS) -> Perceptual:
    """The embedded perceptual distance, frozen.

    Raises:
        FileNotFoundError: the weights are not there.
        ValueError: the file does not hold this trunk.
    """
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: the perceptual trunk is missing; get it from the repository or make it with studio/perceptual.py"
        )
    trunk = Trunk()
    load_strictly(trunk, read_state(file), file=file)
    return Perceptual(trunk, card={"name": file.stem} | read_card(file))
