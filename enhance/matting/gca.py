"""GCA matting: a U-shaped network that copies alpha features between patches that look alike.

Li, Lu, "Natural Image Matting via Guided Contextual Attention", AAAI 2020 (arXiv 2001.04069). Module names follow the
published files; a parity test holds the numbers.

Images are [N, 3, H, W] normalised as ImageNet's, trimaps [N, 3, H, W] one-hot (background, unknown, foreground),
H and W multiples of 32. Comments give the channels and the scale of a feature.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEVER = -1e4  # added to the score of a key that may not be chosen


class SpectralWeight(nn.Module):
    """The three tensors the published files hold for one spectrally normalised weight (arXiv 1802.05957)."""

    weight_bar: Tensor
    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.weight_bar = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_normal_(self.weight_bar)
        self.weight_u = nn.Parameter(F.normalize(torch.randn(shape[0]), dim=0), requires_grad=False)
        rest = shape[1] * shape[2] * shape[3]
        self.weight_v = nn.Parameter(F.normalize(torch.randn(rest), dim=0), requires_grad=False)

    def forward(self) -> Tensor:
        """The weight over its largest singular value, by the stored vectors: a frozen network iterates no more."""
        sigma = self.weight_u @ (self.weight_bar.flatten(1) @ self.weight_v)
        return self.weight_bar / sigma


class SpectralConv(nn.Module):
    """Convolution of 1x1 or 3x3 without bias, its weight spectrally normalised."""

    def __init__(self, c_in: int, c_out: int, size: int = 3, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        self.module = SpectralWeight((c_out, c_in, size, size))
        self.stride = stride
        self.padding = size // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.module(), stride=self.stride, padding=self.padding)


class SpectralDouble(nn.Module):
    """Transposed 4x4 convolution to twice the size, its weight spectrally normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.module = SpectralWeight((channels, channels, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.module(), stride=2, padding=1)


class EncoderBlock(nn.Module):
    """A residual block that may halve the size."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = SpectralConv(c_in, c_out, stride=stride), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = SpectralConv(c_out, c_out), nn.BatchNorm2d(c_out)
        self.downsample = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.AvgPool2d(2), SpectralConv(c_in, c_out, 1), nn.BatchNorm2d(c_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class DecoderBlock(nn.Module):
    """A residual block that may double the size; leaky ReLUs of slope 0.2."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1: nn.Module = SpectralDouble(c_in) if stride == 2 else SpectralConv(c_in, c_in)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv2, self.bn2 = SpectralConv(c_in, c_out), nn.BatchNorm2d(c_out)
        self.upsample = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.Upsample(scale_factor=2), SpectralConv(c_in, c_out, 1), nn.BatchNorm2d(c_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.leaky_relu(self.bn1(self.conv1(x)), 0.2)))
        return F.leaky_relu(y + self.upsample(x), 0.2)


def stage(block: Callable[[int, int, int], nn.Module], c_in: int, c_out: int, count: int, stride: int) -> nn.Sequential:
    """`count` blocks, the first of which changes size and channels."""
    return nn.Sequential(block(c_in, c_out, stride), *(block(c_out, c_out, 1) for _ in range(count - 1)))


class Attention(nn.Module):
    """Guided contextual attention (section 3.2): alpha patches mixed by how alike their colours are."""

    def __init__(self) -> None:
        super().__init__()
        self.guidance_conv = nn.Conv2d(128, 64, 1)
        self.W = nn.Sequential(nn.Conv2d(128, 128, 1, bias=False), nn.BatchNorm2d(128))

    def forward(self, guidance: Tensor, feature: Tensor, unknown: Tensor) -> Tensor:
        """Feature plus what patches with like guidance have there.

        Args:
            guidance, feature: [N, 128, H/8, W/8].
            unknown: [N, 1, H/8, W/8], 1 where the trimap is unknown.
        """
        # Guidance patches at 1/16, each a key (unit length) and a query (as it is).
        guide = self.guidance_conv(guidance)[..., ::2, ::2]
        queries = F.unfold(F.pad(guide, (1, 1, 1, 1), mode="reflect"), 3)  # [N, 64 * 9, L]
        keys = queries / queries.norm(dim=1, keepdim=True).clamp(min=1e-4)
        scores = keys.transpose(1, 2) @ queries  # [N, L keys, L queries]

        # Unknown and known keys are weighed by their shares, and no unknown patch may choose itself.
        unknown = unknown[..., ::2, ::2]
        near_unknown = F.avg_pool2d(F.pad(unknown, (1, 1, 1, 1), mode="reflect"), 3, 1).flatten(1) > 0  # [N, L]
        share = unknown.mean((2, 3))  # [N, 1]
        ratio = (share / (1 - share)).sqrt()
        scale = torch.where(near_unknown, ratio.clamp(0.1, 10), (1 / ratio).clamp(0.1, 10))
        itself = torch.diag_embed(near_unknown.to(scores.dtype))
        weights = (scores * scale[:, :, None] + NEVER * itself).softmax(1)

        # Alpha patches of 4x4 at 1/8, mixed and laid down where the queries are; four overlap everywhere.
        values = F.unfold(F.pad(feature, (1, 1, 1, 1), mode="reflect"), 4, stride=2)  # [N, 128 * 16, L]
        mixed = F.fold(values @ weights, feature.shape[-2:], 4, stride=2, padding=1) / 4
        found: Tensor = feature + self.W(mixed)
        return found


