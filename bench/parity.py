"""How far our networks are from the public ones: every recorded number, with weights made from the key names alone.

    python bench/parity.py

Largest absolute difference of every output in every case, and of the norm of the gradient to the input, relative.
The records are those of the tests (tests/data/parity), which hold them to 1e-4 (discriminators 1e-5) and 1e-2.
"""

import json
import os
import runpy
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mattesmith.enhance.matting import load_matting
from mattesmith.gen import load_discriminator, load_generator

ROOT = Path(__file__).parents[1]
PACKS = ROOT / "tests" / "data" / "parity"
FILL = runpy.run_path(str(ROOT / "tests" / "fill.py"))
# name on the command line -> (pack, prefix of the published keys, recorded output whose gradient was taken)
MATTING = {
    "modnet": ("modnet", "module.", "matte"),
    "gca": ("gca", "module.", "alpha"),
    "indexnet": ("indexnet", "module.", "alpha"),
    "dim": ("dim", "", "alpha"),
    "p3m": ("p3m", "", "local"),
    "deeplab": ("deeplab_trimap", "", "logits"),
}


def pack(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """State dict, recorded arrays and manifest of a pack."""
    manifest = json.loads((PACKS / name / "manifest.json").read_text())
    state = {key: torch.from_numpy(np.array(value)) for key, value in FILL["state"](manifest["keys"]).items()}
    for key, entry in manifest["keys"].items():
        if "post_scale" in entry:
            state[key] = state[key] * entry["post_scale"]
    recorded = {key: torch.from_numpy(np.array(value)) for key, value in np.load(PACKS / name / "io.npz").items()}
    return state, recorded, manifest


def matting_rows(name: str, file: Path) -> None:
    """Prints the rows of one matting network."""
    folder, prefix, differentiated = MATTING[name]
    state, recorded, manifest = pack(folder)
    torch.save({prefix + key: value for key, value in state.items()}, file)
    network = load_matting(f"{name}:{file}").network
    for case in manifest["cases"]:
        fed = [recorded[f"{case}/{part}"] for part in ("image", "trimap") if f"{case}/{part}" in recorded]
        fed = fed if name == "gca" else [recorded[f"{case}/input"]]
        first = fed[0].clone().requires_grad_()
        found = network(first, *fed[1:])
        outputs = found._asdict() if hasattr(found, "_asdict") else {differentiated: found}
        outputs |= {"global": outputs["logits"]} if name == "p3m" else {}
        off = {
            key: float((value.detach() - recorded[f"{case}/{key}"]).abs().max())
            for key, value in outputs.items()
            if f"{case}/{key}" in recorded
        }
        target = outputs[differentiated]
        target = target.softmax(1)[:, 1] if differentiated == "logits" else target
        (gradient,) = torch.autograd.grad(target.sum(), first)
        norm = float(recorded[f"{case}/input_grad_norm"])
        relative = abs(float(gradient.double().norm()) / norm - 1)
        print(f"{name:24} {case:10} {max(off.values()):.1e} of {', '.join(off):28} gradient norm {relative:.1e}")


def generator_rows(layout: str, file: Path) -> None:
    """Prints the rows of one layout's generator and discriminator."""
    state, recorded, _ = pack(f"stylegan2_{layout}_g")
    wrapped = (
        {"g_ema": state, "latent_avg": recorded["latent_avg"]} if layout == "rosinality" else {"state_dict": state}
    )
    torch.save(wrapped, file)
    generator = load_generator(file)
    noise = [recorded[f"noise_{i}"] for i in range(9)] if layout == "rosinality" else "const"
    with torch.no_grad():
        made = {
            "w": generator.mapping(recorded["z"])[:, 0],
            "image": generator.synthesis(recorded["ws"], noise),
            "image_trunc": generator.synthesis(generator.mapping(recorded["z"], psi=0.7), noise),
        }
    for key, value in made.items():
        print(f"{'stylegan2 ' + layout:24} {key:10} {float((value - recorded[key]).abs().max()):.1e}")
    state, recorded, _ = pack(f"stylegan2_{layout}_d")
    torch.save({"d": state}, file)
    with torch.no_grad():
        off = (load_discriminator(file)(recorded["images"]) - recorded["logits_batch4"]).abs().max()
    print(f"{'stylegan2 ' + layout:24} {'logits':10} {float(off):.1e}")


def main() -> None:
    """Print the table."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{os.uname().machine}, {os.cpu_count()} cores, torch {torch.__version__}, commit {commit.strip()}")
    with tempfile.TemporaryDirectory() as folder:
        for layout in ("rosinality", "nvidia"):
            generator_rows(layout, Path(folder) / "file.pt")
        for name in MATTING:
            matting_rows(name, Path(folder) / "file.pt")


if __name__ == "__main__":
    main()
