"""Any ONNX matting file as a torch network, through the packages onnx and onnx2torch: differentiable, on any device.

Two kinds of file are known by their inputs. A plain one maps one image to alpha. Robust Video Matting (Lin, Yang,
Saleemi, Sengupta 2021, arXiv 2108.11515) also takes four memories and a ratio; a still picture is shown to it a few
times, as a film that stands still, because what it remembers of the picture cleans the matte.

Nothing of either package is needed unless such a file is named.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...gen.fetch import sum_of

VIDEO_INPUTS = ["src", "r1i", "r2i", "r3i", "r4i", "downsample_ratio"]
ALPHA_NAMES = ("pha", "alpha", "matte", "alphas")
# How often a still is shown. On scikit-image's astronaut showings 2 to 5 move alpha by 0.015, 0.013, 0.009 and 0.005 on
# the mean; each costs as much as the first.
PASSES = 4
INNER_SIDE = 512  # Robust Video Matting: the longer side it was made to see; larger pictures are refined afterwards
DIVISORS = (32, 64)  # what the sides of a picture may have to be multiples of; found out before any work starts
FLOAT32 = 1  # as ONNX numbers its types


class OnnxMatting(nn.Module):
    """One image in, alpha out, whatever else the graph takes and gives."""

    def __init__(self, graph: nn.Module, *, is_video: bool, output: int, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.graph = graph
        self.is_video = is_video
        self.output = output  # which of the graph's outputs is alpha
        self.size = size  # [H, W] of a graph that takes one size only
        self.divisor = DIVISORS[0]

    def forward(self, image: Tensor) -> Tensor:
        """Alpha [N, 1, H, W] of images [N, 3, H, W], normalised as the file's maker did (Robust Video Matting: 0..1).

        One picture after the other: many files were made for one, and none may see its neighbours.
        """
        return torch.cat([self.alpha(one[None]) for one in image])

    def alpha(self, image: Tensor) -> Tensor:
        """Alpha [1, 1, H, W] of one image [1, 3, H, W]."""
        size = image.shape[2:]
        fitted = image if self.size is None else resized(image, self.size)
        found = self.video_alpha(fitted) if self.is_video else self.outputs(fitted)[self.output]
        found = found[:, None] if found.ndim == 3 else found
        return found if found.shape[2:] == size else resized(found, size)

    def video_alpha(self, image: Tensor) -> Tensor:
        """The matte after PASSES showings; memories start as zeros of one pixel, which the graph spreads."""
        memories = [image.new_zeros(1, 1, 1, 1) for _ in range(4)]
        ratio = image.new_tensor([downsample_ratio(image.shape[2:])])
        for _ in range(PASSES):
            _, alpha, *memories = self.outputs(image, *memories, ratio)
        return alpha

    def outputs(self, *inputs: Tensor) -> Sequence[Tensor]:
        """All outputs of the graph, in the file's order."""
        with warnings.catch_warnings():
            # onnx2torch 1.5 slices by a list, which torch has long announced to forbid.
            warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)
            found: Tensor | Sequence[Tensor] = self.graph(*inputs)
        return [found] if isinstance(found, Tensor) else found


