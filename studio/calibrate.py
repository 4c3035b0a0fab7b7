"""The fit set of a calibration: people with exact mattes, made to look like what is filtered.

Three quarters are renders of people whom no embedded network has learnt from, over new backgrounds, from easy to hard:
low contrast, blur, noise, coding. The others are such pictures found again in the generator (`enhance.invert`), as the
generator draws them. There the matte is that of the picture that was looked for, and holds for what was found only if
that comes close: what stays farther away than MAX_DISTANCE (a frizzy head that the generator draws as a smooth one) is
measured and left out. How far each source is told right, and how many were left out, stands in the result.

Everything measured is appended to a log, a line a portrait; a stopped run goes on behind its last line.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..enhance import Enhanced, Matting, Perceptual, final_matte, foreground_method
from ..enhance.invert import invert
from ..enhance.light import LINEAR, blend
from ..filters import Calibration, bound_to, score
from ..filters.calibration import NETWORKS, TRIMAP
from ..filters.fitting import Floats, fit_calibration, fit_error, risk_coverage
from ..finetune.charts import Line, save_chart
from ..gen import Generator, Latents, Sample, random_stream
from ..shards import publish_text
from ..shards.augment import degraded, graded, jitter, softened
from .backgrounds import background_pool
from .composites import Portraits, load_portraits, planes

BACKGROUND_SEED = 3_000_000  # of no training's pool, and not the benchmark's
SPLITS = ("val", "test")  # fitted on the first, its error told on the second, which other proofs test on too
INVERTED_SHARE = 4  # one in so many
MAX_DISTANCE = 0.5  # perceptual, of what an inversion found from what it looked for
NUM_GROUPS = 8  # of the reliability diagram


class Judges(NamedTuple):
    """The frozen networks that scores come from; no discriminator, since no calibration looks at realism."""

    generator: Generator
    matting: Matting
    second: Matting
    perceptual: Perceptual

    def sums(self) -> dict[str, str]:
        """What a calibration is bound to."""
        networks = {name: getattr(self, name) for name in NETWORKS}
        if self.matting.needs_trimap:
            networks[TRIMAP] = self.matting.trimap_network()
        return bound_to({name: network.card for name, network in networks.items()})


class Known(NamedTuple):
    """A picture whose matte is known."""

    number: int
    identity: str
    image: Tensor  # [3, S, S] in [-1, 1]
    alpha: Tensor  # [1, S, S] in [0, 1]


@dataclass(frozen=True, slots=True)
class Measured:
    """What the fit sees of a picture."""

    number: int
    identity: str
    source: str  # "composite" or "inverted"
    mad: float  # true mean absolute error of alpha x1000
    scores: dict[str, float]
    distance: float = 0.0  # perceptual, between the picture and the one whose matte is known


def calibrate(
    renders: Path, judges: Judges, log: Path, *, num: int, seed: int = 0, invert_steps: int = 300, slots: int = 8
) -> tuple[Calibration, list[Measured]]:
    """Measures `num` pictures and fits on the validation people; the test people are kept for the error.

    Args:
        renders: as `studio render` writes them.
        judges: on a CPU.
        log: what was measured so far; other settings need another one.
        num: pictures in all; people come again once all had their turn.
        invert_steps: of the pictures that are inverted; 0 for none of them, composites alone.
        slots: pictures that are inverted in one batch.

    Returns:
        The calibration and what was measured of the held-out people.
    """
    measured = read_log(log, {"networks": judges.sums(), "num": num, "seed": seed, "invert_steps": invert_steps})
    pictures = known_pictures(renders, num=num, size=judges.generator.resolution, seed=seed)
    done = {one.number for one in measured}
    with tqdm(total=num, initial=len(measured), unit="portrait", desc="calibrate") as bar, log.open("a") as stream:
        for one in measure_all(pictures, judges, done, seed=seed, invert_steps=invert_steps, slots=slots):
            stream.write(json.dumps(asdict(one), allow_nan=False) + "\n")
            stream.flush()
            measured.append(one)
            bar.update()
    return fitted(sorted(measured, key=lambda one: one.number), judges.sums())


# Pictures with known mattes


def known_pictures(renders: Path, *, num: int, size: int, seed: int) -> Iterator[Known]:
    """Validation and test people in turn, each in a random order, over and over; all follows from (seed, number)."""
    splits = {split: load_portraits(renders, split, size=size) for split in SPLITS}
    orders = {
        split: random_stream(seed, 0, 0, f"calibrate/{split}").permutation(len(portraits))
        for split, portraits in splits.items()
    }
    for number in range(num):
        split = SPLITS[number % len(SPLITS)]
        index = orders[split][number // len(SPLITS) % len(orders[split])]
        rng = random_stream(seed, 0, number, "calibrate")
        image, alpha = over_background(splits[split], index, rng, number=number, size=size)
        yield Known(number, f"{split}/{splits[split].keys[index]}", image, alpha)


def over_background(
    portraits: Portraits, index: int, rng: np.random.Generator, *, number: int, size: int
) -> tuple[Tensor, Tensor]:
    """One person over a new background, from easy to hard: image [3, S, S] in [-1, 1], alpha [1, S, S]."""
    one = np.array([index])
    picture = background_pool(1, size, seed=BACKGROUND_SEED + number)
    foreground, background = (
        LINEAR[planes(*pair).long()] for pair in ((portraits.foreground, one), (picture, np.array([0])))
    )
    alpha = planes(portraits.alpha, one).float() / 255
    if rng.random() < 0.3:  # low contrast: a background of the person's own mean colour
        colour = (foreground * alpha).mean((2, 3), keepdim=True) / alpha.mean().clamp_min(1e-3)
        share = float(rng.uniform(0.3, 0.9))
        background = (1 - share) * background + share * colour
    image = blend(jitter(foreground, rng, exposure=0.4, tint=0.12), alpha, background)
    if rng.random() < 0.7:
        image, alpha = softened(image, alpha, rng)
        image = degraded(graded(image, rng), rng)
    return image[0].clamp(-1, 1), alpha[0].clamp(0, 1)


# Measuring


def measure_all(
    pictures: Iterator[Known], judges: Judges, done: set[int], *, seed: int, invert_steps: int, slots: int
) -> Iterator[Measured]:
    """Every fourth picture of either split as found in the generator, the others as they are, without those in `done`.

    In groups, so not quite in order; the groups are always the same, because a batch's neighbours enter the last bits.
    """
    while group := list(islice(pictures, INVERTED_SHARE * slots)):
        is_inverted = {known.number: invert_steps > 0 and known.number // 2 % INVERTED_SHARE == 0 for known in group}
        inverted = [known for known in group if is_inverted[known.number]]
        is_due = any(known.number not in done for known in inverted)
        targets = [(latents_of(known, judges, seed), known.image) for known in inverted if is_due]
        results = invert(targets, judges.generator, judges.perceptual, steps=invert_steps, slots=slots)
        for known in group:
            if not is_inverted[known.number] and known.number not in done:
                yield measure(known, sample_of(known, judges, seed), judges, source="composite")
        for known, result in zip(inverted if is_due else [], results, strict=True):
            if known.number not in done:
                one = measure(known, result.sample, judges, source="inverted")
                yield replace(one, distance=result.losses["perceptual_after"])


def latents_of(known: Known, judges: Judges, seed: int) -> Latents:
    """The name of a picture's random streams; it has no z."""
    return Latents(seed, 0, known.number, torch.zeros(judges.generator.z_dim))


