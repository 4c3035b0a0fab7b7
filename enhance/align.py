"""A photo and its aligned crop: where the crop lies, how it is cut, and how its matte comes back.

Alignment as FFHQ was made (Karras, Laine, Aila 2019, arXiv:1812.04948, section "FFHQ"; numbers from the data set's own
recipe). With e the vector from eye to eye, m the one from the eyes to the mouth, and J the quarter turn (x, y) ->
(-y, x) that takes "right" to "down": the half side of the square points along e - J m, so that eyes and mouth both
say which way is up, and is max(2.0 |e|, 1.8 |m|) long; its centre lies 0.1 m below the eyes.

A generator shows faces as it was shown them, so that the framing belongs to the generator.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, hypot
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .connected import largest_part
from .faces import Face, Point

ROWS_AT_ONCE = 16  # bounds the memory of a warp
FEATHER = 0.06  # of the crop's side: over which the crop's matte gives way to the photo's, and the photo's to 0


@dataclass(frozen=True, slots=True)
class Framing:
    """How much of a photo belongs to a portrait."""

    widen: float  # the square's side in units of FFHQ's
    down_mouth: float  # from the eyes to the centre, in vectors from the eyes to the mouth
    down_side: float  # and further down, in sides of the square


FRAMINGS = {
    "ffhq": Framing(widen=1.0, down_mouth=0.1, down_side=0.0),
    # The studio's portraits show 0.38 m at the face, with the eyes 46 % down (studio/camera.py). `widen` was measured:
    # over 40 of its test portraits the detector's FFHQ square has 0.697 of the picture's side.
    "studio": Framing(widen=1.434, down_mouth=0.0, down_side=0.04),
}


def framing_of(card: Mapping[str, Any]) -> Framing:
    """The framing of a generator: its card's, else the studio's for the studio's own, and FFHQ's for all others.

    Raises:
        ValueError: the card names one that is not known.
    """
    name = card.get("framing", "studio" if card.get("source") == "mattesmith studio" else "ffhq")
    if name not in FRAMINGS:
        raise ValueError(f"the generator's card has framing {name!r}; known: {', '.join(FRAMINGS)}")
    return FRAMINGS[name]


@dataclass(frozen=True, slots=True)
class Square:
    """A square in a photo, in pixels from the photo's top left corner; it may be turned and reach over the border."""

    centre: Point
    right: Point  # from the centre to the middle of the right side; a quarter turn of it points down

    @property
    def side(self) -> float:
        """In pixels of the photo."""
        return 2 * hypot(*self.right)

    def matrix(self, resolution: int) -> Tensor:
        """[2, 3] float64, crop -> photo: (x, y) = matrix @ (u, v, 1), both in pixels from their top left corners."""
        (x, y), (a, b) = self.centre, self.right
        step_a, step_b = 2 * a / resolution, 2 * b / resolution
        rows = [[step_a, -step_b, x - a + b], [step_b, step_a, y - b - a]]
        return torch.tensor(rows, dtype=torch.float64)


def whole(side: int) -> Square:
    """The square that is all of a square photo."""
    return Square((side / 2, side / 2), (side / 2, 0.0))


def square_of(face: Face, framing: Framing) -> Square:
    """The square around a face."""
    (eye_x, eye_y), (mouth_x, mouth_y) = face.eye_to_eye, face.eye_to_mouth
    x, y = eye_x + mouth_y, eye_y - mouth_x
    half = framing.widen * face.extent / hypot(x, y)
    right = (x * half, y * half)
    down = 2 * framing.down_side
    centre_x = face.eyes[0] + framing.down_mouth * mouth_x - down * right[1]
    centre_y = face.eyes[1] + framing.down_mouth * mouth_y + down * right[0]
    return Square((centre_x, centre_y), right)


def crop(photo: Tensor, square: Square, resolution: int) -> Tensor:
    """What a square shows of a photo [C, H, W]: [C, resolution, resolution].

    Beyond its border the photo is reflected, as FFHQ's were, so that there is no edge that a generator cannot make.
    """
    return warped(photo, square.matrix(resolution), (resolution, resolution), beyond="reflection")


