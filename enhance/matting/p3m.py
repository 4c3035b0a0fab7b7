"""P3M-Net: one encoder, one decoder that says where the person is, one that says how much of each pixel.

Li, Ma, Zhang, Tao, "Privacy-Preserving Portrait Matting", ACM Multimedia 2021 (arXiv 2104.14222), with the ResNet-34
whose strides are max pools that remember their places. Module names follow the published file; a parity test holds the
numbers.

Images are [N, 3, H, W] normalised as ImageNet's, H and W multiples of 32. Comments give the channels and the scale of
a feature.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BACKGROUND, UNKNOWN, FOREGROUND = 0, 1, 2  # the classes of the global decoder


class Portrait(NamedTuple):
    """What the network says; logits are of background, unknown and foreground."""

    logits: Tensor  # [N, 3, H, W] of the global decoder
    local: Tensor  # [N, 1, H, W] in [0, 1], alpha to be trusted where the class is unknown
    fusion: Tensor  # [N, 1, H, W] in [0, 1], the matte
    side2: Tensor  # [N, 3, H, W], logits from 1/8
    side1: Tensor  # [N, 3, H, W], logits from 1/4
    side0: Tensor  # [N, 3, H, W], logits from 1/2


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions; the size stays."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)
        self.downsample = (
            nn.Identity()
            if c_in == c_out
            else nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class ResNet34(nn.Module):
    """ResNet-34 (He et al. 2016, arXiv 1512.03385) without strides; its classifier is in the file and never used."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, padding=3, bias=False), nn.BatchNorm2d(64)
        for i, (c_in, c_out, count) in enumerate(((64, 64, 3), (64, 128, 4), (128, 256, 6), (256, 512, 3)), 1):
            blocks = [BasicBlock(c_in, c_out), *(BasicBlock(c_out, c_out) for _ in range(count - 1))]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(512, 1000)


class FromGlobal(nn.Module):
    """Tripartite integration (TFI): the global decoder, the local decoder and the encoder, through one 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.conv1 = nn.Conv2d(3 * channels // 2, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)

    def forward(self, above: Tensor, local: Tensor, encoded: Tensor) -> Tensor:
        narrowed = torch.cat([self.transform(x) for x in (above, local, encoded)], 1)
        return F.relu(self.bn1(self.conv1(narrowed)))


class FromShallow(nn.Module):
    """Shallow bipartite integration (SBFI): the first feature, at full size, adds edges to the local decoder."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.transform1 = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.transform2 = nn.Conv2d(64, channels // 2, 1, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stride = stride

    def forward(self, x: Tensor, e0: Tensor) -> Tensor:
        edges = self.transform2(F.max_pool2d(e0, 2, self.stride))  # looks at 2x2 pixels of every cell
        return x + F.relu(self.bn1(self.conv1(torch.cat([self.transform1(x), edges], 1))))


