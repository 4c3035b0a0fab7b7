"""A perceptual distance from blocks of VGG16: an embedded one, and LPIPS itself where its trunk is on the disk.

Both have the form of LPIPS (Zhang et al. 2018, arXiv 1801.03924): features scaled to unit length at every position,
squared differences summed over channels, averaged over positions, summed over layers. The embedded one has the first
three blocks of an edge detector's VGG16, whose frozen weights lie beside this code, and every channel weighs 1: it is
called `perceptual`, and its numbers are not LPIPS numbers. LPIPS has five blocks of the classifier that torchvision
offers, and its channels weigh what the lpips package's version 0.1 says.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .matting.checkpoint import load_strictly, read_card, read_state

WEIGHTS = Path(__file__).parent / "weights" / "perceptual.safetensors"
MEAN_RGB = (122.67892, 116.66877, 104.00699)  # what the trunk was trained to have subtracted, in 0..255
LPIPS_TRUNK = "vgg16-397923af.pth"  # torchvision's name for it; the file's sha256 begins with these eight digits
LPIPS_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # convolutions as torchvision counts layers
LPIPS_WIDTHS = (64, 128, 256, 512, 512)
MAX_SIDE = 256  # larger images are block-averaged to at most this (method.md; as StyleGAN2's projector does)


class Trunk(nn.Module):
    """VGG16's blocks 1 to 3 (Simonyan and Zisserman 2015, arXiv 1409.1556), 1.7 M parameters.

    The first convolution's weights take RGB and hold the factor 127.5. The mean is subtracted from the image and
    not folded into the bias: the zero padding around the image stands for a pixel of the mean colour.
    """

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.ModuleList([nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)])
        self.block2 = nn.ModuleList([nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)])
        self.block3 = nn.ModuleList(
            [nn.Conv2d(128, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)]
        )
        shift = 1 - torch.tensor(MEAN_RGB).view(1, 3, 1, 1) / 127.5
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, image: Tensor, *, depth: int = 3) -> list[Tensor]:
        """Block outputs after their last ReLU.

        Args:
            image: [N, 3, H, W] in [-1, 1].
            depth: how many blocks, 1 to 3.

        Returns:
            [N, 64, H, W], [N, 128, H/2, W/2], [N, 256, H/4, W/4] (sides rounded up), the first `depth` of them.
        """
        outputs: list[Tensor] = []
        x = image + self.shift
        for block in [self.block1, self.block2, self.block3][:depth]:
            x = F.max_pool2d(x, 2, ceil_mode=True) if outputs else x
            for conv in block:
                x = F.relu(conv(x))
            outputs.append(x)
        return outputs


class LPIPSTrunk(nn.Module):
    """All five blocks, 14.7 M parameters, under torchvision's names; images normalised as the lpips package does."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        c_in = 3
        for layers, c_out in zip(LPIPS_BLOCKS, LPIPS_WIDTHS, strict=True):
            for layer in layers:
                self.features[str(layer)] = nn.Conv2d(c_in, c_out, 3, padding=1)
                c_in = c_out
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, *, depth: int = 5) -> list[Tensor]:
        """Block outputs after their last ReLU, as `Trunk.forward` says; sides are rounded down where they halve."""
        outputs: list[Tensor] = []
        x = (image - self.shift) / self.scale
        for layers in LPIPS_BLOCKS[:depth]:
            x = F.max_pool2d(x, 2) if outputs else x
            for layer in layers:
                x = F.relu(self.features[str(layer)](x))
            outputs.append(x)
        return outputs


class Perceptual(nn.Module):
    """The frozen distance. Compute a fixed target's features once: `P.distance(P.features(image), target)`."""

    def __init__(self, trunk: nn.Module, *, card: dict[str, Any], channel_weights: Sequence[Tensor] = ()) -> None:
        """
        Args:
            trunk: image [N, 3, H, W] in [-1, 1] -> raw feature maps; also of use to a projected discriminator.
            card: name, licence, source, sha256.
            channel_weights: what each layer's channels weigh in the distance, [C] a layer; 1 if there are none.
        """
        super().__init__()
        self.trunk: Any = trunk  # Trunk or LPIPSTrunk
        self.card = card
        self.num_blocks = len(channel_weights) or 3
        self.channel_weights = nn.ParameterList([weight.view(1, -1, 1, 1) for weight in channel_weights])
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)

    def features(self, image: Tensor, *, depth: int | None = None) -> list[Tensor]:
        """Features of unit length at every position, times the roots of their channels' weights.

        Args:
            image: [N, 3, H, W] in [-1, 1], block-averaged here to at most 256 px a side.
            depth: how many blocks, all if None; the first costs a third of three.

        Returns:
            `depth` tensors as the trunk's `forward` shapes them.
        """
        depth = self.num_blocks if depth is None else depth
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image must be [N, 3, H, W], got {list(image.shape)}")
        if not 1 <= depth <= self.num_blocks:
            raise ValueError(f"depth must be one of 1 to {self.num_blocks}, got {depth}")
        found = [unit_length(feature) for feature in self.trunk(block_mean(image, max_side=MAX_SIDE), depth=depth)]
        if not self.channel_weights:
            return found
        return [feature * weight.sqrt() for feature, weight in zip(found, self.channel_weights, strict=False)]

    def distance(self, features_a: list[Tensor], features_b: list[Tensor]) -> Tensor:
        """Sum over layers of the spatial mean of squared differences, [N], in [0, 2 * layers]."""
        layers = zip(features_a, features_b, strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in layers]).sum(0)

    def forward(self, image_a: Tensor, image_b: Tensor) -> Tensor:
        """Distance of images [N, 3, H, W] in [-1, 1], pair by pair, [N]."""
        return self.distance(self.features(image_a), self.features(image_b))


