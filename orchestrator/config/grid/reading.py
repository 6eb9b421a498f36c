"""Grid files -> Grid: docs/grid.md's language, read strictly, together with the files that a grid includes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from orchestrator.config import toml_reader
from orchestrator.config.grid.language import Exclude, Grid, Levels, When
from orchestrator.config.toml_reader import ConversionError, Reader
from orchestrator.errors import InputError, Problem
from orchestrator.model import Question, QuestionKind, Value
from orchestrator.values import canonical_json, same, toml_repr


def load(path: Path) -> Grid:
    """Read a grid file and what it includes; InputError with every mistake in all of them."""
    files = dict(_files(path, path.parent.resolve(), trail=(), seen=set()))
    grid = _Merger().merged(path, files)
    problems = [problem for reader in files.values() for problem in reader.problems()]
    if not (problems or grid.fixed or grid.dims or grid.zips):
        remedy = "add [dims] with what to vary, or [fixed] for a single point"
        problems = [Problem(what="the grid asks for nothing", where=str(path), key="dims", remedy=remedy)]
    if problems:
        raise InputError(*problems)
    return grid


def _files(path: Path, folder: Path, trail: tuple[Path, ...], seen: set[Path]) -> Iterator[tuple[Path, Reader]]:
    """The files that a grid includes, each once and before the one that includes it."""
    reader = Reader(toml_reader.read(path))
    seen.add(path.resolve())
    trail = (*trail, path.resolve())
    for name in reader.given(include=toml_reader.several(toml_reader.text)).get("include", ()):
        if problem := _bad_include(name, path.parent, folder, trail):
            reader.note("include", problem, value=name, remedy=f"name a file below {folder}")
        elif (path.parent / name).resolve() not in seen:
            yield from _files(path.parent / name, folder, trail, seen)
    yield path, reader


def _bad_include(name: str, parent: Path, folder: Path, trail: tuple[Path, ...]) -> str:
    if "\0" in name or Path(name).is_absolute() or not (parent / name).resolve().is_relative_to(folder):
        return f"{toml_repr(name)} leads out of the grid's folder"
    if (parent / name).resolve() in trail:
        return "a cycle: " + " includes ".join(file.name for file in (*trail, parent / name))
    return "" if (parent / name).is_file() else f"there is no file {toml_repr(name)}"


class _Merger:
    """Lays files over each other: what a later one says of an argument replaces all that was said before."""

    def __init__(self) -> None:
        self._fixed: dict[str, Value] = {}
        self._dims: dict[str, Levels] = {}
        self._zips: list[Mapping[str, Levels]] = []
        self._places: dict[str, str] = {}

    def merged(self, path: Path, files: Mapping[Path, Reader]) -> Grid:
        """The grid of all files. Mistakes are noted in their readers."""
        for reader in files.values():
            self._add(reader)
        tops = tuple(files.values())
        moving = {key: levels for zipped in self._zips for key, levels in zipped.items()}
        return Grid(
            path=path,
            files=tuple(files),
            fixed=self._fixed,
            dims=self._dims,
            zips=tuple(self._zips),
            whens=tuple(_when(table) for top in tops for table in top.sections("when")),
            excludes=tuple(_exclude(table) for top in tops for table in top.sections("exclude")),
            questions=_questions(tops, self._dims | moving),
            places=self._places,
        )

    def _add(self, top: Reader) -> None:
        fixed, dims = top.section("fixed"), top.section("dims")
        said: set[str] = set()
        for key, value in fixed.arguments(toml_reader.value).items():
            self._claim(fixed, key, said)
            self._fixed[key] = value
        for key, levels in dims.arguments(_levels).items():
            self._claim(dims, key, said)
            self._dims[key] = levels
        for table in top.sections("zip"):
            moving = table.arguments(_levels)
            for key in moving:
                self._claim(table, key, said)
            _check_lengths(table, moving)
            self._zips.append(moving)

    def _claim(self, table: Reader, key: str, said: set[str]) -> None:
        """From here on this file speaks for the argument; `said` are those that it has spoken for already."""
        moves = any(key in levels for levels in self._zips)
        if key in said or moves:
            table.note(key, f"{key} is already set at {self._places[key]}", remedy="say it in one place")
        said.add(key)
        self._fixed.pop(key, None)
        self._dims.pop(key, None)
        self._places[key] = table.where(key)


def _levels(raw: Any) -> Levels:
    """A converter: the values of a dim; a value may itself be a list."""
    if not isinstance(raw, list) or not raw:
        raise ConversionError("a dim needs a list of at least one value", "write it like [16, 32]")
    levels = tuple(map(toml_reader.value, raw))
    if repeated := [text for text, count in Counter(map(canonical_json, levels)).items() if count > 1]:
        raise ConversionError(
            f"a dim's values differ, but {', '.join(repeated)} is there more than once", "take it out"
        )
    return levels


def _check_lengths(table: Reader, moving: Mapping[str, Levels]) -> None:
    if len({len(levels) for levels in moving.values()}) != 1:
        counts = ", ".join(f"{key} has {len(levels)}" for key, levels in moving.items()) or "there are none"
        table.note("", f"dims that move together need equally many values: {counts}", remedy="pair the values up")


def _when(table: Reader) -> When:
    match = _pattern(table.section("match"), "match")
    changes = table.section("set").arguments(toml_reader.value)
    if not changes:
        table.note("set", "a rule must set something", remedy="add `set = { learning_rate = 1.0 }`")
    return When(match=match, set=changes, where=table.where(), key="when")


def _exclude(table: Reader) -> Exclude:
    return Exclude(match=_pattern(table, "exclude"), where=table.where(), key="exclude")


def _pattern(table: Reader, word: str) -> dict[str, Value]:
    pattern = table.arguments(toml_reader.value)
    if not pattern:
        table.note("", f"{word} is empty and would meet every point", remedy="name an argument and its value")
    return pattern


def _questions(tops: tuple[Reader, ...], dims: Mapping[str, Levels]) -> tuple[Question, ...]:
    questions: dict[str, Question] = {}
    for table in [table for top in tops for table in top.sections("question")]:
        question = _question(table, dims)
        if question.id in questions:
            table.note("id", f"two questions have the id {toml_repr(question.id)}", remedy="give each its own")
        questions[question.id] = question
    return tuple(questions.values())


def _question(table: Reader, dims: Mapping[str, Levels]) -> Question:
    given: dict[str, Any] = {key: table.require(key, toml_reader.text) for key in ("id", "ask")}
    given |= table.given(kind=_kind, contrast=lambda raw: raw, within_gib=toml_reader.number(above=0))
    kind = given.get("kind", "contrast")
    if kind != "contrast" and given.pop("contrast", None) is not None:
        table.note("contrast", f"a {kind} question compares no levels", remedy='remove it, or write kind = "contrast"')
    if kind != "memory" and "within_gib" in given:
        table.note("within_gib", f"a {kind} question has no memory limit", remedy='remove it, or write kind = "memory"')
    if kind == "contrast":
        given.pop("contrast", None)
        given["dim"], given["levels"] = _contrast(table.section("contrast"), dims)
    return Question(**given)


def _kind(raw: Any) -> str:
    kinds = get_args(QuestionKind)
    if raw not in kinds:
        raise ConversionError("is not a kind of question", f"write {', '.join(kinds[:-1])} or {kinds[-1]}")
    return str(raw)


def _contrast(table: Reader, dims: Mapping[str, Levels]) -> tuple[str, tuple[Value, Value]]:
    """The dim that a question is about and its two levels, which must be among the dim's values."""
    pairs = table.arguments(toml_reader.several(toml_reader.value))
    dim, pair = next(iter(pairs.items()), ("", ()))
    if len(pairs) != 1 or len(pair) != 2 or same(pair[0], pair[1]):
        remedy = "write contrast = { network_dim = [16, 32] }"
        table.note("", "a contrast is one dim with two different values", remedy=remedy)
        return "", ("", "")
    if dim not in dims:
        table.note(
            dim, f"{dim} is not a dim of this grid", remedy=toml_reader.did_you_mean(dim, dims, "add it to [dims]")
        )
    for level in pair if dim in dims else ():
        if not any(same(level, value) for value in dims[dim]):
            remedy = f"its values: {', '.join(map(toml_repr, dims[dim]))}"
            table.note(dim, f"{toml_repr(level)} is not a value of {dim}", remedy=remedy)
    return dim, (pair[0], pair[1])
