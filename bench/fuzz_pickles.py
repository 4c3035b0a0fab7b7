"""Thousands of damaged and hostile checkpoints: each loads, or is refused in one line; none runs, crashes or hangs.

    python bench/fuzz_pickles.py --n 100000

Starts from five small whole files (NVIDIA's two protocols, TensorFlow's, torch's zip and the format before it). Bytes
are flipped, cut, moved and doubled; opcodes that name, call, build or announce are put between others. An audit hook
watches for whatever a file could do beside being read. Ends with exit code 1 at the first surprise, which it keeps.
"""

import io
import os
import pickle
import pickletools
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from mattesmith.gen import Generator, load_generator

ROOT = Path(__file__).parents[1]
# What no reader of weights has any business with; "open" is reading, except where a mode or flags say otherwise.
WATCHED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "exec", "pickle.find_class", "urllib.", "webbrowser.")
UNWATCHED = {"os.listdir", "os.scandir", "os.fspath"}
seen: list[str] = []
armed = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: notes what happens while a file is being read."""
    writes = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wax"
    if event == "exec" and Path(arguments[0].co_filename).is_file():
        return  # a module of a library, imported late
    if armed and (writes or event.startswith(WATCHED)) and event not in UNWATCHED:
        seen.append(f"{event} {str(arguments)[:80]}")


class Persistent:
    """Pickles as NVIDIA's persistent objects do."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": "", "class_name": class_name, "state": state}

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)  # type: ignore[attr-defined]


def forge() -> None:
    """Modules of the names that NVIDIA's files use, so that such files can be written here."""
    named = {
        "torch_utils.persistence": types.FunctionType((lambda meta: meta).__code__, {}, "_reconstruct_persistent_obj"),
        "dnnlib.tflib.network": type("Network", (), {}),
        "dnnlib.util": type("EasyDict", (dict,), {}),
    }
    for module, value in named.items():
        for end in range(1, len(module.split(".")) + 1):
            sys.modules.setdefault(".".join(module.split(".")[:end]), types.ModuleType(module))
        value.__module__, value.__qualname__ = module, value.__name__
        setattr(sys.modules[module], value.__name__, value)


def whole_files() -> dict[str, bytes]:
    """Suffix with a number -> content of a file that loads."""
    forge()
    with torch.random.fork_rng():
        generator = Generator(resolution=4, channels={4: 2}, z_dim=3, w_dim=2, num_mapping_layers=1)
    names = {}
    for key, value in generator.state_dict().items():
        key = key.replace("mean_w", "mapping.w_avg").replace("dense.", "mapping.fc").replace("blocks.", "synthesis.b")
        key = key.replace(".style.", ".affine.").replace(".conv.", ".conv1.")
        key = key.replace(".to_rgb.", ".torgb.").replace(".noise", ".noise_const").replace("const_strength", "strength")
        value = value[0] if key.endswith("b4.const") else value[0, 0] if key.endswith("noise_const") else value
        names[key] = value.detach().clone()
    files = {}
    for protocol in (3, 4):
        nested = module_tree("Generator", names)
        files[f"{protocol}.pkl"] = pickle.dumps({"G": None, "D": None, "G_ema": nested}, protocol=protocol)
    files["5.pkl"] = pickle.dumps((None, None, tensorflow_network()), protocol=4)
    for number, zipped in enumerate((True, False)):
        stream = io.BytesIO()
        torch.save({"g_ema": names}, stream, _use_new_zipfile_serialization=zipped)
        files[f"{number}.pt"] = stream.getvalue()
    return files


def module_tree(class_name: str, state: dict[str, Any]) -> Persistent:
    """Nested persistent objects of a flat state dict."""
    inside: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if rest:
            inside.setdefault(head, {})[rest] = value
    own = {key: torch.nn.Parameter(value) for key, value in state.items() if "." not in key}
    children = {name: module_tree("SynthesisLayer", held) for name, held in inside.items()}
    gains = {"bias_gain": np.float64(0.01), "conv_clamp": None, "_forward_hooks": OrderedDict()}
    keywords = {"_init_kwargs": sys.modules["dnnlib.util"].EasyDict(z_dim=3), "_set": set()}  # type: ignore[attr-defined]
    return Persistent(class_name, {"_parameters": own, "_buffers": {}, "_modules": children} | gains | keywords)


