"""How fast the enhancement is: ours beside the paper's loop, on the same networks, in one run.

    python bench/enhance.py --json enhance.json
    python bench/enhance.py --device cuda --size 256 --slots 64 --n 128 --json enhance.json

(a) the paper's loop, (b) ours for the same number of steps, both with the paper's objective and with our own,
(c) to the same objective, (d) the share of the counted floor, (e) scaling with batch, workers and resolution,
(f) where the time goes. On a CPU every rate is that of the whole machine: the paper's loop with all threads, ours as
one process a core; on a GPU ours is one process with many slots. Another size than the embedded generator's has random
weights, so that only times count. Wall time: leave the machine alone meanwhile.
"""

import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from math import inf
from pathlib import Path
from typing import Any

import click
import torch
from paper_loop import grouped_synthesis, paper_loop
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mattesmith import enhance as enhancing
from mattesmith import filters, gen, shards
from mattesmith.enhance import losses
from mattesmith.enhance.matting.folding import folded
from mattesmith.enhance.objective import PRESETS, Networks, Preset
from mattesmith.enhance.portrait import enter
from mattesmith.enhance.slots import Slots

ROOT = Path(__file__).parents[1]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PAPER = PRESETS["paper"]
OURS = PRESETS["default"]


def load(device: str = "cpu", size: int | None = None) -> Networks:
    """The embedded networks, on a device; of another size than theirs see `at_resolution`."""
    networks = Networks(
        gen.load_generator(), gen.load_discriminator(), enhancing.load_matting("default"), enhancing.load_perceptual()
    )
    if size is not None and size != networks.generator.resolution:
        networks = at_resolution(networks, size)
    return networks._replace(**{name: one.to(device) for name, one in networks._asdict().items() if one is not None})


def device_of(networks: Networks) -> torch.device:
    """Where they are."""
    return networks.generator.mean_w.device


def seconds_now(device: torch.device) -> float:
    """A clock that waits for what the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def candidates(networks: Networks, *, seed: int = 1, shard: int = 0) -> Iterator[gen.Sample]:
    """Without an end."""
    latents = (gen.draw_latents(seed, shard, index, z_dim=networks.generator.z_dim) for index in count())
    return gen.sample(networks.generator, latents, psi=0.8)


def never_done(preset: Preset, steps: int) -> Preset:
    """The preset with a fixed number of steps: no early stop."""
    return replace(preset, steps=steps, patience=steps + 1)


# (a) to (c)


def paper_seconds(networks: Networks, *, steps: int, num: int) -> float:
    """Wall seconds a step of the paper's loop with its own objective, on all cores."""
    torch.set_num_threads(CORES)
    samples = list(islice(candidates(networks), num + 1))
    list(paper_loop(samples[0], networks, PAPER, steps=1, lr=PAPER.lr_ws))  # fills the libraries' caches
    start = seconds_now(device_of(networks))
    for sample in samples[1:]:
        list(paper_loop(sample, networks, PAPER, steps=steps, lr=PAPER.lr_ws))
    return (seconds_now(device_of(networks)) - start) / (num * (steps + 1))


def worker(name: str, settings: dict[str, Any], num: int, shard: int, pipe: Any) -> None:
    """One process: says when it is warm, enhances `num` portraits when told to, and tells how long it took."""
    torch.set_num_threads(1)
    networks = load(settings.pop("device"), settings.pop("size"))
    device = device_of(networks)
    preset = never_done(PRESETS[name], settings.pop("steps"))
    stream = enhancing.enhance(candidates(networks, shard=shard), *networks, preset=preset, **settings)
    slots = settings.get("slots", 8)
    list(islice(stream, slots))  # the next portraits enter the slots only when they are asked for
    pipe.send("warm")
    pipe.recv()
    start = seconds_now(device)
    list(islice(stream, num))
    pipe.send(seconds_now(device) - start)


