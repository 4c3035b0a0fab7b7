"""Charts of a few curves, drawn with Pillow: what a training or a calibration has to show needs no plotting library."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..shards.sheet import save_picture

SIZE = (720, 480)
LEFT, TOP, RIGHT, BOTTOM = 76, 44, 20, 56  # margins, px
COLOURS = ((31, 87, 166), (214, 96, 24), (40, 130, 70), (130, 60, 140))
INK, GRID = (40, 40, 40), (224, 224, 224)
FONT_PX = 13


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; points that are not finite are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False  # points alone, not joined


def ticks(low: float, high: float, *, num: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at most `low` to at least `high`.

    >>> ticks(0, 9.3)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1)
    rough = (high - low) / (num - 1)
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = floor(low / step + 1e-9)
    last = -floor(-high / step + 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)]


def save_chart(
    path: Path, lines: Sequence[Line], *, title: str, x_label: str, y_label: str, from_zero: bool = False
) -> None:
    """Writes a PNG of curves over common axes.

    Args:
        lines: at least one point in all.
        from_zero: whether both axes start at 0.
    """
    shown = [[(x, y) for x, y in zip(line.x, line.y, strict=True) if isfinite(x) and isfinite(y)] for line in lines]
    xs, ys = ([point[axis] for points in shown for point in points] for axis in (0, 1))
    if not xs:
        raise ValueError(f"a chart needs at least one point, {path.name} has none")
    origin = [0.0] if from_zero else []
    x_ticks, y_ticks = (ticks(min(values + origin), max(values + origin)) for values in (xs, ys))

    picture = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_PX)
    width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + width * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]),
            TOP + height * (1 - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])),
        )

    # The axes.
    for tick in x_ticks:
        x, _ = place(tick, y_ticks[0])
        draw.line([(x, TOP), (x, TOP + height)], GRID)
        draw.text((x, TOP + height + 6), f"{tick:g}", INK, font, anchor="ma")
    for tick in y_ticks:
        _, y = place(x_ticks[0], tick)
        draw.line([(LEFT, y), (LEFT + width, y)], GRID)
        draw.text((LEFT - 6, y), f"{tick:g}", INK, font, anchor="rm")
    draw.rectangle([LEFT, TOP, LEFT + width, TOP + height], outline=INK)
    draw.text((LEFT + width / 2, SIZE[1] - 8), x_label, INK, font, anchor="ms")
    draw.text((LEFT, 8), title, INK, ImageFont.load_default(FONT_PX + 2), anchor="la")
    draw.text((LEFT, TOP - 4), y_label, INK, font, anchor="ls")

    # The curves and their names, these above the right end of the axes.
    right = float(LEFT + width)
    for index, (line, points) in enumerate(zip(lines, shown, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        corners = [place(*point) for point in points]
        if len(corners) > 1 and not line.dots:
            draw.line(corners, colour, 2)
        for x, y in corners if line.dots or len(corners) < 40 else ():
            draw.ellipse([x - 2.5, y - 2.5, x + 2.5, y + 2.5], colour)
    for index in reversed(range(len(lines))):
        draw.text((right, TOP - 4), lines[index].label, COLOURS[index % len(COLOURS)], font, anchor="rs")
        right -= round(font.getlength(lines[index].label)) + 16
    save_picture(path, picture)