class FromDeep(nn.Module):
    """Deep bipartite integration (DBFI): the deepest feature adds meaning to the global decoder; logits beside."""

    def __init__(self, channels: int, enlarge: int) -> None:
        super().__init__()
        self.transform1 = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.transform2 = nn.Conv2d(512, channels // 2, 1, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 3, 3, padding=1, bias=False)
        self.enlarge = enlarge  # from e4's size to x's

    def forward(self, x: Tensor, e4: Tensor) -> tuple[Tensor, Tensor]:
        meaning = enlarged(self.transform2(e4), self.enlarge)
        x = x + F.relu(self.bn1(self.conv1(torch.cat([self.transform1(x), meaning], 1))))
        return x, enlarged(self.conv2(x), 32 // self.enlarge)


def decoder(*widths: int, predicts: bool = False) -> nn.Sequential:
    """Convolutions from width to width with batch norm and ReLU; the last has neither if it predicts."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*(layers[:-2] if predicts else layers))


class P3MNet(nn.Module):
    """The whole network, 39.5 M parameters, half a million of them unused."""

    decoder1_g: nn.Sequential
    decoder2_g: nn.Sequential
    decoder3_g: nn.Sequential
    decoder4_g: nn.Sequential
    decoder1_l: nn.Sequential
    decoder2_l: nn.Sequential
    decoder3_l: nn.Sequential
    decoder4_l: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet34()
        # The published file holds the encoder under both names; it is one module here too.
        self.encoder0 = nn.Sequential(self.resnet.conv1, self.resnet.bn1, nn.ReLU())
        self.encoder1 = nn.Sequential(self.resnet.layer1)
        self.encoder2, self.encoder3, self.encoder4 = self.resnet.layer2, self.resnet.layer3, self.resnet.layer4
        self.tfi_3, self.tfi_2, self.tfi_1, self.tfi_0 = map(FromGlobal, (256, 128, 64, 64))
        self.sbfi_2, self.sbfi_1, self.sbfi_0 = map(FromShallow, (128, 64, 64), (8, 4, 2))
        self.dbfi_2, self.dbfi_1, self.dbfi_0 = map(FromDeep, (128, 64, 64), (4, 8, 16))
        for i, (c_in, c_out) in enumerate(((64, 64), (128, 64), (256, 128), (512, 256)), 1):
            self.add_module(f"decoder{i}_g", decoder(c_in, c_in, c_in, c_out))
            self.add_module(f"decoder{i}_l", decoder(c_in, c_in, c_in, c_out))
        self.decoder0_g = decoder(64, 64, 64, 3, predicts=True)
        self.decoder0_l = decoder(64, 64, 64)
        self.decoder_final_l = nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Portrait:
        # Encoder: every stage is pooled before the next. e0 64 at 1, e1 64 at 1/4 ... e4 512 at 1/32
        e0 = self.encoder0(image)
        p0, places0 = pooled(e0)  # 64 at 1/2
        x, places1 = pooled(p0)
        e1 = self.encoder1(x)
        x, places2 = pooled(e1)
        e2 = self.encoder2(x)
        x, places3 = pooled(e2)
        e3 = self.encoder3(x)
        x, places4 = pooled(e3)
        e4 = self.encoder4(x)

        # Global decoder: 256 at 1/16, 128 at 1/8, 64 at 1/4, 64 at 1/2, logits at 1.
        g4 = enlarged(self.decoder4_g(e4), 2)
        g3 = enlarged(self.decoder3_g(g4), 2)
        deep, side2 = self.dbfi_2(g3, e4)
        g2 = enlarged(self.decoder2_g(deep), 2)
        deep, side1 = self.dbfi_1(g2, e4)
        g1 = enlarged(self.decoder1_g(deep), 2)
        deep, side0 = self.dbfi_0(g1, e4)
        logits = enlarged(self.decoder0_g(deep), 2)

        # Local decoder: un-pooled to where the encoder had its maxima, the same sizes.
        x = self.tfi_3(g4, unpooled(self.decoder4_l(e4), places4), e3)
        x = self.tfi_2(g3, unpooled(self.decoder3_l(x), places3), e2)
        x = self.tfi_1(g2, unpooled(self.decoder2_l(self.sbfi_2(x, e0)), places2), e1)
        x = self.tfi_0(g1, unpooled(self.decoder1_l(self.sbfi_1(x, e0)), places1), p0)
        x = unpooled(self.decoder0_l(self.sbfi_0(x, e0)), places0)
        local = torch.sigmoid(self.decoder_final_l(x).float())

        classes = logits.argmax(1, keepdim=True)
        fusion = torch.where(classes == UNKNOWN, local, (classes == FOREGROUND).to(local.dtype))
        return Portrait(logits, local, fusion, side2, side1, side0)


def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of overlapping 3x3 cells at half the size, and the place of each in its plane."""
    maxima, places = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    return maxima, places


def unpooled(x: Tensor, places: Tensor) -> Tensor:
    """Values at their places in a plane of twice the size, 0 elsewhere.

    The cells overlap, so several may name one place: the last in reading order wins, as it does on a CPU; left to
    itself a GPU would let chance decide. As in the published network all of them take the place's gradient.
    """
    n, channels, height, width = x.shape
    flat = places.flatten(2)
    order = torch.arange(height * width, device=x.device).expand_as(flat)
    last = order.new_zeros(n, channels, 4 * height * width).scatter_reduce(2, flat, order, "amax", include_self=False)
    winners = x.flatten(2).gather(2, last.gather(2, flat)).view_as(x)
    x = winners.detach() + (x - x.detach())
    return F.max_unpool2d(x, places, [2, 2], [2, 2])


def enlarged(x: Tensor, factor: int) -> Tensor:
    """Bilinear resize of [N, C, H, W] by a whole factor, pixel centres aligned."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
