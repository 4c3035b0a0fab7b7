"""Reads NVIDIA's network pickles without importing, calling or executing anything that the file names.

The vocabulary of `stack_machine`: a dozen words, each a harmless stand-in defined here. Networks come back as `Module`
(PyTorch files) or `TensorFlowNetwork`, tensors as tensors, NumPy arrays as `Array`.
"""

from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .messages import one_line, shown
from .stack_machine import Bounded, Built, Limits, Machine, Word, checked_key, put

STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
ARRAY_DTYPES = ("f8", "f4", "f2", "i8", "i4", "u1", "b1")
PICKLE_HEADS = (b"\x80", b"(", b"}")  # a protocol's number, or a dict from before these were written
ZIP_HEAD = b"PK\x03\x04"
MAX_AXES = 8
MAX_LENGTH = 2**40  # of one axis of a tensor


class Module:
    """One torch module of the file: its class name and its `__dict__` (parameters, buffers, children, settings)."""

    def __init__(self, meta: Any) -> None:
        if type(meta) is not dict or meta.get("type") != "class" or type(meta.get("state")) is not dict:
            raise ValueError("a network in the file has no class and state")
        self.class_name, self.state = meta.get("class_name"), meta["state"]


class TensorFlowNetwork(Built):
    """One network of a TensorFlow-era file: name, settings, variables and components."""

    state: dict[str, Any]

    def build(self, state: Any) -> None:
        """Takes the network's attributes."""
        if type(state) is not dict:
            raise ValueError("a TensorFlow network in the file has no state")
        self.state = state


class Dtype(Built):
    """A NumPy dtype by name, little-endian numbers only."""

    def __init__(self, name: Any, *_: Any) -> None:
        if type(name) is not str or name not in ARRAY_DTYPES:
            raise ValueError(f"array of type {shown(name)}, expected one of {', '.join(ARRAY_DTYPES)}")
        self.dtype = np.dtype(name).newbyteorder("<")

    def build(self, state: Any) -> None:
        """Only checks the byte order."""
        if type(state) is not tuple or len(state) < 2 or type(state[1]) is not str or state[1] not in "<|":
            raise ValueError("array that is not little-endian")


class Array(Built):
    """A NumPy array, a view of the file's bytes."""

    value: np.ndarray[Any, Any]

    def build(self, state: Any) -> None:
        """Takes (version, shape, dtype, order, bytes), as NumPy writes it."""
        _, shape, dtype, fortran, raw = state
        self.value = _numbers(raw, dtype).reshape(_lengths(shape), order="F" if fortran is True else "C")


def _numbers(raw: Any, dtype: Any) -> np.ndarray[Any, Any]:
    if type(raw) is not bytes or type(dtype) is not Dtype:
        raise ValueError("array without bytes or type")
    return np.frombuffer(raw, dtype.dtype)


def _lengths(sizes: Any) -> tuple[int, ...]:
    """A shape or strides, after checking that they are few and plain numbers."""
    fits = type(sizes) is tuple and len(sizes) <= MAX_AXES
    if not fits or not all(type(size) is int and 0 <= size < MAX_LENGTH for size in sizes):
        raise ValueError(f"a shape of up to {MAX_AXES} lengths expected, found {shown(sizes)}")
    return tuple(sizes)


def _dict(items: Any = ()) -> dict[Any, Any]:
    """An OrderedDict or keyword arguments, from nothing or from pairs."""
    made: dict[Any, Any] = {}
    for pair in _plain(items):
        put(made, [*_plain(pair)])
    return made


def _set(items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in _plain(items)}


def _plain(items: Any) -> Iterable[Any]:
    if type(items) not in (tuple, list):
        raise ValueError(f"refused: it makes a container of {shown(items)}")
    return list(items)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError("parameter that is no tensor")
    return tensor


def _array(*_: Any) -> Array:
    return Array()


def _scalar(dtype: Any, raw: Any) -> Any:
    return _numbers(raw, dtype).reshape([]).item()


def _never(*_: Any) -> Any:
    raise ValueError("refused: it calls a type")


