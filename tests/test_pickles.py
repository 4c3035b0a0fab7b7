"""NVIDIA's pickles load without any code from them being run; everything unknown is refused by name."""

import os
import pickle
import struct
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mattesmith.gen import Discriminator, Generator, load_discriminator, load_generator

CHANNELS = {4: 6, 8: 5, 16: 4}


def networks() -> tuple[Generator, Discriminator]:
    """A tiny pair with random weights, biases and noise strengths."""
    torch.manual_seed(3)
    generator = Generator(resolution=16, channels=CHANNELS, z_dim=7, w_dim=8, num_mapping_layers=2)
    discriminator = Discriminator(resolution=16, channels=CHANNELS)
    for tensor in [*generator.parameters(), generator.mean_w, *discriminator.parameters()]:
        tensor.data += 0.3 * torch.randn_like(tensor)
    return generator.requires_grad_(False), discriminator.requires_grad_(False)


def nvidia_names(network: Generator | Discriminator) -> dict[str, Tensor]:
    """Our state dict under NVIDIA's names and shapes, written out independently of gen/nvidia.py."""
    names = {}
    for key, value in network.state_dict().items():
        if key == "mean_w":
            key = "mapping.w_avg"
        elif key == "blocks.4.const":
            key, value = "synthesis.b4.const", value[0]
        elif isinstance(network, Generator):
            key = key.replace("dense.", "mapping.fc").replace("blocks.", "synthesis.b").replace(".style.", ".affine.")
            key = key.replace(".conv.", ".conv1.").replace(".up.", ".conv0.").replace(".to_rgb.", ".torgb.")
            key, value = (key + "_const", value[0, 0]) if key.endswith("noise") else (key, value)
        elif key.startswith("blocks."):
            key = "b" + key[7:].replace(".conv.", ".conv0.").replace(".down.", ".conv1.")
        elif key.startswith("from_rgb"):
            key = f"b{network.resolution}.fromrgb" + key[8:]
        else:
            key = "b4." + key.replace("dense", "fc")
        names[key] = value.clone()
    return names


class Persistent:
    """Pickles as NVIDIA's persistent objects do: a global that would execute `module_src`, and a dict."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('the source in the file was run')",
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


@pytest.fixture
def fake_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules NVIDIA's files name, so that a test can write such a file."""

    def forged(module: str, name: str, value: Any) -> None:
        value.__module__, value.__qualname__ = module, name
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            parent = ".".join(parts[:length])
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        setattr(sys.modules[module], name, value)

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("the real global was called")

    forged("torch_utils.persistence", "_reconstruct_persistent_obj", _reconstruct_persistent_obj)
    forged("dnnlib.tflib.network", "Network", type("Network", (), {}))
    forged("dnnlib.util", "EasyDict", type("EasyDict", (dict,), {}))


def tree(state: dict[str, Tensor], settings: dict[str, Any], class_name: str = "Generator") -> Persistent:
    """The nested persistent objects that hold a flat state dict."""
    modules: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if rest:
            modules.setdefault(head, {})[rest] = value
        else:
            own[head] = torch.nn.Parameter(value)
    children = OrderedDict()
    for name, inside in modules.items():
        kind = {"fc": "FullyConnectedLayer", "torgb": "ToRGBLayer", "skip": "Conv2dLayer"}.get(name, "SynthesisLayer")
        children[name] = tree(inside, settings, "FullyConnectedLayer" if name.startswith("fc") else kind)
    buffers = {key: own.pop(key).data for key in list(own) if key in ("w_avg", "noise_const")}
    layer = {"conv_clamp": settings.get("clamp")} if class_name in ("SynthesisLayer", "ToRGBLayer") else {}
    if class_name == "FullyConnectedLayer":
        layer = {"bias_gain": np.float64(settings.get("lr", 0.01))}
    keywords = sys.modules["dnnlib.util"].EasyDict(channel_base=32768)
    hooks = {"_forward_hooks": OrderedDict(), "_non_persistent_buffers_set": set(), "_init_kwargs": keywords}
    own = {"bias": None} | own
    return Persistent(class_name, {"_parameters": own, "_buffers": buffers, "_modules": children} | hooks | layer)