def our_rate(name: str, *, num: int, workers: int, **settings: Any) -> float:
    """Portraits a second of `workers` processes with one thread each; every one makes `num`."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for shard in range(workers):
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(name, dict(settings), num, shard, theirs)))
        processes[-1].start()
        pipes.append(mine)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("go")
    seconds = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return sum(num / each for each in seconds)


def to_our_objective(networks: Networks, *, num: int, max_steps: int) -> list[dict[str, float]]:
    """For some portraits: our objective as ours leaves it, and the paper's loop's steps until it is there (inf: never).

    The paper's loop minimises our objective here, with its own learning rate, and alternatively with ours.
    """
    torch.set_num_threads(CORES)
    samples = list(islice(candidates(networks, seed=2), num))
    rows = []
    for sample in samples:
        (one,) = enhancing.enhance([sample], *networks, preset=OURS, slots=1)
        row = {"before": one.losses["objective_before"], "reached": one.losses["objective_after"]}
        for label, lr, limit in (("paper lr", PAPER.lr_ws, max_steps), ("our lr", OURS.lr_ws, 60)):
            curve = paper_loop(sample, networks, OURS, steps=limit, lr=lr)
            row[label] = next((step for step, value in enumerate(curve) if value <= row["reached"]), inf)
        rows.append(row)
    return rows


# (d) and (f)


def parts(networks: Networks, *, batch: int) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """What one step runs: a function of its inputs, and the inputs that take a gradient."""
    samples = list(islice(candidates(networks), batch))
    ws = torch.stack([sample.ws for sample in samples]).requires_grad_(True)
    noise = [torch.stack(maps).requires_grad_(True) for maps in zip(*(s.noise for s in samples), strict=True)]
    image = torch.stack([sample.image for sample in samples]).contiguous(memory_format=torch.channels_last)
    image.requires_grad_(True)
    matting, side = folded(networks.matting), OURS.perceptual_px
    features = [each.detach() for each in losses.perceptual_features(networks.perceptual, image, max_side=side)]
    made: dict[str, tuple[Callable[[], Tensor], list[Tensor]]] = {
        "generator": (lambda: networks.generator.synthesis(ws, noise), [ws, *noise]),
        "matting": (lambda: matting(image), [image]),
        "perceptual": (lambda: losses.perceptual(networks.perceptual, image, features, max_side=side), [image]),
    }
    if OURS.recomposition:
        made["second view"] = (lambda: matting(image.flip(-1)), [image])
    if OURS.adversarial and (discriminator := networks.discriminator) is not None:
        made["discriminator"] = (lambda: losses.adversarial(discriminator, image), [image])

    def cast(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def cast_run() -> Tensor:
            with enhancing.autocast(device_of(networks).type):
                return run().float()

        return cast_run

    return {name: (cast(run), inputs) for name, (run, inputs) in made.items()}


def seconds_of(run: Callable[[], Any], device: torch.device, *, repeats: int = 5) -> float:
    """Least wall seconds of some calls."""
    run()
    times = []
    for _ in range(repeats):
        start = seconds_now(device)
        run()
        times.append(seconds_now(device) - start)
    return min(times)


def split_of_a_step(networks: Networks, *, batch: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds and counted GFLOP a portrait and step, forward and backward to the inputs, one thread, in the loop's
    precision."""
    torch.set_num_threads(1)
    times, flops = {}, {}
    for name, (run, inputs) in parts(networks, batch=batch).items():

        def both(run: Callable[[], Tensor] = run, inputs: list[Tensor] = inputs) -> None:
            torch.autograd.grad(run().sum(), inputs)

        times[name] = seconds_of(both, device_of(networks)) / batch * 1000
        with FlopCounterMode(display=False) as counter:
            run().sum().backward()  # the counter's hooks refuse `autograd.grad` with leaves
        flops[name] = counter.get_total_flops() / batch / 1e9
    return times, flops


def peak_gflops(device: torch.device) -> float:
    """GFLOP/s of one core, or of the GPU, in the best case here: a large matrix product in the loop's precision."""
    torch.set_num_threads(1)
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if enhancing.bf16_pays(device.type) else torch.float32
    a = torch.randn(side, side, dtype=dtype, device=device)
    return 2 * side**3 / seconds_of(lambda: a @ a, device) / 1e9


