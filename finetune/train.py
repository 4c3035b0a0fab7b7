"""Finetuning a matting network on shards: composites with exact mattes, validated, the best kept, resumable.

Beside the result CKPT.safetensors and its card stand CKPT.csv and CKPT.png, the curve, and CKPT.state.pt, from which an
interrupted run goes on and ends with the same numbers as one that was never stopped.
"""

import copy
import csv
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..enhance import Matting, autocast, trimap_from_alpha
from ..enhance.matting import save_network
from ..gen import random_stream
from ..shards import config_hash, mattesmith_version, publish_text, read_config
from ..shards.card import dataset_licence
from ..shards.manifest import DATASET
from ..shards.source import is_url, open_remote
from .charts import Line, save_chart
from .evaluate import trimap_width
from .feed import ORIGINALS, Feed, on_device
from .networks import Recipe, load_network, recipe_of, unfrozen
from .pictures import Item, folder_sum
from .snapshots import check_settings, cosine_rate, load_state, save_state, update

NUM_VALIDATIONS = 20  # of a run, besides the one before its first step
SNAPSHOT_S = 300  # at most so much is lost to a kill
TRIMAP_SHARE = 0.025  # largest reach of a training trimap's unknown region, and that of validation, in sides

Progress = Callable[[int, float, float], object]  # steps done, mean loss since the last validation, steps a second


