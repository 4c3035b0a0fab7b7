"""Reads NVIDIA's network pickles without importing, calling or executing anything that the file names.

A pickle is a program; this reader gives it a vocabulary of a dozen words, each a harmless stand-in defined here, and
refuses every other by name. Networks come back as `Module` (PyTorch files) or `TensorFlowNetwork`, tensors as tensors.
"""

import pickle
import pickletools
from collections import OrderedDict
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
ARRAY_DTYPES = {"f8", "f4", "f2", "i8", "i4", "u1", "b1"}


class Module:
    """One torch module of the file: its class name and its `__dict__` (parameters, buffers, children, settings)."""

    def __init__(self, meta: Any) -> None:
        if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("state"), dict):
            raise pickle.UnpicklingError("a network in the file has no class and state")
        self.class_name, self.state = str(meta.get("class_name")), meta["state"]

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a network in the file is built twice")


class TensorFlowNetwork:
    """One network of a TensorFlow-era file: name, settings, variables and components."""

    state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a TensorFlow network in the file has no state")
        self.state = state


class Settings(dict[str, Any]):
    """Keyword arguments (dnnlib's EasyDict)."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("keyword arguments in the file are built twice")


class Dtype:
    """A NumPy dtype by name, numbers only: real dtypes can be given inconsistent states."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if name not in ARRAY_DTYPES:
            raise pickle.UnpicklingError(f"array of type {name!r}, expected one of {sorted(ARRAY_DTYPES)}")
        self.dtype = np.dtype(name).newbyteorder("<")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|"):
            raise pickle.UnpicklingError("array that is not little-endian")


class Array:
    """A NumPy array, filled by BUILD as NumPy's own."""

    value: np.ndarray[Any, Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _numbers(raw, dtype).reshape(shape, order="F" if fortran else "C")


def _numbers(raw: Any, dtype: Any) -> np.ndarray[Any, Any]:
    if not isinstance(raw, bytes) or not isinstance(dtype, Dtype):
        raise pickle.UnpicklingError("array without bytes or type")
    return np.frombuffer(raw, dtype.dtype)


class _StorageUnpickler(pickle.Unpickler):
    """For the small pickles inside a storage's bytes: only the name of the storage class is wanted."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"refused: it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid


class _Unpickler(pickle.Unpickler):
    """Knows the globals of NVIDIA's files and no other.

    Its stand-ins are classes or bound methods: neither can be altered by the BUILD opcode.
    """

    def find_class(self, module: str, name: str) -> Any:
        numpy_core = {"numpy.core.multiarray": "numpy", "numpy._core.multiarray": "numpy"}.get(module, module)
        known: dict[tuple[str, str], Any] = {
            ("torch_utils.persistence", "_reconstruct_persistent_obj"): Module,
            ("dnnlib.tflib.network", "Network"): TensorFlowNetwork,
            ("dnnlib.util", "EasyDict"): Settings,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch.storage", "_load_from_bytes"): self._storage,
            ("numpy", "dtype"): Dtype,
            ("numpy", "ndarray"): Array,
            ("numpy", "scalar"): self._scalar,
            ("numpy", "_reconstruct"): self._array,
            ("collections", "OrderedDict"): OrderedDict,
            ("builtins", "set"): set,
            ("__builtin__", "set"): set,
        }
        if (numpy_core, name) not in known or (module == "numpy" and name in ("scalar", "_reconstruct")):
            raise pickle.UnpicklingError(f"refused: it names {module}.{name}, which no known network file needs")
        return known[numpy_core, name]

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """A view into a storage, copied; `as_strided` checks its bounds."""
        if not isinstance(storage, Tensor) or prod(size) > storage.numel():
            raise pickle.UnpicklingError("tensor larger than its storage")
        return storage.as_strided(size, stride, offset).clone()

    def _parameter(self, tensor: Any, *_: Any) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise pickle.UnpicklingError("parameter that is no tensor")
        return tensor

    def _storage(self, raw: Any) -> Tensor:
        """A file in torch's format before zip: five small pickles, the number of elements, the elements."""
        if not isinstance(raw, bytes):
            raise pickle.UnpicklingError("storage without bytes")
        stream = BytesIO(raw)
        heads = []
        for _ in range(5):
            _check_opcodes(stream)
            heads.append(_StorageUnpickler(stream).load())
        magic, _, _, (_, dtype, *_), _ = heads
        count = int.from_bytes(stream.read(8), "little")
        rest = raw[stream.tell() :]
        if magic != 0x1950A86A20F9469CFC6C or dtype not in STORAGE_DTYPES.values():
            raise pickle.UnpicklingError("storage of an unknown format")
        if len(rest) != count * np.dtype(dtype).itemsize:
            raise pickle.UnpicklingError(f"storage of {count} elements with {len(rest)} bytes")
        return torch.from_numpy(np.frombuffer(rest, dtype).copy())

    def _scalar(self, dtype: Any, raw: Any) -> Any:
        return _numbers(raw, dtype).reshape([]).item()

    def _array(self, *_: Any) -> Array:
        return Array()


def _check_opcodes(file: BinaryIO) -> None:
    """Walks over the next pickle without running it, then returns to its start.

    Finds a truncated file and two ways to exhaust memory with a small one: announced lengths that are not there, and
    memo numbers beyond the number of bytes.
    """
    start = file.tell()
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > (position or 0):
            raise pickle.UnpicklingError(f"memo number {argument} at byte {position}")
    file.seek(start)


def read_pickle(path: Path) -> Any:
    """The object in a network pickle, with every network as `Module` or `TensorFlowNetwork`.

    Raises:
        ValueError: no pickle, a truncated one, or one that names anything unknown; one line, the file not named.
    """
    try:
        with path.open("rb") as file:
            _check_opcodes(file)
            return _Unpickler(file).load()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a hostile pickle can raise anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