def tensorflow_network() -> Any:
    """A TensorFlow-era network of the right structure; too small a set of variables to load."""
    network = sys.modules["dnnlib.tflib.network"].Network()  # type: ignore[attr-defined]
    variables = [("lod", np.float32(0)), ("dlatent_avg", np.zeros(2, np.float32))]
    variables += [("synthesis/4x4/Const/const", np.ones((1, 2, 4, 4), np.float32))]
    network.__dict__.update(
        version=4, name="Gs", static_kwargs={"resolution": 8}, components={}, build_func_name="G_main",
        variables=variables,
    )  # fmt: skip
    return network


NAMES = [
    "os system", "posix system", "builtins eval", "builtins exec", "builtins getattr", "builtins __import__",
    "subprocess Popen", "pickle loads", "torch load", "torch.hub load", "numpy load", "functools partial",
    "operator attrgetter", "torch_utils.persistence _reconstruct_persistent_obj", "torch.storage _load_from_bytes",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "dnnlib.util EasyDict", "numpy dtype",
    "dnnlib.tflib.network Network", "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct",
    "numpy ndarray", "collections OrderedDict", "builtins set", "torch FloatStorage", "torch.serialization os.system",
    "argparse Namespace", "copyreg _reconstructor", "torch._tensor _rebuild_from_type_v2",
]  # fmt: skip


