"""What every training needs: a rate, updates and averaged weights, snapshots that survive a kill, a log."""

import csv
import math
import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..shards.manifest import differences

WARM_UP = 0.03  # share of a run in which the learning rate rises


def cosine_rate(share: float) -> float:
    """The learning rate at a share of a run, as a part of its highest: it rises, then falls to 0 as a cosine does."""
    return min(1, (share + 1e-3) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * min(share, 1)))


def update(
    network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, *, half_life: float
) -> None:
    """One step down the loss, gradients clipped to a norm of 1; the average follows, see `follow`."""
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    follow(average, network, half_life=half_life)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, *, half_life: float, keep: Collection[str] = ()) -> None:
    """Moves the average towards the network: after `half_life` steps half of it is left.

    Buffers (running statistics, spectral norm's vectors) are copied, but for those that it is to `keep` as its own.
    """
    share = 1 - 0.5 ** (1 / max(half_life, 1e-3))
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in network.parameters()], share)
    for (name, own), other in zip(average.named_buffers(), network.buffers(), strict=True):
        if name not in keep:
            own.copy_(other)


def save_state(file: Path, state: dict[str, Any]) -> None:
    """Writes under another name, then renames: a run killed here finds its last snapshot whole."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    torch.save(state, partial)
    partial.replace(file)


def load_state(file: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU, or None where there is no such file."""
    if not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:  # an empty file, half of one, another one
        size = f"{file.stat().st_size:,} bytes"
        raise ValueError(
            f"{file} ({size}) cannot be read as a snapshot; restore it, or remove it to start anew"
        ) from error
    return state


def check_settings(file: Path, there: Mapping[str, Any], here: Mapping[str, Any], *, otherwise: str) -> None:
    """Refuses a snapshot that other settings have made; what an older one does not record is not compared.

    Args:
        otherwise: what to do who wants the other settings, for the message.
    """
    if different := differences({**here, **there}, here):
        raise ValueError(f"{file} was made with other settings (there / here): {'; '.join(different)}; "
                         f"use the same settings or {otherwise}")  # fmt: skip


def append_row(file: Path, row: Mapping[str, float]) -> None:
    """One more row of a CSV log, with a heading if it is the first; columns new to the log are empty above."""
    if file.exists():
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            heading, rows = list(reader.fieldnames or []), list(reader)
        if set(row) <= set(heading):
            with file.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, heading).writerow(row)
            return
        heading += [name for name in row if name not in heading]
    else:
        heading, rows = list(row), []
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, heading)
        writer.writeheader()
        writer.writerows([*rows, row])
    partial.replace(file)
