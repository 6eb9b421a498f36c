"""Strict reading of the TOML files that people write: every mistake is collected with its file, line, key and value."""

import difflib
import re
import reprlib
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from orchestrator import files
from orchestrator.config.fields import Internal, kind_of
from orchestrator.errors import InputError, Problem
from orchestrator.redaction import unfit
from orchestrator.text import bad_name, did_you_mean, invisible
from orchestrator.values import toml_repr

Place: TypeAlias = tuple[str | int, ...]
"""A dotted key in parts; numbers count the tables of an array from 0."""

_MAX_BYTES = 10 * 1024**2
_MESSAGES = {
    "string_type": ("must be text in quotes, not {given}", 'write it as "..."'),
    "string_pattern_mismatch": ("{value} cannot be an argument's name", "use letters, digits and _ only"),
    "bool_type": ("must be true or false, not {given}", "write true or false, without quotes"),
    "int_type": ("must be a whole number, not {given}", "write it without quotes and without a decimal point"),
    "float_type": ("must be a number, not {given}", "write it without quotes"),
    "finite_number": ("must be a finite number", "write a number"),
    "greater_than": ("must be a finite number above {gt:g}", "write more than {gt:g}"),
    "greater_than_equal": ("must be at least {ge:g}", "write {ge:g} or more"),
    "less_than": ("must be below {lt:g}", "write less than {lt:g}"),
    "less_than_equal": ("must be at most {le}", "write {le} or less"),
    "enum": ("is not known here", "write {expected}"),
    "literal_error": ("is not known here", "write {expected}"),
    "too_short": ("must not be empty", "add a value, or remove the key"),
    "tuple_type": ("must be a list, not {given}", "write it in [ ], with commas between the values"),
    "list_type": ("must be a list, not {given}", "write it in [ ], with commas between the values"),
    "dict_type": ("must be a table, not {given}", "write [{key}]"),
    "mapping_type": ("must be a table, not {given}", "write [{key}]"),
    "dataclass_type": ("must be a table, not {given}", "write [{key}]"),
    "wrong": ("{what}", "{remedy}"),
}
"""What is wrong and the remedy, by pydantic's type of error."""


_PRIVATE = {("trainer", "env"), ("notify", "url")}
"""Places of the settings that may have secrets: no record contains them."""

_SECRET_KEY = re.compile(r"(?i)(key|token|password|secret)(\[\d+\])?$")


def _texts(table: Mapping[str, Any]) -> Iterator[tuple[Place, Place, str]]:
    """Place, key to show, and text, of every key and text but the private ones. Not recursive: keys nest deeply."""
    nodes: list[tuple[Place, Any]] = [((), table)]
    while nodes:
        place, node = nodes.pop()
        if isinstance(node, str) and place[:2] not in _PRIVATE:
            yield place, place, node
        elif isinstance(node, dict):
            yield from (((*place, key), place, key) for key in node)
            nodes += (((*place, key), item) for key, item in node.items())
        elif isinstance(node, list):
            nodes += (((*place, index) if isinstance(item, dict) else place, item) for index, item in enumerate(node))


