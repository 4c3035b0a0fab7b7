"""Any public StyleGAN2 file -> a frozen network of networks.py; never runs code from a file.

.safetensors (ours), .pt / .pth / .ckpt (rosinality, or NVIDIA's names), .pkl (NVIDIA). Whatever a file's layout, its
tensors are renamed to ours, the architecture is read off their shapes, and every key and shape must then fit.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from .fetch import sum_of
from .known import GENERATOR_FILES
from .latents import draw_latents, draw_noise, random_stream
from .layouts import Absent, Kind, check_file, read_state
from .messages import first_of, one_line, shown
from .networks import Discriminator, Generator

WEIGHTS = Path(__file__).parent / "weights"
MAX_RESOLUTION = 4096
MEAN_W_SAMPLES = 4096
KNOWN_FILES = {each.sha256: each for each in GENERATOR_FILES if each.sha256}


def load_generator(source: str | Path = "default") -> Generator:
    """The generator in a file, frozen, in eval mode, float32, on the CPU; `card` tells where it comes from.

    Args:
        source: "default" for the embedded one, or a path to .safetensors, .pt, .pth, .ckpt or .pkl.

    Raises:
        FileNotFoundError: no such file. ValueError: a file that is not a StyleGAN2 generator, in one line.
    """
    network = _load(source, "generator")
    assert isinstance(network, Generator)
    return network


def load_discriminator(source: str | Path = "default") -> Discriminator:
    """The discriminator in a file; as `load_generator`."""
    network = _load(source, "discriminator")
    assert isinstance(network, Discriminator)
    return network


def save_network(
    path: Path,
    network: Generator | Discriminator,
    card: Mapping[str, Any],
    *,
    discriminator: Discriminator | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes `path` (.safetensors, architecture in its metadata) and its JSON card beside it.

    The same weights give the same bytes. Both files appear under their names only when complete.

    Args:
        card: at least name, licence and source; the file's sha256 is added.
        discriminator: a second network for the same file, which then holds both; `network` is a generator.
        dtype: of the tensors; float32 keeps them as they are.
    """
    if missing := {"name", "licence", "source"} - card.keys():
        raise ValueError(f"the card of {path} needs {sorted(missing)}")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a network is saved as .safetensors")
    parts: dict[str, Generator | Discriminator] = {"": network}
    if discriminator is not None:
        parts = {"generator.": network, "discriminator.": discriminator}
    state = {
        prefix + key: value.detach().cpu().to(dtype).contiguous()
        for prefix, part in parts.items()
        for key, value in part.state_dict().items()
    }
    if broken := [key for key, value in state.items() if not value.isfinite().all()]:
        precision = "half precision" if dtype == torch.float16 else str(dtype)
        raise ValueError(f"{path}: not saved, {first_of(broken)} is not finite in {precision}")
    described = {
        prefix.rstrip(".") or "architecture": json.dumps(part.architecture, sort_keys=True)
        for prefix, part in parts.items()
    }
    content = save(state, metadata=described)
    text = json.dumps({**card, "sha256": hashlib.sha256(content).hexdigest()}, indent=2, sort_keys=True) + "\n"
    write_whole(path, content)
    write_whole(path.with_suffix(".json"), text.encode())


def write_whole(file: Path, content: bytes) -> None:
    """Writes under another name, then renames: a file stands under its own name only when it is complete."""
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(content)
    partial.replace(file)


