"""IndexNet matting: pooling and un-pooling steered by learned indices.

Lu, Dai, Shen, Xu, "Indices Matter: Learning to Index for Deep Image Matting", ICCV 2019 (arXiv 1908.00672), with
depthwise many-to-one indices on a MobileNetV2. Module names follow the published file; a parity test holds the numbers.

Inputs are [N, 4, H, W]: an image normalised as ImageNet's, and the trimap in {0, 0.5, 1}; H and W multiples of 32.
Comments give the channels and the scale of a feature.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# MobileNetV2's stages as layer1 to layer7: (expansion, channels in, channels out, blocks).
STAGES = (
    (1, 32, 16, 1),
    (6, 16, 24, 2),
    (6, 24, 32, 3),
    (6, 32, 64, 4),
    (6, 64, 96, 3),
    (6, 96, 160, 3),
    (6, 160, 320, 1),
)
POOLED = {0: 32, 2: 24, 3: 32, 4: 64, 6: 160}  # layers whose output is pooled by indices, with its channels
# Decoder layers 0 to 6: (channels in, with the skip; channels out).
DECODERS = ((64, 32), (32, 32), (48, 16), (64, 24), (128, 32), (192, 64), (320, 96))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow without activation.

    The zero padding of the filter is laid around the block's input, so the widened border is what the widening makes
    of zero, not zero.
    """

    def __init__(self, c_in: int, c_out: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        widen = [] if expansion == 1 else [nn.Conv2d(c_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        self.conv = nn.Sequential(
            *widen,
            nn.Conv2d(wide, wide, 3, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.keeps_shape = c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (1, 1, 1, 1)))
        return x + y if self.keeps_shape else y


class IndexBlock(nn.Module):
    """Indices of a feature: one value for each position of every 2x2 cell, from four small networks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.indexnet1 = index_net(channels)
        self.indexnet2 = index_net(channels)
        self.indexnet3 = index_net(channels)
        self.indexnet4 = index_net(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Indices for pooling (a cell's add up to 1) and for un-pooling (each in [0, 1]), both shaped as x."""
        nets = (self.indexnet1, self.indexnet2, self.indexnet3, self.indexnet4)
        gates = torch.sigmoid(torch.stack([net(x) for net in nets], 2))  # [N, C, 4, H/2, W/2]
        shares = gates.softmax(2)
        return F.pixel_shuffle(shares.flatten(1, 2), 2), F.pixel_shuffle(gates.flatten(1, 2), 2)


def index_net(channels: int) -> nn.Sequential:
    """The network of one position in the cell; it sees 4x4 pixels."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 4, 2, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
        nn.Conv2d(channels, channels, 1, bias=False),
    )


class AtrousConv(nn.Module):
    """One arm of the pyramid: 1x1 alone, or after a dilated filter of each channel."""

    def __init__(self, c_in: int, c_out: int, dilation: int | None = None) -> None:
        super().__init__()
        spread: list[nn.Module] = []
        if dilation is not None:
            depthwise = nn.Conv2d(c_in, c_in, 3, padding=dilation, dilation=dilation, groups=c_in, bias=False)
            spread = [depthwise, nn.BatchNorm2d(c_in), nn.ReLU6()]
        self.atrous_conv = nn.Sequential(
            *spread, nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU6()
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.atrous_conv(x)
        return y


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, arXiv 1706.05587): 320 to 160 channels at 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.aspp1 = AtrousConv(320, 256)
        self.aspp2 = AtrousConv(320, 256, 2)
        self.aspp3 = AtrousConv(320, 256, 4)
        self.aspp4 = AtrousConv(320, 256, 8)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(320, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU6()
        )
        self.bottleneck_conv = nn.Sequential(nn.Conv2d(1280, 160, 1, bias=False), nn.BatchNorm2d(160), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[2:])
        arms = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), pooled]
        y: Tensor = self.bottleneck_conv(torch.cat(arms, 1))
        return y


class DecoderLayer(nn.Module):
    """Join with the encoder's feature; un-pooled by indices first where the encoder had pooled."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.dconv = conv5x5(c_in, c_out)

    def forward(self, x: Tensor, skip: Tensor, indices: Tensor | None) -> Tensor:
        if indices is not None:
            x = indices * F.interpolate(x, scale_factor=2)
        y: Tensor = self.dconv(torch.cat([x, skip], 1))
        return y


def conv5x5(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 5, padding=2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU6())


class IndexNet(nn.Module):
    """The whole network, 6.0 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(nn.Conv2d(4, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        for i, (expansion, c_in, c_out, count) in enumerate(STAGES, 1):
            first = InvertedResidual(c_in, c_out, expansion)
            others = (InvertedResidual(c_out, c_out, expansion) for _ in range(count - 1))
            self.add_module(f"layer{i}", nn.Sequential(first, *others))
        for i, channels in POOLED.items():
            self.add_module(f"index{i}", IndexBlock(channels))
        self.dconv_pp = Pyramid()
        for i, (c_in, c_out) in enumerate(DECODERS):
            self.add_module(f"decoder_layer{i}", DecoderLayer(c_in, c_out))
        self.pred = nn.Sequential(conv5x5(32, 1), nn.Conv2d(1, 1, 5, padding=2, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Alpha [N, 1, H, W], as the network says it: not limited to [0, 1]."""
        skips: list[Tensor] = []
        indices: list[Tensor | None] = []
        for i in range(7):
            x = self.get_submodule(f"layer{i}")(x)
            if i in POOLED:
                pooling, unpooling = self.get_submodule(f"index{i}")(x)
                x = pooling * x
                skips.append(x)
                indices.append(unpooling)
                x = 4 * F.avg_pool2d(x, 2)  # the sum over each cell
            else:
                skips.append(x)
                indices.append(None)

        x = self.dconv_pp(self.get_submodule("layer7")(x))  # 160 at 1/32
        for i in reversed(range(7)):
            x = self.get_submodule(f"decoder_layer{i}")(x, skips[i], indices[i])
        alpha: Tensor = self.pred(x)
        return alpha
