"""The loop's slots: many portraits moved together in a constant batch, each with its own state.

Everything is per slot (losses, Adam's moments and step count, the best step, the stop) and shapes never change, so
that a portrait's result depends neither on its slot nor on its neighbours.
"""

from collections.abc import Iterator
from math import inf

import torch
from torch import Tensor

from ..gen import compiled_synthesis
from .matting.folding import folded
from .matting.load import trimap_of
from .objective import Networks, Preset, Targets, matte, measure, objective, within_bounds
from .portrait import Best, Entry
from .precision import autocast


class Slots:
    """The constant batch: variables, Adam's state, targets and the best step of each slot.

    An idle slot holds a copy of some portrait; it is computed like the others, and thrown away.
    """

    def __init__(
        self, size: int, networks: Networks, preset: Preset, *, precision: str, compiled: bool = False
    ) -> None:
        self.networks = networks._replace(matting=folded(networks.matting))
        self.preset, self.precision = preset, precision
        # The generator alone: MODNet compiled takes twice as long on a CPU (docs/decisions.md).
        self.synthesis = compiled_synthesis(networks.generator) if compiled else networks.generator.synthesis
        self.entries: list[Entry | None] = [None] * size
        self.values: list[Tensor] = []  # ws and every noise map, each [S, ...]
        self.trimaps: Tensor | None = None  # [S, 1, H, W], where they are derived from an alpha
        self.ages = [0] * size  # steps since a slot was filled

    def free(self) -> int | None:
        """The first slot without a portrait."""
        return next((slot for slot, entry in enumerate(self.entries) if entry is None), None)

    def empty(self) -> bool:
        """Whether no slot holds a portrait."""
        return all(entry is None for entry in self.entries)

    def fill(self, slot: int, entry: Entry) -> None:
        """Puts a portrait into a free slot, with Adam's state of a first step."""
        if not self.values:
            self._allocate(entry.targets)
        for mine, one in zip(self.targets.tensors(), entry.targets.tensors(), strict=True):
            mine[slot] = one[0]
        for mine, best, one in zip(self.values, self.best, (entry.targets.ws, *entry.targets.noise), strict=True):
            mine[slot] = best[slot] = one[0]
        for moment in (*self.first, *self.second):
            moment[slot] = 0
        for count in (self.count, self.best_count, self.since):
            count[slot] = 0
        self.best_total[slot] = inf
        self.active[slot], self.diverged[slot] = True, False
        self.ages[slot] = 0
        self.entries[slot] = entry

    def _allocate(self, one: Targets) -> None:
        def repeat(tensor: Tensor) -> Tensor:
            return tensor.expand(size, *tensor.shape[1:]).clone()

        size, device = len(self.entries), one.ws.device
        self.targets = one.mapped(repeat)
        self.values = [repeat(tensor) for tensor in (one.ws, *one.noise)]
        self.best = [value.clone() for value in self.values]
        moved = {"both": slice(None), "latent": slice(0, 1), "noise": slice(1, None)}[self.preset.variables]
        self.moved = range(len(self.values))[moved]  # which values are variables
        self.first, self.second = ([torch.zeros_like(value) for value in self.values] for _ in range(2))
        self.count, self.best_count, self.since = torch.zeros(3, size, dtype=torch.long, device=device).unbind()
        self.best_total = torch.full((size,), inf, device=device)
        self.originals: dict[str, Tensor] = {}  # guarded terms of the originals, [S] each
        self.active, self.diverged = torch.zeros(2, size, dtype=torch.bool, device=device).unbind()

    def step(self) -> None:
        """Evaluates every slot, keeps what is best so far, and moves those that go on."""
        values = [value.detach().requires_grad_(index in self.moved) for index, value in enumerate(self.values)]
        with torch.enable_grad(), autocast(values[0].device.type, self.precision):
            image = straight_clamp(self.synthesis(values[0], values[1:]).float() + self.targets.detail)
            trimap = self._trimap(image.detach())
            alpha, entropy = matte(image, self.networks, trimap)
            noise = tuple(values[1:])
            terms = measure(image, alpha, entropy, values[0], noise, self.targets, self.networks, self.preset, trimap)
            total = objective(terms, self.preset)
            gradients = torch.autograd.grad(total.sum(), [values[index] for index in self.moved])

        # A slot's sum over its own gradient is NaN or infinite where any part of it is.
        finite = total.detach().isfinite()
        for gradient in gradients:
            finite &= gradient.flatten(1).abs().sum(1).isfinite()
        # Against the original as this loop sees it: in bfloat16 it looks a little different than in float32.
        for name in ("outside", "recomposition"):
            if name in terms:
                now = terms[name].detach()
                self.originals[name] = torch.where(self.count == 0, now, self.originals.get(name, now))
                terms[f"{name}_growth"] = now - self.originals[name]
        self._keep_best(total.detach(), finite & within_bounds(terms, self.preset))
        self.diverged |= self.active & ~finite
        self.count += self.active
        self.active &= finite & (self.since < self.preset.patience) & (self.count < self.preset.steps)
        for index, gradient in zip(self.moved, gradients, strict=True):
            lr = self.preset.lr_ws if index == 0 else self.preset.lr_noise
            state = (self.values[index], gradient, self.first[index], self.second[index])
            adam_step(*state, self.count, active=self.active, lr=lr)

    def _trimap(self, image: Tensor) -> Tensor | None:
        """Trimaps derived from an alpha [S, 1, H, W], each slot's made anew at steps of its own; else None."""
        network = self.networks.trimap
        if network is None or network.makes_trimap:
            return None
        due = [age % self.preset.trimap_every == 0 for age in self.ages]
        self.ages = [age + 1 for age in self.ages]
        if self.trimaps is None or any(due):
            made = trimap_of(network, image)  # of the whole batch, so that its shape never changes
            old = made if self.trimaps is None else self.trimaps
            self.trimaps = torch.where(_like(torch.tensor(due, device=made.device), made), made, old)
        return self.trimaps

    def _keep_best(self, total: Tensor, allowed: Tensor) -> None:
        better = self.active & allowed & (total < self.best_total)
        self.best_total = torch.where(better, total, self.best_total)
        self.best_count = torch.where(better, self.count, self.best_count)
        self.since = torch.where(better, 0, self.since + 1)
        for best, value in zip(self.best, self.values, strict=True):
            best.copy_(torch.where(_like(better, value), value, best))

    def leave(self) -> Iterator[tuple[Entry, Best]]:
        """The portraits that are done, with their best step; their slots are free from here on."""
        active, steps, diverged = self.active.tolist(), self.best_count.tolist(), self.diverged.tolist()
        for slot, entry in enumerate(self.entries):
            if entry is not None and not active[slot]:
                self.entries[slot] = None
                ws, *noise = (best[slot : slot + 1].clone() for best in self.best)
                yield entry, Best(ws, tuple(noise), steps[slot], diverged[slot])