def downsample_ratio(size: Sequence[int]) -> float:
    """How far Robust Video Matting shrinks a picture before it looks: to 512 px of the longer side, never enlarging.

    >>> downsample_ratio((1024, 768)), downsample_ratio((128, 128))
    (0.5, 1.0)
    """
    return min(1.0, INNER_SIDE / max(size))


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of [N, C, H, W] to [h, w], averaging where it shrinks."""
    return F.interpolate(x, list(size), mode="bilinear", align_corners=False, antialias=True)


def load_onnx(file: Path) -> OnnxMatting:
    """The network in an ONNX file, tried on a grey picture.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a package is missing, or the file is no image -> alpha network that can be converted.
    """
    model, convert = read_model(file)
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in model.graph.input if value.name not in initial}
    is_video = list(inputs) == VIDEO_INPUTS
    image = dimensions(inputs["src"]) if is_video else plain_image(file, inputs)
    outputs = {value.name: dimensions(value.type.tensor_type) for value in model.graph.output}
    fixed = (image[2], image[3]) if image[2] and image[3] else None
    try:
        graph = convert(model)
    except Exception as error:  # the converter raises whatever an operator's reader happens to raise
        raise ValueError(
            f"{file}: expected operators that onnx2torch knows, found one it does not ({first_line(error)}); "
            "export the network with another opset"
        ) from error
    network = OnnxMatting(graph, is_video=is_video, output=alpha_output(file, outputs), size=fixed)
    network.eval().requires_grad_(False)
    network.divisor = found_divisor(file, network)
    return network


def sum_of_network(file: Path) -> str:
    """The sha256 of an ONNX file; where weights lie in files beside it, that of all the sums, its own first."""
    import onnx
    from onnx import external_data_helper as helper

    model = onnx.load(str(file), load_external_data=False)
    tensors = [tensor for tensor in helper._get_all_tensors(model) if helper.uses_external_data(tensor)]
    beside = sorted({helper.ExternalDataInfo(tensor).location for tensor in tensors})
    sums = [sum_of(file), *(sum_of(file.parent / name) for name in beside)]
    return hashlib.sha256("".join(sums).encode()).hexdigest() if beside else sums[0]


def read_model(file: Path) -> tuple[Any, Any]:
    """The parsed model and onnx2torch's `convert`."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such ONNX file")
    if not file.is_file():
        raise ValueError(f"{file}: expected an ONNX file, found a directory; name the file inside it")
    try:
        import onnx
        from onnx2torch import convert
    except ImportError as error:
        raise ValueError(
            f"onnx:{file} needs the packages onnx and onnx2torch; install them with `pip install 'mattesmith[onnx]'`"
        ) from error
    try:
        model = onnx.load(str(file))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, the checker and files of external tensors each raise their own
        raise ValueError(
            f"{file}: expected an ONNX network, found a damaged, truncated or foreign file "
            f"({first_line(error)}); get it again"
        ) from error
    return model, convert


def plain_image(file: Path, inputs: dict[str, Any]) -> list[int]:
    """Dimensions of the only input, which must be RGB images in float32."""
    found = {name: dimensions(value) for name, value in inputs.items()}
    image = next(iter(found.values()), [])
    if len(found) != 1 or len(image) != 4 or image[1] not in (0, 3):
        raise ValueError(
            f"{file}: expected one input [N, 3, H, W] (or the six of Robust Video Matting), found {described(found)}"
        )
    if next(iter(inputs.values())).elem_type != FLOAT32:
        raise ValueError(f"{file}: expected an input in float32, found another type; take the network's float32 file")
    return image


def alpha_output(file: Path, outputs: dict[str, list[int]]) -> int:
    """Which output is alpha: by its name, else the first that may have one channel."""
    named = [i for i, name in enumerate(outputs) if name in ALPHA_NAMES]
    single = [i for i, size in enumerate(outputs.values()) if len(size) == 3 or (len(size) == 4 and size[1] in (0, 1))]
    if not named and not single:
        raise ValueError(f"{file}: expected an output [N, 1, H, W], found {described(outputs)}")
    return (named or single)[0]


@torch.no_grad()
def found_divisor(file: Path, network: OnnxMatting) -> int:
    """What the sides of a picture must be multiples of, tried on grey pictures of three times that.

    Three, because an even number would hide that larger multiples are needed.
    """
    for divisor in DIVISORS:
        side = 3 * divisor
        try:
            alpha = network(torch.full((1, 3, side, side), 0.5))
        except Exception as error:  # whatever the converted operators raise, the file is of no use for this size
            failure = error
            continue
        if alpha.shape != (1, 1, side, side) or not alpha.isfinite().all():
            raise ValueError(f"{file}: expected a finite alpha [1, 1, H, W], found {list(alpha.shape)} or not finite")
        return divisor
    raise ValueError(
        f"{file}: expected a network for images of {side} px, found one that fails on them ({first_line(failure)})"
    ) from failure


def dimensions(value: Any) -> list[int]:
    """Sizes of a declared tensor, 0 where the file leaves one open."""
    return [dimension.dim_value for dimension in value.shape.dim]


def described(sizes: dict[str, list[int]]) -> str:
    """Names and sizes for a message, at most six."""
    parts = [f"{name} {size}" for name, size in list(sizes.items())[:6]]
    return ", ".join(parts) or "none"


def first_line(error: Exception) -> str:
    """The beginning of a package's message, without line breaks."""
    return " ".join(str(error).split())[:120] or type(error).__name__