def split_of_a_portrait(networks: Networks, *, num: int) -> dict[str, float]:
    """Milliseconds a portrait of everything around the steps, one thread, and of the whole."""
    torch.set_num_threads(1)
    device = device_of(networks)
    second = enhancing.load_matting("second").to(device)
    times = dict.fromkeys(("sampling", "enhancing", "scoring", "encoding", "writing"), 0.0)

    def timed(name: str, run: Callable[[], Any]) -> Any:
        start = seconds_now(device)
        made = run()
        times[name] += (seconds_now(device) - start) / num * 1000
        return made

    stream = candidates(networks, seed=3)
    list(islice(stream, 8))
    samples = timed("sampling", lambda: list(islice(stream, num)))
    enhanced = timed("enhancing", lambda: list(enhancing.enhance(samples, *networks)))
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "out").open("wb") as file:
        for one in enhanced:
            scores = timed("scoring", lambda: filters.score(one, networks.matting, second, *networks[3:0:-2]))  # noqa: B023
            scored = filters.decide(one, scores)
            record = timed("encoding", lambda: shards.encode(scored, key="0" * 10))  # noqa: B023
            timed("writing", lambda: file.write(b"".join(record.files.values())))  # noqa: B023
    return times


# (e)


def step_seconds(networks: Networks, *, batch: int, steps: int = 4) -> float:
    """Wall seconds a portrait and step, one thread."""
    torch.set_num_threads(1)
    preset = never_done(OURS, 1000)
    device = device_of(networks)
    slots = Slots(batch, networks, preset, precision=enhancing.chosen_precision("auto", device.type))
    for slot, sample in enumerate(islice(candidates(networks), batch)):
        slots.fill(slot, enter(sample, networks, preset, enhancing.colour_gradient, order=slot))
    return seconds_of(slots.step, device, repeats=steps) / batch


