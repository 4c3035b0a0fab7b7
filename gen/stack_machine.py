"""A machine of our own for pickles, which makes plain values and never imports or calls what a file names.

A pickle is a program for a stack machine (the opcodes are those of Python's pickletools, which also splits the file).
This one knows the opcodes that hold values. A name becomes a `Word` of its caller's vocabulary or is refused; all it
makes is bounded by the length of the file, so that a small file cannot fill the memory or hold up the process.
"""

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .messages import printable, shown

MAX_OPCODES = 1_000_000  # a file of three 1024-px networks has about a tenth; so many take seconds
MAX_TUPLES = 4_000  # inside one tuple, counted as often as they are named: hashing walks all of them, on the C stack
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
KEYS = (str, int, float, bool, bytes, tuple, type(None))


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """What a name in a file means: what is made where the file calls it."""

    name: str
    make: Callable[..., Any]


class Built(ABC):
    """A stand-in that takes its contents after it was made, as the opcode BUILD wants."""

    @abstractmethod
    def build(self, state: Any) -> None:
        """Takes the contents, or refuses them."""


class Inert(Built):
    """Stands for whatever a name of an unknown vocabulary would make; takes anything and keeps nothing."""

    def build(self, state: Any) -> None:
        """Keeps nothing."""


@dataclass(slots=True, eq=False)
class Limits:
    """What a file may still cost; shared by the pickles inside one file."""

    num_bytes: int
    num_opcodes: int = MAX_OPCODES

    def spend(self, num_bytes: int) -> None:
        """Takes off bytes that are about to be copied."""
        self.num_bytes -= num_bytes
        if self.num_bytes < 0:
            raise ValueError("its tensors would be larger than the file")


@dataclass(slots=True, eq=False)
class Bounded:
    """An open file that is never asked for more than it has: Python makes room for whatever length is announced."""

    file: BinaryIO
    size: int

    def read(self, count: int) -> bytes:
        """At most `count` bytes."""
        return self.file.read(min(count, self.size - self.file.tell()))

    def readline(self) -> bytes:
        """Up to the end of the line."""
        return self.file.readline()

    def tell(self) -> int:
        """Where the next byte is read."""
        return self.file.tell()


@dataclass(slots=True, eq=False)
class Machine:
    """Runs one pickle.

    Args:
        words: the vocabulary; None to rehearse a pickle, where every name means an `Inert`.
        limits: what is left of the file's allowance.
        persistent: whether persistent names, as torch's storages have, are values here.
    """

    words: Mapping[tuple[str, str], Word] | None
    limits: Limits
    persistent: bool = False
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # what lies under each mark
    memo: dict[int, Any] = field(default_factory=dict)
    tuples: dict[int, tuple[Any, int]] = field(default_factory=dict)  # id -> (the tuple, kept alive; tuples in it)

    def run(self, file: Any) -> Any:
        """The value of the pickle that starts where `file` stands; `file` is left behind it.

        Raises:
            ValueError and whatever damaged bytes lead to; its message is not made for users.
        """
        for opcode, argument, position in pickletools.genops(file):
            self.limits.num_opcodes -= 1
            if self.limits.num_opcodes < 0:
                raise ValueError(f"more than {MAX_OPCODES} steps, which no known network file needs")
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument, position or 0)
        raise AssertionError("genops ends with STOP or raises")

    def step(self, name: str, argument: Any, position: int) -> None:
        """One opcode."""
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self.stack.append(self.nested([self.stack.pop() for _ in range(TUPLES[name])][::-1]))
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(self.memo) if name == "MEMOIZE" else int(argument)
            if number > position:
                raise ValueError(f"memo number {shown(number)} at byte {position}")
            self.memo[number] = self.stack[-1]
        elif name not in ("PROTO", "FRAME"):
            self.structure(name, argument, position)

    def structure(self, name: str, argument: Any, position: int) -> None:
        """The opcodes that put values together."""
        stack = self.stack
        if name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name == "POP":
            stack.pop() if stack else self.to_mark()
        elif name == "POP_MARK":
            self.to_mark()
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self.to_mark()
            made: Any = self.nested(items) if name == "TUPLE" else items if name == "LIST" else {}
            if name == "DICT":
                put(made, items)
            self.stack.append(made)
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            add(name, self.to_mark(), self.stack[-1])
        elif name in ("APPEND", "SETITEM"):
            items = [stack.pop() for _ in range(1 if name == "APPEND" else 2)][::-1]
            add(name + "S", items, stack[-1])
        elif name == "GLOBAL":
            module, _, own = argument.partition(" ")
            stack.append(self.word(module, own))
        elif name == "STACK_GLOBAL":
            own, module = stack.pop(), stack.pop()
            stack.append(self.word(module, own))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, word = stack.pop(), stack.pop()
            if type(word) is not Word or type(arguments) is not tuple:
                raise ValueError(f"refused: it calls {shown(word)} at byte {position}")
            stack.append(word.make(*arguments))
        elif name == "BUILD":
            state, target = stack.pop(), stack[-1]
            if isinstance(target, Built):
                target.build(state)
            elif type(target) is not dict:  # the attributes of a dict are dropped
                raise ValueError(f"refused: it sets the state of {shown(target)} at byte {position}")
        elif name == "BINPERSID" and self.persistent:
            pass
        else:
            raise ValueError(f"refused: it uses the opcode {name}, which no known network file needs")

    def to_mark(self) -> list[Any]:
        """Takes everything above the last mark off the stack."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def nested(self, items: list[Any]) -> tuple[Any, ...]:
        """A tuple; refused where hashing it would take for ever or overrun the C stack."""
        made = tuple(items)
        size = 1 + sum(self.tuples[id(item)][1] for item in items if type(item) is tuple)
        if size > MAX_TUPLES:
            raise ValueError(f"refused: it nests more than {MAX_TUPLES} tuples in one another")
        self.tuples[id(made)] = made, size
        return made

    def word(self, module: Any, name: Any) -> Word:
        """What a name means."""
        if type(module) is not str or type(name) is not str:
            raise ValueError(f"refused: it names {shown(module)}, {shown(name)}")
        if self.words is None:
            return Word(name, lambda *_: Inert())
        if (module, name) not in self.words:
            raise ValueError(
                f"refused: it names {printable(f'{module}.{name}', 80)}, which no known network file needs"
            )
        return self.words[module, name]


def add(name: str, items: list[Any], target: Any) -> None:
    """Items into a list, a dict or a set."""
    if name == "SETITEMS" and isinstance(target, dict):
        put(target, items)
    elif name == "APPENDS" and isinstance(target, list):
        target.extend(items)
    elif name == "ADDITEMS" and isinstance(target, set):
        target.update(map(checked_key, items))
    elif type(target) is not Inert:
        raise ValueError(f"refused: it adds items to {shown(target)}")


def put(target: dict[Any, Any], items: list[Any]) -> None:
    """Keys and values in turn into a dict."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[checked_key(key)] = value


def checked_key(key: Any) -> Any:
    """A key that is cheap to hash."""
    if not isinstance(key, (*KEYS, Word, Inert)):
        raise ValueError(f"refused: it has {shown(key)} as a key")
    return key
