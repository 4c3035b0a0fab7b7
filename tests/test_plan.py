"""Promises of the plan: exact counts, candidate order, a clear end to a hopeless shard."""

from collections.abc import Iterator

import pytest
import torch

from mattesmith.enhance import Enhanced
from mattesmith.filters import Scored
from mattesmith.gen import Latents, Sample
from mattesmith.shards import TooFewKept, fill_shard, key_of, plan


def portrait(candidate: int, dropped_by: str | None) -> Scored:
    image = torch.zeros(3, 2, 2)
    sample = Sample(Latents(7, 3, candidate, torch.zeros(4)), torch.zeros(2, 4), (), image)
    enhanced = Enhanced(sample, sample.ws, (), image, torch.zeros(1, 2, 2), image, {"entropy": 1.0}, 2)
    return Scored(enhanced, {"certainty": 0.5}, -1.0, dropped_by)


def portraits(reasons: list[str | None]) -> Iterator[Scored]:
    return (portrait(candidate, reason) for candidate, reason in enumerate(reasons))


@pytest.mark.parametrize("n, shard_size", [(0, 5), (1, 5), (5, 5), (6, 5), (7, 1), (99, 10)])
def test_quotas_add_up_to_n_and_only_the_last_is_smaller(n: int, shard_size: int) -> None:
    shards = plan(n, shard_size)
    assert [shard for shard, _ in shards] == list(range(len(shards)))
    assert sum(quota for _, quota in shards) == n
    assert all(quota == shard_size for _, quota in shards[:-1])
    assert all(1 <= quota <= shard_size for _, quota in shards)


@pytest.mark.parametrize("n, shard_size", [(-1, 5), (5, 0), (5, 100_001), (10**9, 10)])
def test_an_impossible_plan_is_refused(n: int, shard_size: int) -> None:
    with pytest.raises(ValueError, match=r"must be|larger shard_size"):
        plan(n, shard_size)


def test_keys_sort_as_the_portraits_stand_and_hold_no_dot() -> None:
    keys = [key_of(shard, rank) for shard in (0, 1, 12345) for rank in (0, 9, 10, 99_999)]
    assert keys == sorted(keys)
    assert {len(key) for key in keys} == {10}
    assert all(key.isdecimal() for key in keys)


def test_the_first_accepted_candidates_fill_the_quota_and_no_more_are_drawn() -> None:
    source = portraits(["holes", None, None, "holes", None, None])
    candidates = list(fill_shard(3, 3, source, max_candidates=100))
    assert [candidate.row["candidate"] for candidate in candidates] == [0, 1, 2, 3, 4]
    assert [candidate.key for candidate in candidates] == ["", "0000300000", "0000300001", "", "0000300002"]
    assert next(source).enhanced.sample.latents.candidate == 5


def test_every_candidate_has_a_row_with_all_its_numbers() -> None:
    candidates = list(fill_shard(3, 1, portraits(["holes", None]), max_candidates=2))
    common = {"seed": 7, "shard": 3, "steps": 2, "expected_mad": -1.0, "losses.entropy": 1.0, "scores.certainty": 0.5}
    assert candidates[0].row == {**common, "candidate": 0, "key": "", "dropped_by": "holes"}
    assert candidates[1].row == {**common, "candidate": 1, "key": "0000300000", "dropped_by": ""}


def test_a_hopeless_shard_ends_with_the_histogram_of_reasons() -> None:
    source = portraits([None, "holes", "attack", "holes", None])
    message = r"shard 00003: only 1 of 2 kept after 4 candidates \(dropped: holes 2, attack 1\); .* smaller psi"
    with pytest.raises(TooFewKept, match=message):
        list(fill_shard(3, 2, source, max_candidates=4))


def test_candidates_that_run_out_are_named() -> None:
    with pytest.raises(TooFewKept, match="no more candidates came"):
        list(fill_shard(3, 2, portraits([None, "holes"]), max_candidates=10))


def test_an_empty_quota_draws_nothing() -> None:
    source = portraits([None])
    assert list(fill_shard(3, 0, source, max_candidates=10)) == []
    assert next(source) is not None


def test_candidates_out_of_order_are_a_programmers_mistake() -> None:
    with pytest.raises(AssertionError, match="in order"):
        list(fill_shard(3, 2, iter([portrait(1, None)]), max_candidates=10))
