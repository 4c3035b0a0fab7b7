"""DeepLabv3+ on ResNet-101 with three classes: the paper's trimap network.

Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018 (arXiv
1802.02611), in the public form with full convolutions, output stride 16. Module names follow the published file; a
parity test holds the numbers.

Images are [N, 3, H, W] in [-1, 1], any size. Comments give the channels and the scale of a feature.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """ResNet's 1x1, 3x3, 1x1 block (He et al. 2016, arXiv 1512.03385), the 3x3 strided or dilated."""

    def __init__(self, c_in: int, width: int, *, stride: int = 1, dilation: int = 1, first: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module = nn.Identity()
        if first:
            project = nn.Conv2d(c_in, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def stage(c_in: int, width: int, *, stride: int, dilations: tuple[int, ...]) -> nn.Sequential:
    """One block for each dilation, the first of which changes size and channels."""
    first = Bottleneck(c_in, width, stride=stride, dilation=dilations[0], first=True)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, dilation=d) for d in dilations[1:]))


class ResNet101(nn.Module):
    """Image to 2048 channels at 1/16 and 256 channels at 1/4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = stage(64, 64, stride=1, dilations=(1,) * 3)
        self.layer2 = stage(256, 128, stride=2, dilations=(1,) * 4)
        self.layer3 = stage(512, 256, stride=2, dilations=(1,) * 23)
        self.layer4 = stage(1024, 512, stride=1, dilations=(2, 4, 8))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        low: Tensor = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(image)))))  # 256 at 1/4
        return self.layer4(self.layer3(self.layer2(low))), low


class AtrousConv(nn.Module):
    """One arm of the pyramid, 2048 to 256 channels: 1x1, or 3x3 with a dilation."""

    def __init__(self, dilation: int | None = None) -> None:
        super().__init__()
        size, dilation = (1, 1) if dilation is None else (3, dilation)
        padding = dilation if size == 3 else 0
        self.atrous_conv = nn.Conv2d(2048, 256, size, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(256)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling (arXiv 1706.05587): 2048 to 256 channels at 1/16."""

    def __init__(self) -> None:
        super().__init__()
        self.aspp1 = AtrousConv()
        self.aspp2 = AtrousConv(6)
        self.aspp3 = AtrousConv(12)
        self.aspp4 = AtrousConv(18)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(2048, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()
        )
        self.conv1, self.bn1 = nn.Conv2d(1280, 256, 1, bias=False), nn.BatchNorm2d(256)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[2:])
        arms = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), pooled]
        return F.relu(self.bn1(self.conv1(torch.cat(arms, 1))))


class Decoder(nn.Module):
    """The pyramid joined with the low-level feature, to three classes at 1/4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(256, 48, 1, bias=False), nn.BatchNorm2d(48)
        self.last_conv = nn.Sequential(
            nn.Conv2d(304, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout(0.1),
            nn.Conv2d(256, 3, 1),
        )  # fmt: skip

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        low = F.relu(self.bn1(self.conv1(low)))  # 48 at 1/4
        y: Tensor = self.last_conv(torch.cat([resized(x, low), low], 1))
        return y


class DeepLab(nn.Module):
    """The whole network, 59.3 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet101()
        self.aspp = Pyramid()
        self.decoder = Decoder()

    def forward(self, image: Tensor) -> Tensor:
        """Logits [N, 3, H, W] of background, unknown, foreground."""
        x, low = self.backbone(image)
        return resized(self.decoder(self.aspp(x), low), image)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize to the height and width of `like`, corner pixels aligned."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
