"""MODNet, a portrait matting network that needs no trimap.

Ke, Sun, Li, Yan, Lau, "MODNet: Real-Time Trimap-Free Portrait Matting via Objective Decomposition", AAAI 2022
(arXiv 2011.11961), on a MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381). Module names follow the published
files, so that those load as they are; a parity test holds the numbers.

Images are [N, 3, H, W] in [-1, 1], H and W multiples of 32. Comments give the channels and the scale of a feature.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# MobileNetV2's stages: (expansion, channels, blocks, stride of the first block).
EPSILON = 1e-5  # of every norm
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Mattes(NamedTuple):
    """What the three branches say; semantic and detail exist for training only."""

    semantic: Tensor | None  # [N, 1, H/16, W/16] in [0, 1], where the person is
    detail: Tensor | None  # [N, 1, H, W] in [0, 1], meant to hold along the boundary only
    matte: Tensor  # [N, 1, H, W] in [0, 1]


class Depthwise(nn.Conv2d):
    """A 3x3 filter a channel. A stride skips results of stride 1: a strided depthwise backward pass is slow on a CPU.

    At 96 channels of 64 px in bfloat16 it took longer than the network's largest dense convolution. What is left is
    copied together, and so is its gradient: a batch norm is slow on anything else.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.skip = stride

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.skip == 1:
            return y
        layout = torch.channels_last if y.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        return dense(y)[..., :: self.skip, :: self.skip].contiguous(memory_format=layout)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow without activation; added to the input where the shapes agree."""

    def __init__(self, c_in: int, c_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        widen = [] if expansion == 1 else [nn.Conv2d(c_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        self.conv = nn.Sequential(
            *widen,
            Depthwise(wide, stride),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.keeps_shape = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.keeps_shape else y


class MobileNetV2(nn.Module):
    """The backbone without its classifier: image to features at 1/2 (16), 1/4 (24) and 1/32 (1280 channels)."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())]
        width = 32
        for expansion, channels, count, first_stride in STAGES:
            for i in range(count):
                stride = first_stride if i == 0 else 1
                blocks.append(InvertedResidual(width, channels, stride=stride, expansion=expansion))
                width = channels
        blocks.append(nn.Sequential(nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()))
        self.features = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        enc2x = self.features[:2](image)  # 16 at 1/2
        enc4x = self.features[2:4](enc2x)  # 24 at 1/4
        return enc2x, enc4x, self.features[4:](enc4x)  # 1280 at 1/32


