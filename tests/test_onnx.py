"""ONNX files become frozen matting networks, or one clear line. The files are made here, of a few operators."""

import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mattesmith.enhance.matting import load_matting
from mattesmith.enhance.matting.load import with_normalisation
from mattesmith.enhance.matting.onnx import PASSES, downsample_ratio

OPEN = ["n", 3, "h", "w"]
MEMORIES = [f"r{i}i" for i in range(1, 5)]


def write_onnx(
    file: Path,
    nodes: Sequence[Any],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    initializers: Sequence[Any] = (),
    *,
    kind: int = 1,
) -> Path:
    """A file of these nodes; `kind` is the number of the inputs' type, 1 for float32."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    declared = [
        [onnx.helper.make_tensor_value_info(name, kind, size) for name, size in sizes.items()]
        for sizes in (inputs, outputs)
    ]
    graph = onnx.helper.make_graph(list(nodes), "matte", *declared, initializer=list(initializers))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return pytest.importorskip("onnx").helper.make_node(kind, inputs, [output], **attributes)


def mean_of_channels(file: Path, image: list[Any], alpha: list[Any]) -> Path:
    """alpha = the mean of what it is fed."""
    mean = node("ReduceMean", ["input"], "output", axes=[1], keepdims=int(len(alpha) == 4))
    return write_onnx(file, [mean], {"input": image}, {"output": alpha})


@pytest.mark.parametrize(("setting", "expected"), [("", 0.2), ("@symmetric", 0.2), ("@unit", 0.6)])
def test_a_plain_file_gives_alpha_of_any_size(setting: str, expected: float, tmp_path: Path) -> None:
    file = mean_of_channels(tmp_path / "net.onnx", OPEN, ["n", 1, "h", "w"])
    image = torch.full((2, 3, 20, 37), 0.2).requires_grad_()
    matting = load_matting(f"onnx:{file}{setting}")
    alpha = matting(image)
    torch.testing.assert_close(alpha, torch.full((2, 1, 20, 37), expected))
    (gradient,) = torch.autograd.grad(alpha.sum(), image)
    torch.testing.assert_close(gradient, torch.full_like(image, 1 / 6 if setting == "@unit" else 1 / 3))
    assert not matting.needs_trimap and matting.card["architecture"] == "onnx" and len(matting.card["sha256"]) == 64


def test_imagenets_normalisation_can_be_asked_for(tmp_path: Path) -> None:
    file = mean_of_channels(tmp_path / "net.onnx", OPEN, ["n", 1, "h", "w"])
    image = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 32, 32) * 2 - 1
    assert load_matting(f"onnx:{file}@imagenet")(image).abs().max() < 1e-6


def test_a_file_of_one_size_sees_the_picture_resized(tmp_path: Path) -> None:
    file = mean_of_channels(tmp_path / "net.onnx", [1, 3, 16, 48], [1, 16, 48])  # and no channel dimension
    image = torch.linspace(0, 1, 64).view(1, 1, 64, 1).expand(2, 3, 64, 64)
    alpha = load_matting(f"onnx:{file}")(image)
    assert alpha.shape == (2, 1, 64, 64) and (alpha - image[:, :1]).abs().max() < 0.04


def test_a_video_network_sees_a_still_several_times(tmp_path: Path) -> None:
    """A film network whose first memory counts: alpha = memory / 8 + ratio / 64, whatever the picture."""
    eighth = node("Constant", [], "eighth", value_float=0.125)
    one = node("Constant", [], "one", value_float=1.0)
    zero = node("Constant", [], "zero", value_float=0.0)
    nodes = [
        eighth, one, zero,
        node("Add", ["r1i", "one"], "r1o"),
        *(node("Identity", [f"r{i}i"], f"r{i}o") for i in (2, 3, 4)),
        node("Identity", ["src"], "fgr"),
        node("ReduceMean", ["src"], "mean", axes=[1], keepdims=1),
        node("Mul", ["mean", "zero"], "blank"),
        node("Mul", ["r1o", "eighth"], "shown"),
        node("Mul", ["downsample_ratio", "eighth"], "eighth_ratio"),
        node("Mul", ["eighth_ratio", "eighth"], "ratio"),
        node("Add", ["blank", "shown"], "counted"),
        node("Add", ["counted", "ratio"], "pha"),
    ]  # fmt: skip
    inputs = {"src": OPEN} | {key: ["n", "c", "y", "x"] for key in MEMORIES} | {"downsample_ratio": [1]}
    outputs = {"fgr": OPEN, "pha": ["n", 1, "h", "w"]} | {f"r{i}o": ["n", "c", "y", "x"] for i in range(1, 5)}
    matting = load_matting(f"onnx:{write_onnx(tmp_path / 'film.onnx', nodes, inputs, outputs)}")
    for side, ratio in ((64, 1), (1024, 0.5)):
        alpha = matting(torch.zeros(1, 3, 32, side))
        torch.testing.assert_close(alpha, torch.full((1, 1, 32, side), PASSES / 8 + ratio / 64))
    assert matting.card["licence"] == "GPL-3.0" and matting.card["normalisation"] == "unit"
    assert downsample_ratio((2048, 100)) == 0.25 and downsample_ratio((100, 512)) == 1


def test_weights_in_a_file_beside_it_are_part_of_what_a_file_is(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    found = []
    for scale in (0.1, 0.3):
        weights = onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), scale, np.float32), "weights")
        convolution = node("Conv", ["input", "weights"], "output")
        file = write_onnx(
            tmp_path / "whole.onnx", [convolution], {"input": OPEN}, {"output": ["n", 1, "h", "w"]}, [weights]
        )
        assert load_matting(f"onnx:{file}").card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        (tmp_path / "net.onnx.data").unlink(missing_ok=True)
        onnx.save_model(
            onnx.load(str(file)), str(tmp_path / "net.onnx"),
            save_as_external_data=True, location="net.onnx.data", size_threshold=0,
        )  # fmt: skip
        sums = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("net.onnx", "net.onnx.data")]
        card = load_matting(f"onnx:{tmp_path / 'net.onnx'}").card
        assert card["sha256"] == hashlib.sha256("".join(sums).encode()).hexdigest()
        found.append((sums[0], card["sha256"]))
    (graph, first), (again, second) = found
    assert graph == again and first != second


def network_of_blocks(file: Path, side: int) -> Path:
    """alpha = the mean of the channels plus the largest of it in each block; other sides than the blocks' fail."""
    onnx = pytest.importorskip("onnx")
    scales = onnx.numpy_helper.from_array(np.array([1, 1, side, side], np.float32), "scales")
    nodes = [
        node("ReduceMean", ["input"], "mean", axes=[1], keepdims=1),
        node("MaxPool", ["mean"], "largest", kernel_shape=[side, side], strides=[side, side]),
        node("Resize", ["largest", "", "scales"], "blocks", mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Add", ["mean", "blocks"], "output"),
    ]  # fmt: skip
    return write_onnx(file, nodes, {"input": OPEN}, {"output": ["n", 1, "h", "w"]}, [scales])


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_sides_that_a_file_wants_are_found_out(side: int, tmp_path: Path) -> None:
    matting = load_matting(f"onnx:{network_of_blocks(tmp_path / 'net.onnx', side)}")
    assert matting.architecture.divisor == max(side, 32)
    alpha = matting(torch.full((1, 3, 160, 100), 0.25))
    torch.testing.assert_close(alpha, torch.full((1, 1, 160, 100), 0.5))


def test_a_file_that_fails_on_every_size_tried_is_refused(tmp_path: Path) -> None:
    file = network_of_blocks(tmp_path / "net.onnx", 80)
    with pytest.raises(
        ValueError, match=r"net\.onnx: expected a network for images of 192 px, found one that fails"
    ) as caught:
        load_matting(f"onnx:{file}")
    assert "\n" not in str(caught.value)


def test_a_size_that_a_file_fails_on_is_named(tmp_path: Path) -> None:
    """Blocks of 24 px take the 96 px that every file is tried on, and not 32 px."""
    matting = load_matting(f"onnx:{network_of_blocks(tmp_path / 'net.onnx', 24)}")
    with pytest.raises(ValueError, match=r"net\.onnx: .*fails on \[1, 3, 32, 160\]") as caught:
        matting(torch.zeros(1, 3, 20, 160))
    assert "\n" not in str(caught.value)


def test_a_name_ends_in_a_known_normalisation_only() -> None:
    assert with_normalisation("a@unit") == ("a", "unit")
    assert with_normalisation("a@b") == ("a@b", "symmetric") and with_normalisation("@unit") == ("@unit", "symmetric")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", r"damaged, truncated or foreign"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", r"damaged, truncated or foreign"),
        (b"\x08\x07not protobuf at all", r"damaged, truncated or foreign"),
    ],
)
def test_a_foreign_file_is_one_clear_line(content: bytes, found: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.onnx: expected an ONNX network, found .*{found}") as caught:
        load_matting(f"onnx:{tmp_path / 'bad.onnx'}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx: no such ONNX file"):
        load_matting(f"onnx:{tmp_path / 'absent.onnx'}")
    with pytest.raises(ValueError, match="found a directory"):
        load_matting(f"onnx:{tmp_path}")


def test_a_network_that_maps_no_image_to_alpha_says_what_it_maps(tmp_path: Path) -> None:
    copy = node("Identity", ["input"], "output")
    file = write_onnx(tmp_path / "a.onnx", [copy], {"input": ["n", 4, "h", "w"]}, {"output": ["n", 4, "h", "w"]})
    with pytest.raises(ValueError, match=re.escape("expected one input [N, 3, H, W] (or the six of Robust Video")):
        load_matting(f"onnx:{file}")
    file = write_onnx(tmp_path / "b.onnx", [copy], {"input": OPEN}, {"output": OPEN})
    with pytest.raises(ValueError, match=re.escape("expected an output [N, 1, H, W], found output [0, 3, 0, 0]")):
        load_matting(f"onnx:{file}")
    file = write_onnx(tmp_path / "c.onnx", [copy], {"input": OPEN}, {"output": OPEN}, kind=10)
    with pytest.raises(ValueError, match="expected an input in float32"):
        load_matting(f"onnx:{file}")


def test_an_operator_that_cannot_be_converted_is_one_clear_line(tmp_path: Path) -> None:
    nodes = [node("Hardmax", ["input"], "output", axis=1)]
    file = write_onnx(tmp_path / "net.onnx", nodes, {"input": OPEN}, {"output": ["n", 1, "h", "w"]})
    with pytest.raises(ValueError, match=r"net\.onnx: expected operators that onnx2torch knows.*Hardmax"):
        load_matting(f"onnx:{file}")


def test_a_missing_package_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=re.escape("install them with `pip install 'mattesmith[onnx]'`")):
        load_matting(f"onnx:{tmp_path / 'net.onnx'}")