def hostile(rng: random.Random) -> bytes:
    """A few opcodes that name, call, build, fetch or announce something."""
    module, name = rng.choice(NAMES).split(" ")
    text = f"touch {tempfile.gettempdir()}/owned".encode()
    argument = rng.choice([b"N", b"]", b"}", b")", b"\x8c" + bytes([len(text)]) + text, b"K\x07", b"G" + b"\0" * 8])
    named = rng.choice(
        [
            f"c{module}\n{name}\n".encode(),
            b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)) + b"\x93",
            b"(" + argument + f"i{module}\n{name}\n".encode(),
            b"(" + f"c{module}\n{name}\n".encode() + argument + b"o",
        ]
    )
    call = rng.choice([b"\x85R", b"\x85\x81", b"}\x92", b"b", b")R", b"\x86R", b"\x87R", b"R", b"\x85R}b", b""])
    number = rng.choice([0, 1, 7, 255, 2**31 - 1, 2**32 - 1])
    huge = struct.pack("<Q", rng.choice([2**62, 2**63 - 1, 2**40, 300]))
    count = rng.choice([2, 50, 5000])
    return rng.choice(
        [
            named + argument + call,
            named + argument + call + b"0",
            argument + b"b",
            argument + b"R",
            rng.choice([b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"]),
            rng.choice([b"Pname\n", argument + b"Q"]),
            b"h" + bytes([rng.randrange(256)]),
            b"j" + struct.pack("<I", number),
            b"r" + struct.pack("<I", number),
            rng.choice([b"g-1\n", b"p99999999999\n", b"\x94", b"q\x00"]),
            rng.choice([b"\x8d", b"\x8e", b"\x96", b"\x95"]) + huge,
            rng.choice([b"X", b"B", b"T", b"\x8b"]) + struct.pack("<I", number),
            rng.choice([b"I", b"L", b"F"]) + b"9" * count + b"\n",
            b")" + b"\x85" * count,
            b")" + b"\x94h\x00\x86" * min(count, 60) + b"}" + b"h\x01Ns",
            rng.choice([b"]", b"}", b"(", b"N", b"2", b"0", b"1", b"\x8f", b"\x91", b"e", b"u", b"s", b"a"]) * count,
        ]
    )


def boundaries(content: bytes) -> list[int]:
    """Where opcodes start."""
    return [position for _, _, position in pickletools.genops(content) if position]


def damaged(content: bytes, others: list[bytes], places: list[int], rng: random.Random) -> bytes:
    """One to three changes of a pickle."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind = rng.randrange(8)
        at = rng.choice(places) if rng.random() < 0.7 else rng.randrange(len(content) + 1)
        at, length = min(at, len(content)), rng.choice([1, 2, 8, 100])
        if kind < 3:
            content = content[:at] + hostile(rng) + content[at:]
        elif kind == 3:
            flipped = bytes(rng.randrange(256) for _ in content[at : at + length])
            content = content[:at] + flipped + content[at + length :]
        elif kind == 4:
            content = content[: max(1, at)]
        elif kind == 5:
            content = content[:at] + content[at + length :]
        elif kind == 6:
            start = rng.randrange(len(content) + 1)
            content = content[:at] + content[start : start + length] + content[at:]
        else:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            content = content[:at] + other[start : start + rng.choice([20, 500])] + content[at:]
    return content or b"\x80"


def in_archive(archive: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A torch zip whose data.pkl is changed and whose sums are right, so that the change reaches the reader."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return stream.getvalue()


def mutations(seed: int) -> Iterator[tuple[str, bytes]]:
    """Endless (suffix, content) of damaged files; the same seed gives the same ones."""
    rng = random.Random(seed)
    files = whole_files()
    pickles = [content for name, content in files.items() if name.endswith(".pkl")]
    places = {name: boundaries(content) for name, content in files.items() if not content.startswith(b"PK")}
    with zipfile.ZipFile(io.BytesIO(files["0.pt"])) as archive:
        inner = boundaries(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    while True:
        name = rng.choices(list(files), weights=[3, 3, 2, 1, 1])[0]
        content = files[name]
        if name == "0.pt" and rng.random() < 0.8:
            yield ".pt", in_archive(content, lambda pickled: damaged(pickled, pickles, inner, rng))
        else:
            yield Path(name).suffix, damaged(content, pickles, places.get(name, [0]), rng)


def surprise(path: Path, load: Callable[[Path], Any] = load_generator) -> str | None:
    """What went wrong with a file: None if it loaded or was refused in one line, without doing anything."""
    global armed
    seen.clear()
    armed = True
    try:
        load(path)
        found = None
    except ValueError as error:
        line = str(error)
        found = None if line.isprintable() and len(line) < 600 + len(str(path)) else f"a bad message: {line[:700]!r}"
    except BaseException as error:
        found = f"{type(error).__name__}: {error}"
    finally:
        armed = False
    return f"it did something: {seen[0]}" if seen else found


def warm_up(folder: Path) -> None:
    """Loads every whole file, so that whatever the libraries import or compile late is there."""
    for name, content in whole_files().items():
        (folder / name).write_bytes(content)
        wrong = surprise(folder / name)
        if wrong and "it did something" not in wrong:
            raise SystemExit(f"the whole file {name}: {wrong}")


def peak_mib() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@click.command()
@click.option("--n", type=click.IntRange(1), default=20_000, show_default=True, help="Damaged files to try.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other files.")
@click.option("--keep", type=click.Path(path_type=Path), default=Path("surprise"), help="Where a surprise is kept.")
def main(n: int, seed: int, keep: Path) -> None:
    """Try n damaged files."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, torch {torch.__version__}, commit {commit.strip()}")
    sys.addaudithook(watch)
    slowest, counts = 0.0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        warm_up(Path(folder))
    before = peak_mib()
    for _, (suffix, content) in zip(tqdm(range(n), unit="file", mininterval=5), mutations(seed), strict=False):
        path = keep.with_suffix(suffix)  # still there should the process die
        path.write_bytes(content)
        start = time.process_time()
        wrong = surprise(path)
        slowest = max(slowest, time.process_time() - start)
        if wrong:
            raise SystemExit(f"{path}: {wrong}")
        counts[suffix] += 1
        path.unlink()
    print(f"{dict(counts)}: no surprise; slowest {slowest:.2f} s, memory grew by {peak_mib() - before:.0f} MiB")


if __name__ == "__main__":
    main()
