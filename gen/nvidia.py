"""NVIDIA's StyleGAN2 files (PyTorch and TensorFlow pickles) -> the layout of networks.py.

PyTorch files first become their state dict; TensorFlow files become the same names and shapes; then one renaming.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .messages import shown
from .nvidia_tensorflow import tensorflow_settings, tensorflow_state
from .pickles import Module, TensorFlowNetwork

MAX_TENSORS = 2000  # a 1024-px generator has about 200
MAX_NAME = 200  # letters of a tensor's full name

NAMES = {"generator": "G_ema", "discriminator": "D"}
LAYERS = {"conv0": "up", "conv1": "conv", "torgb": "to_rgb"}
INSIDE = {
    "weight": "weight",
    "bias": "bias",
    "noise_strength": "noise_strength",
    "noise_const": "noise",
    "affine.weight": "style.weight",
    "affine.bias": "style.bias",
}
DISCRIMINATOR_LAYERS = {"conv0": "conv", "conv1": "down", "skip": "skip"}
EPILOGUE = {"conv": "conv", "fc": "dense", "out": "out"}


def is_nvidia(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has NVIDIA's names."""
    return "synthesis.b4.const" in state or "b4.out.weight" in state


def rename_generator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NVIDIA's names and shapes -> ours; a name it does not know stays as it is."""
    ours = {}
    for key, value in without_filters(state, "resample_filter").items():
        if key == "mapping.w_avg":
            key = "mean_w"
        elif key == "synthesis.b4.const":
            key, value = "blocks.4.const", value[None]
        elif match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", key):
            key = f"dense.{match[1]}.{match[2]}"
        elif match := re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)", key):
            key = f"blocks.{match[1]}.{LAYERS[match[2]]}.{INSIDE.get(match[3], match[3])}"
            value = value[None, None] if match[3] == "noise_const" else value
        ours[key] = value
    return ours


def rename_discriminator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NVIDIA's names -> ours; a name it does not know stays as it is."""
    ours = {}
    for key, value in without_filters(state, "resample_filter").items():
        if match := re.fullmatch(r"b4\.(conv|fc|out)\.(weight|bias)", key):
            key = f"{EPILOGUE[match[1]]}.{match[2]}"
        elif match := re.fullmatch(r"b\d+\.fromrgb\.(weight|bias)", key):
            key = f"from_rgb.{match[1]}"
        elif match := re.fullmatch(r"b(\d+)\.(conv0|conv1|skip)\.(weight|bias)", key):
            key = f"blocks.{match[1]}.{DISCRIMINATOR_LAYERS[match[2]]}.{match[3]}"
        ours[key] = value
    return ours


def is_fir(kernel: Tensor) -> bool:
    """Whether a stored resampling filter is the one of layers.py, whatever its gain."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = kernel.float()
    return kernel.shape == (4, 4) and torch.allclose(kernel / kernel.sum(), torch.outer(taps, taps) / 64, atol=1e-5)


def without_filters(state: Mapping[str, Tensor], ending: str) -> dict[str, Tensor]:
    """Drops the resampling filters (keys with this ending), which are constants here, after checking them."""
    for key, value in state.items():
        if key.endswith(ending) and not is_fir(value):
            raise ValueError(f"{key} is not the filter [1, 3, 3, 1] of StyleGAN2; found {list(value.shape)}")
    return {key: value for key, value in state.items() if not key.endswith(ending)}


def find_network(contents: Any, network: str) -> Module | TensorFlowNetwork | None:
    """One network of a file's contents, if it holds that network.

    Args:
        contents: what `read_pickle` returned: a dict by name, or TensorFlow's tuple (G, D, Gs).
        network: "generator" (the averaged one, G_ema or Gs) or "discriminator".
    """
    if isinstance(contents, tuple) and len(contents) == 3:
        found = contents[2 if network == "generator" else 1]
    else:
        found = contents.get(NAMES[network]) if isinstance(contents, dict) else None
    return found if isinstance(found, (Module, TensorFlowNetwork)) else None


def read_network(module: Module | TensorFlowNetwork, network: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict with NVIDIA's names, and the settings that do not show in it: clamp, mapping_lr or group."""
    if isinstance(module, TensorFlowNetwork):
        return tensorflow_state(module), tensorflow_settings(module, network)
    name = NAMES[network]
    modules: dict[str, Module] = {}
    state: dict[str, Tensor] = {}
    _collect(module, "", modules, state)
    if int(module.state.get("c_dim") or 0):
        raise ValueError(
            f"{name} takes class labels (c_dim {shown(module.state['c_dim'])}); only unconditional networks load"
        )
    return state, _settings(modules, network)


def _collect(module: Module, prefix: str, modules: dict[str, Module], state: dict[str, Tensor]) -> None:
    """Fills `modules` and `state` with everything below `module`, under the names a state dict would give."""
    tensors = {
        name: value
        for group in ("_parameters", "_buffers")
        for name, value in (module.state.get(group) or {}).items()
        if isinstance(value, Tensor)
    }
    children = module.state.get("_modules") or {}
    longest = max((len(name) for name in [*tensors, *children]), default=0)
    if prefix.count(".") > 6 or len(prefix) + longest > MAX_NAME or len(state) + len(tensors) > MAX_TENSORS:
        raise ValueError("the network in the file is nested too deeply or too large")
    if len(modules) + len(children) > MAX_TENSORS:
        raise ValueError("the network in the file is nested too deeply or too large")
    modules[prefix] = module
    state.update({prefix + name: value for name, value in tensors.items()})
    for name, child in children.items():
        if isinstance(child, Module):
            _collect(child, f"{prefix}{name}.", modules, state)


def _settings(modules: Mapping[str, Module], network: str) -> dict[str, Any]:
    """What the state dict does not tell, read from the layers themselves; refuses what networks.py cannot compute."""
    clamps = {_number(module.state["conv_clamp"]) for module in modules.values() if _is_clamped(module)}
    if len(clamps) > 1:
        raise ValueError(f"layers differ in conv_clamp: {sorted(map(str, clamps))}")
    settings: dict[str, Any] = {"clamp": next(iter(clamps), None)}
    for name, module in modules.items():
        architecture = module.state.get("architecture")
        expected = "skip" if network == "generator" else "resnet"
        if architecture not in (None, expected):
            raise ValueError(f"{name} has the architecture {shown(architecture)}, expected {expected!r}")
    if network == "generator":
        first = modules.get("mapping.fc0.")
        settings["mapping_lr"] = _number(first.state.get("bias_gain", 0.01)) if first else 0.01
    else:
        stddev = modules.get("b4.mbstd.")
        settings["group"] = stddev.state.get("group_size", 4) if stddev else 4
    return settings


def _is_clamped(module: Module) -> bool:
    """Whether a layer has a clamp setting that it uses (the skip of a discriminator block, linear, never does)."""
    uses = module.class_name in ("SynthesisLayer", "ToRGBLayer") or (
        module.class_name == "Conv2dLayer" and module.state.get("activation") == "lrelu"
    )
    return uses and "conv_clamp" in module.state


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, (int, float)):
        return None if value is None else float(value)
    raise ValueError(f"a setting of the network is {shown(value)}, expected a number")