class Backbone(nn.Module):
    """A level of names in the published files: `backbone.model.features`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = MobileNetV2()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features: tuple[Tensor, Tensor, Tensor] = self.model(image)
        return features


class Normed(torch.autograd.Function):
    """Batch norm (or nothing) of the first channels, instance norm without parameters of the others, in one pass.

    torch's own instance norm goes through contiguous memory, and whatever follows it stays there: in bfloat16 on a CPU
    the bilinear resizing alone then takes five times as long. Statistics are float32 at least.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, num_batch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features and what to do with the first `num_batch` of their channels.

        Args:
            x: [N, C, H, W], contiguous or channels-last.
            weight, bias: [num_batch], of a batch norm over x's own statistics; None leaves those channels as they are.

        Returns:
            Features [N, C, H, W]; means and variances [num_batch] of the batch, without a gradient.
        """
        (n, c, height, width), first = x.shape, slice(None, num_batch)
        ones = torch.ones(c, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        # Of a group norm with a channel a group, the statistics alone: the one way to them that copies nothing.
        _, mean, scale = torch.native_group_norm(x, ones, 0 * ones, n, c, height * width, c, EPSILON)  # [N, C] each
        square = scale[:, first] ** -2 - EPSILON + mean[:, first].square()
        batch_mean = mean[:, first].mean(0)
        batch_var = (square.mean(0) - batch_mean.square()).clamp_min(0)
        gain, shift = torch.ones_like(scale), torch.zeros_like(mean)
        if weight is None or bias is None:
            mean[:, first], scale[:, first] = 0, 1
        else:
            mean[:, first], scale[:, first] = batch_mean, torch.rsqrt(batch_var + EPSILON)
            gain[:, first], shift[:, first] = weight, bias
        gain = gain * scale
        ctx.save_for_backward(x, mean, scale, gain)
        ctx.num_batch, ctx.is_batch = num_batch, weight is not None
        ctx.mark_non_differentiable(batch_mean, batch_var)
        return affine(x, gain, shift - mean * gain), batch_mean, batch_var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        """The slope of (x - mean) gain + shift, whose mean and gain move with x."""
        x, mean, scale, gain = ctx.saved_tensors
        first = slice(None, ctx.num_batch)
        if x.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        along = pixel_means(gradient)
        across = (pixel_means(gradient * x) - mean * along) * scale  # of the gradient times the normed x
        to_weight = to_bias = None
        if ctx.is_batch:
            num = x.numel() // x.shape[1]
            along[:, first], across[:, first] = along[:, first].mean(0), across[:, first].mean(0)
            to_weight, to_bias = across[0, first] * num, along[0, first] * num
        else:
            along[:, first], across[:, first] = 0, 0
        slope = -gain * across * scale
        shift = -gain * along - slope * mean
        return affine(gradient, gain, affine(x, slope, shift)), to_weight, to_bias, None


def affine(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """x gain + shift: [N, C, H, W], [N, C], and [N, C] or [N, C, H, W], in the precision of x."""
    gain, shift = (value.to(x.dtype).view(*value.shape[:2], *(value.shape[2:] or (1, 1))) for value in (gain, shift))
    return torch.addcmul(shift, x, gain)


def pixel_means(x: Tensor) -> Tensor:
    """Means over the pixels of [N, C, H, W] -> [N, C], float32 at least.

    bfloat16 that lies channels-last is summed a row at a time as a matrix product: with a dtype, torch's mean copies
    all of it first. Rows are rounded to bfloat16, their sum is not.
    """
    n, c, height, width = x.shape
    if x.dtype != torch.bfloat16 or not x.is_contiguous(memory_format=torch.channels_last):
        return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    rows = x.permute(0, 2, 3, 1).reshape(n * height, width, c)
    sums = torch.bmm(x.new_ones(1, 1, width).expand(n * height, 1, width), rows)
    return sums.view(n, height, c).float().mean(1) / width


class IBNorm(nn.Module):
    """Batch norm on the first half of the channels, instance norm without parameters on the rest."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_batch = channels // 2
        self.bnorm: nn.Module = nn.BatchNorm2d(self.num_batch)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.bnorm
        if not isinstance(norm, nn.BatchNorm2d):  # folded into the convolution before
            return cast(Tensor, Normed.apply(x, None, None, self.num_batch)[0])
        if not self.training:
            first, rest = x[:, : self.num_batch], x[:, self.num_batch :]
            return torch.cat([norm(first), F.instance_norm(rest)], 1)
        y, mean, variance = Normed.apply(x, norm.weight, norm.bias, self.num_batch)
        with torch.no_grad():
            num = x.numel() // x.shape[1]
            for running, new in ((norm.running_mean, mean), (norm.running_var, variance * num / (num - 1))):
                cast(Tensor, running).lerp_(new.to(norm.weight.dtype), norm.momentum or 0)
            cast(Tensor, norm.num_batches_tracked).add_(1)
        return cast(Tensor, y)


