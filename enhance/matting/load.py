"""Frozen matting networks behind one call: image in [-1, 1], any size -> alpha in [0, 1], differentiable."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..trimap import trimap_from_alpha, trimap_from_logits
from .checkpoint import load_strictly, read_card, read_state
from .deeplab import DeepLab
from .dim import DIM
from .gca import GCA
from .indexnet import IndexNet
from .modnet import MODNet
from .onnx import first_line, load_onnx, sum_of_network
from .p3m import P3MNet
from .unet import UNet
from .vitmatte import load_vitmatte

WEIGHTS = Path(__file__).parents[1] / "weights"
EMBEDDED = {"default": WEIGHTS / "matting.safetensors", "second": WEIGHTS / "second.safetensors"}
MIN_SIDE = 32  # what the deepest network halves away
NORMALISATIONS = ("symmetric", "unit", "imagenet")
TRIMAP_WIDTH = 0.03  # of the longer side: how far a derived trimap's unknown region reaches beyond soft pixels
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def modnet_alpha(network: nn.Module, image: Tensor, trimap: Tensor) -> Tensor:
    """MODNet's matte alone."""
    alpha: Tensor = network(image, inference=True).matte
    return alpha


def unet_alpha(network: nn.Module, image: Tensor, trimap: Tensor) -> Tensor:
    """The U-Net's only output."""
    alpha: Tensor = network(image)
    return alpha


def gca_alpha(network: nn.Module, image: Tensor, trimap: Tensor) -> Tensor:
    """GCA takes the trimap one-hot: background, unknown, foreground."""
    one_hot = torch.cat([trimap == 0, trimap == 0.5, trimap == 1], 1).to(image.dtype)
    alpha: Tensor = network(imagenet_normalised(image), one_hot)
    return alpha


def four_channel_alpha(network: nn.Module, image: Tensor, trimap: Tensor, *, normalisation: str = "imagenet") -> Tensor:
    """IndexNet, DIM and ViTMatte take the trimap as a fourth channel."""
    alpha: Tensor = network(torch.cat([normalised(image, normalisation), trimap], 1))
    return alpha


def onnx_alpha(network: nn.Module, image: Tensor, trimap: Tensor, *, normalisation: str, file: Path) -> Tensor:
    """An ONNX file says neither how its pictures were normalised, which its user does, nor which sizes it takes."""
    try:
        alpha: Tensor = network(normalised(image, normalisation))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"{file}: expected a network for images of any size, found one that fails on {list(image.shape)} "
            f"({first_line(error)}); export it with open sizes"
        ) from error
    return alpha


def deeplab_alpha(network: nn.Module, image: Tensor, trimap: Tensor) -> Tensor:
    """A trimap network says how sure it is: P(foreground) + P(unknown) / 2. Its logits are `M.network(image)`."""
    classes: Tensor = network(image).softmax(1)
    return classes[:, 2:3] + classes[:, 1:2] / 2


def p3m_alpha(network: nn.Module, image: Tensor, trimap: Tensor) -> Tensor:
    """P3M-Net's local alpha inside what its global decoder leaves unknown."""
    alpha: Tensor = network(imagenet_normalised(image)).fusion
    return alpha


def normalised(image: Tensor, normalisation: str) -> Tensor:
    """[-1, 1] as it is ("symmetric"), as 0..1 ("unit"), or "imagenet"."""
    if normalisation == "imagenet":
        return imagenet_normalised(image)
    return (image + 1) / 2 if normalisation == "unit" else image