def unit_length(feature: Tensor) -> Tensor:
    """Scale to unit length over channels, in float32; epsilon keeps the gradient finite where every channel is 0."""
    feature = feature.float()  # differences of bfloat16 features lose the small distances
    return feature * torch.rsqrt(feature.square().sum(1, keepdim=True) + 1e-8)


def block_mean(image: Tensor, *, max_side: int) -> Tensor:
    """Means over k x k blocks, k the smallest that leaves no side above `max_side`; k = 1 changes nothing."""
    k = -(-max(image.shape[-2:]) // max_side)
    return image if k <= 1 else F.avg_pool2d(image, k, ceil_mode=True)


def load_perceptual(name: str = "embedded") -> Perceptual:
    """A frozen perceptual distance.

    Args:
        name: "embedded"; "lpips", whose VGG16 trunk torch has in its cache; or "lpips:FILE" with that trunk's file.

    Raises:
        FileNotFoundError: the weights are not there; nothing is ever fetched.
        ValueError: an unknown name, or a file that does not hold the trunk.
    """
    kind, _, file = name.partition(":")
    if name == "embedded":
        return load_embedded()
    if kind != "lpips" or name == "lpips:":
        raise ValueError(f"unknown perceptual distance {name!r}; known: embedded, lpips, lpips:FILE")
    return load_lpips(Path(file).expanduser() if file else None)


def load_embedded(file: Path = WEIGHTS) -> Perceptual:
    """The distance whose weights are beside this code."""
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: the perceptual trunk is missing; get it from the repository or make it with studio/perceptual.py"
        )
    trunk = Trunk()
    load_strictly(trunk, read_state(file), file=file)
    return Perceptual(trunk, card={"name": file.stem} | read_card(file))


def load_lpips(file: Path | None) -> Perceptual:
    """LPIPS of the lpips package, VGG16, version 0.1.

    Args:
        file: torchvision's VGG16 (its classifier is left out); None means torch's own copy in its cache.
    """
    trunk_file = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_TRUNK if file is None else file
    if not trunk_file.exists():
        raise FileNotFoundError(
            f"{trunk_file}: LPIPS needs torchvision's VGG16, which is never fetched unasked; "
            "give its file as lpips:FILE, or get it with "
            "`python -c \"import torchvision.models as m; m.vgg16(weights='DEFAULT')\"`"
        )
    trunk = LPIPSTrunk()
    state = {key: value for key, value in read_state(trunk_file).items() if ".classifier." not in f".{key}"}
    load_strictly(trunk, state, file=trunk_file)
    heads_file = package_folder("lpips") / "weights" / "v0.1" / "vgg.pth"
    heads = nn.ModuleDict({f"lin{i}": head(width) for i, width in enumerate(LPIPS_WIDTHS)})
    load_strictly(heads, read_state(heads_file), file=heads_file)
    weights = [value.flatten() for value in heads.state_dict().values()]

    sha256 = read_card(trunk_file)["sha256"]
    is_torchvision = sha256.startswith(LPIPS_TRUNK[6:14])
    if file is None and not is_torchvision:
        raise ValueError(
            f"{trunk_file}: expected torchvision's file (sha256 {LPIPS_TRUNK[6:14]}...), found {sha256[:8]}...; "
            "remove it and get it again"
        )
    card = {
        "name": "lpips" if is_torchvision else "lpips with another trunk",
        "licence": "BSD-2-Clause (lpips), BSD-3-Clause (torchvision)",
        "source": "richzhang/PerceptualSimilarity v0.1 vgg on " + (LPIPS_TRUNK if is_torchvision else trunk_file.name),
        "sha256": sha256,
        "heads_sha256": read_card(heads_file)["sha256"],
    }
    return Perceptual(trunk, card=card, channel_weights=weights)


def head(channels: int) -> nn.Module:
    """One layer's weights under the names they have in the package's file."""
    return nn.ModuleDict({"model": nn.ModuleDict({"1": nn.Conv2d(channels, 1, 1, bias=False)})})


def package_folder(name: str) -> Path:
    """Where an installed package lies, found without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"the package {name} is missing; install it with `pip install {name}`")
    return Path(spec.origin).parent
