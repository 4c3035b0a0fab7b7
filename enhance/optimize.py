"""Enhancement: a frozen generator's portraits are moved until a frozen matting network is sure of them.

A portrait enters a slot, is optimised until nothing improves or its steps are spent, and leaves the slot to the next
candidate; out of order inside, in order outside.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields

import torch
from torch import Tensor

from ..gen import Discriminator, Generator, Sample, random_stream
from .closed_form import foreground_method
from .matting import Matting
from .objective import PRESETS, Background, Networks, Preset, colour_gradient
from .perceptual import Perceptual
from .portrait import Best, Enhanced, enter, final_matte, finish, remade, unchanged, with_matte
from .precision import chosen_precision
from .slots import Slots

Reject = Callable[[Sample, Tensor], bool]  # (sample, its alpha [1, H, W]) -> whether to spend no step on it


def enhance(
    samples: Iterable[Sample],
    generator: Generator,
    discriminator: Discriminator | None,
    matting: Matting,
    perceptual: Perceptual,
    trimap: Matting | None = None,
    *,
    preset: str | Preset = "default",
    foreground: str | None = None,
    variables: str | None = None,
    steps: int | None = None,
    lr_ws: float | None = None,
    lr_noise: float | None = None,
    slots: int = 8,
    check_every: int = 5,
    precision: str = "auto",
    compiled: bool = False,
    background: Background = colour_gradient,
    reject: Reject | None = None,
) -> Iterator[Enhanced]:
    """Makes portraits easier to matte, in the order in which they come.

    Args:
        samples: taken only when a slot is free.
        generator, discriminator, matting, perceptual: frozen, on one device. Without a discriminator there is no
            adversarial term, and nothing is reported of it.
        trimap: what makes the trimaps, for a `matting` that needs them (`matting.trimap_network()`). One with classes
            (deeplab) is asked in every step, and the entropy is that of its classes; of any other a trimap is derived
            every preset.trimap_every steps, and in every step where `trimap` is None.
        preset: a name in PRESETS, or a Preset of the caller's own.
        foreground, variables, steps, lr_ws, lr_noise: replace the preset's where given; steps=0 keeps every original.
        slots: portraits in one batch; it enters the last bits of a result, so keep it constant over a dataset.
        check_every: steps at most between two looks at which slots are done (each waits for the device).
        precision: "bf16", "float32", or "auto" for the faster one here; of the loop alone, final image and matte are
            float32 always.
        compiled: run the generator through torch.compile in the loop: faster after a minute, and it needs a C++
            compiler. Results differ by rounding.
        background: what portraits are composited over for the adversarial loss.
        reject: portraits for which it is true leave at once with steps=0 and losses["rejected"] = 1.
    """
    chosen = _preset(preset, foreground=foreground, variables=variables, steps=steps, lr_ws=lr_ws, lr_noise=lr_noise)
    if slots < 1 or check_every < 1:
        raise ValueError(f"slots and check_every must be 1 or more, got {slots} and {check_every}")
    precision = chosen_precision(precision, next(generator.parameters()).device.type)
    networks = Networks(generator, discriminator, matting, perceptual, trimap)
    batch = Slots(slots, networks, chosen, precision=precision, compiled=compiled)
    return _enhance(samples, batch, networks, chosen, check_every=check_every, background=background, reject=reject)


def _preset(preset: str | Preset, **given: str | float | None) -> Preset:
    """The preset of that name, with what was given in place of its own."""
    if isinstance(preset, str) and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    base = PRESETS[preset] if isinstance(preset, str) else preset
    own = {field.name: getattr(base, field.name) for field in fields(base)}
    chosen = Preset(**own | {name: value for name, value in given.items() if value is not None})
    if chosen.variables not in ("both", "noise", "latent"):
        raise ValueError(f'variables must be "both", "noise" or "latent", got {chosen.variables!r}')
    if chosen.mode not in ("boundary", "all"):
        raise ValueError(f'mode must be "boundary" or "all", got {chosen.mode!r}')
    foreground_method(chosen.foreground)  # an unknown one, or one whose package is missing, is told of now
    if chosen.trimap_every < 1:
        raise ValueError(f"trimap_every must be 1 or more, got {chosen.trimap_every}")
    if chosen.steps < 0 or chosen.patience < 1 or min(chosen.lr_ws, chosen.lr_noise) < 0:
        raise ValueError(
            "steps must be 0 or more, patience 1 or more, learning rates 0 or more, got "
            f"{chosen.steps}, {chosen.patience}, {chosen.lr_ws} and {chosen.lr_noise}"
        )
    return chosen


def _enhance(
    samples: Iterable[Sample],
    batch: Slots,
    networks: Networks,
    preset: Preset,
    *,
    check_every: int,
    background: Background,
    reject: Reject | None,
) -> Iterator[Enhanced]:
    # Looks at equal distances, so that those who are out of steps are seen at once: after 3 and 3 of 6, not 5 and 10.
    num_looks = -(-preset.steps // check_every)
    round_of = -(-preset.steps // max(1, num_looks))
    source = iter(samples)
    entered = yielded = 0
    done: dict[int, Enhanced] = {}  # by order of entry, until every earlier one is out
    while True:
        # Every free slot takes the next candidate; one that needs no step never gets a slot.
        while (slot := batch.free()) is not None and (sample := next(source, None)) is not None:
            entry = enter(sample, networks, preset, background, order=entered)
            entered += 1
            rejected = reject is not None and reject(sample, entry.targets.alpha[0])
            if rejected or preset.steps == 0:
                done[entry.order] = unchanged(entry, networks, preset, rejected=rejected)
                while yielded in done:
                    yield done.pop(yielded)
                    yielded += 1
            else:
                batch.fill(slot, entry)
        if batch.empty():
            return

        for _ in range(round_of):
            batch.step()
        for entry, best in batch.leave():
            done[entry.order] = finish(entry, best, networks, preset)
        while yielded in done:
            yield done.pop(yielded)
            yielded += 1


# The control for attacks


@torch.no_grad()
def random_control(
    enhanced: Iterable[Enhanced],
    generator: Generator,
    discriminator: Discriminator | None,
    matting: Matting,
    perceptual: Perceptual,
    trimap: Matting | None = None,
    *,
    preset: str | Preset = "default",
    background: Background = colour_gradient,
) -> Iterator[Enhanced]:
    """Random changes of the same size: what the enhancement's steps must beat on a second network.

    Every row of ws and every noise map is moved in a random direction by as much as the enhancement moved it
    (same root mean square); a portrait that kept its original keeps it here.
    """
    networks = Networks(generator, discriminator, matting, perceptual, trimap)
    chosen = _preset(preset)
    for order, one in enumerate(enhanced):
        entry = enter(one.sample, networks, chosen, background, order=order)
        if one.steps == 0:
            yield unchanged(entry, networks, chosen)
            continue
        latents = one.sample.latents
        stream = random_stream(latents.seed, latents.shard, latents.candidate, "control")
        originals = (entry.targets.ws[0], *(map_[0] for map_ in entry.targets.noise))
        moved = []
        for original, final in zip(originals, (one.ws, *one.noise), strict=True):
            direction = torch.from_numpy(stream.standard_normal(original.shape, dtype="float32")).to(original)
            moved.append((original + scaled_like(direction, final.to(original) - original))[None])
        control = Best(moved[0], tuple(moved[1:]), one.steps, False)
        image, direct, after = remade(entry, control, networks, chosen)
        alpha = final_matte(matting, image, direct=direct)
        yield with_matte(entry, control, image, alpha, after, chosen)


def scaled_like(direction: Tensor, change: Tensor) -> Tensor:
    """A direction with the length of a change: of every row of [L, w_dim], or of a whole map [1, r, r]."""
    dims = (1,) if change.ndim == 2 else (0, 1, 2)
    length, wanted = (torch.linalg.vector_norm(each, dim=dims, keepdim=True) for each in (direction, change))
    scaled: Tensor = direction * wanted / length
    return scaled
