"""The owner's list of known-good pairs: a TOML file of `[[pair]]` tables, or a CSV file with two columns."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import toml_reader
from orchestrator.errors import InputError, Problem

_FORM = 'write first,second on each line, or [[pair]] tables with first = "..." and second = "..." in a .toml file'


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePair:
    """Two pictures that a person calls a good match; absolute paths."""

    first: Path
    second: Path


def read(path: Path) -> tuple[PicturePair, ...]:
    """The pairs of a file, in its order; paths are relative to it. InputError with every mistake in it."""
    pairs, problems = _toml(path) if path.suffix.lower() == ".toml" else _csv(path)
    if not pairs and not problems:
        problems = [Problem(what="holds no pairs", where=str(path), remedy=_FORM)]
    if problems:
        raise InputError(*problems)
    return tuple(pairs)


def _toml(path: Path) -> tuple[list[PicturePair], list[Problem]]:
    top = toml_reader.Reader(toml_reader.read(path))
    tables = top.sections("pair")
    found = [
        (table.where(), table.require("first", table.path), table.require("second", table.path)) for table in tables
    ]
    problems = top.problems()
    if problems:
        return [], problems
    return _checked(found)


def _csv(path: Path) -> tuple[list[PicturePair], list[Problem]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(file_line, row) for file_line, row in enumerate(csv.reader(file), start=1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [Problem(what=f"cannot be read: {error}", where=str(path), remedy=_FORM)]
    if rows and [cell.strip().lower() for cell in rows[0][1]] == ["first", "second"]:
        rows = rows[1:]
    wrong = [
        Problem(what=f"has {len(row)} columns, not 2", where=f"{path}:{line}", value=",".join(row), remedy=_FORM)
        for line, row in rows
        if len(row) != 2
    ]
    if wrong:
        return [], wrong
    return _checked([(f"{path}:{line}", _beside(path, row[0]), _beside(path, row[1])) for line, row in rows])


def _beside(path: Path, name: str) -> Path:
    return Path(os.path.normpath(path.parent.absolute() / Path(name.strip()).expanduser()))


def _checked(found: list[tuple[str, Path, Path]]) -> tuple[list[PicturePair], list[Problem]]:
    problems = []
    for where, first, second in found:
        remedy = "correct the path; it is relative to the list"
        problems += [
            Problem(what="there is no such file", where=where, value=str(one), remedy=remedy)
            for one in (first, second)
            if not one.is_file()
        ]
        if first == second:
            remedy = "name two different pictures"
            problems.append(Problem(what="pairs a picture with itself", where=where, value=str(first), remedy=remedy))
    return [PicturePair(first=first, second=second) for _, first, second in found], problems
