"""The layers of StyleGAN2: equalised dense and convolution layers, modulated convolution, FIR resampling."""

from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fir_up(image: Tensor) -> Tensor:
    """Doubles the side with the filter [1, 3, 3, 1] / 4 along each axis: [N, C, H, W] -> [N, C, 2H, 2W].

    Keeps the image's precision under autocast: images are sums over all resolutions.
    """
    kernel = _fir_kernel(image, gain=4)
    with torch.autocast(image.device.type, enabled=False):
        return F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=image.shape[1])


def _fir_kernel(x: Tensor, *, gain: float) -> Tensor:
    """[C, 1, 4, 4], the outer product of [1, 3, 3, 1], scaled to sum to `gain`."""
    i = torch.arange(4, dtype=x.dtype, device=x.device)
    taps = 1 + i * (3 - i)  # made where it is used: a copy from the host would halt a GPU's queue
    return (torch.outer(taps, taps) * (gain / 64)).expand(x.shape[1], 1, 4, 4)


def _leaky(x: Tensor, clamp: float | None) -> Tensor:
    """Leaky relu of slope 0.2, in place, bounded by `clamp` where there is one.

    Its gain of sqrt 2 is folded into whatever is added up before it (the function is positively homogeneous): on a
    CPU a pass over the feature maps costs as much as a small convolution, and fresh memory for them even more.
    """
    x = F.leaky_relu(x, 0.2, inplace=True)
    return x if clamp is None else x.clamp(-clamp, clamp)


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """How much the images of a group differ: the standard deviation over the group, averaged over channels and pixels.

    With M groups in the batch, image i is in group i mod M, as in the public networks (arXiv:1710.10196, section 3).

    Args:
        x: [N, C, H, W]; N a multiple of `group`, or smaller than it.

    Returns:
        [N, 1, H, W], constant over pixels.
    """
    n = len(x)
    size = min(n, group)
    if n % size:
        raise ValueError(f"a batch of {n} images does not divide into groups of {size}; change the batch or the group")
    grouped = x.float().reshape(size, n // size, *x.shape[1:])
    stddev = (grouped.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [N / group]
    return stddev.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:]).to(x.dtype)


def normal(*shape: int, std: float = 1) -> Tensor:
    """Random first weights [*shape] of standard deviation `std`.

    On the meta device, where a file's are to take their place, nothing is drawn: that imports torch's compiler, which
    takes longer than to load the embedded generator.
    """
    empty = torch.empty(shape)
    return empty if empty.is_meta else empty.normal_(std=std)


class Dense(nn.Module):
    """x -> x W^T lr / sqrt(in) + lr b, in float32; `lr` multiplies the learning rate of both."""

    def __init__(
        self, in_features: int, out_features: int, *, lr: float = 1, bias: float = 0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_features, in_features, std=1 / lr))
        self.bias = nn.Parameter(torch.full([out_features], float(bias)))
        self.lr, self.activate = lr, activate

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_features] -> [N, out_features] float32."""
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight.float() * (self.lr / sqrt(self.weight.shape[1]))
            y = F.linear(x.float(), weight, self.bias.float() * self.lr)
            return F.leaky_relu(y, 0.2) * sqrt(2) if self.activate else y


class Conv(nn.Module):
    """Equalised convolution; with a bias also the activation; with `down` FIR filtering and stride 2.

    Args:
        gain: multiplies the result (and, where the activation follows, what it is bounded by).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        down: bool = False,
        bias: bool = True,
        gain: float = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.down = down
        self.gain = gain * sqrt(2) if bias else gain
        self.clamp = None if clamp is None else clamp * gain

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H, W], or half the side with `down`."""
        weight = self.weight * (self.gain / sqrt(prod(self.weight.shape[1:])))
        bias = None if self.bias is None else self.bias * self.gain
        x = x if torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)
        side = weight.shape[-1] // 2
        if self.down:  # filtering at full side, then striding: a strided depthwise convolution is slow in bfloat16
            x = F.conv2d(x, _fir_kernel(x, gain=1), padding=1 + side, groups=x.shape[1])
            x = F.conv2d(x, weight, bias, stride=2)
        else:
            x = F.conv2d(x, weight, bias, padding=side)
        return x if bias is None else _leaky(x, self.clamp)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style made from w (section 2 of arXiv:1912.04958).

    The input is scaled, the kernel is shared by the batch, and the output is scaled (demodulated): the same numbers
    as a kernel of its own for every sample, with fewer operations and no weight gradients where weights are frozen.

    Args:
        noise_size: side of the layer's noise map; None makes a to-RGB layer: no noise, demodulation or activation.
        up: doubles the side, with FIR filtering.
    """

    noise: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        *,
        kernel: int = 3,
        up: bool = False,
        noise_size: int | None = None,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.style = Dense(w_dim, in_channels, bias=1)
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.to_rgb = noise_size is None
        if noise_size is not None:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise", normal(1, 1, noise_size, noise_size))
        self.up, self.clamp = up, clamp

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """x [N, in_channels, H, W], w [N, w_dim], noise [N or 1, 1, r, r] -> [N, out_channels, r, r]."""
        style = self.style(w) * (1 / sqrt(prod(self.weight.shape[1:])))  # [N, in]
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.to_rgb:
            y = F.conv2d(x, self.weight) + self.bias.to(x.dtype)[:, None, None]
            return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)
        x = self._up(x) if self.up else F.conv2d(x, self.weight, padding=1)
        demodulation = (self._demodulation(style) * sqrt(2)).to(x.dtype)[:, :, None, None]
        x = (x * demodulation).add_((self.bias * sqrt(2)).to(x.dtype)[:, None, None])
        if noise is not None:
            x = x.add_((noise * (self.noise_strength * sqrt(2))).to(x.dtype))
        return _leaky(x, self.clamp)

    def _up(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, 2H, 2W]."""
        x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
        return F.conv2d(x, _fir_kernel(x, gain=4), padding=1, groups=x.shape[1])

    def _demodulation(self, style: Tensor) -> Tensor:
        """1 / L2 norm of each output channel's modulated kernel, [N, out] (Eq. 3)."""
        with torch.autocast(style.device.type, enabled=False):
            power = self.weight.float().square().sum(dim=(2, 3))  # [out, in]
            return torch.rsqrt(style.square() @ power.T + 1e-8)