def finetune(
    place: str | Path,
    out: Path,
    *,
    network: str = "default",
    steps: int = 2000,
    batch: int = 8,
    size: int = 128,
    lr: float = 2e-4,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    real: Path | None = None,
    real_share: float = 0.0,
    validate_on: Path | None = None,
    originals: float = ORIGINALS,
    progress: Progress | None = None,
    snapshot_s: float = SNAPSHOT_S,
) -> dict[str, Any]:
    """Trains a network from where it is, on composites of a dataset; run again, it goes on.

    Args:
        place: a dataset's folder, or a URL that fsspec knows.
        out: NAME.safetensors; its card, curve and state lie beside it.
        network: see `networks.load_network`.
        steps: updates in all; the learning rate rises, then falls to 0 over them.
        batch, size, workers, real, real_share, validate_on, originals: see `Feed`.
        lr: AdamW's highest rate.
        device: where to compute.

    Returns:
        The card of the result: that of the lowest MAD on the validation pictures, the start included.

    Raises:
        ValueError: bad arguments, too few samples, or a state that other settings have made.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"the result must be named NAME.safetensors, got {out}")
    if steps < 1 or lr <= 0:
        raise ValueError(f"steps must be 1 or more and lr above 0, got {steps} and {lr}")
    matting = load_network(network, seed=seed)
    recipe = recipe_of(matting)
    trimap_px = (1, max(2, round(2 * TRIMAP_SHARE * size))) if matting.needs_trimap else None
    feed = Feed(
        place, batch=batch, size=size, trimap_px=trimap_px, seed=seed, workers=workers, real=real,
        real_share=real_share, validate_on=validate_on, originals=originals,
    )  # fmt: skip
    dataset = described(place)
    settings = {
        "network": matting.card["sha256"], "architecture": matting.card["architecture"],
        "dataset": dataset["config_hash"], "samples": feed.num_samples, "held_out": len(feed.held), "steps": steps,
        "batch": batch, "size": size, "lr": lr, "seed": seed, "workers": workers,
        "real": real.name if real else "", "num_real": feed.num_real,
        "validate_on": validate_on.name if validate_on else "", "originals": originals,
        "real_sum": folder_sum(real) if real else "", "validate_on_sum": folder_sum(validate_on) if validate_on else "",
    }  # fmt: skip

    run = Run(matting, recipe, lr=lr, steps=steps, seed=seed, device=torch.device(device))
    state_file = out.with_suffix(".state.pt")
    if saved := load_state(state_file):
        check_settings(state_file, saved["settings"], settings, otherwise="another --out")
        run.resume(saved)
    elif out.exists():
        raise ValueError(f"{out} exists already, and no {state_file.name} to go on from; name another file")
    out.parent.mkdir(parents=True, exist_ok=True)

    pictures = feed.validation()
    train(run, feed, pictures, save=lambda: save_state(state_file, run.state() | {"settings": settings}),
          progress=progress, snapshot_s=snapshot_s)  # fmt: skip
    card = card_of(matting, recipe, run, dataset=dataset, settings=settings, num_validated=len(pictures))
    run.average.load_state_dict(run.best)
    save_network(out, run.average, card)
    write_curve(out, run.rows)
    return card


def train(
    run: "Run", feed: Feed, pictures: list[Item], *, save: Callable[[], None], progress: Progress | None,
    snapshot_s: float,
) -> None:  # fmt: skip
    """The loop: a step, a validation now and then, a snapshot behind each and every five minutes."""
    every = max(1, run.steps // NUM_VALIDATIONS)
    if not run.rows:
        run.validate(pictures)
        save()
    saved = started = time.perf_counter()
    first = run.step
    batches = feed.batches(run.epoch, run.done)
    while run.step < run.steps:
        epoch, done, batch = next(batches)
        run.train_step(*on_device(batch, run.device))
        run.epoch, run.done = epoch, done
        if progress is not None:
            rate = (run.step - first) / max(time.perf_counter() - started, 1e-9)
            progress(run.step, float(np.mean(run.losses)), rate)
        validated = run.step % every == 0 or run.step == run.steps
        if validated:
            run.validate(pictures)
        if validated or time.perf_counter() - saved >= snapshot_s:
            save()
            saved = time.perf_counter()


class Run:
    """A network, its average, its optimiser, its curve and its best: everything a snapshot holds."""

    def __init__(
        self, matting: Matting, recipe: Recipe, *, lr: float, steps: int, seed: int, device: torch.device
    ) -> None:
        self.recipe, self.lr, self.steps, self.seed, self.device = recipe, lr, steps, seed, device
        self.network = unfrozen(matting, seed=seed).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        # The average as it is used later: padded, cropped, with trimaps.
        self.used = Matting(self.average, matting.architecture, name=matting.name, card=matting.card)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=1e-4, fused=True)
        self.step, self.epoch, self.done = 0, 0, 0  # done: batches of this epoch
        self.losses: list[float] = []  # since the last validation
        self.rows: list[dict[str, float]] = []  # the curve
        self.best: dict[str, Tensor] = {}
        self.best_mad = math.inf

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and numbers."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimiser")}
        names = ("step", "epoch", "done", "losses", "rows", "best", "best_mad")
        return parts | {name: getattr(self, name) for name in names}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Takes up a saved state."""
        for name in ("network", "average", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("step", "epoch", "done", "losses", "rows", "best", "best_mad"):
            setattr(self, name, state[name])

    def train_step(self, image: Tensor, alpha: Tensor, trimap: Tensor | None) -> None:
        """One update, in bfloat16 where that is safe and pays."""
        # What a network draws (dropout) comes from torch's own generators, on a GPU too: as if the run never stopped.
        torch.manual_seed(int(random_stream(self.seed, 0, self.step, "finetune").integers(2**63)))
        self.optimiser.param_groups[0]["lr"] = self.lr * cosine_rate(self.step / self.steps)
        self.network.train()
        with autocast(self.device.type):
            loss = self.recipe.loss(self.network, image, alpha, trimap)
        if not loss.isfinite():
            raise ValueError(f"the loss is {loss.item()} at step {self.step}; use a lower --lr than {self.lr:g}")
        self.step += 1
        update(self.network, self.average, self.optimiser, loss, half_life=min(300, self.step / 5))
        self.losses.append(loss.item())

    def validate(self, pictures: list[Item]) -> None:
        """A row of the curve; the average is kept if it is the best so far."""
        mad = mean_error(self.used, pictures)
        if mad < self.best_mad:
            self.best_mad = mad
            self.best = {key: value.detach().cpu().clone() for key, value in self.average.state_dict().items()}
        loss = float(np.mean(self.losses)) if self.losses else math.nan
        self.rows.append({"step": self.step, "loss": loss, "mad": mad, "best": self.best_mad})
        self.losses = []


@torch.no_grad()
def mean_error(matting: Matting, pictures: list[Item]) -> float:
    """MAD x1000 over whole pictures; a network that needs trimaps gets the true ones."""
    device = next(matting.network.parameters()).device
    total = 0.0
    for item in pictures:
        true = torch.from_numpy(item.alpha)[None, None].to(device)
        trimap = trimap_from_alpha(true, width=trimap_width(item.alpha, TRIMAP_SHARE))
        predicted = matting(item.image[None].to(device), trimap if matting.needs_trimap else None)
        total += float((predicted.float().clamp(0, 1) - true).abs().mean())
    return 1000 * total / len(pictures)


# What is written


def described(place: str | Path) -> dict[str, Any]:
    """Name, configuration and networks of a dataset; those of an unfinished one are not known."""
    where = f"{str(place).rstrip('/')}/{DATASET}"
    found: dict[str, Any]
    if not is_url(place) and not Path(where).is_file():
        found = {"config_hash": config_hash(read_config(Path(place))), "networks": []}
    else:
        with open_remote(where) if is_url(place) else Path(where).open("rb") as stream:
            content = stream.read()
        try:
            found = json.loads(content)
            found = {"config_hash": str(found["config_hash"]), "networks": list(found["networks"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where} cannot be read: {error!r}") from error
    networks = [{key: card.get(key, "") for key in ("name", "licence", "sha256")} for card in found["networks"]]
    return {"name": Path(str(place)).name, "config_hash": found["config_hash"], "networks": networks}


def card_of(
    matting: Matting, recipe: Recipe, run: Run, *, dataset: Mapping[str, Any], settings: Mapping[str, Any],
    num_validated: int,
) -> dict[str, Any]:  # fmt: skip
    """What lies beside the result: what it continues, what it has seen, what it measured."""
    continues = {key: matting.card.get(key, "") for key in ("architecture", "name", "licence", "sha256")}
    ancestors = [continues, *dataset["networks"]] + ([{"licence": ""}] if settings["real"] else [])
    best_step = next(int(row["step"]) for row in run.rows if row["mad"] == run.best_mad)
    names = ("steps", "batch", "size", "lr", "seed", "real", "num_real", "samples", "held_out", "validate_on",
             "originals")  # fmt: skip
    return {
        "architecture": matting.card["architecture"],
        "name": f"{continues['name']}, finetuned",
        "what": "matting network, finetuned on composites with exact mattes",
        "continues": continues,
        "data": dict(dataset),
        "recipe": recipe.words,
        "settings": {name: settings[name] for name in names},
        "source": f"mattesmith {mattesmith_version()} finetune",
        "licence": dataset_licence(ancestors) if dataset["networks"] else "other",
        "best_step": best_step,
        "measured": {"mad": run.best_mad, "mad_at_start": run.rows[0]["mad"], "pictures": num_validated},
    }


def write_curve(out: Path, rows: list[dict[str, float]]) -> None:
    """CKPT.csv and CKPT.png."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if math.isnan(value) else value for name, value in row.items()} for row in rows)
    publish_text(out.with_suffix(".csv"), stream.getvalue())
    steps = [row["step"] for row in rows]
    lines = [
        Line("average of the weights", steps, [row["mad"] for row in rows]),
        Line("best so far", steps, [row["best"] for row in rows]),
    ]
    save_chart(out.with_suffix(".png"), lines, title=out.stem, x_label="step", y_label="MAD x1000, validation")
