"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958) in plain PyTorch: generator and discriminator.

Blocks are keyed by resolution, so a network of 128 px holds the blocks of one of 64 px under the same keys. Every
layer scales its weights at run time (equalised learning rate, arXiv:1710.10196, section 4.1). Under autocast, or with
the module in bfloat16, feature maps take the low precision; mapping, styles, demodulation and RGB sums stay float32.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .layers import Conv, Dense, ModulatedConv, fir_up, minibatch_stddev, normal

Noise = None | Literal["const"] | Sequence[Tensor]


def _resolutions(resolution: int, channels: Mapping[int, int], smallest: int) -> list[int]:
    """4, 8, ... up to `resolution`, after checking that each has a number of channels."""
    if resolution < smallest or resolution & (resolution - 1):
        raise ValueError(f"resolution must be a power of two, {smallest} or more, got {resolution}")
    resolutions = [2**k for k in range(2, resolution.bit_length())]
    if missing := [r for r in resolutions if channels.get(r, 0) < 1]:
        raise ValueError(f"channels must name every resolution from 4 to {resolution}, missing {missing}")
    return resolutions


class SynthesisBlock(nn.Module):
    """One resolution: an up-sampling convolution (all but the first), a plain one, and to-RGB."""

    def __init__(self, resolution: int, in_channels: int, out_channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.const = nn.Parameter(normal(1, out_channels, 4, 4)) if resolution == 4 else None
        if resolution > 4:
            self.up = ModulatedConv(in_channels, out_channels, w_dim, up=True, noise_size=resolution, clamp=clamp)
        self.conv = ModulatedConv(out_channels, out_channels, w_dim, noise_size=resolution, clamp=clamp)
        self.to_rgb = ModulatedConv(out_channels, 3, w_dim, kernel=1, clamp=clamp)

    def convs(self) -> list[ModulatedConv]:
        """The convolutions that take a row of ws and a noise map, in order."""
        return [self.conv] if self.const is not None else [self.up, self.conv]


class Generator(nn.Module):
    """z -> ws -> image.

    Args:
        resolution: side of the image in pixels, a power of two.
        channels: resolution -> number of feature maps there, for 4, 8, ..., resolution.
        mapping_lr: learning-rate multiplier of the mapping network (0.01 in every public file).
        clamp: bound on feature maps, where a checkpoint's function has one (NVIDIA's conv_clamp).
    """

    mean_w: Tensor

    def __init__(
        self,
        *,
        resolution: int,
        channels: Mapping[int, int],
        z_dim: int = 512,
        w_dim: int = 512,
        num_mapping_layers: int = 8,
        mapping_lr: float = 0.01,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        resolutions = _resolutions(resolution, channels, smallest=4)
        self.resolution, self.z_dim, self.w_dim = resolution, z_dim, w_dim
        self.num_ws = 2 * len(resolutions)
        self.architecture: dict[str, Any] = {
            "network": "generator",
            "resolution": resolution,
            "channels": {r: channels[r] for r in resolutions},
            "z_dim": z_dim,
            "w_dim": w_dim,
            "num_mapping_layers": num_mapping_layers,
            "mapping_lr": mapping_lr,
            "clamp": clamp,
        }
        self.card: dict[str, Any] = {}
        self.register_buffer("mean_w", torch.zeros(w_dim))
        sizes = [z_dim] + [w_dim] * num_mapping_layers
        self.dense = nn.ModuleList(Dense(n_in, n_out, lr=mapping_lr, activate=True) for n_in, n_out in pairwise(sizes))
        self.blocks = nn.ModuleDict(
            {str(r): SynthesisBlock(r, channels.get(r // 2, 0), channels[r], w_dim, clamp) for r in resolutions}
        )
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU, forward and backward

    @property
    def noise_sizes(self) -> tuple[int, ...]:
        """Side of each noise map in pixels, coarse to fine: 4, 8, 8, 16, 16, ..."""
        return tuple(conv.noise.shape[-1] for block in self._blocks() for conv in block.convs())

    def _blocks(self) -> list[SynthesisBlock]:
        return [block for block in self.blocks.values() if isinstance(block, SynthesisBlock)]

    def mapping(self, z: Tensor, psi: float = 1.0) -> Tensor:
        """z [N, z_dim] -> ws [N, num_ws, w_dim] float32, every row the same w, pulled towards the mean w by psi.

        w = mean_w + psi (w - mean_w); psi = 1 leaves w as it is, psi = 0 gives the mean portrait.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z must be [N, {self.z_dim}], got {list(z.shape)}")
        w = z.float()
        w = w * torch.rsqrt(w.square().mean(dim=1, keepdim=True) + 1e-8)
        for dense in self.dense:
            w = dense(w)
        if psi != 1:
            w = torch.lerp(self.mean_w.float(), w, psi)
        return w[:, None].expand(-1, self.num_ws, -1)

    def synthesis(self, ws: Tensor, noise: Noise = None) -> Tensor:
        """ws [N, num_ws, w_dim] -> image [N, 3, resolution, resolution], nominally in [-1, 1], not clamped; float32.

        Args:
            noise: None for no noise, "const" for the maps stored with the weights, or one [N or 1, 1, r, r] tensor
                a layer, sides as in `noise_sizes`.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [N, {self.num_ws}, {self.w_dim}], got {list(ws.shape)}")
        maps = iter(self._noise_maps(noise, len(ws)))
        row = 0  # a block's to-RGB shares its row of ws with the next block's first convolution
        image: Tensor | None = None
        x = torch.empty(0)
        for block in self._blocks():
            if block.const is not None:
                x = block.const.expand(len(ws), -1, -1, -1)
            for conv in block.convs():
                x = conv(x, ws[:, row], next(maps))
                row += 1
            rgb = block.to_rgb(x, ws[:, row]).float()
            image = rgb if image is None else rgb + fir_up(image)
        assert image is not None
        return image

    def _noise_maps(self, noise: Noise, n: int) -> Sequence[Tensor | None]:
        """One map a layer for a batch of `n`, with sizes checked."""
        sizes = self.noise_sizes
        if noise is None:
            return [None] * len(sizes)
        if isinstance(noise, str):
            if noise != "const":
                raise ValueError(f'noise must be None, "const" or a sequence of tensors, got {noise!r}')
            return [conv.noise for block in self._blocks() for conv in block.convs()]
        shapes = [tuple(map_.shape) for map_ in noise]
        fits = [shape in ((n, 1, r, r), (1, 1, r, r)) for shape, r in zip(shapes, sizes, strict=False)]
        if len(shapes) != len(sizes) or not all(fits):
            raise ValueError(f"noise must hold [{n} or 1, 1, r, r] for r in {sizes}, got {shapes}")
        return noise

    def forward(self, z: Tensor, psi: float = 1.0, noise: Noise = None) -> Tensor:
        """z [N, z_dim] -> image [N, 3, resolution, resolution]."""
        return self.synthesis(self.mapping(z, psi), noise)


class DiscriminatorBlock(nn.Module):
    """Halves the side: two 3x3 convolutions beside a 1x1 skip, summed and divided by sqrt 2."""

    def __init__(self, in_channels: int, out_channels: int, clamp: float | None) -> None:
        super().__init__()
        self.conv = Conv(in_channels, in_channels, clamp=clamp)
        self.down = Conv(in_channels, out_channels, down=True, gain=0.5**0.5, clamp=clamp)
        self.skip = Conv(in_channels, out_channels, kernel=1, down=True, bias=False, gain=0.5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, 2r, 2r] -> [N, out_channels, r, r]."""
        y: Tensor = self.down(self.conv(x)) + self.skip(x)
        return y


class Discriminator(nn.Module):
    """image -> logit, high where the image looks real.

    Args:
        channels: resolution -> number of feature maps entering the block of that resolution.
        group: default size of the groups of `forward`; None for the whole batch.
        clamp: as in `Generator`.
    """

    def __init__(
        self, *, resolution: int, channels: Mapping[int, int], group: int | None = 4, clamp: float | None = None
    ) -> None:
        super().__init__()
        resolutions = _resolutions(resolution, channels, smallest=8)
        self.resolution, self.group = resolution, group
        self.architecture: dict[str, Any] = {
            "network": "discriminator",
            "resolution": resolution,
            "channels": {r: channels[r] for r in resolutions},
            "group": group,
            "clamp": clamp,
        }
        self.card: dict[str, Any] = {}
        self.from_rgb = Conv(3, channels[resolution], kernel=1, clamp=clamp)
        self.blocks = nn.ModuleDict(
            {str(r): DiscriminatorBlock(channels[r], channels[r // 2], clamp) for r in reversed(resolutions[1:])}
        )
        self.conv = Conv(channels[4] + 1, channels[4], clamp=clamp)
        self.dense = Dense(channels[4] * 16, channels[4], activate=True)
        self.out = Dense(channels[4], 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor, *, group: int | None = None) -> Tensor:
        """image [N, 3, resolution, resolution] in [-1, 1] -> [N, 1] float32.

        Args:
            group: how many images share one minibatch standard deviation (a feature that shows how alike a group's
                images are); None is the network's own size, 4 in most files, and a smaller batch is one group.
                With 1, an image's logit depends on that image alone, whatever else is in the batch.
        """
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, self.resolution, self.resolution):
            raise ValueError(f"image must be [N, 3, {self.resolution}, {self.resolution}], got {list(image.shape)}")
        x = self.from_rgb(image)
        for block in self.blocks.values():
            x = block(x)
        x = torch.cat([x, minibatch_stddev(x, group or self.group or len(x))], dim=1)
        logit: Tensor = self.out(self.dense(self.conv(x).flatten(1)))
        return logit


def grow_from(network: Generator | Discriminator, smaller: Mapping[str, Tensor]) -> list[str]:
    """Copies every weight that a smaller network has in common into `network`; returns the keys that stayed new.

    A generator's new to-RGB layers are set to zero: its first image is the smaller network's, up-sampled.
    """
    own = network.state_dict()
    common = {key: value for key, value in smaller.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(common, strict=False)
    new = [key for key in own if key not in common]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in new and name.endswith(("to_rgb.weight", "to_rgb.bias")):
                parameter.zero_()
    return new


def compiled_synthesis(generator: Generator) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
    """The generator's `synthesis` through torch.compile: faster after a minute, different by rounding.

    Returns:
        ws [N, num_ws, w_dim] and noise maps [N, 1, r, r] -> images [N, 3, resolution, resolution], for one N.

    Raises:
        ValueError: there is no C++ compiler, which torch.compile needs.
    """
    if not shutil.which(cxx := os.environ.get("CXX", "g++")):
        raise ValueError(f"torch.compile needs a C++ compiler, and found no {cxx}; install one, or do without")
    compiled: Callable[[Tensor, Sequence[Tensor]], Tensor] = torch.compile(generator.synthesis, dynamic=False)
    return compiled
