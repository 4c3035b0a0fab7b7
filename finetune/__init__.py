"""Matting networks measured on mattes that are known."""

from .evaluate import evaluate, run, summary, table, write_json, write_worst
from .metrics import Measured, measure
from .pictures import Item, count_items, is_dataset, items

__all__ = [
    "Item",
    "Measured",
    "count_items",
    "evaluate",
    "is_dataset",
    "items",
    "measure",
    "run",
    "summary",
    "table",
    "write_json",
    "write_worst",
]