def _load(source: str | Path, kind: Kind) -> Generator | Discriminator:
    path = WEIGHTS / f"{kind}.safetensors" if source == "default" else Path(source)
    if source == "default" and not path.exists():
        raise FileNotFoundError(
            f"{path}: the embedded {kind} is missing; make it with `python cli.py studio train-generator`"
        )
    check_file(path, kind)
    notes: dict[str, Any] = {}
    try:
        state, settings = read_state(path, kind, notes)
        network = _build(kind, state, settings, notes)
        network.card = _card(path) | notes
    except Absent as error:
        raise Absent(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (AttributeError, LookupError, ArithmeticError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path}: not a StyleGAN2 {kind} of a known structure ({one_line(error)})") from error
    return network


def _build(
    kind: Kind, state: dict[str, Tensor], settings: dict[str, Any], notes: dict[str, Any]
) -> Generator | Discriminator:
    """The network with exactly these tensors; built without memory first, so that a wrong file costs nothing."""
    if broken := [key for key, value in state.items() if not _is_plain(value)]:
        raise ValueError(f"{first_of(broken)} is not a plain floating-point tensor")
    shape = _architecture(kind, state) | _checked(settings)
    with torch.device("meta"):
        network: Generator | Discriminator = (Generator if kind == "generator" else Discriminator)(**shape)
    if isinstance(network, Generator) and notes.get("layout") == "rosinality":
        _complete(network, state, notes)
    own = network.state_dict()
    if missing := own.keys() - state.keys():
        raise ValueError(f"not a whole {kind}: missing {first_of(missing)}")
    if foreign := state.keys() - own.keys():
        raise ValueError(f"not a StyleGAN2 {kind} of a known layout: unexpected {first_of(foreign)}")
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise ValueError(f"{key} must be {list(value.shape)}, found {list(state[key].shape)}")
    if broken := [key for key, value in state.items() if not value.isfinite().all()]:
        raise ValueError(f"{first_of(broken)} is not finite")
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    network.to(memory_format=torch.channels_last).requires_grad_(False).eval()
    if isinstance(network, Generator) and "mean_w" in notes:
        z = random_stream(0, 0, 0, "mean_w").standard_normal((MEAN_W_SAMPLES, network.z_dim), dtype=np.float32)
        network.mean_w.copy_(network.mapping(torch.from_numpy(z))[:, 0].mean(dim=0))
    return network


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense floating point and no larger than its memory (a stride of 0 can announce terabytes)."""
    if value.layout != torch.strided or value.device.type != "cpu" or not value.is_floating_point():
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _architecture(kind: Kind, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The constructor's arguments that show in the shapes of a state dict in our layout."""
    sides = [int(match[1]) for key in state if (match := re.fullmatch(r"blocks\.(\d{1,9})\.conv\.weight", key))]
    resolution = max(sides, default=0)
    if not 4 <= resolution <= MAX_RESOLUTION:
        raise ValueError(f"not a StyleGAN2 {kind}: no convolutions up to {MAX_RESOLUTION} px, found {first_of(state)}")
    channels = {side: _length(state, f"blocks.{side}.conv.weight", 0) for side in sides}
    if kind == "discriminator":
        return {"resolution": resolution, "channels": channels | {4: _length(state, "conv.weight", 0)}}
    layers = [key for key in state if re.fullmatch(r"dense\.\d+\.weight", key)]
    return {
        "resolution": resolution,
        "channels": channels,
        "z_dim": _length(state, "dense.0.weight", 1),
        "w_dim": _length(state, "blocks.4.conv.style.weight", 1),
        "num_mapping_layers": len(layers),
    }


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as read from a file, after checking that they are numbers the networks can take."""
    for name, value in settings.items():
        fits = isinstance(value, int) if name == "group" else isinstance(value, (int, float)) and isfinite(value)
        if not (value is None and name != "mapping_lr") and not (fits and value > 0):
            raise ValueError(f"the setting {name} is {shown(value)}, expected a positive number")
    return dict(settings)


def _length(state: Mapping[str, Tensor], key: str, axis: int) -> int:
    if key not in state or state[key].ndim < 2:
        raise ValueError(f"expected a weight {key}, found {list(state[key].shape) if key in state else 'none'}")
    return state[key].shape[axis]


def _complete(generator: Generator, state: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Adds what some rosinality files lack: noise maps (before 2020) and the mean w (training checkpoints).

    Both follow from fixed random streams, so the same file always gives the same network; the card tells.
    """
    own = generator.state_dict()
    maps = [key for key in own if key.endswith(".noise")]
    if not state.keys() & set(maps):
        drawn = draw_noise(draw_latents(0, 0, 0, z_dim=1), generator.noise_sizes)
        state.update({key: value[None] for key, value in zip(maps, drawn, strict=True)})
        notes["noise"] = "drawn here; the file has none"
    if "mean_w" not in state:
        state["mean_w"] = torch.zeros(generator.w_dim)
        notes["mean_w"] = f"mean of {MEAN_W_SAMPLES} latents; the file has none"


def _card(path: Path) -> dict[str, Any]:
    """What is known about the file: what its hash tells, and before that its own card where one lies beside it."""
    sha256 = sum_of(path)
    known = KNOWN_FILES.get(sha256)
    told = {
        "name": known.name if known else path.name,
        "licence": known.licence if known else "unknown; ask where the file came from",
        "source": path.name,
        "sha256": sha256,
    }
    beside = path.with_suffix(".json")
    if path.suffix.lower() == ".safetensors" and beside.exists():
        try:
            card = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"its card {beside.name} is not JSON ({error})") from error
        if not isinstance(card, dict) or card.get("sha256") != sha256:
            raise ValueError(f"its card {beside.name} belongs to another file (sha256 differs)")
        return card | {key: value for key, value in told.items() if key not in card}  # in the order of the card
    return told