def straight_clamp(image: Tensor) -> Tensor:
    """Clamped to [-1, 1], with the slope of the unclamped image.

    The networks see what will be stored; a plain clamp would cut the gradient of every pixel that is too bright.
    """
    return image + (image.clamp(-1, 1) - image).detach()


def adam_step(
    value: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    count: Tensor,
    *,
    active: Tensor,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> None:
    """One step of Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1) with a step count for each slot, in place.

    Args:
        value, gradient, first, second: [S, ...]; `first` and `second` are the moments.
        count: [S], the number of this step in its slot, from 1.
        active: [S] bool; where false nothing changes, whatever the gradient holds.
    """
    moving = _like(active, value)
    # where, not a product: an inactive slot's NaN must not reach its moments.
    gradient = torch.where(moving, gradient, 0)
    first.copy_(torch.where(moving, betas[0] * first + (1 - betas[0]) * gradient, first))
    second.copy_(torch.where(moving, betas[1] * second + (1 - betas[1]) * gradient.square(), second))
    steps = _like(count.clamp_min(1), value).double()
    mean = first / (1 - betas[0] ** steps).to(value.dtype)
    spread = (second / (1 - betas[1] ** steps).to(value.dtype)).sqrt() + epsilon
    value.copy_(torch.where(moving, value - lr * mean / spread, value))


def _like(per_slot: Tensor, value: Tensor) -> Tensor:
    """[S] -> [S, 1, ...], to broadcast over a value."""
    return per_slot.view(-1, *[1] * (value.ndim - 1))
