"""Connected parts of a mask, which scores and metrics count; the enhancement of photos needs them, too."""

from ..enhance.connected import largest_part, regions

__all__ = ["largest_part", "regions"]