class Encoder(nn.Module):
    """Image and trimap to five skip features, the deepest feature, and the guidance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = SpectralConv(6, 32, stride=2), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = SpectralConv(32, 32), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = SpectralConv(32, 64, stride=2), nn.BatchNorm2d(64)
        self.layer1 = stage(EncoderBlock, 64, 64, 3, 1)
        self.layer2 = stage(EncoderBlock, 64, 128, 4, 2)
        self.layer3 = stage(EncoderBlock, 128, 256, 4, 2)
        self.layer_bottleneck = stage(EncoderBlock, 256, 512, 2, 2)
        self.shortcut = nn.ModuleList(
            skip_head(c_in, c_out) for c_in, c_out in ((6, 32), (32, 32), (64, 64), (128, 128), (256, 256))
        )
        guidance: list[nn.Module] = []
        for c_in, c_out in ((3, 16), (16, 32), (32, 128)):
            halve = SpectralConv(c_in, c_out, stride=2, padding=0)
            guidance += [nn.ReflectionPad2d(1), halve, nn.ReLU(), nn.BatchNorm2d(c_out)]
        self.guidance_head = nn.Sequential(*guidance)
        self.gca = Attention()

    def forward(self, image: Tensor, trimap: Tensor, unknown: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        both = torch.cat([image, trimap], 1)  # 6 at 1
        x1 = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(both))))))  # 32 at 1/2
        x2 = self.layer1(F.relu(self.bn3(self.conv3(x1))))  # 64 at 1/4
        guidance = self.guidance_head(image)  # 128 at 1/8
        x3 = self.gca(guidance, self.layer2(x2), unknown)  # 128 at 1/8
        x4 = self.layer3(x3)  # 256 at 1/16
        skips = [head(x) for head, x in zip(self.shortcut, (both, x1, x2, x3, x4), strict=True)]
        return self.layer_bottleneck(x4), skips, guidance  # 512 at 1/32


def skip_head(c_in: int, c_out: int) -> nn.Sequential:
    """Two convolutions on the way to the decoder, with batch norm after the ReLU."""
    return nn.Sequential(
        SpectralConv(c_in, c_out), nn.ReLU(), nn.BatchNorm2d(c_out),
        SpectralConv(c_out, c_out), nn.ReLU(), nn.BatchNorm2d(c_out),
    )  # fmt: skip


class Decoder(nn.Module):
    """Features to alpha, attending once more on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = stage(DecoderBlock, 512, 256, 2, 2)
        self.layer2 = stage(DecoderBlock, 256, 128, 3, 2)
        self.layer3 = stage(DecoderBlock, 128, 64, 3, 2)
        self.layer4 = stage(DecoderBlock, 64, 32, 2, 2)
        self.conv1, self.bn1 = SpectralDouble(32), nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 1, 3, padding=1)
        self.gca = Attention()

    def forward(self, x: Tensor, skips: list[Tensor], guidance: Tensor, unknown: Tensor) -> Tensor:
        x = self.layer1(x) + skips[4]  # 256 at 1/16
        x = self.gca(guidance, self.layer2(x) + skips[3], unknown)  # 128 at 1/8
        x = self.layer3(x) + skips[2]  # 64 at 1/4
        x = self.layer4(x) + skips[1]  # 32 at 1/2
        x = F.leaky_relu(self.bn1(self.conv1(x)), 0.2) + skips[0]  # 32 at 1
        return (torch.tanh(self.conv2(x).float()) + 1) / 2


class GCA(nn.Module):
    """The whole network, 25 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def forward(self, image: Tensor, trimap: Tensor) -> Tensor:
        """Alpha [N, 1, H, W] in [0, 1] of a normalised image and a one-hot trimap, both [N, 3, H, W].

        The trimap takes no gradient: the attention's weights are not differentiable where all or nothing is unknown.
        """
        trimap = trimap.detach()
        unknown = trimap[:, 1:2, ::8, ::8]
        alpha: Tensor = self.decoder(*self.encoder(image, trimap, unknown), unknown)
        return alpha