class File:
    """A parsed TOML file that knows its lines and collects what is wrong with it."""

    def __init__(self, path: Path, source: str) -> None:
        source = source.removeprefix("\ufeff").replace("\r\n", "\n")
        self.path = path
        self.table: dict[str, Any] = tomllib.loads(source)
        self.problems: list[Problem] = []
        self._source = source

    def reject_unfit(self, *, comments: bool = False) -> None:
        """InputError when keys or texts have invisible characters or secrets; no other check may show these.

        comments: also those in comments, as grids are recorded as a whole.
        """
        for place, key, text in _texts(self.table):
            what, remedy = unfit(text)
            if what:
                what = what if place == key else f"the name {toml_repr(text) if invisible(text) else 'of a key'} {what}"
                self.problems.append(Problem(what=what, where=self.where(place), key=dotted(key), remedy=remedy))
        if comments and not self.problems:
            for number, line in enumerate(self._source.split("\n"), start=1):
                what, remedy = unfit(line)
                if what:
                    self.problems.append(Problem(what=what, where=f"{self.path}:{number}", remedy=remedy))
        if self.problems:
            raise InputError(*self.problems)

    def where(self, place: Place) -> str:
        """`file:line` of a key; of the nearest table around it where the key has no line."""
        while place and place not in self._lines:
            place = place[:-1]
        return f"{self.path}:{self._lines[place]}" if place else str(self.path)

    def note(self, place: Place, what: str, *, value: str = "", remedy: str = "") -> None:
        """Add a problem with the value at a place; values of secrets are not shown."""
        value = "hidden" if value and (_SECRET_KEY.search(dotted(place)) or place[:2] in _PRIVATE) else value
        problem = Problem(what=what, where=self.where(place), key=dotted(place), value=value, remedy=remedy)
        if problem not in self.problems:
            self.problems.append(problem)

    def has(self, place: Place) -> bool:
        """Whether the file sets this key."""
        return self._at(place, None) is not None

    def tables(self, *place: str, array: bool = False) -> list[Place]:
        """The places of the named tables [place.NAME], or with `array` of the tables [[place]]."""
        found = self._at(place, [] if array else {})
        if array and isinstance(found, list) and all(isinstance(table, dict) for table in found):
            return [(*place, index) for index in range(len(found))]
        if not array and isinstance(found, dict):
            for name in found:
                if reason := bad_name(name):
                    self.note((*place, name), f"the name {toml_repr(name)} {reason}", remedy="choose another name")
            return [(*place, name) for name in found]
        what, remedy = (
            ("an array of tables", f"[[{dotted(place)}]] above each") if array else ("a table", f"[{dotted(place)}]")
        )
        self.note(place, f"must be {what}", remedy=f"write {remedy}")
        return []

    def parse(self, place: Place, kind: Any) -> Any:
        """The value at a place as a `kind`, without the keys that are wrong; None when it cannot be made.

        An absent table is read as an empty one.
        """
        raw = self._at(place, {} if is_dataclass(kind) or get_origin(kind) is Mapping else None)
        if raw is None:
            self._note_missing(place)
            return None
        try:
            return self._validated(kind, raw)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        for one in errors:
            self._note_error(place, kind, one)
        try:  # checks of several keys go on with what is right
            broken = {one["loc"][0] for one in errors if one["loc"]} if isinstance(raw, dict) else set()
            return self._validated(kind, {key: raw[key] for key in raw if key not in broken}) if broken else None
        except (ValidationError, TypeError):
            return None

    def note_unknown_keys(self, known: Collection[str]) -> None:
        """Add a problem for each key at the top of the file that is not known."""
        for key in filter(lambda key: key not in known, self.table):
            self._note_unknown((key,), known)

    def _validated(self, kind: Any, raw: Any) -> Any:
        return _adapter(kind).validate_python(raw, context={"folder": self.path.parent.absolute()})

    def _at(self, place: Place, default: Any) -> Any:
        node: Any = self.table
        for step in place:
            if isinstance(node, dict) and step not in node:
                return default
            node = node[step]
        return node

    def _note_error(self, place: Place, kind: Any, error: Any) -> None:
        loc = tuple(step for step in error["loc"] if step != "[key]")
        if error["type"] == "missing":
            return self._note_missing((*place, *loc))
        if error["type"] == "unexpected_keyword_argument":
            return self._note_unknown((*place, *loc), _keys(kind, loc[:-1]))
        what, remedy = _MESSAGES.get(error["type"], (error["msg"], "compare it with what `orchestrate init` writes"))
        value = "" if isinstance(error["input"], dict) else _shown(error["input"])
        given = {"given": kind_of(error["input"]), "value": value, "key": dotted((*place, *loc))}
        details = given | error.get("ctx", {})
        return self.note((*place, *loc), what.format(**details), value=value, remedy=remedy.format(**details))

    def _note_missing(self, place: Place) -> None:
        table = f"[{dotted(place[:-1])}]" if place[:-1] else "the top of the file"
        if len(place) > 2 and isinstance(number := place[-2], int):
            table = f"[[{dotted(place[:-2])}]] number {number + 1}"
        self.note(place, f"{toml_repr(place[-1])} is missing", remedy=f"add `{place[-1]} = ...` to {table}")

    def _note_unknown(self, place: Place, known: Collection[str]) -> None:
        remedy = did_you_mean(str(place[-1]), known)
        if "dims" in known and remedy.startswith("known"):
            remedy = f"write an argument below [dims], as a list, or below [fixed]; {remedy}"
        self.note(place, f"unknown key {toml_repr(place[-1])}", remedy=remedy)

    @cached_property
    def _lines(self) -> dict[Place, int]:
        lines: dict[Place, int] = {}
        for number, place in _places(self._source):
            lines.setdefault(place, number)
        return lines


def _unreadable(path: Path) -> str:
    """The remedy for a path that cannot be read."""
    if path.exists():
        return "name a file with TOML text" if not path.is_file() else "change its permissions or its size"
    nearby = {one.stem: one for one in (*Path("grids").glob("*.toml"), *path.parent.glob("*.toml"))}
    if near := difflib.get_close_matches(path.stem, nearby, n=1):
        return f"did you mean {nearby[near[0]]}?"
    here = "" if path.is_absolute() else f"; it is relative to {Path.cwd()}"
    if path.name != "orchestrate.toml":
        return f"check the path{here}"
    return f"work in the folder of a project, or name its settings with --settings FILE{here} (new: `orchestrate init`)"


