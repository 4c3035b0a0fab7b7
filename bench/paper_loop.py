"""The loop as the paper's code runs it, for comparison: one portrait, float32, kernels of its own for every portrait.

Written from what arXiv:2208.06601 and its released code do (see docs): torch's own Adam over every row of ws and every
noise map, the original's perceptual features computed again in every step, losses read back in every step. Networks
are frozen, which that code leaves out: the comparison errs in its favour.
"""

from collections.abc import Iterator
from math import prod, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from mattesmith.enhance.losses import perceptual_features
from mattesmith.enhance.objective import Networks, Preset, colour_gradient, matte, measure, objective
from mattesmith.enhance.portrait import enter
from mattesmith.gen import Generator, Sample
from mattesmith.gen.layers import ModulatedConv, fir_up


def grouped_conv(layer: ModulatedConv, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
    """`ModulatedConv.forward` with modulated, demodulated kernels in a grouped convolution (Eq. 1 to 3)."""
    n, c_in, height, width = x.shape
    c_out, _, k, _ = layer.weight.shape
    style = layer.style(w)[:, None, :, None, None]
    weight = layer.weight[None] * style / sqrt(prod(layer.weight.shape[1:]))  # [N, out, in, k, k]
    if not layer.to_rgb:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, n * c_in, height, width)
    if layer.up:
        weight = weight.transpose(1, 2).reshape(n * c_in, c_out, k, k)
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
        taps = torch.tensor([1.0, 3, 3, 1])
        kernel = (torch.outer(taps, taps) / 16).expand(x.shape[1], 1, 4, 4).to(x)
        x = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
    else:
        x = F.conv2d(x, weight.reshape(n * c_out, c_in, k, k), padding=k // 2, groups=n)
    x = x.reshape(n, c_out, *x.shape[2:])
    if noise is not None:
        x = x + noise * layer.noise_strength
    x = x + layer.bias[:, None, None]
    return x if layer.to_rgb else F.leaky_relu(x, 0.2) * sqrt(2)


def grouped_synthesis(generator: Generator, ws: Tensor, noise: list[Tensor]) -> Tensor:
    """`Generator.synthesis` of a network without a clamp, through `grouped_conv`."""
    maps, row = iter(noise), 0
    image: Tensor | None = None
    x = torch.empty(0)
    for block in generator.blocks.values():
        if block.const is not None:
            x = block.const.expand(len(ws), -1, -1, -1)
        for conv in block.convs():
            x = grouped_conv(conv, x, ws[:, row], next(maps))
            row += 1
        rgb = grouped_conv(block.to_rgb, x, ws[:, row], None)
        image = rgb if image is None else rgb + fir_up(image)
    assert image is not None
    return image


def paper_loop(sample: Sample, networks: Networks, preset: Preset, *, steps: int, lr: float) -> Iterator[float]:
    """The objective before each of `steps` updates, and after the last."""
    targets = enter(sample, networks, preset, colour_gradient, order=0).targets
    ws = targets.ws.clone().requires_grad_(True)
    noise = [map_.clone().requires_grad_(True) for map_ in targets.noise]
    optimiser = torch.optim.Adam([ws, *noise], lr=lr)
    for step in range(steps + 1):
        with torch.no_grad():
            features = tuple(perceptual_features(networks.perceptual, targets.image, max_side=preset.perceptual_px))
        targets = type(targets)(**{name: getattr(targets, name) for name in targets.__slots__} | {"features": features})
        image = grouped_synthesis(networks.generator, ws, noise)
        alpha, entropy = matte(image, networks)
        terms = measure(image, alpha, entropy, ws, tuple(noise), targets, networks, preset)
        total = objective(terms, preset)
        yield total.item()
        if step < steps:
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(total.sum())
            optimiser.step()