def imagenet_normalised(image: Tensor) -> Tensor:
    """[-1, 1] -> the mean and deviation of ImageNet's pictures taken off."""
    mean = image.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = image.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return ((image + 1) / 2 - mean) / std


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a published network wants beside its tensors."""

    build: Callable[[], nn.Module]
    alpha: Callable[[nn.Module, Tensor, Tensor], Tensor]  # (network, image [-1, 1], trimap {0, .5, 1}) -> alpha
    divisor: int  # the sides of what it is fed are multiples of this
    needs_trimap: bool
    licence: str
    source: str
    makes_trimap: bool = False  # its output is the logits of background, unknown, foreground


ADOBE = "trained on Adobe's matting set: non-commercial"
ARCHITECTURES = {
    "modnet": Architecture(MODNet, modnet_alpha, 32, False, "Apache-2.0", "ZHKKKe/MODNet"),
    "unet": Architecture(UNet, unet_alpha, 16, False, "Apache-2.0", "mattesmith studio"),
    "gca": Architecture(GCA, gca_alpha, 32, True, f"code MIT; weights {ADOBE}", "Yaoyi-Li/GCA-Matting"),
    "indexnet": Architecture(
        IndexNet, four_channel_alpha, 32, True, f"non-commercial; {ADOBE}", "poppinace/indexnet_matting"
    ),
    "dim": Architecture(
        DIM, four_channel_alpha, 1, True, f"code MIT; weights {ADOBE}", "foamliu/Deep-Image-Matting-PyTorch"
    ),
    "p3m": Architecture(
        P3MNet, p3m_alpha, 32, False, "code MIT; weights under the agreement of P3M-10k", "JizhiziLi/P3M"
    ),
    "deeplab": Architecture(DeepLab, deeplab_alpha, 1, False, "none stated", "cnnlstm/StyleGAN_Matting", True),
}


class Matting(nn.Module):
    """A frozen matting network: always in eval mode, no parameter takes a gradient, the image does."""

    def __init__(
        self,
        network: nn.Module,
        architecture: Architecture,
        *,
        name: str,
        card: dict[str, Any],
        coarse: str = "default",
    ) -> None:
        super().__init__()
        self.network = network  # the bare module with the published keys
        self.architecture = architecture
        self.name = name
        self.card = card  # architecture, name, licence, source, sha256
        self.needs_trimap = architecture.needs_trimap
        self.makes_trimap = architecture.makes_trimap
        self.coarse = coarse  # the network that a missing trimap is derived from; loaded when it is needed
        self.coarse_matting: Matting | None = None
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: a frozen network's statistics must not move."""
        return super().train(False)

    def forward(self, image: Tensor, trimap: Tensor | None = None) -> Tensor:
        """Alpha of images.

        Args:
            image: [N, 3, H, W] in [-1, 1], any H and W; padded here by its edge values, and cropped back.
            trimap: [N, 1, H, W], 0 background, 0.5 unknown, 1 foreground; only the unknown part is then estimated.
                Derived if the network needs one; not used by a network that needs none.

        Returns:
            [N, 1, H, W] in [0, 1], differentiable in `image`.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image must be [N, 3, H, W], got {list(image.shape)}")
        n, _, height, width = image.shape
        if not self.needs_trimap:
            trimap = torch.full_like(image[:, :1], 0.5)
        elif trimap is None:
            trimap = self.derive_trimap(image)
        elif trimap.shape != (n, 1, height, width):
            raise ValueError(f"trimap must be {[n, 1, height, width]} for this image, got {list(trimap.shape)}")
        trimap = (trimap.detach() * 2).round() / 2  # 128 of 255 is unknown, too

        top, bottom = margins(height, self.architecture.divisor)
        left, right = margins(width, self.architecture.divisor)
        margin = (left, right, top, bottom)
        padded, padded_trimap = (F.pad(x, margin, mode="replicate") if any(margin) else x for x in (image, trimap))
        alpha = self.architecture.alpha(self.network, padded, padded_trimap)
        alpha = alpha[..., top : top + height, left : left + width].to(image.dtype)
        alpha = alpha + (alpha.clamp(0, 1) - alpha).detach()  # a plain clamp would stop the gradient outside [0, 1]
        return torch.where(trimap == 0.5, alpha, trimap)

    def derive_trimap(self, image: Tensor) -> Tensor:
        """Trimap [N, 1, H, W] for images, from the coarse network."""
        return trimap_of(self.trimap_network().to(image.device), image)

    def trimap_network(self) -> "Matting":
        """The coarse network, loaded when it is first asked for.

        Raises:
            FileNotFoundError, ValueError: as `load_matting`, or it needs a trimap itself.
        """
        if self.coarse_matting is None:
            coarse = load_matting(self.coarse)
            if coarse.needs_trimap:
                raise ValueError(
                    f"{self.coarse}: expected a network that trimaps can be derived from, found one that needs a "
                    "trimap itself; name default, deeplab:FILE or another network without a trimap"
                )
            self.coarse_matting = coarse
        return self.coarse_matting


@torch.no_grad()
def trimap_of(network: Matting, image: Tensor) -> Tensor:
    """What a network makes of images [N, 3, H, W] in [-1, 1] as a trimap [N, 1, H, W] in {0, 0.5, 1}.

    Its likeliest classes, if it has such; else its alpha, thresholded and with a wide enough unknown region.
    """
    if network.makes_trimap:
        return trimap_from_logits(network.network(image))
    width = max(1, round(TRIMAP_WIDTH * max(image.shape[2:])))
    return trimap_from_alpha(network(image), width=width)


def margins(size: int, divisor: int) -> tuple[int, int]:
    """Pixels to add before and after `size` to reach a multiple of `divisor` that is at least MIN_SIDE."""
    lacking = max(-size % divisor, MIN_SIDE - size)
    return lacking // 2, lacking - lacking // 2


def load_matting(name: str, *, coarse: str = "default") -> Matting:
    """A frozen matting network.

    Args:
        name: "default" (the embedded reference) or "second" (the embedded independent one), or "ARCHITECTURE:FILE"
            with a published file or one of ours: "modnet:FILE", "unet:FILE", "gca:FILE", "indexnet:FILE", "dim:FILE",
            "p3m:FILE", or "deeplab:FILE" (a trimap network; its alpha is a rough one).
            "onnx:FILE" is any image -> alpha network or Robust Video Matting; "vitmatte:FOLDER" or "vitmatte:MODEL" a
            ViTMatte of the transformers library. Both may end in how pictures are normalised: "@symmetric" ([-1, 1],
            what is taken if nothing is said), "@unit" (0..1, always so for Robust Video Matting) or "@imagenet".
        coarse: the network from which one that needs a trimap derives it where none is given: from the classes of
            "deeplab:FILE", from the alpha of any other.

    Raises:
        FileNotFoundError: no such file, or the embedded one has not been made yet.
        ValueError: an unknown name, a file that does not hold that network, or a missing optional package.
    """
    kind, _, path = name.partition(":")
    if name in EMBEDDED:
        return load_embedded(name, EMBEDDED[name])
    if path and kind == "onnx":
        return load_onnx_file(path, coarse=coarse)
    if path and kind == "vitmatte":
        return load_vitmatte_folder(path, coarse=coarse)
    if kind not in ARCHITECTURES or not path:
        known = [*EMBEDDED, *(f"{each}:FILE" for each in ARCHITECTURES), "onnx:FILE", "vitmatte:FOLDER"]
        raise ValueError(f"unknown matting network {name!r}; known: {', '.join(known)}")
    return load_file(Path(path).expanduser(), kind, name=kind, coarse=coarse)


def with_normalisation(path: str) -> tuple[str, str]:
    """A path or name, and the normalisation it may end in; only the known three are one.

    >>> with_normalisation("net.onnx@imagenet"), with_normalisation("me@home/net.onnx")
    (('net.onnx', 'imagenet'), ('me@home/net.onnx', 'symmetric'))
    """
    head, _, tail = path.rpartition("@")
    return (head, tail) if head and tail in NORMALISATIONS else (path, "symmetric")


def load_onnx_file(path: str, *, coarse: str) -> Matting:
    """An ONNX file, with what is known of it."""
    path, normalisation = with_normalisation(path)
    file = Path(path).expanduser()
    network = load_onnx(file)
    licence, source = "unknown: see where the file came from", "an ONNX file"
    if network.is_video:
        licence, source, normalisation = "GPL-3.0", "PeterL1n/RobustVideoMatting", "unit"
    alpha = partial(onnx_alpha, normalisation=normalisation, file=file)
    architecture = Architecture(lambda: network, alpha, network.divisor, False, licence, source)
    card = {"architecture": "onnx", "name": file.name, "licence": licence, "source": source}
    card |= {"normalisation": normalisation, "sha256": sum_of_network(file)}
    return Matting(network, architecture, name="onnx", card=card, coarse=coarse)


def load_vitmatte_folder(path: str, *, coarse: str) -> Matting:
    """A ViTMatte; the library normalises as [-1, 1], its authors' own code as ImageNet."""
    path, normalisation = with_normalisation(path)
    network, file = load_vitmatte(path)
    licence, source = "Apache-2.0 as hustvl's files; others: see where the folder came from", "hustvl/ViTMatte"
    alpha = partial(four_channel_alpha, normalisation=normalisation)
    architecture = Architecture(lambda: network, alpha, 32, True, licence, source)
    card = {"architecture": "vitmatte", "name": path, "licence": licence, "source": source}
    card |= {"normalisation": normalisation, "sha256": read_card(file)["sha256"]}
    return Matting(network, architecture, name="vitmatte", card=card, coarse=coarse)


def load_embedded(name: str, file: Path) -> Matting:
    """One of the networks that lie in the repository, with its card."""
    if not file.exists() or not file.with_suffix(".json").exists():
        raise FileNotFoundError(
            f"the embedded matting network {name!r} is missing ({file.name} and its card in enhance/weights); "
            "make it with `python cli.py studio train-matting`"
        )
    kind = read_card(file).get("architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"{file.with_suffix('.json')}: expected an architecture among {', '.join(ARCHITECTURES)}, found {kind!r}"
        )
    return load_file(file, kind, name=name)


def load_file(file: Path, kind: str, *, name: str, coarse: str = "default") -> Matting:
    """A network of a known architecture from a file."""
    architecture = ARCHITECTURES[kind]
    state = read_state(file)
    card = {"architecture": kind, "name": file.name, "licence": architecture.licence, "source": architecture.source}
    network = architecture.build()
    load_strictly(network, state, file=file)
    return Matting(network, architecture, name=name, card=card | read_card(file), coarse=coarse)
