"""Which shards there are, and which candidates go into one."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..filters import Scored

MAX_PER_SHARD = 100_000  # five digits of a key hold the rank


class TooFewKept(ValueError):
    """A shard's bound on candidates was passed before its quota of kept portraits was reached."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One candidate with its fate."""

    scored: Scored
    key: str  # "" when dropped
    row: dict[str, int | float | str]  # its line in the shard's parquet file


def plan(n: int, shard_size: int) -> list[tuple[int, int]]:
    """Shards and their quotas of kept portraits; the quotas add up to n exactly.

    >>> plan(5, 2)
    [(0, 2), (1, 2), (2, 1)]
    """
    if n < 0:
        raise ValueError(f"n must be 0 or more, got {n}")
    if not 1 <= shard_size <= MAX_PER_SHARD:
        raise ValueError(f"shard_size must be between 1 and {MAX_PER_SHARD}, got {shard_size}")
    num_shards = -(-n // shard_size)
    if num_shards > 100_000:
        raise ValueError(f"{n} portraits in shards of {shard_size} are {num_shards} shards; use a larger shard_size")
    return [(shard, min(shard_size, n - shard * shard_size)) for shard in range(num_shards)]


def key_of(shard: int, rank: int) -> str:
    """Fixed width, digits only, unique over the dataset.

    >>> key_of(3, 12)
    '0000300012'
    """
    return f"{shard:05d}{rank:05d}"


def fill_shard(shard: int, quota: int, portraits: Iterator[Scored], *, max_candidates: int) -> Iterator[Candidate]:
    """Candidates in candidate order until `quota` of them are kept.

    Args:
        shard: number of the shard, for keys and messages.
        quota: how many portraits to keep.
        portraits: candidates 0, 1, 2, ... of this shard; no more are drawn once the quota is reached.
        max_candidates: give up after so many.

    Raises:
        TooFewKept: with the histogram of reasons.
    """
    reasons: Counter[str] = Counter()
    kept = 0
    for index in range(max_candidates if quota else 0):
        scored = next(portraits, None)
        if scored is None:
            raise TooFewKept(_shortage(shard, quota, kept, index, reasons) + "; no more candidates came")
        assert scored.enhanced.sample.latents.candidate == index, "candidates must come in order, without a gap"
        key = "" if scored.dropped_by else key_of(shard, kept)
        yield Candidate(scored, key, _row(scored, key))
        if scored.dropped_by:
            reasons[scored.dropped_by] += 1
        else:
            kept += 1
        if kept == quota:
            return
    if kept < quota:
        shortage = _shortage(shard, quota, kept, max_candidates, reasons)
        advice = "raise max_expected_mad if expected_mad drops most, else use a smaller psi or other networks"
        raise TooFewKept(f"{shortage}; {advice}")


def _shortage(shard: int, quota: int, kept: int, num_candidates: int, reasons: Counter[str]) -> str:
    histogram = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "none"
    return f"shard {shard:05d}: only {kept} of {quota} kept after {num_candidates} candidates (dropped: {histogram})"


def _row(scored: Scored, key: str) -> dict[str, int | float | str]:
    """The candidate's line: flat, its columns named as pandas' `json_normalize` names a sample's JSON."""
    enhanced = scored.enhanced
    latents = enhanced.sample.latents
    row: dict[str, int | float | str] = {
        "seed": int(latents.seed),
        "shard": int(latents.shard),
        "candidate": int(latents.candidate),
        "key": key,
        "dropped_by": scored.dropped_by or "",
        "steps": int(enhanced.steps),
        "expected_mad": float(scored.expected_mad),
    }
    row |= {f"losses.{name}": float(loss) for name, loss in enhanced.losses.items()}
    return row | {f"scores.{name}": float(score) for name, score in scored.scores.items()}
