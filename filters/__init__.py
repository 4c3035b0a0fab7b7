"""What is known about a portrait's matte without the truth, and what is kept."""

from .calibration import UNCALIBRATED, Calibration, bound_to, calibration_file, find_calibration
from .decide import Scored, decide, is_hopeless
from .scores import score

__all__ = [
    "UNCALIBRATED",
    "Calibration",
    "Scored",
    "bound_to",
    "calibration_file",
    "decide",
    "find_calibration",
    "is_hopeless",
    "score",
]
