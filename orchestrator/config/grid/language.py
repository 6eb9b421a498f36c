"""A grid as it was read: the parts of the language, with where each was written; expressions are still text."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from orchestrator.model import Params, Question, Value

Levels: TypeAlias = tuple[Value, ...]
"""The values of one dim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """A consequence: the points that match get these arguments. `where` and `key` say where it is written."""

    match: Params
    set: Params
    where: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclude:
    """The points that match are left out."""

    match: Params
    where: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What the user asked for. Every argument stands in one of fixed, dims and zips.

    files: the grid's own file last, before it those that it includes; places: `file:line` of each argument.
    """

    path: Path
    files: tuple[Path, ...]
    fixed: Params
    dims: Mapping[str, Levels]
    zips: tuple[Mapping[str, Levels], ...]
    whens: tuple[When, ...]
    excludes: tuple[Exclude, ...]
    questions: tuple[Question, ...]
    places: Mapping[str, str]
