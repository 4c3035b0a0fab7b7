"""What is known about a portrait's matte without the truth, and what is kept."""

from .decide import Scored, decide
from .scores import score

__all__ = ["Scored", "decide", "score"]
