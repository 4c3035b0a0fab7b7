"""Matting networks: one published network a file, and `load_matting` that freezes any of them behind one call."""

from .checkpoint import save_network
from .load import Matting, load_matting

__all__ = ["Matting", "load_matting", "save_network"]
