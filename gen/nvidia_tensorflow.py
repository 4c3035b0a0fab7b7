"""TensorFlow-era StyleGAN2 networks -> the names and shapes of NVIDIA's PyTorch state dicts.

Both releases name and shape their layers alike: stylegan2 (config E and F) and stylegan2-ada.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .messages import shown
from .pickles import Array, TensorFlowNetwork

# The functions that built the networks; a discriminator's is D_stylegan2 in stylegan2 and D_main in stylegan2-ada.
BUILDERS = {"generator": ("G_main",), "discriminator": ("D_stylegan2", "D_main")}


def _style_bias(value: Tensor) -> Tensor:
    return value + 1  # TensorFlow adds the 1 of a style's bias at run time


def _kernel(value: Tensor) -> Tensor:
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T


def _flipped_kernel(value: Tensor) -> Tensor:
    return _kernel(value.flip(0, 1))


def _same(value: Tensor) -> Tensor:
    return value


TENSORFLOW: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
    (r"dlatent_avg", "mapping.w_avg", _same),
    (r"mapping/Dense(\d+)/weight", r"mapping.fc\1.weight", _kernel),
    (r"mapping/Dense(\d+)/bias", r"mapping.fc\1.bias", _same),
    (r"synthesis/4x4/Const/const", "synthesis.b4.const", lambda value: value[0]),
    (r"synthesis/(\d+)x\d+/Conv0_up/weight", r"synthesis.b\1.conv0.weight", _flipped_kernel),
    (r"synthesis/(\d+)x\d+/Conv0_up/mod_weight", r"synthesis.b\1.conv0.affine.weight", _kernel),
    (r"synthesis/(\d+)x\d+/Conv0_up/mod_bias", r"synthesis.b\1.conv0.affine.bias", _style_bias),
    (r"synthesis/(\d+)x\d+/Conv0_up/(noise_strength|bias)", r"synthesis.b\1.conv0.\2", _same),
    (r"synthesis/(\d+)x\d+/Conv1?/weight", r"synthesis.b\1.conv1.weight", _kernel),
    (r"synthesis/(\d+)x\d+/Conv1?/mod_weight", r"synthesis.b\1.conv1.affine.weight", _kernel),
    (r"synthesis/(\d+)x\d+/Conv1?/mod_bias", r"synthesis.b\1.conv1.affine.bias", _style_bias),
    (r"synthesis/(\d+)x\d+/Conv1?/(noise_strength|bias)", r"synthesis.b\1.conv1.\2", _same),
    (r"synthesis/(\d+)x\d+/ToRGB/weight", r"synthesis.b\1.torgb.weight", _kernel),
    (r"synthesis/(\d+)x\d+/ToRGB/mod_weight", r"synthesis.b\1.torgb.affine.weight", _kernel),
    (r"synthesis/(\d+)x\d+/ToRGB/mod_bias", r"synthesis.b\1.torgb.affine.bias", _style_bias),
    (r"synthesis/(\d+)x\d+/ToRGB/bias", r"synthesis.b\1.torgb.bias", _same),
    (r"(\d+)x\d+/FromRGB/weight", r"b\1.fromrgb.weight", _kernel),
    (r"(\d+)x\d+/FromRGB/bias", r"b\1.fromrgb.bias", _same),
    (r"4x4/Conv/weight", "b4.conv.weight", _kernel),
    (r"4x4/Conv/bias", "b4.conv.bias", _same),
    (r"4x4/Dense0/weight", "b4.fc.weight", _kernel),
    (r"4x4/Dense0/bias", "b4.fc.bias", _same),
    (r"Output/weight", "b4.out.weight", _kernel),
    (r"Output/bias", "b4.out.bias", _same),
    (r"(\d+)x\d+/Conv0/weight", r"b\1.conv0.weight", _kernel),
    (r"(\d+)x\d+/Conv0/bias", r"b\1.conv0.bias", _same),
    (r"(\d+)x\d+/Conv1_down/weight", r"b\1.conv1.weight", _kernel),
    (r"(\d+)x\d+/Conv1_down/bias", r"b\1.conv1.bias", _same),
    (r"(\d+)x\d+/Skip/weight", r"b\1.skip.weight", _kernel),
]


def tensorflow_state(network: TensorFlowNetwork) -> dict[str, Tensor]:
    """A network's variables under PyTorch names; a name that is not known stays as it is, `lod` is dropped."""
    state = {}
    used: set[int] = set()
    for name, value in _variables(network):
        if name == "lod":
            continue
        tensor = torch.from_numpy(_copied(value, used))
        if match := re.fullmatch(r"synthesis/noise(\d+)", name):
            index = int(match[1])
            side = 2 ** min((index + 5) // 2, 20)
            state[f"synthesis.b{side}.conv{1 - index % 2}.noise_const"] = tensor.reshape(tensor.shape[-2:])
            continue
        for pattern, key, convert in TENSORFLOW:
            if match := re.fullmatch(pattern, name):
                name, tensor = match.expand(key), convert(tensor)
                break
        state[name] = tensor.contiguous()
    return state


def _copied(value: Any, used: set[int]) -> np.ndarray[Any, Any]:
    """The numbers of one variable; an array twice in a file would be copied without end."""
    if isinstance(value, Array):
        if id(value) in used:
            raise ValueError("two variables share one array")
        used.add(id(value))
        return np.array(value.value)
    if type(value) not in (int, float):
        raise ValueError(f"a variable is {shown(value)}, expected numbers")
    return np.array(value, np.float32)


def tensorflow_settings(network: TensorFlowNetwork, kind: str) -> dict[str, Any]:
    """What the variables do not tell, from the arguments given to the network's builder."""
    given = network.state.get("static_kwargs") or {}
    builder = network.state.get("build_func_name")
    if builder not in BUILDERS[kind]:
        raise ValueError(f"the network was built by {shown(builder)}, expected {' or '.join(BUILDERS[kind])}")
    if int(given.get("label_size") or 0):
        raise ValueError(
            f"the network takes class labels (label_size {shown(given['label_size'])}); only unconditional ones load"
        )
    if given.get("architecture") not in (None, "skip" if kind == "generator" else "resnet"):
        raise ValueError(f"the network has the architecture {shown(given['architecture'])}")
    clamp = {"clamp": None if given.get("conv_clamp") is None else float(given["conv_clamp"])}
    if kind == "generator":
        return clamp | {"mapping_lr": float(given.get("mapping_lrmul", 0.01))}
    # Where nothing is given, D_stylegan2 takes groups of 4, and D_main the whole minibatch.
    group = given.get("mbstd_group_size") or (4 if builder == "D_stylegan2" else None)
    return clamp | {"group": group if group is None else int(group)}


def _variables(network: TensorFlowNetwork) -> Iterator[tuple[str, Any]]:
    """Own variables by their names, those of components as component/name."""
    yield from _pairs(network)
    components = network.state.get("components") or {}
    for name, component in components.items():
        if isinstance(component, TensorFlowNetwork):
            yield from ((f"{name}/{own}", value) for own, value in _pairs(component))


def _pairs(network: TensorFlowNetwork) -> list[tuple[str, Any]]:
    pairs = [(name, value) for name, value in network.state.get("variables") or []]
    if foreign := next((name for name, _ in pairs if type(name) is not str), None):
        raise ValueError(f"a variable is named {shown(foreign)}")
    return pairs