def sample_of(known: Known, judges: Judges, seed: int) -> Sample:
    """A picture that no generator drew, as a sample."""
    ws = judges.generator.mean_w.float().expand(judges.generator.num_ws, -1).clone()
    return Sample(latents_of(known, judges, seed), ws, (), known.image)


@torch.no_grad()
def measure(known: Known, sample: Sample, judges: Judges, *, source: str) -> Measured:
    """The final matte of a sample, as an enhancement that keeps the original would give it: its scores, its error."""
    image = sample.image[None]
    alpha = final_matte(judges.matting, image)
    foreground = foreground_method("fast")(image, alpha)[0]
    enhanced = Enhanced(sample, sample.ws, sample.noise, image[0], alpha[0], foreground[0], {}, 0)
    scores = score(enhanced, judges.matting, judges.second, judges.perceptual, None)
    mad = float((alpha[0] - known.alpha).abs().mean()) * 1000
    return Measured(known.number, known.identity, source, mad, scores)


def read_log(log: Path, settings: Mapping[str, Any]) -> list[Measured]:
    """What a stopped run measured; a line that a kill cut short is dropped. A new log is begun with the settings."""
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = log.read_text(encoding="utf-8").split("\n") if log.exists() else [""]
    whole = lines[:-1]  # behind the last line break stands nothing, or what a kill cut short
    if whole and json.loads(whole[0]) != settings:
        raise ValueError(f"{log} was measured with other settings ({whole[0]}); use the same ones, or remove it")
    whole = whole or [json.dumps(settings)]
    publish_text(log, "\n".join(whole) + "\n")
    return [Measured(**json.loads(line)) for line in whole[1:]]


