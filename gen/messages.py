"""Words from a file inside an error's one line: short, printable, and cheap whatever the file holds."""

from collections.abc import Iterable
from typing import Any

MAX_SHOWN = 160


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """The beginning of a text in one line; what a terminal would obey or cannot show becomes a question mark.

    >>> printable("a\\n b\\x1b[2J")
    'a b?[2J'
    """
    line = " ".join(text[: 4 * limit].split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:limit]


def one_line(error: Exception) -> str:
    """The beginning of an error's message, or its type where it has none."""
    return printable(str(error)) or type(error).__name__


def shown(value: Any) -> str:
    """A value of a file; of anything but a word or a number only its type, whose text could be endless."""
    if type(value) is str:
        return repr(value[:40])
    if value is None or type(value) in (bool, float) or (type(value) is int and value.bit_length() < 64):
        return repr(value)
    return f"a {type(value).__name__}"


def first_of(names: Iterable[Any]) -> str:
    """The first three names and how many follow."""
    listed = sorted(printable(name if isinstance(name, str) else shown(name), 80) for name in names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
