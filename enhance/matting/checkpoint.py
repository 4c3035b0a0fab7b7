"""Files of matting networks: published ones read strictly and without running code, our own written and read.

Ours is a pair: NAME.safetensors, in half precision, and NAME.json, its card (architecture, licence, source, sha256).
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ...gen.checkpoints import write_whole
from ...gen.fetch import sum_of
from ...gen.messages import one_line, printable, shown
from ...gen.torch_files import check_tensors, load_torch

WRAPPERS = ("state_dict", "model", "net", "network")
# An options record and NumPy numbers (a best score), which hold values and run nothing.
NUMPY_SCALAR = np.float64(0).__reduce__()[0]
PLAIN_RECORDS: list[Any] = [
    argparse.Namespace,
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, unwrapped; a prefix that all of them carry is for `load_strictly` to judge.

    Args:
        file: .safetensors, or what torch.save wrote. Pickles are read by torch's restricted loader only.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, in one line that says what it is instead.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such checkpoint file")
    if not file.is_file():
        raise ValueError(f"{file}: expected a checkpoint file, found a directory; name the file inside it")
    try:
        stream = file.open("rb")
    except PermissionError as error:
        raise PermissionError(f"{file}: may not be read (permission denied), expected a checkpoint") from error
    with stream:
        head = stream.read(512)
    if not head:
        raise ValueError(f"{file}: expected a checkpoint, found an empty file; download it again")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise ValueError(f"{file}: expected a checkpoint, found a web page (HTML); download the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{file}: expected a checkpoint, found a Git LFS pointer; fetch the file with `git lfs pull`")
    content = read_safetensors(file) if head[8:9] == b"{" else read_pickle(file)
    return unwrapped(file, content)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    try:
        return safetensors.torch.load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: expected a safetensors file, found a damaged one ({error}); get it again") from error


def read_pickle(file: Path) -> Any:
    """What torch.save wrote: tensors, plain containers, and two plain records that training scripts leave in."""
    try:
        return load_torch(file, PLAIN_RECORDS)
    except Exception as error:  # a damaged pickle can raise anything; every one of them means this file is no good
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            named = printable(refused[1], 80)
            found = f"code or objects in it ({named}), which are never loaded; save its state dict alone"
        else:
            found = f"a damaged, truncated or foreign file ({one_line(error)}); get it again"
        raise ValueError(f"{file}: expected a checkpoint that torch.save wrote, found {found}") from error


def unwrapped(file: Path, content: Any) -> dict[str, Tensor]:
    """The state dict inside one known wrapper."""
    if isinstance(content, dict):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        content = content[wrapper] if wrapper else content
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{file}: expected a state dict, found {type(content).__name__} without tensors")
    for key, value in content.items():
        if not isinstance(value, Tensor) or not isinstance(key, str):
            raise ValueError(
                f"{file}: expected a state dict of tensors (bare, or under one of {', '.join(WRAPPERS)}), "
                f"found {shown(key)}: {type(value).__name__}"
            )
    try:
        check_tensors(content, file)
    except ValueError as error:
        raise ValueError(f"{file}: expected plain tensors, found others: {error}; get it again") from error
    return dict(content)


def without_prefix(state: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """The state dict without what a wrapping module put before every key.

    A child of the network may have a wrapper's name itself, so nothing is taken off where a key is wanted as it is.
    """
    for prefix in PREFIXES:
        if state.keys().isdisjoint(wanted) and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def canonical_keys(network: nn.Module) -> dict[str, str]:
    """Every state-dict key with the last key that names the same tensor (itself, unless a module is shared).

    MODNet holds its backbone under two names; loading in order lets the last one win, so this does too.
    """
    last: dict[int, str] = {}
    tensors = network.state_dict(keep_vars=True)
    for key, value in tensors.items():
        last[id(value)] = key
    return {key: last[id(value)] for key, value in tensors.items()}


def load_strictly(network: nn.Module, state: dict[str, Tensor], *, file: Path) -> None:
    """Fill a network from a state dict, in the network's own types; every key, but for a prefix, and shape must fit.

    A shared tensor may come under any of its names; `num_batches_tracked`, which only training uses, may be missing.

    Raises:
        ValueError: one line with what is missing, unknown, misshapen or not finite.
    """
    wanted, canonical = network.state_dict(), canonical_keys(network)
    state = without_prefix(state, wanted)
    given = {canonical[key]: value for key, value in state.items() if key in canonical}
    given |= {key: state[key] for key in given if key in state}
    filled = {key: given.get(canonical[key]) for key in wanted}
    filled |= {k: wanted[k] for k, v in filled.items() if v is None and k.endswith("num_batches_tracked")}

    faults = {
        "missing": [key for key, value in filled.items() if value is None],
        "unknown": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {list(value.shape)}, not {list(wanted[key].shape)}"
            for key, value in filled.items()
            if value is not None and value.shape != wanted[key].shape
        ],
        "not finite": [key for key, value in filled.items() if value is not None and not value.isfinite().all()],
    }
    found = "; ".join(
        f"{len(keys)} {fault} (first: {printable(keys[0], 120)})" for fault, keys in faults.items() if keys
    )
    if found:
        name = type(network).__name__
        raise ValueError(f"{file}: expected the {len(wanted)} tensors of {name}, found {len(state)}: {found}")
    network.load_state_dict(filled)


def save_network(file: Path, network: nn.Module, card: dict[str, Any], *, dtype: torch.dtype = torch.float16) -> None:
    """Write a network as safetensors, and its card with the file's sha256 beside it.

    A tensor that `dtype` cannot hold stays in float32, one of integers as it is; a shared tensor is stored once. Both
    files appear whole or not at all.

    Args:
        file: NAME.safetensors; the card goes to NAME.json.
        card: architecture ("modnet", "unet"), name, licence, source, and whatever else is worth knowing.
        dtype: of the floating-point tensors; float32 keeps them as they are.
    """
    canonical = canonical_keys(network)
    tensors = {}
    for key, value in network.state_dict().items():
        if canonical[key] == key and not key.endswith("num_batches_tracked"):
            held = value.detach().cpu()
            stored = held.to(dtype) if held.is_floating_point() else held  # half precision would round indices
            tensors[key] = (stored if stored.isfinite().all() else held.float()).contiguous()
    blob = safetensors.torch.save(tensors)
    write_whole(file, blob)
    text = json.dumps(card | {"sha256": hashlib.sha256(blob).hexdigest()}, indent=2, ensure_ascii=False) + "\n"
    write_whole(file.with_suffix(".json"), text.encode())


def read_card(file: Path) -> dict[str, Any]:
    """The card beside a weights file with the file's own sha256; only the sha256 where there is none.

    Raises:
        ValueError: the card is not JSON, or speaks of another file.
    """
    sha256 = sum_of(file)
    beside = file.with_suffix(".json")
    if file.suffix != ".safetensors" or not beside.exists():
        return {"sha256": sha256}
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{beside}: expected a JSON card, found none ({error}); remove or re-make it") from error
    if not isinstance(card, dict):
        raise ValueError(f"{beside}: expected a JSON card, found {type(card).__name__}; remove or re-make it")
    if card.get("sha256", sha256) != sha256:
        raise ValueError(
            f"{file}: expected the file its card {beside.name} describes (sha256 {str(card['sha256'])[:12]}), "
            f"found {sha256[:12]}; get both again"
        )
    return card | {"sha256": sha256}
