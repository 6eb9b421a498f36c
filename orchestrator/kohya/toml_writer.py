"""Values as TOML text that the trainer's parser, toml 0.10.2, and the standard library's read alike; and the proof.

toml 0.10.2 misreads text that TOML allows: it unescapes twice, takes leading quotes for three, and splits arrays at
commas inside of text. So text with anything special in it is written in several ways until one reads back in both.
"""

import math
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import toml

from orchestrator.model import Scalar, Value

_PLAIN = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff\"\\]*")
_SPECIAL = re.compile(r"[\x00-\x1f\x7f\"\\]")
_LONE = re.compile(r"[\ud800-\udfff]")
_SIGN = re.compile(r"[\x00-\x1f\x7f\"',#\[\]{}]|\\+[uU]?")
_SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


class Unwritable(ValueError):
    """A value that has no TOML text both parsers read as that value."""


class TomlWriter:
    """Writes values, each special one worked out and proven once."""

    def __init__(self) -> None:
        self._scalars = lru_cache(maxsize=100_000, typed=True)(_scalar)
        self._lists: dict[str, str] = {}  # by repr: (1,) and (True,) are equal keys

    def __call__(self, value: Value) -> str:
        """The value as TOML. Raises Unwritable."""
        if not isinstance(value, tuple):
            return self._scalars(value)
        key = repr(value)
        if key not in self._lists:
            self._lists[key] = _proven(value)
        return self._lists[key]


def same_in_both(text: str) -> dict[str, Any]:
    """What both parsers read in a text; ValueError when one cannot or they differ."""
    try:
        theirs = toml.loads(text)
    except (ValueError, IndexError, KeyError, TypeError) as error:  # it also falls over its own feet
        raise ValueError(f"toml 0.10.2, which sd-scripts reads with, cannot read it: {error}") from None
    ours = tomllib.loads(text)
    if not alike(theirs, ours):
        raise ValueError("toml 0.10.2, which sd-scripts reads with, reads it otherwise than TOML is meant")
    return ours


def alike(left: object, right: object) -> bool:
    """Equal in value and in type, all the way down."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(alike, left, right))
    return type(left) is type(right) and left == right


def homogeneous(value: Value) -> Value:
    """The value as it is written: the trainer's parser wants one type in an array, so whole numbers join floats."""
    if isinstance(value, tuple) and {type(item) for item in value} == {int, float}:
        return tuple(float(item) for item in value)
    return value


def _scalar(value: Scalar) -> str:
    if not isinstance(value, str):
        return _number(value)
    return f'"{value}"' if _PLAIN.fullmatch(value) else _proven(value)


def _proven(value: str | tuple[Scalar, ...]) -> str:
    if any(isinstance(part, str) and _LONE.search(part) for part in (value if isinstance(value, tuple) else (value,))):
        raise Unwritable("it holds half a character, which no UTF-8 file can")
    meant = homogeneous(value)
    if isinstance(meant, tuple) and len({type(item) for item in meant}) > 1:
        raise Unwritable("a list must hold values of one kind")
    for write in (_basic, _escaped, _literal, _tripled):
        text = _array(meant, write) if isinstance(meant, tuple) else write(str(meant))
        if _reads_as(text, meant):
            return text
    raise Unwritable("it cannot be written so that toml 0.10.2, which sd-scripts reads with, reads it back")


def _array(values: Sequence[Scalar], write: Callable[[str], str]) -> str:
    return "[" + ", ".join(write(value) if isinstance(value, str) else _number(value) for value in values) + "]"


def _reads_as(text: str, meant: Value) -> bool:
    try:
        return alike(same_in_both(f"x = {text}\n"), {"x": meant})
    except ValueError:
        return False


def _number(value: float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not math.isfinite(value):
        raise Unwritable(f"{value} is not a finite number")
    return repr(value)


def _basic(text: str) -> str:
    """In double quotes, only what must be is escaped."""
    return '"' + _SPECIAL.sub(lambda found: _SHORT.get(found[0]) or _code(found[0]), text) + '"'


def _escaped(text: str) -> str:
    """In double quotes, every sign but letters and digits by its number."""
    return '"' + _signs_by_number(text) + '"'


def _tripled(text: str) -> str:
    """In three double quotes, for text that begins with quotes itself."""
    return '"""' + _signs_by_number(text) + '"""'


def _literal(text: str) -> str:
    """In single quotes, where nothing is escaped."""
    return f"'{text}'"


def _signs_by_number(text: str) -> str:
    """A backslash has none: toml 0.10.2 unescapes what it yields. A u after it has one, or it would be an escape."""
    return _SIGN.sub(lambda found: "".join("\\\\" if sign == "\\" else _code(sign) for sign in found[0]), text)


def _code(sign: str) -> str:
    return f"\\u{ord(sign):04x}"