def read(path: Path) -> File:
    """Parse a file; InputError when it cannot be read or is not TOML."""

    def refused(what: str, remedy: str, line: object = "") -> InputError:
        return InputError(Problem(what=what, where=f"{path}:{line}" if line else str(path), remedy=remedy))

    try:
        with files.open_regular(path, max_bytes=_MAX_BYTES) as file:
            raw = file.read()
    except (OSError, ValueError) as error:
        raise refused(f"cannot be read: {getattr(error, 'strerror', error)}", _unreadable(path)) from None
    try:
        return File(path, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise refused("not UTF-8", "save the file as UTF-8", raw.count(b"\n", 0, error.start) + 1) from None
    except RecursionError:
        raise refused("nests brackets too deeply", "write flat lists", _line_with(rb"[\[{]{50,}", raw)) from None
    except tomllib.TOMLDecodeError as error:
        what, _, at = str(error).partition(" (at ")
        line = re.search(r"line (\d+)", at)
        place = at.rstrip(")").partition(", ")[2] if line else at.rstrip(")")
        remedy = _remedy(raw.decode("utf-8").splitlines()[int(line[1]) - 1] if line else "")
        if "table declaration" in what:
            remedy = "write a table as [NAME], an array of tables as [[NAME]], on its own line"
        if "hex value" in what or "Unescaped" in what:
            remedy = (
                "in double quotes a backslash starts an escape: write a Windows path in single quotes or with forward "
                "slashes; under WSL, C:\\models is /mnt/c/models"
            )
        raise refused(f"not TOML: {', '.join(filter(None, (what, place)))}", remedy, line[1] if line else "") from None
    except ValueError:  # Python's limit of digits
        remedy = "write a number of at most 64 bits"
        raise refused("has a number with thousands of digits", remedy, _line_with(rb"[0-9_]{999,}", raw)) from None


_MISTAKES = (
    (r"=.*\bTrue\b|=.*\bFalse\b", "write true and false in lower case"),
    (r"=.*\b(None|null|nil)\b", "remove the line: a missing key has its default"),
    (r"=.*(?<![\w.])[+-]?(\.\d|\d+\.(?!\d))", "write digits on both sides of the point, 0.5"),
    (r"^\s*[\w.-]+\s*:", "write `key = value`, with an equals sign"),
    (r",\s*(#.*)?$", "remove the comma at the end of the line"),
)


def _remedy(line: str) -> str:
    """How to correct a line that is not TOML."""
    unquoted = re.sub(r"\"[^\"]*\"|'[^']*'", "", line)
    found = (remedy for pattern, remedy in _MISTAKES if re.search(pattern, unquoted))
    return next(found, "write text in quotes, a list in [ ]")


def dotted(place: Place) -> str:
    """A place as messages write it: `datasets.persona.image_dir`, `when[0].set`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")


def _line_with(pattern: bytes, raw: bytes) -> object:
    found = re.search(pattern, raw)
    return raw.count(b"\n", 0, found.start()) + 1 if found else ""


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _keys(kind: Any, loc: Place) -> set[str]:
    """The keys of the table at `loc` in a `kind`."""
    for step in loc:
        hint = get_type_hints(kind)[str(step)]
        kind = next(one for one in (hint, *get_args(hint)) if is_dataclass(one))
    hints = get_type_hints(kind, include_extras=True)
    internal = {name for name, hint in hints.items() if any(isinstance(one, Internal) for one in get_args(hint))}
    return {name for name in hints.keys() - internal if not name.startswith("_")}


def _shown(raw: object) -> str:
    if isinstance(raw, int) and raw.bit_length() > 256:
        return "a very large number"
    line = toml_repr(raw) if isinstance(raw, str | int | float) else reprlib.repr(raw)
    return line if len(line) <= 120 else line[:117] + "..."


# --- lines: best effort, for messages only, because tomllib does not report any ---------------------------------------

_MAX_DEPTH = 20
_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_HEADER = re.compile(r"\s*(\[\[?[^=,]*\]\]?)\s*(?:#.*)?$")
_KEY = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME}){{0,{_MAX_DEPTH}}})\s*=")


def _places(source: str) -> Iterator[tuple[int, Place]]:
    """The line, from 1, and the place of every table header and key."""
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in enumerate(source.split("\n"), start=1):
        if header := _HEADER.match(line):
            table = _table_place(header[1], counts)
            yield number, table
            yield from ((number, table[:depth]) for depth in range(1, min(len(table), _MAX_DEPTH)))
        elif key := _KEY.match(line):
            names = _names(f"{key[1]} = 0")
            yield from ((number, table + names[:depth]) for depth in range(1, len(names) + 1))


def _table_place(header: str, counts: dict[Place, int]) -> Place:
    """The place that a header opens; `counts` has the last index of each array of tables."""
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
    except (ValueError, RecursionError):
        return ()
    names: Place = ()
    while node and isinstance(node, dict | list):
        if isinstance(node, dict):
            name, node = next(iter(node.items()))
            names += (name,)
        else:
            node = node[0]
    return names