def same(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    ours, theirs = found.state_dict(), expected.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("protocol", [3, 4])
def test_a_pytorch_pickle_loads_exactly(protocol: int, fake_modules: None, tmp_path: Path) -> None:
    generator, discriminator = networks()
    contents = {
        "training_set_kwargs": None,
        "G": None,
        "D": tree(nvidia_names(discriminator), {}),
        "G_ema": tree(nvidia_names(generator), {"clamp": 256, "lr": 0.02}),
    }
    path = tmp_path / "ffhq.pkl"
    path.write_bytes(pickle.dumps(contents, protocol=protocol))
    found = load_generator(path)
    assert same(found, generator)
    assert found.architecture["clamp"] == 256
    assert found.architecture["mapping_lr"] == 0.02
    assert found.card["sha256"] and not any(parameter.requires_grad for parameter in found.parameters())
    assert same(load_discriminator(path), discriminator)


def tensorflow_variables(state: dict[str, Tensor]) -> list[tuple[str, Any]]:
    """NVIDIA's PyTorch state dict as TensorFlow variables, by the inverse of the documented table."""
    variables: list[tuple[str, Any]] = [("lod", np.float32(0))]
    layers = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB"}
    for key, tensor in state.items():
        value = tensor.contiguous().numpy()
        parts = key.split(".")
        if key == "mapping.w_avg":
            variables.append(("dlatent_avg", value))
        elif parts[0] == "mapping":
            variables.append((f"mapping/Dense{parts[1][2:]}/{parts[2]}", value.T))
        elif key == "synthesis.b4.const":
            variables.append(("synthesis/4x4/Const/const", value[None]))
        elif parts[-1] == "noise_const":
            side = int(parts[1][1:])
            number = 2 * side.bit_length() - 2 - (5 if parts[2] == "conv0" else 4)
            variables.append((f"synthesis/noise{number}", value[None, None]))
        else:
            side = parts[1][1:]
            layer = "Conv" if (side, parts[2]) == ("4", "conv1") else layers[parts[2]]
            inside = key.split(".", 3)[3].replace("affine.", "mod_")
            if inside == "weight":
                value = value.transpose(2, 3, 1, 0)
                value = value[::-1, ::-1] if layer == "Conv0_up" else value
            elif inside == "mod_weight":
                value = value.T
            elif inside == "mod_bias":
                value = value - 1
            value = np.ascontiguousarray(value) if value.ndim else np.float32(value)
            variables.append((f"synthesis/{side}x{side}/{layer}/{inside}", value))
    return variables


def tensorflow_network(builder: str, variables: list[tuple[str, Any]], components: dict[str, Any]) -> Any:
    network = sys.modules["dnnlib.tflib.network"].Network()
    network.__dict__.update(
        version=4,
        name=builder,
        static_kwargs={"resolution": 16, "num_channels": 3},
        components=components,
        build_module_src="raise SystemExit('the source in the file was run')",
        build_func_name=builder,
        variables=variables,
    )
    return network


def tensorflow_discriminator(builder: str, discriminator: Discriminator) -> Any:
    """The discriminator as TensorFlow variables, without settings of its own."""
    logits = []
    for key, tensor in nvidia_names(discriminator).items():
        value = tensor.contiguous().numpy()
        side, layer, kind = key.split(".")
        name = {"conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip", "fromrgb": "FromRGB", "conv": "Conv"}.get(
            layer
        )
        name = {"fc": "4x4/Dense0", "out": "Output"}.get(layer, f"{side[1:]}x{side[1:]}/{name}")
        logits.append(
            (f"{name}/{kind}", np.ascontiguousarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T))
        )
    return tensorflow_network(builder, logits, {})


def test_a_tensorflow_pickle_loads_exactly(fake_modules: None, tmp_path: Path) -> None:
    generator, discriminator = networks()
    variables = tensorflow_variables(nvidia_names(generator))
    components = {
        part: tensorflow_network(
            part, [(name.split("/", 1)[1], value) for name, value in variables if name.startswith(part)], {}
        )
        for part in ("synthesis", "mapping")
    }
    own = [(name, value) for name, value in variables if "/" not in name]
    averaged = tensorflow_network("G_main", own, components)
    path = tmp_path / "stylegan2.pkl"
    path.write_bytes(pickle.dumps((None, tensorflow_discriminator("D_stylegan2", discriminator), averaged), protocol=4))
    found = load_generator(path)
    for key, value in generator.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, atol=1e-6, rtol=0)
    assert same(load_discriminator(path), discriminator)


@pytest.mark.parametrize(
    ("builder", "given", "group"),
    [
        ("D_stylegan2", {}, 4),
        ("D_stylegan2", {"mbstd_group_size": 8}, 8),
        ("D_main", {}, None),
        ("D_main", {"mbstd_group_size": None, "conv_clamp": 256}, None),
        ("D_main", {"mbstd_group_size": 8}, 8),
    ],
)
def test_the_discriminators_of_both_tensorflow_releases_load_exactly(
    builder: str, given: dict[str, Any], group: int | None, fake_modules: None, tmp_path: Path
) -> None:
    """stylegan2-ada calls its builder D_main, whose groups are the whole minibatch unless the file says otherwise."""
    discriminator = networks()[1]
    network = tensorflow_discriminator(builder, discriminator)
    network.static_kwargs.update(given)
    path = tmp_path / "ada.pkl"
    path.write_bytes(pickle.dumps((None, network, None), protocol=4))
    found = load_discriminator(path)
    assert same(found, discriminator)
    assert found.architecture["group"] == group and found.architecture["clamp"] == given.get("conv_clamp")


