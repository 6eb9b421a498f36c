"""Strict reading of the TOML files that people write: every mistake is noted with its file, line, key and value."""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from orchestrator.config.toml_lines import Place, lines_of
from orchestrator.errors import InputError, Problem
from orchestrator.model import Scalar, Value
from orchestrator.values import toml_repr

T = TypeVar("T")
Table: TypeAlias = Mapping[str, Any]
Converter: TypeAlias = Callable[[Any], T]
"""A raw TOML value in, a typed one out; raises Wrong."""

_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class ConversionError(ValueError):
    """A value that is not what its key needs, and what to write instead."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


class Document:
    """A parsed TOML file that still knows its lines."""

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.table: Table = tomllib.loads(source)
        self._source = source

    def where(self, place: Place) -> str:
        """`file:line` of a key; of the nearest table around it where the key has no line of its own."""
        while place and place not in self._lines:
            place = place[:-1]
        return f"{self.path}:{self._lines[place]}" if place else str(self.path)

    @cached_property
    def _lines(self) -> dict[Place, int]:
        return lines_of(self._source)


def read(path: Path) -> Document:
    """Parse a file; InputError when it cannot be read or is not TOML."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        remedy = "check the path (`orchestrate init` writes an orchestrate.toml)"
        raise InputError(Problem(what=f"cannot be read: {error.strerror}", where=str(path), remedy=remedy)) from None
    try:
        return Document(path, raw.decode("utf-8").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(Problem(what="not UTF-8", where=f"{path}:{line}", remedy="save the file as UTF-8")) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(_syntax_problem(path, str(error))) from None


class Reader:
    """One table of a file, asked key by key. Mistakes are noted, not raised; `finish` raises them all at once."""

    def __init__(self, document: Document, table: Table | None = None, place: Place = ()) -> None:
        self._document = document
        self._table = document.table if table is None else table
        self._place = place
        self._known: list[str] = []
        self._children: dict[Place, Reader] = {}
        self._problems: list[Problem] = []

    def given(self, **converters: Converter[Any]) -> dict[str, Any]:
        """The keys among these that the table has, converted: arguments for a dataclass that knows the defaults."""
        self._known += converters
        found = {key: self._converted(key, convert) for key, convert in converters.items() if key in self._table}
        return {key: value for key, value in found.items() if value is not None}

    def require(self, key: str, convert: Converter[T]) -> T:
        """A key that must be there."""
        self._known.append(key)
        if key in self._table:
            return cast(T, self._converted(key, convert))
        self.note(key, f"{toml_repr(key)} is missing", remedy=f"add `{key} = ...` to {self.title()}")
        return cast(T, None)  # nobody sees it: the file is refused

    def arguments(self, convert: Converter[T]) -> dict[str, T]:
        """All keys of this table, each an sd-scripts argument or treatment."""
        found = {}
        self._known += self._table
        for name in self._table:
            if not _ARGUMENT.fullmatch(name):
                self.note(
                    name, f"{toml_repr(name)} cannot be an argument's name", remedy="use letters, digits and _ only"
                )
            elif (converted := self._converted(name, convert)) is not None:
                found[name] = converted
        return found

    def section(self, key: str) -> "Reader":
        """The table under a key; an empty one where there is none."""
        self._known.append(key)
        table = self._table.get(key, {})
        if not isinstance(table, dict):
            self.note(key, f"must be a table, not {_kind(table)}", remedy=f"write [{self._dotted(key)}]")
            table = {}
        return self._child(table, (*self._place, key))

    def sections(self, key: str) -> tuple["Reader", ...]:
        """The tables of an array `[[key]]`."""
        self._known.append(key)
        tables = self._table.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.note(key, "must be an array of tables", remedy=f"write [[{self._dotted(key)}]] above each")
            return ()
        return tuple(self._child(table, (*self._place, key, index)) for index, table in enumerate(tables))

    def named(self, key: str) -> dict[str, "Reader"]:
        """The tables `[key.NAME]`, by their names."""
        child = self.section(key)
        return {name: child.section(name) for name in child._table}

    def path(self, raw: object) -> Path:
        """A converter to absolute paths, relative ones taken from the file's folder. Symbolic links stay."""
        name = text(raw)
        if not name or "\0" in name:
            raise ConversionError("must be a path", 'write one, like "models/base.safetensors"')
        folder = self._document.path.parent.absolute()
        return Path(os.path.normpath(folder / os.path.expanduser(name)))  # noqa: PTH111 - this one never raises

    def note(self, key: str, what: str, *, value: str = "", remedy: str = "") -> None:
        """Record a mistake at a key of this table; an empty key means the table itself."""
        self._problems.append(
            Problem(what=what, where=self.where(key), key=self._dotted(key), value=value, remedy=remedy)
        )

    def where(self, key: str = "") -> str:
        """`file:line` of a key of this table, or of the table."""
        return self._document.where((*self._place, key) if key else self._place)

    def title(self) -> str:
        """This table as the file writes it."""
        return f"[{self._dotted()}]" if self._place else "the top of the file"

    def problems(self) -> list[Problem]:
        """All mistakes of this table and of those under it, among them every key that nobody asked for."""
        for key in [key for key in self._table if key not in self._known]:
            self.note(key, f"unknown key {toml_repr(key)}", remedy=did_you_mean(key, self._known))
            self._known.append(key)
        return self._problems + [problem for child in self._children.values() for problem in child.problems()]

    def finish(self) -> None:
        """InputError with all mistakes, if there are any."""
        if problems := self.problems():
            raise InputError(*problems)

    def _child(self, table: Table, place: Place) -> "Reader":
        return self._children.setdefault(place, Reader(self._document, table, place))

    def _converted(self, key: str, convert: Converter[T]) -> T | None:
        try:
            return convert(self._table[key])
        except ConversionError as error:
            self.note(key, str(error), value=_one_line(self._table[key]), remedy=error.remedy)
            return None

    def _dotted(self, key: str = "") -> str:
        steps = (*self._place, key) if key else self._place
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


# --- converters -------------------------------------------------------------------------------------------------------


def text(raw: object) -> str:
    """Text in quotes."""
    if not isinstance(raw, str):
        raise ConversionError(f"must be text in quotes, not {_kind(raw)}", 'write it as "..."')
    return raw


def boolean(raw: object) -> bool:
    """true or false."""
    if not isinstance(raw, bool):
        raise ConversionError(f"must be true or false, not {_kind(raw)}", "write true or false, without quotes")
    return raw


def whole(minimum: int) -> Converter[int]:
    """Whole numbers from `minimum` on."""

    def convert(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise ConversionError(
                f"must be a whole number, not {_kind(raw)}", "write it without quotes and without a point"
            )
        if raw < minimum:
            raise ConversionError(f"must be at least {minimum}", f"write {minimum} or more")
        return raw

    return convert


def number(*, above: float) -> Converter[float]:
    """Finite numbers greater than `above`."""

    def convert(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise ConversionError(f"must be a number, not {_kind(raw)}", "write it without quotes")
        if not above < raw < math.inf:
            raise ConversionError(f"must be a finite number above {above:g}", f"write more than {above:g}")
        return float(raw)

    return convert


def several(convert: Converter[T]) -> Converter[tuple[T, ...]]:
    """A list, not empty, of what `convert` takes."""

    def convert_all(raw: object) -> tuple[T, ...]:
        if not isinstance(raw, list) or not raw:
            raise ConversionError("must be a list with at least one value", "write it in [ ], with commas between")
        return tuple(map(convert, raw))

    return convert_all


def value(raw: object) -> Value:
    """What an sd-scripts argument can be: text, a number, true or false, or a flat list of these."""
    return tuple(map(_scalar, raw)) if isinstance(raw, list) else _scalar(raw)


def did_you_mean(name: str, known: Collection[str], otherwise: str = "remove it") -> str:
    """The remedy for an unknown name: the nearest known one in any case, or all of them when they are few."""
    folded = {candidate.casefold(): candidate for candidate in known}
    if near := difflib.get_close_matches(name.casefold(), folded, n=1):
        return f"did you mean {folded[near[0]]}?"
    return f"known here: {', '.join(sorted(known))}" if 0 < len(known) <= 20 else otherwise


def _scalar(raw: object) -> Scalar:
    if isinstance(raw, str | bool) or (isinstance(raw, int) and -(2**63) <= raw < 2**63):
        return raw
    if isinstance(raw, float) and math.isfinite(raw):
        return raw
    what = f"must be text, a finite number, true, false or a flat list of these, not {_kind(raw)}"
    raise ConversionError(what, 'write one value, or a list like ["a=1", "b=2"]')


def _kind(raw: object) -> str:
    if isinstance(raw, float) and not math.isfinite(raw):
        return str(raw)
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
    return names.get(type(raw), "a table" if isinstance(raw, dict) else "a date or time")


def _one_line(raw: object) -> str:
    line = toml_repr(raw) if isinstance(raw, str | int | float) else repr(raw)
    return line if len(line) <= 120 else line[:117] + "..."


def _syntax_problem(path: Path, message: str) -> Problem:
    """tomllib ends its messages with `(at line 3, column 5)`, or with `(at end of document)`."""
    what, _, at = message.partition(" (at ")
    line = re.search(r"line (\d+)", at)
    where = f"{path}:{line[1]}" if line else str(path)
    place = at.rstrip(")").partition(", ")[2] if line else at.rstrip(")")
    return Problem(what=f"not TOML: {what}, {place}", where=where, remedy="text stands in quotes, a list in [ ]")
