"""Checkpoints made to hurt: they are refused in one line, run nothing, and cost next to nothing."""

import io
import itertools
import os
import pickle
import runpy
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mattesmith.enhance.matting import load_matting
from mattesmith.gen import load_generator
from mattesmith.gen.pickles import read_pickle

FUZZ = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "fuzz_pickles.py"))
# "numpy dtype", "torch.storage _load_from_bytes", ... as a protocol-4 pickle names them
PROTO = b"\x80\x04"


def named(module: str, name: str) -> bytes:
    return b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)) + b"\x93"


def byte_string(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def storage(numbers: int) -> bytes:
    """Opcodes that leave a storage of zeros on the stack, at memo 0."""
    heads = b"".join(pickle.dumps(head, protocol=2) for head in (0x1950A86A20F9469CFC6C, 1001, {}))
    pid = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02NtQ."
    inside = heads + pid + pickle.dumps(["0"], protocol=2) + struct.pack("<q", numbers) + b"\0" * 4 * numbers
    return named("torch.storage", "_load_from_bytes") + byte_string(inside) + b"\x85R\x94"


def refused(content: bytes, path: Path) -> str:
    """The one line that refuses a generator file, after less than a second of computing."""
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(ValueError) as caught:
        load_generator(path)
    assert time.process_time() - start < 1
    line = str(caught.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < 600 + len(str(path))
    return line


def archive(pickled: bytes, **how: Any) -> bytes:
    """A torch file around a pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **how) as made:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            made.writestr(f"archive/{name}", content)
    return stream.getvalue()


DEEP = b"})" + b"\x85" * 200_000 + b"Ns."  # a key whose hash would overrun the C stack
WIDE = b"})" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60)) + b"Ns."  # 2^60 hashes


@pytest.mark.parametrize("key", [DEEP, WIDE])
def test_a_key_of_nested_tuples_neither_hangs_nor_overruns_the_stack(key: bytes, tmp_path: Path) -> None:
    assert "nests more than" in refused(PROTO + key, tmp_path / "key.pkl")
    assert "nests more than" in refused(archive(b"\x80\x02" + key), tmp_path / "key.pt")
    path = tmp_path / "key.pth"
    path.write_bytes(archive(b"\x80\x02" + key))
    with pytest.raises(ValueError, match=r"key\.pth: expected .*nests more than"):
        load_matting(f"modnet:{path}")


def test_nested_lists_are_never_written_out(tmp_path: Path) -> None:
    """A message with the text of 2^26 lists would take gigabytes."""
    lists = b"]" + b"".join(b"q" + bytes([i]) + b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(26))
    for word in (named("numpy", "dtype"), named("collections", "OrderedDict"), named("builtins", "set")):
        assert "list" in refused(PROTO + word + lists + b"\x85R.", tmp_path / "lists.pkl")
    meta = b"}(\x8c\x04typeX\x05\x00\x00\x00class\x8c\x05state}\x8c\x0ac_dim\x94" + lists + b"su."
    refused(PROTO + named("torch_utils.persistence", "_reconstruct_persistent_obj") + meta, tmp_path / "lists.pkl")


def test_the_state_of_a_tensor_cannot_be_set(tmp_path: Path) -> None:
    """torch's own __setstate__ would make room for any size that is asked of it."""
    line = refused(PROTO + storage(4) + b"(h\x00K\x00J\xff\xff\xff\x7f\x85K\x01\x85tb.", tmp_path / "state.pkl")
    assert "it sets the state of a Tensor" in line


@pytest.mark.parametrize("call", [b"\x85R0", b"K\x00M\xe8\x03\x85K\x01\x85\x89N"])
def test_many_copies_of_one_storage_are_more_than_the_file_may_have(call: bytes, tmp_path: Path) -> None:
    """A thousand tensors from one storage, a thousand storages from one byte string."""
    if call.startswith(b"\x85"):
        once = named("torch.storage", "_load_from_bytes")
        raw = storage(1000)
        start, end = raw.index(b"B"), raw.rindex(b"\x85R")
        content = PROTO + raw[start:end] + b"q\x000" + (once + b"h\x00" + call) * 1000 + b"N."
    else:
        rebuild = named("torch._utils", "_rebuild_tensor_v2")
        content = PROTO + storage(1000) + b"0" + (rebuild + b"(h\x00" + call + b"tR0") * 1000 + b"N."
    assert "its tensors would be larger than the file" in refused(content, tmp_path / "copies.pkl")


def test_a_thousand_bytes_that_announce_more_are_not_believed(tmp_path: Path) -> None:
    for opcode in (b"\x8d", b"\x8e", b"\x96"):
        for length in (2**62, 2**36):
            refused(PROTO + opcode + struct.pack("<Q", length) + b"ab", tmp_path / "long.pkl")


def test_millions_of_steps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.pkl"
    path.write_bytes(PROTO + b"N0" * 600_000 + b"N.")
    with pytest.raises(ValueError, match="more than 1000000 steps"):
        read_pickle(path)


@pytest.mark.parametrize(
    ("opcodes", "named_as"),
    [
        (b"(cos\nsystem\nX\x04\x00\x00\x00trueo.", "os.system"),
        (b"(X\x04\x00\x00\x00trueios\nsystem\n.", "the opcode INST"),
        (b"(ccollections\nOrderedDict\no.", "the opcode OBJ"),
        (b"\x82\x01.", "the opcode EXT1"),
        (b"Pevil\n.", "the opcode PERSID"),
        (b"NQ.", "the opcode BINPERSID"),
        (b"cbuiltins\nset\n)}\x92.", "the opcode NEWOBJ_EX"),
        (b"N)R.", "it calls None"),
        (b"}}b}R.", "it calls a dict"),
        (b"cbuiltins\nset\n}b.", "it sets the state of a Word"),
        (b"cnumpy\nndarray\n)R.", "it calls a type"),
        (b"K\x01K\x02\x93.", "it names 1, 2"),
        (b"}N]s.", "not enough values"),
        (b"}]Ns.", "a list as a key"),
        (b"\x8fN(]\x90.", "adds items to None"),
        (b"c\x1b[31mos\nsys\x07tem\n.", "?[31mos.sys?tem"),
    ],
)
def test_what_no_network_needs_is_refused_by_name(opcodes: bytes, named_as: str, tmp_path: Path) -> None:
    assert named_as in refused(PROTO + opcodes, tmp_path / "word.pkl") or named_as == "not enough values"


def test_a_compressed_or_overlapping_torch_archive_is_refused(tmp_path: Path) -> None:
    """A zip bomb, and members that a reader of names and a reader of places see differently."""
    pickled = b"\x80\x02}."
    bomb = archive(pickled + b"\0" * 1_000_000, compression=zipfile.ZIP_DEFLATED)
    assert "a compressed archive" in refused(bomb, tmp_path / "bomb.pt")
    with pytest.warns(UserWarning, match="Duplicate name"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as made:
            for content in (pickled, b"\x80\x02cos\nsystem\n."):
                made.writestr("archive/data.pkl", content)
    assert "overlap" in refused(stream.getvalue(), tmp_path / "twice.pt")
    assert "0 data.pkl" in refused(archive(pickled).replace(b"data.pkl", b"data.plk"), tmp_path / "none.pt")


def lying(tmp_path: Path, suffix: str) -> Path:
    """A torch file whose tensor says that it has 2^33 numbers; its storage has 30."""
    path = tmp_path / f"lying{suffix}"
    torch.save({"input.input": torch.zeros(30)}, path)
    content = path.read_bytes()
    assert content.count(b"K\x1e\x85q") == 1
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as made:
        for name, inside in members.items():
            inside = inside.replace(b"K\x1e\x85q", b"\x8a\x05\0\0\0\0\x02\x85q") if name.endswith(".pkl") else inside
            made.writestr(name, inside)
    return path


def test_a_tensor_larger_than_its_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for suffix, load in ((".pt", load_generator), (".ckpt", lambda path: load_matting(f"modnet:{path}"))):
        path = lying(tmp_path, suffix)
        before = FUZZ["peak_mib"]()
        with pytest.raises(ValueError, match=rf"lying\{suffix}: ") as caught:
            load(path)
        assert "more than the file's" in str(caught.value) or "storage" in str(caught.value).lower()
        assert FUZZ["peak_mib"]() - before < 500


@pytest.mark.parametrize(
    "state",
    [
        {1: torch.zeros(2)},
        {"a": torch.zeros(1).expand(2**40)},
        {"a": torch.zeros(2, dtype=torch.complex64)},
        {"a": torch.zeros(2, 2).to_sparse()},
        {"a\n\x1b[2Jb": torch.zeros(2)},
        {"x" * 10_000: torch.zeros(2)},
    ],
)
def test_odd_tensors_and_names_are_one_line(state: dict[Any, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    torch.save(state, path)
    for load, limit in ((load_generator, 600), (lambda path: load_matting(f"modnet:{path}"), 700)):
        with pytest.raises(ValueError) as caught:
            load(path)
        line = str(caught.value)
        assert line.startswith(f"{path}: ") and line.isprintable() and len(line) < limit


def test_the_watch_sees_what_a_file_does(tmp_path: Path) -> None:
    """Python's own reader obeys the file; the harness below must notice."""

    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/owned",)

    sys.addaudithook(FUZZ["watch"])
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Call()))
    found = FUZZ["surprise"](path, lambda path: pickle.loads(path.read_bytes()))
    assert "it did something" in found and (tmp_path / "owned").exists()
    assert FUZZ["surprise"](path) is None


def test_two_thousand_damaged_files_load_or_are_refused_in_one_line(tmp_path: Path) -> None:
    FUZZ["warm_up"](tmp_path)
    before, outcomes = FUZZ["peak_mib"](), {True: 0, False: 0}

    def load(path: Path) -> None:
        outcomes[False] += 1
        load_generator(path)
        outcomes[False] -= 1
        outcomes[True] += 1

    for suffix, content in itertools.islice(FUZZ["mutations"](1), 2000):
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(content)
        start = time.process_time()
        assert FUZZ["surprise"](path, load) is None, content
        assert time.process_time() - start < 2
    assert outcomes[True] > 10 and outcomes[False] > 1000  # both ways were taken
    assert FUZZ["peak_mib"]() - before < 200