def test_a_discriminator_of_another_builder_is_refused(fake_modules: None, tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(pickle.dumps((None, tensorflow_discriminator("D_basic", networks()[1]), None), protocol=4))
    with pytest.raises(
        ValueError, match=r"old\.pkl: the network was built by 'D_basic', expected D_stylegan2 or D_main"
    ):
        load_discriminator(path)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_the_shell_is_refused_by_name(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Call(os.system, f"touch {tmp_path}/owned")}, protocol=protocol))
    with pytest.raises(ValueError, match=r"evil\.pkl: refused: it names posix\.system") as caught:
        load_generator(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def raw_global(module: str, name: str, rest: bytes) -> bytes:
    """A protocol-4 pickle that names a global by two strings, dots and all, then goes on with `rest`."""
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return b"\x80\x04" + words + b"\x93" + rest


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.serialization", "os.system"),
        ("torch.storage", "os.system"),
        ("collections", "OrderedDict.__init__"),
        ("builtins", "eval"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("numpy", "scalar"),
        ("numpy", "load"),
        ("torch", "load"),
    ],
)
def test_a_name_beside_the_allowed_ones_is_refused(module: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(raw_global(module, name, b"\x8c\x04true\x85R."))
    with pytest.raises(ValueError, match=f"refused: it names {module}.{name}".replace(".", r"\.")):
        load_generator(path)


def storage_bytes(inside: bytes) -> bytes:
    """A pickle that hands `inside` to torch's storage loader."""
    return raw_global("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(inside)) + inside + b"\x85R.")


def test_the_pickle_hidden_in_a_storage_is_refused(tmp_path: Path) -> None:
    evil = pickle.dumps(Call(os.system, f"touch {tmp_path}/owned"), protocol=2)
    path = tmp_path / "evil.pkl"
    path.write_bytes(storage_bytes(evil))
    with pytest.raises(ValueError, match=r"refused: it names posix\.system"):
        load_generator(path)
    assert not (tmp_path / "owned").exists()


def test_a_storage_shorter_than_announced_is_refused(tmp_path: Path) -> None:
    heads = [0x1950A86A20F9469CFC6C, 1001, {}]
    inside = b"".join(pickle.dumps(head, protocol=2) for head in heads)
    inside += b"\x80\x02X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02"
    inside = inside.replace(b"\x80\x02X\x07", b"\x80\x02(X\x07") + b"NtQ." + pickle.dumps(["0"], protocol=2)
    path = tmp_path / "short.pkl"
    path.write_bytes(storage_bytes(inside + struct.pack("<q", 2**40) + b"\0" * 8))
    with pytest.raises(ValueError, match="storage of 1099511627776 elements with 8 bytes"):
        load_generator(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "short.pkl: "),  # a frame of 2^63 bytes
        (b"\x80\x04r\xff\xff\xff\x7fN.", "memo number 2147483647"),
        (b"\x80\x04B\xff\xff\xff\x7fab", "expected 2147483647 bytes"),
        (b"\x80\x04}.", "expected a network G_ema"),
        (b"\x80\x04N.", "expected a network G_ema in the file, found NoneType"),
        (b"this is not a pickle at all", "short.pkl: expected a network pickle, found bytes that begin with b'this is"),
        (b'{"error": {"code": 403}}', r"""expected a network pickle, found bytes that begin with b'\{"error"""),
        (b"PK\x03\x04" + bytes(60), r"expected a network pickle, found a zip archive.*\.pt"),
        (b"\x80\x04he.", r"short\.pkl: expected a network pickle, found a damaged one \(101\)"),  # an unknown memo
        (b"(he.", r"short\.pkl: expected a network pickle, found a damaged one \(101\)"),  # without a protocol
    ],
)
def test_broken_pickles_are_one_clear_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "short.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_generator(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_truncated_pickle_is_refused_wherever_it_ends(fake_modules: None, tmp_path: Path) -> None:
    whole = pickle.dumps({"G_ema": tree(nvidia_names(networks()[0]), {})}, protocol=4)
    path = tmp_path / "cut.pkl"
    for length in range(1, len(whole) - 1, len(whole) // 25):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pkl: "):
            load_generator(path)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_networks_that_we_cannot_compute_are_refused(fake_modules: None, tmp_path: Path) -> None:
    path = tmp_path / "other.pkl"
    for change, message in [
        ({"c_dim": 10}, "class labels"),
        ({"architecture": "resnet"}, "architecture 'resnet', expected 'skip'"),
        ({"c_dim": [1]}, "of a known structure"),
        ({"_modules": 3}, "of a known structure"),
    ]:
        network = tree(nvidia_names(networks()[0]), {})
        network.meta["state"].update(change)
        path.write_bytes(pickle.dumps({"G_ema": network}))
        with pytest.raises(ValueError, match=message):
            load_generator(path)


def test_a_network_nested_in_itself_is_refused(fake_modules: None, tmp_path: Path) -> None:
    state: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    for _ in range(40):  # 2^40 paths through 40 objects
        child = Persistent("Generator", state)
        state = {"_parameters": {}, "_buffers": {}, "_modules": {"a": child, "b": child}}
    path = tmp_path / "loop.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Persistent("Generator", state)}))
    with pytest.raises(ValueError, match="nested too deeply"):
        load_generator(path)
