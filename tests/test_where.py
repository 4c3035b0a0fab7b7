"""Conditions: what they select, and that nothing but the grammar gets through."""

import numpy as np
import pytest

from mattesmith.filters.where import where

COLUMNS = {
    "coverage": np.array([0.1, 0.3, 0.5, 0.9]),
    "holes": np.array([0.0, 0.02, 0.0, 0.02]),
    "losses.entropy_after": np.array([-1.0, 0.0, 1.0, np.nan]),
}


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("coverage > 0.3", [2, 3]),
        ("coverage>=.3", [1, 2, 3]),
        ("0.1 < coverage <= 5e-1", [1, 2]),
        ("coverage < 0.2 or coverage > 0.4 and holes > 0", [0, 3]),  # `and` binds tighter
        ("(coverage < 0.2 or coverage > 0.4) and holes > 0", [3]),
        ("not coverage < 0.2 and holes == 0", [2]),  # `not` binds tighter still
        ("not not holes != 0", [1, 3]),
        ("not (holes > 0 or coverage > 0.4)", [0]),
        ("losses.entropy_after > -1", [1, 2]),  # what is not a number fulfils nothing
        ("coverage > holes", [0, 1, 2, 3]),
        ("1 < 2", [0, 1, 2, 3]),
    ],
)
def test_a_condition_selects_its_rows(condition: str, rows: list[int]) -> None:
    assert np.flatnonzero(where(condition, COLUMNS)).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("coverag > 0.2", "no score 'coverag'; did you mean coverage"),
        ("zzz > 0.2", "no score 'zzz'; known: coverage, holes"),
        ("", "found its end"),
        ("coverage", "needed a comparison"),
        ("coverage > 0.2 0.3", "found '0.3' at column 16"),
        ("coverage > and holes > 0", "found 'and'"),
        ("(coverage > 0.2", "found its end"),
        ("coverage > 0.2)", "found '\\)'"),
        ("coverage = 0.2", "cannot read '= 0.2'"),
        ("coverage > 0.2 + 0.1", "cannot read '\\+ 0.1'"),
        ("coverage > 1.2.3", "cannot read '1.2.3'"),
        ("coverage > 0x10", "cannot read '0x10'"),
        ("coverage > -holes", "needed a number"),
        ("(" * 10_000 + "coverage > 0", "nested parentheses"),
        ("__import__('os').system('id') > 0", "no score '__import__'"),
        ("coverage.__class__ > 0", "no score 'coverage.__class__'"),
        ("[c for c in coverage] > 0", "cannot read '\\[c for"),
    ],
)
def test_anything_else_is_refused_by_name_and_place(condition: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        where(condition, COLUMNS)


def test_ten_thousand_nots_are_no_recursion() -> None:
    assert where("not " * 10_000 + "holes > 0", COLUMNS).tolist() == [False, True, False, True]
