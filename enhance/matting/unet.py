"""A small residual U-Net for portraits: the second opinion.

It shares nothing with MODNet: no MobileNetV2, no branches, group norm in place of batch and instance norm, residual
blocks of plain convolutions, and the image unshuffled by 2 rather than filtered down. So an image that fools the one
is unlikely to fool the other in the same way. The layout is that of Ronneberger et al. 2015 (arXiv 1505.04597).

Images are [N, 3, H, W] in [-1, 1], H and W multiples of 16. Comments give the channels and the scale of a feature.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64, 96, 128)  # channels at 1/2, 1/4, 1/8, 1/16


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm around an identity (or 1x1) path; the second starts at zero."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(8, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, c_out)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.skip(x) + self.norm2(self.conv2(y)))


class GlobalContext(nn.Module):
    """Adds to every position what the whole picture says: a projection of the global mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        context: Tensor = self.project(x.mean((2, 3)))  # [N, C]
        return F.relu(x + context[:, :, None, None])


class UNet(nn.Module):
    """Image to alpha, 1.4 M parameters with the default widths."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c_in, c_out, 2, 2), ResidualBlock(c_out, c_out))
            for c_in, c_out in itertools.pairwise(widths)
        )
        self.first = ResidualBlock(widths[0], widths[0])
        self.context = GlobalContext(widths[-1])
        self.bottom = ResidualBlock(widths[-1], widths[-1])
        self.reduce = nn.ModuleList(nn.Conv2d(c_deep, c_here, 1) for c_here, c_deep in itertools.pairwise(widths))
        self.up = nn.ModuleList(ResidualBlock(2 * c_here, c_here) for c_here in widths[:-1])
        self.narrow = nn.Conv2d(widths[0], widths[0] // 2, 1)
        self.refine = nn.Conv2d(widths[0] // 2 + 3, 16, 3, padding=1)
        self.predict = nn.Conv2d(16, 1, 3, padding=1)

    def logits(self, image: Tensor) -> Tensor:
        """Alpha before its sigmoid, [N, 1, H, W]."""
        features = [self.first(self.stem(F.pixel_unshuffle(image, 2)))]  # 32 at 1/2
        for down in self.down:
            features.append(down(features[-1]))
        x = self.bottom(self.context(features.pop()))  # 128 at 1/16

        for reduce, up, feature in zip(reversed(self.reduce), reversed(self.up), reversed(features), strict=True):
            x = up(torch.cat([feature, doubled(reduce(x))], 1))  # 96 at 1/8, 64 at 1/4, 32 at 1/2

        x = F.relu(self.refine(torch.cat([image, doubled(self.narrow(x))], 1)))  # 16 at 1
        logit: Tensor = self.predict(x)
        return logit

    def forward(self, image: Tensor) -> Tensor:
        """Alpha [N, 1, H, W] in [0, 1] of images [N, 3, H, W] in [-1, 1], H and W multiples of 16."""
        return torch.sigmoid(self.logits(image).float())  # bfloat16 has no value between 0.996 and 1


def doubled(x: Tensor) -> Tensor:
    """Bilinear resize of [N, C, H, W] to twice the size."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
