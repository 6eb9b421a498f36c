"""Where each key of a TOML text stands. Best effort, for messages only: tomllib itself keeps no lines."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any, TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""A dotted key, taken apart; numbers count the tables of an array from 0."""

_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_HEADER = re.compile(r"\s*(\[\[?[^=,]*\]\]?)\s*(?:#.*)?$")
_KEY = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")


def lines_of(source: str) -> dict[Place, int]:
    """The line, from 1, of every table header and key."""
    lines: dict[Place, int] = {}
    for number, place in _places(source):
        lines.setdefault(place, number)
    return lines


def _places(source: str) -> Iterator[tuple[int, Place]]:
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in enumerate(source.split("\n"), start=1):
        if header := _HEADER.match(line):
            table = _table_place(header[1], counts)
            yield number, table
        elif key := _KEY.match(line):
            names = _names(f"{key[1]} = 0")
            yield from ((number, table + names[:depth]) for depth in range(1, len(names) + 1))


def _table_place(header: str, counts: dict[Place, int]) -> Place:
    """The place that a header opens; `counts` holds the last index of each array of tables."""
    *outer, last = _names(header) or ("",)
    place: Place = ()
    for name in outer:
        place += (name,)
        place += (counts[place],) if place in counts else ()
    place += (last,)
    if not header.startswith("[["):
        return place
    counts[place] = counts.get(place, -1) + 1
    return (*place, counts[place])


def _names(line: str) -> Place:
    """The names in a one-line TOML text, outermost first; none where it is not TOML by itself."""
    try:
        node: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    names: Place = ()
    while node and isinstance(node, dict | list):
        if isinstance(node, dict):
            name, node = next(iter(node.items()))
            names += (name,)
        else:
            node = node[0]
    return names