def paste(matte: Tensor, square: Square, size: tuple[int, int], outside: Tensor | None = None) -> Tensor:
    """A crop's matte in the photo's frame.

    Args:
        matte: [1, R, R] in [0, 1].
        square: where the crop lies.
        size: height and width of the photo.
        outside: [1, H, W], the matte beyond the crop; of it stays what is connected with the crop's person (shoulders
            and hair go on there), since a network finds foreground of other things in a wide photo. Inside, towards
            the crop's border, the one passes into the other. None: 0 beyond, up to the border itself.

    Returns:
        [1, H, W] in [0, 1].
    """
    resolution = matte.shape[-1]
    back = inverted(square.matrix(resolution))
    inside = warped(matte, back, size, beyond="border")
    rows, columns = (torch.arange(n, dtype=torch.float32) + 0.5 for n in size)
    u, v = (back[i, 0] * columns[None] + back[i, 1] * rows[:, None] + back[i, 2] for i in (0, 1))  # [H, W]
    depth = torch.minimum(torch.minimum(u, resolution - u), torch.minimum(v, resolution - v)) / resolution
    if outside is None:
        return (inside * (depth >= 0)).clamp(0, 1)
    outside = outside * near_person(torch.where(depth >= 0, inside, outside), depth >= 0, FEATHER * square.side)
    weight = (depth / FEATHER).clamp(0, 1).to(matte.dtype)[None]
    return torch.lerp(outside, inside, weight).clamp(0, 1)


def near_person(alpha: Tensor, in_crop: Tensor, reach: float) -> Tensor:
    """1 at the person and at what is soft around it, falling to 0 over about `reach` pixels: [1, H, W].

    Args:
        alpha: [1, H, W] in [0, 1]; the person is the connected part above 0.5 with most pixels in the crop.
        in_crop: [H, W] bool.
    """
    size = alpha.shape[-2:]
    person = torch.from_numpy(largest_part((alpha[0] > 0.5).numpy(), within=in_crop.numpy())).to(alpha)
    # Over cells of that size, grown by one: everything in a cell of the person keeps all of its alpha.
    cells = F.adaptive_max_pool2d(person[None, None], [max(1, round(side / reach)) for side in size])
    grown = F.max_pool2d(cells, 3, stride=1, padding=1)
    return F.interpolate(grown, size=size, mode="bilinear", align_corners=False)[0]


def inverted(matrix: Tensor) -> Tensor:
    """The inverse of an affine map, both [2, 3]."""
    last = matrix.new_tensor([[0.0, 0.0, 1.0]])
    inverse: Tensor = torch.linalg.inv(torch.cat([matrix, last]))
    return inverse[:2]


def warped(image: Tensor, matrix: Tensor, size: tuple[int, int], *, beyond: str) -> Tensor:
    """An image seen through an affine map, each pixel the mean of bilinear samples at most one pixel apart.

    Args:
        image: [C, H, W] float32.
        matrix: [2, 3] float64, from the result's pixels to the image's.
        size: height and width of the result.
        beyond: what lies outside the image, "reflection" or "border".

    Returns:
        [C, *size].
    """
    height, width = size
    # The columns of a similarity are equally long: how far one pixel's step goes in the image.
    num = max(1, ceil(float(torch.linalg.vector_norm(matrix[:, 0])) - 1e-6))
    u = (torch.arange(width * num, dtype=torch.float64) + 0.5) / num
    strips = []
    for top in range(0, height, ROWS_AT_ONCE):
        num_rows = min(ROWS_AT_ONCE, height - top)
        v = top + (torch.arange(num_rows * num, dtype=torch.float64) + 0.5) / num
        xy = [row[0] * u[None] + row[1] * v[:, None] + row[2] for row in matrix]
        sides = (image.shape[2], image.shape[1])
        grid = torch.stack([2 * axis / side - 1 for axis, side in zip(xy, sides, strict=True)], -1)
        samples = F.grid_sample(
            image[None], grid[None].to(image), mode="bilinear", padding_mode=beyond, align_corners=False
        )
        strips.append(F.avg_pool2d(samples, num)[0])
    return torch.cat(strips, dim=1)
