"""Reads the public kinds of StyleGAN2 file into one layout, that of networks.py; never runs code from a file."""

import argparse
import json
import re
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from torch import Tensor

from . import nvidia, rosinality
from .messages import first_of, one_line, printable
from .pickles import read_pickle
from .torch_files import check_tensors, load_torch

Kind = Literal["generator", "discriminator"]

WRAPPERS = {
    "generator": ("g_ema", "params_ema", "params", "state_dict", "model", "net"),
    "discriminator": ("d", "params", "state_dict", "model", "net"),
}
# Keys that only the network of the other kind has, under rosinality's and NVIDIA's names.
OTHER_NETWORK = {
    "generator": ("final_conv.0.weight", "b4.out.weight"),
    "discriminator": ("input.input", "synthesis.b4.const"),
}
PREFIXES = ("generator_ema.", "generator.", "discriminator.", "module.", "_orig_mod.")


class Absent(ValueError):
    """A file that is whole, but holds no network of the kind that is asked for."""


def check_file(path: Path, kind: Kind) -> None:
    """Refuses what cannot be a weight file before anything reads it."""
    if not path.exists():
        raise FileNotFoundError(
            f'{path}: no such file; expected "default" or a StyleGAN2 {kind} (.safetensors, .pt, .pth, .pkl)'
        )
    if not path.is_file():
        raise ValueError(f"{path}: a folder or device, expected a file with a StyleGAN2 {kind}")
    try:
        file = path.open("rb")
    except PermissionError as error:
        raise PermissionError(f"{path}: may not be read (permission denied), expected a StyleGAN2 {kind}") from error
    with file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise ValueError(f"{path}: an empty file, expected a StyleGAN2 {kind}")
    if head.startswith(b"<"):
        raise ValueError(
            f"{path}: an HTML page, expected a StyleGAN2 {kind}; the download failed, fetch the file again"
        )
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path}: a Git LFS pointer, expected a StyleGAN2 {kind}; fetch the file itself with `git lfs pull`"
        )


def read_state(path: Path, kind: Kind, notes: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict in our layout, settings that its shapes do not tell)."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path, kind)
    if suffix == ".pkl":
        contents = read_pickle(path)
        notes["layout"] = "nvidia, TensorFlow" if isinstance(contents, tuple) else "nvidia"
        if (network := nvidia.find_network(contents, kind)) is None:
            found = first_of(contents) if isinstance(contents, dict) else type(contents).__name__
            raise Absent(f"expected a network {nvidia.NAMES[kind]} in the file, found {found}")
        state, settings = nvidia.read_network(network, kind)
        return (nvidia.rename_generator if kind == "generator" else nvidia.rename_discriminator)(state), settings
    if suffix in (".pt", ".pth", ".ckpt"):
        return _read_torch(path, kind, notes), {}
    raise ValueError(
        f"unknown kind of file {suffix[:20] or 'without a suffix'}, expected .safetensors, .pt, .pth, .ckpt or .pkl"
    )


def _read_safetensors(path: Path, kind: Kind) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            is_pair = {"generator", "discriminator"} <= metadata.keys()
            text, prefix = (metadata[kind], f"{kind}.") if is_pair else (metadata.get("architecture"), "")
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 (not a dict)
            state = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
    except Exception as error:  # the library raises its own types for a damaged header
        raise ValueError(f"not a whole safetensors file ({one_line(error)})") from error
    try:
        architecture = json.loads(text or "")
        found = architecture["network"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"a safetensors file without a StyleGAN2 architecture in its metadata, tensors {first_of(state)}"
        ) from error
    if found != kind:
        raise Absent(f"holds a {printable(str(found), 40)}, expected a {kind}")
    return state, {key: architecture[key] for key in ("mapping_lr", "clamp", "group") if key in architecture}


def _read_torch(path: Path, kind: Kind, notes: dict[str, Any]) -> dict[str, Tensor]:
    """A torch file, tensors only; `argparse.Namespace`, which training scripts store, is a plain record."""
    try:
        contents = load_torch(path, [argparse.Namespace])
    except Exception as error:  # a hostile file can raise anything
        if name := re.search(r"(?:GLOBAL|global|class) (\S+\.\S+)", str(error)):
            raise ValueError(
                f"refused: it names {printable(name[1].strip('`'), 80)}, which no weight file needs"
            ) from error
        raise ValueError(f"not a whole torch file of tensors ({one_line(error)})") from error
    if not isinstance(contents, dict):
        raise ValueError(f"holds a {type(contents).__name__}, expected a dict of tensors")
    mean_w = contents.pop("latent_avg", None)  # rosinality's mean w lies beside the wrapper
    state = _unwrapped(contents, kind)
    check_tensors(state, path)
    notes["layout"] = "rosinality" if rosinality.is_rosinality(state) else "nvidia"
    if foreign := [key for key in OTHER_NETWORK[kind] if key in state]:
        raise Absent(f"holds no {kind}, found {foreign[0]} of the other network")
    if nvidia.is_nvidia(state):
        return (nvidia.rename_generator if kind == "generator" else nvidia.rename_discriminator)(state)
    if not rosinality.is_rosinality(state):
        raise ValueError(f"not a StyleGAN2 file: expected rosinality's or NVIDIA's names, found {first_of(state)}")
    if kind == "discriminator":
        return rosinality.rename_discriminator(state)
    state = rosinality.rename_generator(state)
    if isinstance(mean_w, Tensor):
        state["mean_w"] = mean_w.reshape(-1)
    return state


def _unwrapped(contents: dict[Any, Any], kind: Kind) -> dict[str, Tensor]:
    """The state dict of one network: one known wrapper off, then a prefix off if every key carries it."""
    for wrapper in WRAPPERS[kind]:
        if isinstance(contents.get(wrapper), dict):
            contents = contents[wrapper]
            break
    state = {str(key): value for key, value in contents.items() if isinstance(value, Tensor)}
    if not state:
        wanted = " or ".join(WRAPPERS[kind][:2])
        raise Absent(f"holds no {kind}: expected {wanted} or a bare state dict, found {first_of(contents)}")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items()}
    return state
