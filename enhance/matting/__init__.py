"""Matting networks: one published network a file, and `load_matting` that freezes any of them behind one call."""

from .checkpoint import save_network
from .known import MATTING_FILES, matting_name
from .load import Matting, load_matting

__all__ = ["MATTING_FILES", "Matting", "load_matting", "matting_name", "save_network"]
