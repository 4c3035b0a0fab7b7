"""Conditions on scores as text: "coverage > 0.2 and not (holes > 0.01 or 0.1 <= realism < 2)".

    or:    and ("or" and)*
    and:   not ("and" not)*
    not:   "not"* test
    test:  "(" or ")"  |  value (comparison value)+          a < b < c holds where a < b and b < c
    value: NAME | ["-"] NUMBER

Nothing of the text is ever run as code: what the grammar does not know is refused.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Column = NDArray[np.float64] | float

TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))|(?P<name>[A-Za-z_]\w*(?:\.\w+)*)"
    r"|(?P<sign><=|>=|==|!=|<|>|\(|\)|-))"
)
COMPARISONS: Mapping[str, Callable[[Column, Column], Mask]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
WORDS = ("and", "or", "not")
MAX_DEPTH = 50  # of parentheses
END = ("end", "")


def where(condition: str, columns: Mapping[str, NDArray[np.float64]]) -> Mask:
    """Rows for which a condition holds.

    Args:
        condition: the text.
        columns: numbers by name, [N] each; what is not a number fulfils no comparison but !=.

    Returns:
        [N].

    Raises:
        ValueError: one line that names the place or the name, and the nearest known one.

    >>> where("0.2 < coverage < 0.9 and not holes > 0", {"coverage": np.array([0.1, 0.5]), "holes": np.zeros(2)})
    array([False,  True])
    """
    parser = _Parser(condition, columns)
    found = parser.either()
    if parser.token != END:
        raise parser.unexpected("the end, `and` or `or`")
    return np.broadcast_to(found, (len(next(iter(columns.values()), ())),)).copy()  # one of numbers alone is a scalar


def column(name: str, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """The column of a name; a misspelt one is named with the nearest known one."""
    if name not in columns:
        near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "known: " + (", ".join(columns) or "none")
        raise ValueError(f"there is no score {name!r}; {hint}")
    return columns[name]


class _Parser:
    """Recursive descent with one token of look-ahead."""

    def __init__(self, text: str, columns: Mapping[str, NDArray[np.float64]]) -> None:
        self.text, self.columns = text.rstrip(), columns
        self.at, self.end, self.depth = 0, 0, 0  # where the present token starts and ends
        self.token = END
        self.advance()

    def advance(self) -> str:
        """Goes to the next token; returns the text of the one left behind."""
        left = self.token[1]
        self.at = self.end
        if self.end == len(self.text):
            self.token = END
            return left
        match = TOKEN.match(self.text, self.end)
        if not match:
            place = self.text[self.end :].lstrip()[:12]
            raise ValueError(f"condition {self.text!r}: cannot read {place!r}; {self.grammar()}")
        kind = str(match.lastgroup)
        self.at, self.end, self.token = match.start(kind), match.end(), (kind, match[kind])
        return left

    @staticmethod
    def grammar() -> str:
        return "use names of scores, numbers, < <= > >= == !=, and, or, not, parentheses"

    def unexpected(self, wanted: str) -> ValueError:
        """What to raise where something else was needed."""
        found = f"{self.token[1]!r} at column {self.at + 1}" if self.token != END else "its end"
        return ValueError(f"condition {self.text!r}: needed {wanted}, found {found}")

    def either(self) -> Mask:
        found = self.both()
        while self.token == ("name", "or"):
            self.advance()
            found = found | self.both()
        return found

    def both(self) -> Mask:
        found = self.negated()
        while self.token == ("name", "and"):
            self.advance()
            found = found & self.negated()
        return found

    def negated(self) -> Mask:
        turned = False
        while self.token == ("name", "not"):
            self.advance()
            turned = not turned
        found = self.test()
        return ~found if turned else found

    def test(self) -> Mask:
        if self.token == ("sign", "("):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise ValueError(f"condition {self.text[:40]!r}...: more than {MAX_DEPTH} nested parentheses")
            self.advance()
            found = self.either()
            if self.token != ("sign", ")"):
                raise self.unexpected("`)`, `and` or `or`")
            self.advance()
            self.depth -= 1
            return found
        left = self.value()
        if self.token[1] not in COMPARISONS:
            raise self.unexpected("a comparison (< <= > >= == !=)")
        found = np.ones((), np.bool_)
        while self.token[1] in COMPARISONS:
            compare = COMPARISONS[self.advance()]
            right = self.value()
            found = found & compare(left, right)
            left = right
        return found

    def value(self) -> Column:
        negative = self.token == ("sign", "-")
        if negative:
            self.advance()
        kind, text = self.token
        if kind == "number":
            self.advance()
            return -float(text) if negative else float(text)
        if kind != "name" or text in WORDS or negative:
            raise self.unexpected("a number" if negative else "a score or a number")
        self.advance()
        return column(text, self.columns)
