"""Members of a tar, read in memory and decoded; nothing is ever extracted."""

import io
import json
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MAX_MEMBER_BYTES = 256 * 2**20
MEMBER_NAME = re.compile(r"([0-9a-z_]+)\.([0-9a-z.]+)")
IMAGE_MODES = {"image": "RGB", "fg": "RGB", "alpha": "L", "trimap": "L", "alpha16": "I;16"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    shard: str  # the file, such as "00003.tar"
    member: str  # "" when it is the whole file
    what: str

    def __str__(self) -> str:
        return f"{self.shard}{f': {self.member}' if self.member else ''}: {self.what}"


def members_of(path: Path) -> Iterator[tuple[str, bytes | Problem]]:
    """Names and contents of a tar's members, in order, one in memory at a time; a Problem in place of what is refused.

    Links, devices, folders, names with a path and oversized members are never read.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                refusal = _refusal(member)
                if refusal:
                    yield member.name, Problem(path.name, ascii(member.name)[1:-1], refusal)
                    continue
                stream = tar.extractfile(member)
                content = stream.read() if stream else b""
                if len(content) != member.size:
                    yield member.name, Problem(path.name, member.name, f"cut: {len(content)} of {member.size} bytes")
                else:
                    yield member.name, content
    except (OSError, tarfile.TarError, ValueError) as error:
        yield "", Problem(path.name, "", f"cannot be read: {error}")


def _refusal(member: tarfile.TarInfo) -> str:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):  # isreg() would let sparse files through
        return "is a link, a device or another thing that is not a plain file"
    if not MEMBER_NAME.fullmatch(member.name):
        return "has a name that no sample's member has"
    if member.size > MAX_MEMBER_BYTES:
        return f"is {member.size} bytes long, more than {MAX_MEMBER_BYTES}"
    return ""


def samples_of(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of a tar: key and members; raises ValueError at the first thing that is refused."""
    key, files = "", dict[str, bytes]()
    for name, content in members_of(path):
        if isinstance(content, Problem):
            raise ValueError(str(content))
        sample, _, member = name.partition(".")
        if sample != key and files:
            yield key, files
            files = {}
        key = sample
        files[member] = content
    if files:
        yield key, files


def decode(name: str, content: bytes) -> Any:
    """A member's content: an array, the JSON's fields, or a list of arrays; raises whatever its decoder raises.

    Args:
        name: the member without its key, such as "alpha.png".
        content: its bytes, trusted in nothing.
    """
    kind = name.split(".")[0]
    if kind in IMAGE_MODES:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                if image.mode != IMAGE_MODES[kind]:
                    raise ValueError(f"its mode is {image.mode}, not {IMAGE_MODES[kind]}")
                return np.asarray(image)
    if name == "json":
        return json.loads(content, parse_constant=_refuse_constant)
    if name.endswith(".npz"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_MEMBER_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_MEMBER_BYTES} bytes")
            return _finite([np.load(io.BytesIO(archive.read(entry)), allow_pickle=False) for entry in entries])
    if name.endswith(".npy"):
        return _finite([np.load(io.BytesIO(content), allow_pickle=False)])[0]
    raise ValueError("no sample has such a member")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def _finite(arrays: list[np.ndarray]) -> list[np.ndarray]:
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("it holds values that are not finite")
    return arrays
