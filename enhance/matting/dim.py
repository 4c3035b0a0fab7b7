"""Deep Image Matting, its first stage: VGG16 with batch norm, and a decoder that un-pools where the encoder pooled.

Xu, Price, Cohen, Huang, "Deep Image Matting", CVPR 2017 (arXiv 1703.03872), in the public form without refinement.
Module names follow the published file; a parity test holds the numbers.

Inputs are [N, 4, H, W]: an image normalised as ImageNet's, and the trimap in {0, 0.5, 1}; sides of 32 or more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENCODER = ((4, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))  # (in, out, convolutions)
DECODER = ((512, 512), (512, 256), (256, 128), (128, 64), (64, 1))  # up5 to up1


class ConvUnit(nn.Module):
    """Convolution with bias, batch norm, and in the encoder ReLU."""

    def __init__(self, c_in: int, c_out: int, size: int, *, activation: bool) -> None:
        super().__init__()
        self.cbr_unit = nn.Sequential(nn.Conv2d(c_in, c_out, size, padding=size // 2), nn.BatchNorm2d(c_out))
        if activation:
            self.cbr_unit.append(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cbr_unit(x)
        return y


class Down(nn.Module):
    """Convolutions, then 2x2 max pooling that remembers where each maximum was, and the size."""

    def __init__(self, c_in: int, c_out: int, count: int) -> None:
        super().__init__()
        for i in range(count):
            self.add_module(f"conv{i + 1}", ConvUnit(c_in if i == 0 else c_out, c_out, 3, activation=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        for conv in self.children():
            x = conv(x)
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        return pooled, places, x.shape


class Up(nn.Module):
    """Max un-pooling to the encoder's places, zero elsewhere, then a convolution without activation."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = ConvUnit(c_in, c_out, 5, activation=False)

    def forward(self, x: Tensor, places: Tensor, size: torch.Size) -> Tensor:
        y: Tensor = self.conv(F.max_unpool2d(x, places, (2, 2), output_size=list(size[2:])))
        return y


class DIM(nn.Module):
    """The whole network, 25.6 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        for i, (c_in, c_out, count) in enumerate(ENCODER, 1):
            self.add_module(f"down{i}", Down(c_in, c_out, count))
        for i, (c_in, c_out) in zip(range(5, 0, -1), DECODER, strict=True):
            self.add_module(f"up{i}", Up(c_in, c_out))

    def forward(self, x: Tensor) -> Tensor:
        """Alpha [N, 1, H, W] in [0, 1]."""
        pools: list[tuple[Tensor, torch.Size]] = []
        for i in range(1, 6):
            x, places, size = self.get_submodule(f"down{i}")(x)
            pools.append((places, size))
        for i in range(5, 0, -1):
            x = self.get_submodule(f"up{i}")(x, *pools[i - 1])
        return torch.sigmoid(x.float())
