"""Statistics as one HTML page that needs nothing else: no network, no scripts, no other files."""

import base64
import html
import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from .members import Problem, samples_of
from .sheet import smaller, tile
from .stats import Statistics, columns_measured, is_calibrated, tables

NUM_BINS = 32
MAX_SIDE_PX = 256  # of a picture: the page stays small enough to send
SHARES = ("share", "fell")  # columns shown in per cent
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60666c; --paper: #ffffff; --line: #d9dce0;
  --kept: #2f7d4f; --dropped: #c2571a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a0a6ad; --paper: #16181b; --line: #33373c; --kept: #5fbf86; --dropped: #f0935a;
    --bad: #ff8a80; } }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 500; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
figure img, figure svg { width: 100%; height: auto; display: block; } .kept { fill: var(--kept); }
.dropped { fill: var(--dropped); } svg text { fill: var(--soft); font: 10px system-ui, sans-serif; }
.key { display: inline-block; width: .8em; height: .8em; } .bad { color: var(--bad); }
"""


def report(out: Path, statistics: Statistics, *, num_shown: int = 12, rank_by: str | None = None, seed: int = 0) -> str:
    """The page, as text.

    Args:
        out: the dataset's folder, for the pictures.
        statistics: of that folder; problems met while reading the pictures are added to its problems.
        num_shown: pictures in each gallery.
        rank_by: column that tells best (lowest) from worst; chosen by `default_ranking` where it is None.
        seed: of the random gallery.
    """
    candidates = statistics.candidates
    kept = candidates[candidates["fate"] == "kept"]
    problems = statistics.problems
    title = f"{len(kept)} portraits kept of {len(candidates)} candidates"
    *first, last = (f"<h2>{html.escape(name)}</h2>{_table(table)}" for name, table in tables(statistics).items())
    galleries = _galleries(out, kept, problems, num_shown=num_shown, rank_by=rank_by, seed=seed)
    spread = f"<h2>How the measures spread</h2>{_legend()}<div class='grid'>{_histograms(candidates)}</div>"
    sections = "".join([*first, *galleries, spread, last])
    body = f"<h1>{html.escape(title)}</h1>{_problem_list(problems)}{sections}"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _problem_list(problems: list[Problem]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{html.escape(str(problem))}</li>" for problem in problems)
    return f"<h2 class='bad'>Problems</h2><p>These files could not be used; the rest is reported.</p><ul>{lines}</ul>"


def _table(table: pd.DataFrame) -> str:
    """A frame as HTML. Names come from files, so pandas' own escaping is not relied on."""
    names = [" ".join(str(part) for part in name) if isinstance(name, tuple) else str(name) for name in table.columns]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in [str(table.index.name or ""), *names])
    rows = (
        f"<tr><td>{html.escape(str(name))}</td>{''.join(_cell(*cell) for cell in zip(names, row, strict=True))}</tr>"
        for name, row in zip(table.index, table.itertuples(index=False), strict=True)
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _cell(column: str, cell: float | int | str) -> str:
    text = f"{cell:.1%}" if column in SHARES and isinstance(cell, float) else number(cell)
    return f"<td>{html.escape(text)}</td>"


def number(cell: float | int | str) -> str:
    """A cell as read by people: four significant digits, a dash for what is unknown."""
    if isinstance(cell, str):
        return cell
    if not math.isfinite(cell):
        return "-"
    return str(int(cell)) if float(cell).is_integer() and abs(cell) < 1e9 else f"{cell:.4g}"


def _legend() -> str:
    swatches = (
        f"<span class='key' style='background: var(--{fate})'></span> {fate} &nbsp; " for fate in ("kept", "dropped")
    )
    return f"<p>{''.join(swatches)}</p>"


def _histograms(candidates: pd.DataFrame) -> str:
    kept = (candidates["fate"] == "kept").to_numpy()
    columns = ((name, candidates[name].to_numpy(float)) for name in columns_measured(candidates))
    return "".join(_histogram(str(name), values, kept) for name, values in columns)


def _histogram(name: str, values: np.ndarray, kept: np.ndarray) -> str:
    """Bars of kept with those of dropped on top, between the extremes that occur."""
    finite = np.isfinite(values)
    if not finite.any():
        return ""
    low, high = float(values[finite].min()), float(values[finite].max())
    if low == high:
        return f"<figure><figcaption>{html.escape(f'{name}: {number(low)} in all')}</figcaption></figure>"
    edges = np.linspace(low, high, NUM_BINS + 1)
    below = np.histogram(values[finite & kept], edges)[0]
    above = np.histogram(values[finite & ~kept], edges)[0]
    scale = 90 / max(int((below + above).max()), 1)
    bars = "".join(_bar(index, below[index] * scale, above[index] * scale) for index in range(NUM_BINS))
    labels = (
        f"<text x='0' y='112'>{html.escape(number(low))}</text>"
        f"<text x='256' y='112' text-anchor='end'>{html.escape(number(high))}</text>"
    )
    caption = f"{name}, {int(finite.sum())} values"
    if not finite.all():
        caption += f", {int((~finite).sum())} not finite"
    label = html.escape(name, quote=True)
    picture = f"<svg viewBox='0 0 256 116' role='img' aria-label='{label}'>{bars}{labels}</svg>"
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _bar(index: int, below: float, above: float) -> str:
    rects = []
    for fate, height, bottom in (("kept", below, 100.0), ("dropped", above, 100.0 - below)):
        if height:
            box = f"x='{index * 8}' y='{bottom - height:.2f}' width='7' height='{height:.2f}'"
            rects.append(f"<rect class='{fate}' {box}/>")
    return "".join(rects)


def _galleries(
    out: Path, kept: pd.DataFrame, problems: list[Problem], *, num_shown: int, rank_by: str | None, seed: int
) -> Iterable[str]:
    """Best, worst and random kept portraits; what cannot be read is added to the problems."""
    if kept.empty:
        return []
    chosen = {"Picked at random": kept.sample(min(num_shown, len(kept)), random_state=seed)}
    rank_by = rank_by or default_ranking(kept)
    if rank_by is not None:
        ranked = kept.sort_values([rank_by, "key"])
        chosen = {
            f"Best by {rank_by} (lowest)": ranked.head(num_shown),
            f"Worst by {rank_by} (highest)": ranked.tail(num_shown)[::-1],
            **chosen,
        }
    pictures = _pictures(out, pd.concat(chosen.values()), problems)
    return [
        f"<h2>{html.escape(name)}</h2><p>Image, matte, over a checkerboard, over a colour.</p>"
        f"<div class='grid'>{''.join(_figures(rows, pictures, rank_by))}</div>"
        for name, rows in chosen.items()
    ]


def default_ranking(kept: pd.DataFrame) -> str | None:
    """The column portraits are ranked by: the expected error where there is one, or else what doubts the matte most."""
    if is_calibrated(kept):
        return "expected_mad"
    for name in ("agreement", "recomposition", "stability", "certainty"):
        if f"scores.{name}" in kept:
            return f"scores.{name}"
    return None


def _pictures(out: Path, rows: pd.DataFrame, problems: list[Problem]) -> dict[str, str]:
    """Key -> PNG as a data URL; a key does not tell its tar, since a selection keeps the keys of its parent."""
    pictures: dict[str, str] = {}
    for number, keys in rows.groupby("tar")["key"]:
        name, wanted = f"{number:05d}.tar", set(keys)
        try:
            for key, files in samples_of(out / name):
                if key in wanted:
                    pictures[key] = data_url(smaller(tile(files), MAX_SIDE_PX))
        except Exception as error:  # whatever broken bytes raise, this shard is named and the others are shown
            problems.append(Problem(name, "", f"its pictures cannot be shown: {error}"))
    return pictures


def data_url(rgb: np.ndarray) -> str:
    """[H, W, 3] uint8 -> a PNG inside a URL."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _figures(rows: pd.DataFrame, pictures: dict[str, str], rank_by: str | None) -> Iterable[str]:
    for row in rows.to_dict("records"):
        key = str(row["key"])
        if key not in pictures:
            continue
        caption = key if rank_by is None else f"{key}, {rank_by} {number(row[rank_by])}"
        caption = html.escape(caption, quote=True)
        yield f"<figure><img src='{pictures[key]}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"