def at_resolution(networks: Networks, resolution: int) -> Networks:
    """The same kinds of networks for another resolution, with random weights: only their time is asked for."""
    torch.manual_seed(0)
    own = networks.generator.architecture["channels"]
    channels = {2**k: own.get(2**k, own[128] // 2) for k in range(2, resolution.bit_length())}
    generator = gen.Generator(resolution=resolution, channels=channels, z_dim=networks.generator.z_dim,
                              w_dim=networks.generator.w_dim)  # fmt: skip
    discriminator = gen.Discriminator(resolution=resolution, channels=channels)
    frozen = [network.eval().requires_grad_(False).to(device_of(networks)) for network in (generator, discriminator)]
    return networks._replace(generator=frozen[0], discriminator=frozen[1])


def difference_of_generators(networks: Networks, sample: gen.Sample) -> float:
    """The largest difference between the paper's grouped kernels and our shared ones."""
    with torch.no_grad():
        image = grouped_synthesis(networks.generator, sample.ws[None], [map_[None] for map_ in sample.noise])
    return float((image[0].clamp(-1, 1) - sample.image).abs().max())


@click.command()
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Of (a) and (b).")
@click.option("--n", type=click.IntRange(8), default=16, show_default=True, help="Portraits a process of ours.")
@click.option(
    "--num-paper", type=click.IntRange(1), default=3, show_default=True, help="Portraits of the paper's loop."
)
@click.option("--num-equal", type=click.IntRange(0), default=3, show_default=True, help="Portraits of (c).")
@click.option("--max-steps", type=click.IntRange(1), default=500, show_default=True, help="Of the paper's loop in (c).")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--size", type=click.IntRange(64), help="Pixels, a power of two [default: the embedded generator's].")
@click.option("--slots", type=click.IntRange(1), default=8, show_default=True, help="Portraits in a batch of ours.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write all numbers.")
def main(
    steps: int, n: int, num_paper: int, num_equal: int, max_steps: int, device: str, size: int | None, slots: int,
    path: Path | None,
) -> None:  # fmt: skip
    """Print the tables."""
    try:
        enhancing.check_device(device)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    networks, processes = load(device, size), CORES if device == "cpu" else 1
    where: dict[str, Any] = {"device": device, "size": size, "slots": slots}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    machine = f"{os.uname().machine}, {CORES} cores{gpu}, torch {torch.__version__}, commit {commit.strip()}"
    made: dict[str, Any] = {"machine": machine, "load": os.getloadavg()[0], "steps": steps}
    print(f"{machine}, load {made['load']:.1f}; {networks.generator.resolution} px, {steps} steps")
    difference = difference_of_generators(networks, next(candidates(networks)))
    assert difference < 1e-4, f"the two generators differ by {difference}"

    one_step = paper_seconds(networks, steps=steps, num=num_paper)
    made["a"] = 1 / (one_step * steps)
    print(f"(a) paper's loop, {CORES} threads     {one_step * 1000:7.1f} ms a step  {made['a']:7.4f} portraits/s")
    for label, name, knobs in (
        ("b paper objective", "paper", {}),
        ("b our objective", "default", {}),
        ("b ours, compiled", "default", {"compiled": True}),
    ):
        made[label] = our_rate(name, num=n, workers=processes, steps=steps, **where, **knobs)
        ratio = made[label] / made["a"]
        print(f"({label:18}) {processes} x 1 thread {'':17} {made[label]:7.4f} portraits/s  {ratio:5.1f} x")
    if processes > 1:
        made["b ours, one worker"] = our_rate("default", num=n, workers=1, steps=steps, **where)
        made["workers"] = made["b our objective"] / made["b ours, one worker"]
        print(f"(e) {processes} workers against one: {made['workers']:.2f} x")

    early = our_rate("default", num=n, workers=processes, steps=OURS.steps, **where)
    rows = to_our_objective(networks, num=num_equal, max_steps=max_steps)
    made["c"] = rows
    for row in rows:
        ratios = {name: row[name] * one_step * early for name in ("paper lr", "our lr")}
        needed = ", ".join(
            f"{name} {row[name]:.0f} steps ({ratios[name]:.0f} x)" if row[name] < inf else f"{name}: not reached"
            for name in ratios
        )
        print(f"(c) objective {row['before']:.3f} -> {row['reached']:.3f}; the paper's loop gets there with {needed}")

    times, flops = split_of_a_step(networks, batch=slots)
    whole, peak = step_seconds(networks, batch=slots) * 1000, peak_gflops(device_of(networks))
    made |= {"times_ms": times, "gflop": flops, "step_ms": whole, "peak_gflops": peak}
    floor = sum(flops.values()) / peak * 1000
    print(f"(d) {sum(flops.values()):.2f} GFLOP a step, floor {floor:.1f} ms at {peak:.0f} GFLOP/s, "
          f"a step takes {whole:.1f} ms: the floor is {floor / whole:.0%} of it")  # fmt: skip
    for name, value in (*times.items(), ("other", whole - sum(times.values()))):
        print(f"(f) {name:14} {value:6.1f} ms a step, {value / whole:4.0%}" + (
            f", {flops[name]:.2f} GFLOP" if name in flops else ""))  # fmt: skip
    portrait = split_of_a_portrait(networks, num=n)
    made["portrait_ms"] = portrait
    for name, value in portrait.items():
        print(f"(f) {name:14} {value:6.1f} ms a portrait, {value / sum(portrait.values()):4.0%}")

    made["batch_ms"] = {batch: step_seconds(networks, batch=batch) * 1000 for batch in sorted({1, 2, 4, 8, 16, slots})}
    print("(e) batch      " + ", ".join(f"{batch}: {value:.1f} ms" for batch, value in made["batch_ms"].items()))
    made["resolution_ms"] = {
        side: step_seconds(at_resolution(networks, side), batch=slots // 2 or 1, steps=2) * 1000
        for side in (64, 128, 256)
    }
    print("(e) resolution " + ", ".join(f"{side}: {value:.1f} ms" for side, value in made["resolution_ms"].items()))
    if device == "cuda":
        made["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        print(f"peak memory of the steps above on the GPU: {made['peak_mib']:.0f} MiB")
    if path is not None:
        path.write_text(json.dumps(made, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