# Fitting


def fitted(measured: list[Measured], networks: Mapping[str, str]) -> tuple[Calibration, list[Measured]]:
    """A calibration from the validation people, with its error on the test people; without what is too far away."""
    num_too_far = sum(one.distance > MAX_DISTANCE for one in measured)
    measured = [one for one in measured if one.distance <= MAX_DISTANCE]
    fit_set, held = ([one for one in measured if one.identity.startswith(f"{split}/")] for split in SPLITS)
    if not held:
        raise ValueError(f"a calibration needs people to be tested on, got {len(measured)} pictures; ask for more")
    calibration = fit_calibration(
        [one.scores for one in fit_set], [one.mad for one in fit_set], networks=networks, version=version("mattesmith")
    )
    expected, true = expected_and_true(calibration, held)
    fit = calibration.fit | {"people_fitted": float(len({one.identity for one in fit_set}))}
    fit |= {"people_held_out": float(len({one.identity for one in held})), "num_held_out": float(len(held))}
    fit |= {"num_too_far": float(num_too_far)}
    fit |= fit_error(expected, true)
    for source in sorted({one.source for one in held}):
        those = np.array([one.source == source for one in held])
        fit |= {f"{source}.{name}": value for name, value in fit_error(expected[those], true[those]).items()}
    return replace(calibration, fit=fit), held


def expected_and_true(calibration: Calibration, measured: list[Measured]) -> tuple[Floats, Floats]:
    """Expected and true errors, [N] each."""
    return (
        np.array([calibration.expected_mad(one.scores) for one in measured]),
        np.array([one.mad for one in measured]),
    )


def write_calibration(out: Path, calibration: Calibration, held: list[Measured]) -> list[Path]:
    """The JSON, and beside it NAME-reliability.png and NAME-risk.png, of the held-out people; returns the pictures."""
    expected, true = expected_and_true(calibration, held)
    out.parent.mkdir(parents=True, exist_ok=True)
    reliability, risk = (out.with_name(f"{out.stem}-{name}.png") for name in ("reliability", "risk"))
    groups = [part for part in np.array_split(np.argsort(expected, kind="stable"), NUM_GROUPS) if len(part)]
    means = [float(expected[part].mean()) for part in groups], [float(true[part].mean()) for part in groups]
    top = float(max(expected.max(), true.max()))
    save_chart(
        reliability,
        [
            Line("a portrait", expected.tolist(), true.tolist(), dots=True),
            Line("means of groups", *means),
            Line("expected = true", [0, top], [0, top]),
        ],
        title=f"Reliability on {len(true)} portraits of people it never saw", x_label="expected MAD x1000",
        y_label="true MAD x1000", from_zero=True,
    )  # fmt: skip
    curves = [("by expected error", expected), ("best possible", true)]
    lines = [Line(label, *(values.tolist() for values in risk_coverage(by, true))) for label, by in curves]
    lines.append(Line("by chance", [0, 1], [float(true.mean())] * 2))
    save_chart(risk, lines, title="Risk and coverage", x_label="share kept", from_zero=True,
               y_label="mean true MAD x1000 of what is kept")  # fmt: skip
    publish_text(out, calibration.to_json())
    return [reliability, risk]
