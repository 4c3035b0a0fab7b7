"""What a proof trains and tests on: exact portraits from the studio, generated ones from the real pipeline.

Each step is skipped where its result is there; a stopped one goes on. Whatever decides the bytes stands in
material.json, and other settings are refused.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mattesmith import enhance as enhancing
from mattesmith import filters, gen, shards
from mattesmith.finetune.pictures import files_of, read_matte, read_picture
from mattesmith.shards.manifest import DATASET, differences
from mattesmith.studio.benchmark import write_benchmark
from mattesmith.studio.composites import load_portraits

ROOT = Path(__file__).parents[1]
BACKGROUNDS = {"labelled": 1, "exact": 2, "validation": 3, "test": 4}  # seeds
SHARD_SIZE = 250  # of exact portraits
GENERATED = {"raw": ("raw",), "enhanced": ("first", "best")}  # runs of `generate`, and the datasets made of each
EXACT = {"exact", "recoloured", "relabelled"}  # datasets of rendered people beside the labelled ones
SECONDS = {"raw": 0.6, "enhanced": 2.5}  # of CPU a portrait at 128 px, measured; only the estimate needs them

Settings = Mapping[str, Any]
Layers = tuple[Tensor, Tensor, Tensor]  # image and foreground [3, H, W] in [-1, 1], alpha [1, H, W] between them
Portraits = Callable[[Path, list[str]], Iterator[Layers]]  # of a folder's names


# Before anything is made


def network_sums() -> dict[str, str]:
    """sha256 of the embedded networks that `generate` uses, as a calibration names them."""
    networks: dict[str, Any] = {
        "generator": gen.load_generator(), "matting": enhancing.load_matting("default"),
        "second": enhancing.load_matting("second"),
    }  # fmt: skip
    return {name: str(network.card["sha256"]) for name, network in networks.items()}


def calibration_sum(networks: Mapping[str, str], by: str) -> str:
    """sha256 of the calibration of these networks; a selection by the expected error needs one.

    Raises:
        ValueError: there is none.
    """
    found = filters.find_calibration(networks)
    if found is None and by == shards.selection.EXPECTED_MAD:
        raise ValueError(
            "no calibration for the embedded networks in filters/weights, so nothing has an expected_mad to select by; "
            "fit one (python cli.py studio calibrate), or select by a score, for instance --by stability"
        )
    return found.sha256 if found else "uncalibrated"


def agree(state: Path, settings: Settings) -> None:
    """Writes the settings, or refuses a folder that was made with others."""
    file = state / "material.json"
    if file.exists():
        if different := differences(json.loads(file.read_text()), settings):
            raise ValueError(f"{state} was made with other settings (there / here): {'; '.join(different)}; "
                             "use the same or another --state")  # fmt: skip
        return
    state.mkdir(parents=True, exist_ok=True)
    shards.publish_text(file, json.dumps(settings, indent=1) + "\n")


# Exact portraits


def labelled_people(keys: Sequence[str], num: int) -> list[str]:
    """Names of the train renders for the labelled set: the first odd ones, however many people were rendered.

    The reference network has learnt from the even ones, and a user's portraits are new to it.

    Raises:
        ValueError: there are too few.
    """
    odd = [key for key in keys if int(key) % 2]
    if len(odd) < num:
        raise ValueError(f"{num} labelled portraits of odd identities are needed, the renders of train have {len(odd)} "
                         f"odd of {len(keys)}; render more, or lower --labelled")  # fmt: skip
    return sorted(odd, key=int)[:num]


def other_people(keys: Sequence[str], labelled: Collection[int], num: int) -> list[str]:
    """Names of the train renders for the upper bound: the first who are not labelled.

    Raises:
        ValueError: there are too few.
    """
    rest = [key for key in keys if int(key) not in labelled]
    if len(rest) < num:
        raise ValueError(f"{num} portraits of people who are not labelled are needed, the renders of train have "
                         f"{len(rest)} of {len(keys)}; render more, or lower --labelled or --exact")  # fmt: skip
    return sorted(rest, key=int)[:num]


def make_exact(state: Path, renders: Path, settings: Settings, datasets: Collection[str]) -> None:
    """Folders labelled, validation and test, and exact where a dataset needs it; the two to learn from also as shards.

    Args:
        datasets: those that are to be made, below shards/.
    """
    size, num_labelled, num_others = (int(settings[name]) for name in ("size", "labelled", "exact"))
    people = load_portraits(renders, "train", size=size).keys
    validation = load_portraits(renders, "val", size=size).keys[: int(settings["validation"])]
    num_test = int(settings["test"]) or None
    make_set(renders, state / "labelled", split="train", size=size, keys=labelled_people(people, num_labelled))
    make_set(renders, state / "validation", split="val", size=size, keys=validation)
    make_set(renders, state / "test", split="test", size=size, num=num_test)
    without_foregrounds(state / "labelled", state / "labelled-own")
    as_shards(state / "labelled", state / "shards" / "labelled", exact_portraits)
    if EXACT & set(datasets):
        # The folder says who is labelled: more people may have been rendered since.
        labelled = {int(person) for person in identities(state / "labelled").values()}
        others = other_people(people, labelled, num_others)
        make_set(renders, state / "exact", split="train", size=size, keys=others)
        as_shards(state / "exact", state / "shards" / "exact", exact_portraits)


def make_set(
    renders: Path, out: Path, *, split: str, size: int, keys: Sequence[str] | None = None, num: int | None = None
) -> None:
    """A folder of composites as `studio benchmark` makes them, unless it is there; its name says which backgrounds."""
    if not (out / "attributes.csv").exists():  # which comes last
        write_benchmark(renders, out, size=size, num=num, seed=BACKGROUNDS[out.name], split=split, keys=keys)


def make_halfway(state: Path) -> None:
    """What lies between exact and generated portraits: shards/recoloured, and shards/relabelled."""
    relabelled = partial(recoloured_portraits, matting=enhancing.load_matting("default"))
    as_shards(state / "exact", state / "shards" / "recoloured", recoloured_portraits)
    as_shards(state / "exact", state / "shards" / "relabelled", relabelled)


def without_foregrounds(folder: Path, out: Path) -> None:
    """The same pictures as most real sets have them: image and alpha alone."""
    out.mkdir(exist_ok=True)
    for layer in ("image", "alpha"):
        if not (out / layer).is_symlink():
            (out / layer).symlink_to(Path("..") / folder.name / layer)


def as_shards(folder: Path, out: Path, portraits: Portraits) -> None:
    """A folder of exact portraits as a dataset, so that the reader treats it as it treats generated ones."""
    if (out / DATASET).exists():
        return
    names = list(files_of(folder / "image"))
    config = {"format": 1, "n": len(names), "shard_size": SHARD_SIZE, out.name: folder.name}
    card = {"name": "studio renders", "licence": "Apache-2.0", "source": "mattesmith studio", "sha256": ""}
    with shards.open_dataset(out, config) as committed:
        for shard, quota in shards.plan(len(names), SHARD_SIZE):
            if shard not in committed:
                chosen = portraits(folder, names[shard * SHARD_SIZE :][:quota])
                shards.write_shard(out, shard, quota, dressed(shard, chosen), max_candidates=quota)
        shards.finish(out, config=config, n=len(names), networks=[card])


def exact_portraits(folder: Path, names: list[str]) -> Iterator[Layers]:
    """Rendered portraits with what is known of them."""
    for name in names:
        image, foreground = (planes(folder / layer / f"{name}.png") for layer in ("image", "fg"))
        yield image, torch.from_numpy(read_matte(folder / "alpha" / f"{name}.png"))[None], foreground


@torch.no_grad()
def recoloured_portraits(
    folder: Path, names: list[str], *, matting: enhancing.Matting | None = None
) -> Iterator[Layers]:
    """The same with the foregrounds, and from a matting network the mattes, that the pipeline would give them."""
    estimate = enhancing.foreground_method("fast")
    for image, alpha, _ in exact_portraits(folder, names):
        matte = alpha[None] if matting is None else enhancing.final_matte(matting, image[None])
        yield image, matte[0], estimate(image[None], matte)[0][0]


def dressed(shard: int, portraits: Iterator[Layers]) -> Iterator[filters.Scored]:
    """Rendered portraits in the dress of generated ones."""
    nothing = torch.zeros(0)
    for candidate, (image, alpha, foreground) in enumerate(portraits):
        sample = gen.Sample(gen.Latents(0, shard, candidate, nothing), nothing, (), image)
        enhanced = enhancing.Enhanced(sample, nothing, (), image, alpha, foreground, {}, 0)
        yield filters.Scored(enhanced, {}, filters.UNCALIBRATED, None)


def planes(file: Path) -> Tensor:
    """A picture as [3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(read_picture(file, "RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def num_files(folder: Path) -> int:
    """Pictures in an exact set."""
    return len(files_of(folder / "image"))


def identities(folder: Path) -> dict[str, str]:
    """Who is in each picture of an exact set."""
    with (folder / "attributes.csv").open(newline="", encoding="utf-8") as stream:
        return {row["name"]: row["identity"] for row in csv.DictReader(stream)}


# Generated portraits


def make_generated(
    state: Path, settings: Settings, datasets: Collection[str], *, workers: int, device: str = "cpu"
) -> None:
    """Of the datasets raw, first and best those that are wanted, below shards/, all alike in number.

    The latter two are selections of one more, enhanced.
    """
    folder, num = state / "shards", int(settings["samples"])
    if "raw" in datasets:
        generate(folder / "raw", num, settings, workers=workers, device=device, steps=0)
    if not set(GENERATED["enhanced"]) & set(datasets):
        return
    enhance_steps = settings["enhance_steps"]
    generate(folder / "enhanced", int(settings["n"]), settings, workers=workers, device=device, steps=enhance_steps)
    best = shards.by_quantile(float(settings["keep_quantile"]), str(settings["by"]), within=settings["within"])
    first = shards.Selection("first", {"first": num}, lambda columns: np.arange(num_rows(columns)) < num)
    for name, selection in (("first", first), ("best", best)):
        if not (folder / name / DATASET).exists():
            shards.refilter(folder / "enhanced", folder / name, selection)


def num_rows(columns: Mapping[str, np.ndarray]) -> int:
    """Length of a table."""
    return len(next(iter(columns.values())))


def generate(
    out: Path, n: int, settings: Settings, *, workers: int, device: str = "cpu", steps: int | None = None
) -> None:
    """`cli.py generate`, as a user would call it; a stopped run goes on.

    Raises:
        ValueError: it failed; it has said why.
    """
    if (out / DATASET).exists():
        return
    words = ["generate", "--n", n, "--out", out, "--shard-size", settings["shard_size"], "--seed", settings["seed"],
             "--psi", settings["psi"], "--workers", workers, "--device", device]  # fmt: skip
    words += [] if steps is None else ["--steps", steps]
    done = subprocess.run([sys.executable, str(ROOT / "cli.py"), *map(str, words)], check=False)
    if done.returncode:
        raise ValueError(f"generate --out {out} ended with exit code {done.returncode}; its message is above")


def missing_seconds(state: Path, settings: Settings, datasets: Collection[str]) -> float:
    """CPU seconds that the generation still needs, roughly."""
    numbers = {"enhanced": int(settings["n"]), "raw": int(settings["samples"])}
    return sum(
        SECONDS[name] * (num - num_there(state / "shards" / name))
        for name, num in numbers.items()
        if set(GENERATED[name]) & set(datasets)
    )


def num_there(folder: Path) -> int:
    """Portraits in the committed shards of a folder that may not be there yet."""
    if not folder.is_dir():
        return 0
    return sum(int(fields["count"]) for fields in shards.read_shards(folder)[0].values())


def mean_expected(folder: Path) -> float:
    """Mean expected error (MAD x1000) of a dataset's portraits; below 0 where it is uncalibrated."""
    candidates = shards.read_statistics(folder).candidates
    return float(candidates.loc[candidates["key"] != "", "expected_mad"].mean())
