"""Writes values as TOML that two parsers read alike: toml 0.10.2, which the trainer uses, and tomllib.

toml 0.10.2 misreads text that TOML allows: it unescapes twice, takes leading quotes for three, and splits arrays at
commas inside text. So text with special characters is written in several ways until one reads back in both.
"""

import math
import re
import tomllib
from collections.abc import Callable
from typing import Any

import toml
import tomli_w

from orchestrator.model import Scalar, Value

_PLAIN = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff\"\\]*")
_SPECIAL = re.compile(r"[\x00-\x1f\x7f\"',#\[\]{}]|\\+[uU]?")


class Unwritable(ValueError):
    """A value that has no TOML text that both parsers read as this value."""


class TomlWriter:
    """Writes values; each text with special characters and each list is tested once."""

    def __init__(self) -> None:
        self._written: dict[str, str] = {}  # by repr: 1, 1.0 and True are equal keys

    def __call__(self, value: Value) -> str:
        """The value as TOML. Raises Unwritable."""
        key = repr(value)
        if key not in self._written:
            self._written[key] = _write(value)
        return self._written[key]


def same_in_both(text: str) -> dict[str, Any]:
    """What both parsers read in a text; ValueError when one cannot or they differ."""
    try:
        theirs = toml.loads(text)
    except (ValueError, IndexError, KeyError, TypeError) as error:  # it has bugs of its own
        raise ValueError(f"toml 0.10.2, the parser of sd-scripts, cannot read it: {error}") from None
    ours = tomllib.loads(text)
    if not alike(theirs, ours):
        raise ValueError("toml 0.10.2, the parser of sd-scripts, reads something else than TOML defines")
    return ours


def alike(left: object, right: object) -> bool:
    """Equal in value and in type, at every level."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(alike, left, right))
    return type(left) is type(right) and left == right


def homogeneous(value: Value) -> Value:
    """The value as it is written: toml 0.10.2 needs one type in an array, so whole numbers among floats are floats."""
    if isinstance(value, tuple) and {type(item) for item in value} == {int, float}:
        return tuple(float(item) for item in value)
    return value


def _write(value: Value) -> str:
    meant = homogeneous(value)
    items = meant if isinstance(meant, tuple) else (meant,)
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        raise Unwritable("it is not a finite number")
    if len({type(item) for item in items}) > 1:
        raise Unwritable("a list must have values of one kind")
    if not isinstance(meant, tuple) and (not isinstance(meant, str) or _PLAIN.fullmatch(meant)):
        return _basic(meant)
    for way in _WAYS:
        parts = [way(item) if isinstance(item, str) else _basic(item) for item in items]
        text = f"[{', '.join(parts)}]" if isinstance(meant, tuple) else parts[0]
        if _reads_as(text, meant):
            return text
    raise Unwritable("it cannot be written so that toml 0.10.2, the parser of sd-scripts, reads it back")


def _reads_as(text: str, meant: Value) -> bool:
    try:
        return alike(same_in_both(f"x = {text.encode().decode()}\n"), {"x": meant})  # no half characters
    except ValueError:
        return False


def _basic(value: Scalar) -> str:
    return tomli_w.dumps({"x": value}).removeprefix("x = ").removesuffix("\n")


def _by_number(text: str) -> str:
    """Special characters by their numbers. Not a backslash, which toml 0.10.2 unescapes twice, but a u after it."""
    return _SPECIAL.sub(
        lambda found: "".join("\\\\" if sign == "\\" else f"\\u{ord(sign):04x}" for sign in found[0]), text
    )


_WAYS: tuple[Callable[[str], str], ...] = (
    _basic,
    lambda text: f'"{_by_number(text)}"',
    lambda text: f"'{text}'",
    lambda text: f'"""{_by_number(text)}"""',
)
"""Ways to write a text, the most readable first."""
