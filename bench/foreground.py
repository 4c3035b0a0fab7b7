"""Whose colours are in soft hair? Foregrounds estimated from sRGB values and from linear light, against exact ones.

    python bench/foreground.py --n 100

Portraits of held-out people over drawn backgrounds, composited in linear light as a lens does. In the soft pixels
(2 to 98 %): the error of the foreground, weighted by the true alpha, and that of the portrait composited over another
background, also in linear light; both as a share of the range of colours. Once with the true matte, once with the
reference network's.
"""

from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mattesmith import enhance as enhancing
from mattesmith.enhance.light import LINEAR, decoded, encoded
from mattesmith.shards.backgrounds import drawn
from mattesmith.studio.composites import load_portraits

METHODS = {"sRGB": enhancing.estimate_foreground, "linear light": enhancing.foreground_method("fast")}


def over(foreground: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """A composite in linear light: sRGB colours [1, 3, H, W] in [-1, 1], rounded to the levels of a picture."""
    mixed = encoded(torch.lerp(decoded(background), decoded(foreground), alpha))
    return ((mixed + 1) * 127.5).round() / 127.5 - 1


@click.command()
@click.option("--renders", type=click.Path(path_type=Path, exists=True), default=Path(".studio/renders"))
@click.option("--n", type=click.IntRange(1), default=100, show_default=True, help="Portraits.")
@click.option("--size", type=int, default=128, show_default=True, help="Pixels.")
def main(renders: Path, n: int, size: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    portraits = load_portraits(renders, "val", size=size)
    matting = enhancing.load_matting("default")
    rng = np.random.default_rng(0)
    errors: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in tqdm(range(min(n, len(portraits.keys)))):
        own, other = (encoded(drawn(rng, size, size)[None] * 2 - 1) for _ in range(2))
        true = LINEAR[torch.from_numpy(portraits.foreground[row]).long()].permute(2, 0, 1)[None]
        foreground = encoded(true * 2 - 1)
        alpha = torch.from_numpy(portraits.alpha[row])[None, None].float() / 255
        soft = ((alpha > 0.02) & (alpha < 0.98)).float()
        image, wanted = over(foreground, alpha, own), over(foreground, alpha, other)
        with torch.no_grad():
            mattes = {"true matte": alpha, "network's matte": enhancing.final_matte(matting, image)}
        for whose, matte in mattes.items():
            for space, method in METHODS.items():
                found = method(image, matte)[0].clamp(-1, 1)
                off = (found - foreground).abs().mean(1, keepdim=True) / 2
                again = (over(found, matte, other) - wanted).abs().mean(1, keepdim=True) / 2
                pair = ((off * alpha * soft).sum() / (alpha * soft).sum(), (again * soft).sum() / soft.sum())
                errors.setdefault((whose, space), []).append((float(pair[0]), float(pair[1])))
    print(f"{'':16} {'estimated in':13} foreground  composite")
    for (whose, space), pairs in errors.items():
        colours, composites = np.mean(pairs, axis=0)
        print(f"{whose:16} {space:13} {colours:10.4f} {composites:10.4f}")


if __name__ == "__main__":
    main()