class ConvBlock(nn.Module):
    """Convolution, IBNorm, ReLU; with `predicts` the convolution alone."""

    def __init__(self, c_in: int, c_out: int, size: int, stride: int = 1, *, predicts: bool = False) -> None:
        super().__init__()
        conv = nn.Conv2d(c_in, c_out, size, stride, size // 2)
        self.layers = nn.Sequential(conv) if predicts else nn.Sequential(conv, IBNorm(c_out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class SEBlock(nn.Module):
    """Squeeze and excitation: channels weighted by a gate on their global means (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.fc(x.mean((2, 3)))  # [N, C]
        return x * gate[:, :, None, None]


class LRBranch(nn.Module):
    """The semantic branch: where the person is, at low resolution."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.se_block = SEBlock(1280, 4)
        self.conv_lr16x = ConvBlock(1280, 96, 5)
        self.conv_lr8x = ConvBlock(96, 32, 5)
        self.conv_lr = ConvBlock(32, 1, 3, 2, predicts=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        enc2x, enc4x, enc32x = self.backbone(image)
        lr16x = self.conv_lr16x(resized(self.se_block(enc32x), 2))  # 96 at 1/16
        return self.conv_lr8x(resized(lr16x, 2)), enc2x, enc4x  # 32 at 1/8


class HRBranch(nn.Module):
    """The detail branch: the boundary, at full resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.tohr_enc2x = ConvBlock(16, 32, 1)
        self.conv_enc2x = ConvBlock(35, 32, 3, 2)
        self.tohr_enc4x = ConvBlock(24, 32, 1)
        self.conv_enc4x = ConvBlock(64, 64, 3)
        self.conv_hr4x = nn.Sequential(ConvBlock(99, 64, 3), ConvBlock(64, 64, 3), ConvBlock(64, 32, 3))
        self.conv_hr2x = nn.Sequential(
            ConvBlock(64, 64, 3), ConvBlock(64, 32, 3), ConvBlock(32, 32, 3), ConvBlock(32, 32, 3)
        )
        self.conv_hr = nn.Sequential(ConvBlock(35, 32, 3), ConvBlock(32, 1, 1, predicts=True))

    def forward(self, image: Tensor, enc2x: Tensor, enc4x: Tensor, lr8x: Tensor) -> Tensor:
        image2x, image4x = resized(image, 0.5), resized(image, 0.25)
        enc2x = self.tohr_enc2x(enc2x)  # 32 at 1/2
        hr4x = self.conv_enc2x(joined(image2x, enc2x))  # 32 at 1/4
        hr4x = self.conv_enc4x(joined(hr4x, self.tohr_enc4x(enc4x)))  # 64 at 1/4
        hr4x = self.conv_hr4x(joined(hr4x, resized(lr8x, 2), image4x))  # 32 at 1/4
        hr2x: Tensor = self.conv_hr2x(joined(resized(hr4x, 2), enc2x))  # 32 at 1/2
        return hr2x


class FusionBranch(nn.Module):
    """Semantics and detail together: the matte before its sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_lr4x = ConvBlock(32, 32, 5)
        self.conv_f2x = ConvBlock(64, 32, 3)
        self.conv_f = nn.Sequential(ConvBlock(35, 16, 3), ConvBlock(16, 1, 1, predicts=True))

    def forward(self, image: Tensor, lr8x: Tensor, hr2x: Tensor) -> Tensor:
        lr2x = resized(self.conv_lr4x(resized(lr8x, 2)), 2)  # 32 at 1/2
        f2x = self.conv_f2x(joined(lr2x, hr2x))  # 32 at 1/2
        logit: Tensor = self.conv_f(joined(resized(f2x, 2), image))
        return logit


class MODNet(nn.Module):
    """The whole network, 6.5 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        # The published files hold the backbone under both names; it is one module here too.
        self.lr_branch = LRBranch(self.backbone)
        self.hr_branch = HRBranch()
        self.f_branch = FusionBranch()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # fan_out would ignore that a depthwise filter feeds one channel only, and make it vanish.
                nn.init.kaiming_normal_(module.weight, mode="fan_in")

    def forward(self, image: Tensor, inference: bool = False) -> Mattes:
        """Mattes of images.

        Args:
            image: [N, 3, H, W] in [-1, 1], H and W multiples of 32.
            inference: leave out semantic and detail, which the matte does not need.
        """
        lr8x, enc2x, enc4x = self.lr_branch(image)
        hr2x = self.hr_branch(image, enc2x, enc4x, lr8x)
        # In float32 whatever the features are: bfloat16 has no value between 0.996 and 1, and there no slope either.
        matte = torch.sigmoid(self.f_branch(image, lr8x, hr2x).float())
        if inference:
            return Mattes(None, None, matte)
        semantic = torch.sigmoid(self.lr_branch.conv_lr(lr8x).float())
        detail = torch.sigmoid(self.hr_branch.conv_hr(joined(resized(hr2x, 2), image)).float())
        return Mattes(semantic, detail, matte)


def joined(*features: Tensor) -> Tensor:
    """Features [N, C_i, H, W] beside each other -> [N, sum C_i, H, W].

    Under autocast the image is brought to the precision of the features: a plain cat would lift them to float32, only
    for the next convolution to lower them again, and those copies cost as much as the convolution.
    """
    lowest = min((x.dtype for x in features), key=lambda dtype: dtype.itemsize)
    return torch.cat([dense(x.to(lowest)) for x in features], 1)


def resized(x: Tensor, factor: float) -> Tensor:
    """Bilinear resize of [N, C, H, W] by a factor, pixel centres aligned, no antialiasing."""
    return dense(F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False))


def dense(x: Tensor) -> Tensor:
    """x itself; if it lies channels-last, its gradient will too, all in one piece.

    The gradient of what was concatenated is a slice, and on a slice most backward passes take several times as long.
    """
    if x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
        x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))  # type: ignore[no-untyped-call]
    return x