def _vocabulary(limits: Limits) -> Mapping[tuple[str, str], Word]:
    """The names of NVIDIA's files; torch's and NumPy's mean stand-ins, too."""

    def storage(raw: Any) -> Tensor:
        return _storage(raw, limits)

    def tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        return _tensor(storage, offset, _lengths(size), _lengths(stride), limits)

    named: dict[str, Callable[..., Any]] = {
        "torch_utils.persistence _reconstruct_persistent_obj": Module,
        "dnnlib.tflib.network Network": TensorFlowNetwork,
        "dnnlib.util EasyDict": _dict,
        "torch._utils _rebuild_tensor_v2": tensor,
        "torch._utils _rebuild_parameter": _parameter,
        "torch.storage _load_from_bytes": storage,
        "numpy dtype": Dtype,
        "numpy ndarray": _never,
        "numpy.core.multiarray scalar": _scalar,
        "numpy._core.multiarray scalar": _scalar,
        "numpy.core.multiarray _reconstruct": _array,
        "numpy._core.multiarray _reconstruct": _array,
        "collections OrderedDict": _dict,
        "builtins set": _set,
        "__builtin__ set": _set,
    }
    words = [(tuple(name.split()), Word(name, make)) for name, make in named.items()]
    return {(module, own): word for (module, own), word in words}


def _tensor(storage: Any, offset: Any, size: tuple[int, ...], stride: tuple[int, ...], limits: Limits) -> Tensor:
    """A view into a storage, copied."""
    if not isinstance(storage, Tensor) or type(offset) is not int or len(size) != len(stride):
        raise ValueError("tensor without storage, offset or strides")
    numel: int = prod(map(int, size))
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if offset < 0 or (numel and last >= storage.numel()) or numel > storage.numel():
        raise ValueError("tensor larger than its storage")
    limits.spend(numel * storage.element_size())
    return storage.as_strided(size, stride, offset).clone()


def _storage(raw: Any, limits: Limits) -> Tensor:
    """A file in torch's format before zip: five small pickles, the number of elements, the elements."""
    if type(raw) is not bytes:
        raise ValueError("storage without bytes")
    limits.spend(len(raw))
    words = {("torch", name): Word(name, _never) for name in STORAGE_DTYPES}
    stream = BytesIO(raw)
    magic, _, _, pid, _ = [Machine(words, limits, persistent=True).run(stream) for _ in range(5)]
    kind = pid[1] if type(pid) is tuple and len(pid) > 1 else None
    if magic != 0x1950A86A20F9469CFC6C or type(kind) is not Word or kind.name not in STORAGE_DTYPES:
        raise ValueError("storage of an unknown format")
    dtype = np.dtype(STORAGE_DTYPES[kind.name])
    count, rest = int.from_bytes(stream.read(8), "little"), stream.read()
    if len(rest) != count * dtype.itemsize:
        raise ValueError(f"storage of {count} elements with {len(rest)} bytes")
    return torch.from_numpy(np.frombuffer(rest, dtype).copy())


def _check_head(head: bytes) -> None:
    """Refuses other files, whose bytes mean something to the machine, too, but nothing that could be said to users."""
    if head.startswith(ZIP_HEAD):
        raise ValueError("expected a network pickle, found a zip archive; if torch.save wrote it, name it .pt")
    if not head.startswith(PICKLE_HEADS):
        raise ValueError(f"expected a network pickle, found bytes that begin with {head!r}; get the file again")


def read_pickle(path: Path) -> Any:
    """The object in a network pickle, with every network as `Module` or `TensorFlowNetwork`.

    Raises:
        ValueError: no pickle, a truncated one, or one that names anything unknown; one line, the file not named.
    """
    size = path.stat().st_size
    limits = Limits(num_bytes=2 * size)  # every tensor of the file once as its storage and once as itself
    try:
        with path.open("rb") as file:
            _check_head(file.read(16))
            file.seek(0)
            return Machine(_vocabulary(limits), limits).run(Bounded(file, size))
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(one_line(error)) from error
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError(f"expected a network pickle, found a damaged one ({one_line(error)})") from error
