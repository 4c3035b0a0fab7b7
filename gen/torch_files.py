"""Reads what torch.save wrote: tensors and plain values only, by torch's own restricted reader, after a rehearsal.

That reader runs nothing from a file, but it can be made to hang, to overrun the C stack, or to make room for far more
than a file holds. So the pickle inside is first run on a machine that makes nothing, and the tensors are measured
before anything looks at their values.
"""

import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .messages import printable
from .stack_machine import Bounded, Limits, Machine

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_PICKLES = (
    5  # torch's format before zip: a magic number, a version, the machine, the contents, the storages' keys
)


def load_torch(path: Path, records: Sequence[Any]) -> Any:
    """The contents of a torch file, on the CPU.

    Args:
        records: plain record types beside torch's own that may stand in the file.

    Raises:
        Anything a damaged or hostile file leads to; none of its code is run.
    """
    rehearse(path)
    with torch.serialization.safe_globals(list(records)):
        return torch.load(path, map_location="cpu", weights_only=True)


def rehearse(path: Path) -> None:
    """Runs the pickles of a torch file without making what they name; refuses what no torch file needs."""
    size = path.stat().st_size
    limits = Limits(num_bytes=size)
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            Machine(None, limits, persistent=True).run(BytesIO(_zipped_pickle(file, size)))
            return
        file.seek(0)
        for _ in range(LEGACY_PICKLES):
            Machine(None, limits, persistent=True).run(Bounded(file, size))


def _zipped_pickle(file: BinaryIO, size: int) -> bytes:
    """data.pkl of a torch archive, whose members are neither compressed nor laid over one another."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    names = [member.filename for member in members]
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("a compressed archive, which torch.save never writes")
    if len(set(names)) < len(names) or sum(member.file_size for member in members) > size:
        raise ValueError("an archive whose members overlap")
    found = [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1:
        raise ValueError(f"an archive with {len(found)} data.pkl, expected one")
    file.seek(found[0].header_offset + 26)  # of the local header: lengths of the name and of the extra field
    lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]
    file.seek(sum(lengths), 1)
    return file.read(min(found[0].file_size, size))


def check_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors that are not plain numbers, and such as take more memory than the file has bytes.

    A shape is only an announcement (a stride of 0 repeats one number for ever), and so is a storage's length.
    """
    storages = {}
    for key, value in state.items():
        dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not dense or value.is_complex() or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{printable(key, 80)} is not a plain tensor of real numbers")
        storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    held, size = sum(storages.values()), path.stat().st_size
    if held > size:
        raise ValueError(f"its tensors take {held} bytes, more than the file's {size}")
