"""How training pictures are varied; every draw comes from the generator that is passed in."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..enhance.light import decoded, encoded


def jitter(light: Tensor, rng: np.random.Generator, *, exposure: float, tint: float) -> Tensor:
    """Random exposure (stops, standard deviation) and tint a channel of linear light [N, 3, H, W]."""
    stops = rng.normal(0, exposure, (len(light), 1)) + rng.normal(0, tint, (len(light), 3))
    return light * torch.from_numpy(np.exp2(stops).astype(np.float32))[:, :, None, None]


def graded(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Gamma, contrast, brightness and saturation of whole images, as cameras and their software change them."""
    num = len(image)
    gamma, contrast, saturation = (
        torch.from_numpy(np.exp2(rng.normal(0, spread, (num, 1, 1, 1))).astype(np.float32))
        for spread in (0.25, 0.2, 0.3)
    )
    brightness = torch.from_numpy(rng.normal(0, 0.04, (num, 1, 1, 1)).astype(np.float32))
    image = ((image + 1) / 2).clamp(1e-4, 1).pow(gamma)
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * saturation
    return ((image - 0.5) * contrast + 0.5 + brightness).clamp(0, 1) * 2 - 1


def softened(image: Tensor, mattes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blurs 30 % of the images and their mattes, and makes 25 % smaller and larger again.

    A lens softens light and coverage alike, and a generator's images are softer than renders. The light, not its sRGB
    values: of those, a blurred matte would be wrong by 0.03 in hair. So this comes before `graded`.

    Args:
        image: [N, 3, S, S], sRGB in [-1, 1].
        mattes: [N, C, S, S] in [0, 1], every coverage that belongs to it.
    """
    size = image.shape[-1]
    kind = rng.random(len(image))
    which = torch.from_numpy(kind < 0.55)
    if not which.any():
        return image, mattes
    x = torch.cat([decoded(image[which]), mattes[which]], 1)
    for i, one in enumerate(kind[kind < 0.55]):
        part = x[i : i + 1]
        if one < 0.3:
            x[i : i + 1] = gaussian(part, [rng.uniform(0.3, 1.2)])
        else:
            small = F.interpolate(part, int(size * rng.uniform(0.5, 0.95)), mode="bilinear", antialias=True)
            x[i : i + 1] = F.interpolate(small, size, mode="bicubic")
    image, mattes = image.clone(), mattes.clone()
    image[which], mattes[which] = encoded(x[:, :3]), x[:, 3:].clamp(0, 1)
    return image, mattes


def gaussian(x: Tensor, sigmas: Sequence[float] | NDArray[np.float64]) -> Tensor:
    """[N, C, H, W] blurred with one standard deviation (pixels, at most 2) a sample."""
    num, channels = x.shape[:2]
    offset = torch.arange(-4, 5, dtype=torch.float32)
    taps = torch.exp(-0.5 * (offset / torch.as_tensor(np.asarray(sigmas), dtype=torch.float32)[:, None]) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None]  # [N C, 1, 1, 9]
    taps = taps.to(x.device)
    flat = F.pad(x.reshape(1, num * channels, *x.shape[2:]), (4, 4, 4, 4), mode="replicate")
    flat = F.conv2d(F.conv2d(flat, taps, groups=num * channels), taps.transpose(2, 3), groups=num * channels)
    return flat.reshape(x.shape)


def degraded(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Sensor noise on 40 % of the images and lossy coding on 25 %; [N, 3, S, S] in [-1, 1]."""
    strength = np.where(rng.random(len(image)) < 0.4, rng.uniform(0.005, 0.06, len(image)), 0).astype(np.float32)
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    image = image + noise * torch.from_numpy(strength)[:, None, None, None]
    coded = torch.from_numpy(rng.random(len(image)) < 0.25)
    if coded.any():
        image[coded] = coded_and_decoded(image[coded], rng.uniform(0.01, 0.08, int(coded.sum())))
    return image.clamp(-1, 1)


def coded_and_decoded(image: Tensor, steps: NDArray[np.float64]) -> Tensor:
    """Quantised cosine coefficients of 8 x 8 blocks, coarser at high frequencies: the look of JPEG.

    Args:
        image: [N, 3, H, W], H and W multiples of 8.
        steps: one quantisation step a sample, of the lowest frequency, in the image's unit.
    """
    n, c, h, w = image.shape
    k = torch.arange(8, dtype=torch.float32)
    basis = torch.cos((2 * k[None, :] + 1) * k[:, None] * torch.pi / 16) * 0.5  # [frequency, place], orthonormal
    basis[0] *= 0.5**0.5
    blocks = image.reshape(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)  # [N, C, H/8, W/8, 8, 8]
    step = torch.as_tensor(steps, dtype=torch.float32)[:, None, None, None, None, None] * (1 + k[:, None] + k[None, :])
    coefficients = (basis @ blocks @ basis.T / step).round() * step
    return (basis.T @ coefficients @ basis).transpose(3, 4).reshape(n, c, h, w)
