"""Matting networks trained and measured on mattes that are known."""

from .evaluate import evaluate, run, summary, table, write_json, write_worst
from .metrics import Measured, measure
from .networks import load_network
from .photos import photo_facts, true_alpha
from .pictures import Item, count_items, is_dataset, items
from .train import finetune

__all__ = [
    "Item",
    "Measured",
    "count_items",
    "evaluate",
    "finetune",
    "is_dataset",
    "items",
    "load_network",
    "measure",
    "photo_facts",
    "run",
    "summary",
    "table",
    "true_alpha",
    "write_json",
    "write_worst",
]
