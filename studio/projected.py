"""The projected discriminator (Sauer et al. 2021, "Projected GANs Converge Faster", arXiv:2111.01007).

Small convolutional heads judge the features of a frozen network, mixed by frozen random 1x1 convolutions; one more
judges the pixels, where the frozen network is blind. What they see is augmented with a probability that grows where
they know the real portraits too well (Karras et al. 2020, arXiv:2006.06676).
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..enhance import autocast

FEATURES = (16, 24, 32, 96, 320)  # channels of the frozen network's scales, at 1/2, 1/4 and so on of the side
MIXED = (32, 48, 64, 128, 128)  # what random mixing makes of them
PIXELS = 32  # channels of the head on pixels, at half the side
WIDEST = 128  # of any head

# Adaptive augmentation: the mean sign of the logits of real portraits is 0 while they look like generated ones, and 1
# once all are known; 0.6 is the paper's target. From never to always it takes the images below: the paper's half a
# million would outlast the studio's trainings. Colours and places beyond MAX_AUGMENTATION leak into what is generated.
TARGET_SIGN = 0.6
AUGMENTATION_IMAGES = 20_000
MAX_AUGMENTATION = 0.8

Trunk = Callable[[Tensor], Sequence[Tensor]]


class Projection(nn.Module):
    """Frozen random mixing of feature maps: across channels at each scale, then from coarse scales into fine ones.

    The weights also bring each scale's features to a root mean square of 1, which `calibrate` measures on portraits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(c, m, 1, bias=False) for c, m in zip(FEATURES, MIXED, strict=True))
        self.upward = nn.ModuleList(nn.Conv2d(m, n, 1, bias=False) for n, m in itertools.pairwise(MIXED))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=conv.in_channels**-0.5)
        self.requires_grad_(False)

    def calibrate(self, features: Sequence[Tensor]) -> None:
        """Takes the scales from the features [N, C, H, W] of a batch of portraits; once, on new weights."""
        for conv, feature in zip(self.across, features, strict=True):
            conv.get_parameter("weight").mul_(feature.float().square().mean().rsqrt())

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps, fine to coarse, [N, FEATURES[i], r, r] -> [N, MIXED[i], r, r]."""
        mixed = [conv(f) for conv, f in zip(self.across, features, strict=True)]
        for i in reversed(range(len(self.upward))):
            mixed[i] = mixed[i] + F.interpolate(self.upward[i](mixed[i + 1]), scale_factor=2, mode="bilinear")
        return mixed


def head(channels: int, size: int, *, last: int) -> nn.Sequential:
    """Strided convolutions from `size` down to `last` pixels, then one logit for every 4 x 4 of those."""
    layers: list[nn.Module] = []
    while size > last:
        wide = min(2 * channels, WIDEST)
        conv = spectral_norm(nn.Conv2d(channels, wide, 4, 2, 1, bias=False))
        layers += [conv, nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
        channels, size = wide, size // 2
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 4)))


def pixel_head(view: int) -> nn.Sequential:
    """The head on a view's pixels [N, 3, view, view]."""
    first = spectral_norm(nn.Conv2d(12, PIXELS, 3, padding=1))
    return nn.Sequential(nn.PixelUnshuffle(2), first, nn.LeakyReLU(0.2), *head(PIXELS, view // 2, last=8))


class Heads(nn.Module):
    """One head on the pixels, one a scale. Those on fine maps judge patches, those on coarse maps whole views."""

    def __init__(self, view: int) -> None:
        super().__init__()
        self.pixels = pixel_head(view)
        self.scales = nn.ModuleList(head(c, view >> i, last=8 if i < 3 else 4) for i, c in enumerate(MIXED, start=1))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Pixels and mixed maps -> as many maps of logits."""
        return [one(x).float() for one, x in zip([self.pixels, *self.scales], maps, strict=True)]


class ProjectedDiscriminator(nn.Module):
    """Frozen features, frozen mixing, trained heads: a set for the whole portrait, one for windows at each larger size.

    Sizes are `view`, twice `view` and so on up to `size`, so that a network grown to twice the size keeps every head
    that it had, and each still sees what it has learnt to judge. Portraits smaller than `view` are enlarged to it.
    """

    def __init__(self, trunk: Trunk, *, size: int, view: int) -> None:
        super().__init__()
        self.trunk = [trunk]  # in a list: frozen, shared, and no part of this network's state
        self.view = view
        self.sides = [view]
        while self.sides[-1] < size:
            self.sides.append(2 * self.sides[-1])
        self.projection = Projection()
        self.heads = nn.ModuleList(Heads(view) for _ in self.sides)

    def features(self, image: Tensor, draws: torch.Generator, *, augmentation: float) -> list[list[Tensor]]:
        """Pixels and mixed features of each view of images [N, 3, size, size] in [-1, 1].

        The first view is the whole portrait, the others are windows, ever larger.

        Args:
            draws: of the CPU, wherever the images are.
            augmentation: share of the images that are recoloured, and of those that are moved.
        """
        image = recoloured(image, draws, share=augmentation)
        views = [shifted(resized(image, self.view), self.view // 10, draws, share=augmentation)]
        for side in self.sides[1:]:
            views.append(windows(F.adaptive_avg_pool2d(image, side), self.view, draws))
        stacked = torch.cat(views).contiguous(memory_format=torch.channels_last)
        maps = [stacked, *self.projection(self.trunk[0](stacked))]
        return [list(one) for one in zip(*(torch.split(x, len(image)) for x in maps), strict=True)]

    def forward(self, features: list[list[Tensor]]) -> list[Tensor]:
        """Logits of every head; portraits and generated ones in batches of their own, as their statistics are."""
        return [logits for heads, maps in zip(self.heads, features, strict=True) for logits in heads(maps)]


def adapted(augmentation: float, sign: float, *, batch: int) -> float:
    """The next share of augmented images, in [0, MAX_AUGMENTATION].

    The paper adjusts it every four minibatches; the hundreds of logits of one are enough, and leave nothing to store.

    Args:
        sign: mean sign of the logits of real portraits.
        batch: how many portraits they were.

    >>> adapted(0.5, 0.7, batch=200), adapted(0.5, 0.5, batch=200), adapted(0.0, 0.5, batch=200)
    (0.51, 0.49, 0.0)
    """
    step = batch / AUGMENTATION_IMAGES
    return min(max(augmentation + (step if sign > TARGET_SIGN else -step), 0.0), MAX_AUGMENTATION)


def chosen(num: int, draws: torch.Generator, *, share: float) -> Tensor:
    """[num] bool, a share of them true."""
    return torch.rand(num, generator=draws) < share


def recoloured(image: Tensor, draws: torch.Generator, *, share: float) -> Tensor:
    """Random brightness, saturation and contrast of a share, differentiable (Zhao et al. 2020, arXiv:2006.10738)."""
    strength = torch.rand(3, len(image), generator=draws) - 0.5
    strength = (strength * chosen(len(image), draws, share=share)).to(image.device)
    brightness, saturation, contrast = strength[..., None, None, None]
    image = image + 0.5 * brightness
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * (1 + saturation)
    mean = image.mean((1, 2, 3), keepdim=True)
    contrasted: Tensor = mean + (image - mean) * (1 + 0.5 * contrast)
    return contrasted


def shifted(image: Tensor, reach: int, draws: torch.Generator, *, share: float) -> Tensor:
    """A share of the images moved by up to `reach` pixels each way, borders repeated."""
    moved = windows(F.pad(image, [reach] * 4, mode="replicate"), image.shape[-1], draws)
    which = chosen(len(image), draws, share=share).to(image.device)
    return torch.where(which[:, None, None, None], moved, image)


def windows(image: Tensor, size: int, draws: torch.Generator) -> Tensor:
    """A random window [size, size] of each image [N, 3, H, H]."""
    corners = torch.randint(image.shape[-1] - size + 1, (len(image), 2), generator=draws).tolist()
    return torch.stack([x[:, y : y + size, z : z + size] for x, (y, z) in zip(image, corners, strict=True)])


def resized(image: Tensor, side: int) -> Tensor:
    """[N, 3, H, H] -> [N, 3, side, side]: block means, or bilinear where it grows."""
    if image.shape[-1] < side:
        return F.interpolate(image, (side, side), mode="bilinear")
    return F.adaptive_avg_pool2d(image, side)


def calibrate(discriminator: ProjectedDiscriminator, portraits: Tensor) -> None:
    """Measures the scale of the frozen features on whole portraits."""
    with torch.no_grad(), autocast(portraits.device.type):
        views = resized(portraits, discriminator.view)
        discriminator.projection.calibrate(discriminator.trunk[0](views))
