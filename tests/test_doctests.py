"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("gen", "enhance", "filters", "shards", "finetune")
MODULES = [
    f"mattesmith.{file.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}"
    for stage in STAGES
    for file in sorted((ROOT / stage).rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0
