"""Grid files -> Grid: the language of docs/grid.md, read strictly, together with the files that a grid includes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from orchestrator.config import toml_reader
from orchestrator.config.fields import ArgumentName, Arguments, Count, Levels, Name, Positive, Table
from orchestrator.config.schema import Margins, override_margins
from orchestrator.config.toml_reader import File, Place
from orchestrator.errors import InputError, Problem
from orchestrator.model import LORA, TREATMENTS, Measure, Params, Question, QuestionKind, SequentialDesign, Value
from orchestrator.text import did_you_mean
from orchestrator.values import same, toml_repr

REPLICATE = "seed"
"""The argument whose values are replicates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhenTable(Table):
    """A rule: points that match `match` get the arguments of `set` and lose those of `unset`."""

    match: Annotated[Arguments, Field(min_length=1)]
    set: Arguments = field(default_factory=dict)
    unset: tuple[ArgumentName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionTable(Table):
    """A question that the report answers: a contrast of two values of a dim, the VRAM needed, or the pass threshold."""

    id: Name
    ask: str
    kind: QuestionKind = "contrast"
    contrast: Annotated[Mapping[ArgumentName, Levels], Field(min_length=1)] = field(default_factory=dict)
    """kind = "contrast": one dim, and two of its values."""
    measure: Measure | None = None
    """kind = "contrast": compare similarity, or gain over the base model without LoRA. Default: gain for base_model."""
    within_gib: Positive | None = None
    """kind = "memory": the VRAM to fit; without it, the size of the GPU."""
    after: tuple[Name, ...] = ()
    """Questions to decide first, also of other grids; `orchestrate next` waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsTable(Table):
    """Training seeds in rounds: 1 to `first`, then one more at a time until every question is decided, up to `max`."""

    first: Annotated[Count, Field(ge=2)]
    max: Annotated[Count, Field(le=50)]


class GridFile(TypedDict, total=False):
    """A grid: what to vary, what to keep fixed, and the questions to answer."""

    include: list[str]
    unset: list[ArgumentName]
    fixed: Arguments
    dims: Mapping[ArgumentName, Levels]
    zip: list[Mapping[ArgumentName, Levels]]
    when: list[WhenTable]
    exclude: list[Arguments]
    question: list[QuestionTable]
    seeds: SeedsTable
    margins: Margins
    match: Literal["parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """A rule: the points that match get these arguments, and lose those of `unset`.

    `where` and `key` name its place in the file.
    """

    match: Params
    set: Params
    unset: tuple[str, ...] = ()
    where: str
    key: str = "when"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclude:
    """The points that match are left out."""

    match: Params
    where: str
    key: str = "exclude"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid as written: expressions are still text. Every argument is in one of fixed, dims, zips and unset.

    files: the grid's own file last, before it those that it includes; places: `file:line` of each argument.
    """

    path: Path
    files: tuple[Path, ...]
    fixed: Params
    dims: Mapping[str, Sequence[Value]]
    zips: tuple[Mapping[str, Sequence[Value]], ...]
    whens: tuple[When, ...]
    excludes: tuple[Exclude, ...]
    questions: tuple[Question, ...]
    design: SequentialDesign | None = None
    margins: Margins = field(default_factory=Margins)
    match_parameters: bool = False
    """Whether each network gets the rank with the number of parameters that networks.lora has at network_dim."""
    places: Mapping[str, str]
    unset: tuple[str, ...] = ()
    """Arguments that the points do not inherit."""


def load(path: Path) -> Grid:
    """Read a grid file and what it includes; InputError with every mistake in all of them."""
    grid, problems = read(path)
    if problems:
        raise InputError(*problems)
    return grid


def read(path: Path) -> tuple[Grid, list[Problem]]:
    """The grid without what is wrong in it, and all problems. InputError when a file is not TOML."""
    files = list(_files(path, path.parent.resolve(), trail=(), seen=set()))
    grid = _Merger().merged(path, files)
    problems = [problem for file in files for problem in file.problems]
    if not (problems or grid.fixed or grid.dims or grid.zips or grid.unset):
        remedy = "add [dims] with what to vary, or [fixed] for a single point"
        problems = [Problem(what="the grid is empty", where=str(path), key="dims", remedy=remedy)]
    return grid, problems


def _files(path: Path, folder: Path, trail: tuple[Path, ...], seen: set[Path]) -> Iterator[File]:
    """The files that a grid includes, each once and before the one that includes it."""
    file = toml_reader.read(path)
    file.reject_unfit(comments=True)
    if file.has(("trainer",)):
        remedy = "name a grid, a file with [dims]; the settings follow --settings"
        raise InputError(Problem(what="these are settings, not a grid", where=str(path), remedy=remedy))
    file.note_unknown_keys(GridFile.__annotations__)
    seen.add(path.resolve())
    trail = (*trail, path.resolve())
    for name in (file.parse(("include",), list[str]) if file.has(("include",)) else None) or ():
        if problem := _bad_include(name, path.parent, folder, trail):
            file.note(("include",), problem, value=name, remedy=f"name a file below {folder}")
        elif (path.parent / name).resolve() not in seen:
            yield from _files(path.parent / name, folder, trail, seen)
    yield file


def _bad_include(name: str, parent: Path, folder: Path, trail: tuple[Path, ...]) -> str:
    if "\0" in name or Path(name).is_absolute() or not (parent / name).resolve().is_relative_to(folder):
        return f"{toml_repr(name)} is outside the grid's folder"
    if (parent / name).resolve() in trail:
        return "a cycle: " + " includes ".join(file.name for file in (*trail, parent / name))
    return "" if (parent / name).is_file() else f"there is no file {toml_repr(name)}"


class _Merger:
    """Merges files: what a later one sets replaces all that earlier ones set for the same argument."""

    def __init__(self) -> None:
        self._fixed: dict[str, Value] = {}
        self._dims: dict[str, Sequence[Value]] = {}
        self._zips: list[Mapping[str, Sequence[Value]]] = []
        self._unset: dict[str, None] = {}
        self._places: dict[str, str] = {}

    def merged(self, path: Path, files: Sequence[File]) -> Grid:
        """The grid of all files. Mistakes are noted in them."""
        for file in files:
            self._add(file)
        design = self._seeds(files)
        dims = {key: levels for group in (self._dims, *self._zips) for key, levels in group.items()}
        return Grid(
            path=path,
            files=tuple(file.path for file in files),
            fixed=self._fixed,
            dims=self._dims,
            zips=tuple(self._zips),
            whens=tuple(rule for file in files for rule in _whens(file)),
            excludes=tuple(rule for file in files for rule in _excludes(file)),
            questions=_questions(files, dims),
            design=design,
            margins=_margins(files),
            match_parameters="parameters" in _matches(files),
            places=self._places,
            unset=tuple(self._unset),
        )

    def _seeds(self, files: Sequence[File]) -> SequentialDesign | None:
        """The seeds of the last file that has [seeds]; they become the dim `seed`."""
        place: Place = ("seeds",)
        file = next((file for file in reversed(files) if file.has(place)), None)
        table = file.parse(place, SeedsTable) if file else None
        if file is None or table is None:
            return None
        if table.first > table.max:
            file.note((*place, "first"), f"{table.first} is more than max = {table.max}", remedy="lower it")
        if where := self._places.get(REPLICATE):
            file.note(place, f"seed is also set at {where}", remedy="remove one of the two")
        if not any(file.tables("question", array=True) for file in files):
            what = "there is no question that could decide when to stop"
            file.note(place, what, remedy="add a [[question]] with a contrast, or list the seeds in [dims]")
        self._dims[REPLICATE] = tuple(range(1, table.max + 1))
        self._places[REPLICATE] = file.where(place)
        return SequentialDesign(first=table.first, max=table.max)

    def _add(self, file: File) -> None:
        own: set[str] = set()
        for key, value in self._claimed(file, ("fixed",), Arguments, own):
            self._fixed[key] = value
        _note_lora(file, ("fixed",), self._fixed)
        for key, levels in self._claimed(file, ("dims",), Mapping[ArgumentName, Levels], own):
            self._dims[key] = levels
        for place in file.tables("zip", array=True):
            group = dict(self._claimed(file, place, Mapping[ArgumentName, Levels], own))
            _note_lora(file, place, group)
            if len({len(levels) for levels in group.values()}) != 1:
                counts = ", ".join(f"{key} has {len(levels)}" for key, levels in group.items()) or "there are none"
                what = f"dims that move together need equally many values: {counts}"
                file.note(place, what, remedy="give each the same number of values")
            self._zips.append(group)
        self._remove(file, own)

    def _remove(self, file: File, own: set[str]) -> None:
        """Remove what `unset` names from the arguments of the files below, and from what the settings give."""
        place = ("unset",)
        for key in (file.parse(place, list[ArgumentName]) or ()) if file.has(place) else ():
            if key in own or any(key in levels for levels in self._zips):
                file.note(place, f"{key} is set at {self._places[key]}", value=key, remedy="either set it or unset it")
            elif key in TREATMENTS:
                file.note(place, f"every point needs a {key}", value=key, remedy=f"set {key} in [fixed] instead")
            self._fixed.pop(key, None)
            self._dims.pop(key, None)
            self._unset[key] = None
            self._places[key] = file.where(place)

    def _claimed(self, file: File, place: Place, kind: object, own: set[str]) -> Iterator[tuple[str, Any]]:
        """The arguments of a table, which replace those of earlier files; `own` are those that this file has set."""
        for key, value in (file.parse(place, kind) or {}).items():
            if key in own or any(key in levels for levels in self._zips):
                file.note((*place, key), f"{key} is already set at {self._places[key]}", remedy="set it in one place")
            own.add(key)
            self._fixed.pop(key, None)
            self._dims.pop(key, None)
            self._unset.pop(key, None)
            self._places[key] = file.where((*place, key))
            yield key, value


def _note_lora(file: File, place: Place, arguments: Mapping[str, object]) -> None:
    if LORA in arguments and file.has((*place, LORA)):
        what = "a LoRA file is a point of its own and has no training arguments"
        file.note((*place, LORA), what, remedy='write lora = ["NAME"] in [dims]')


def _margins(files: Sequence[File]) -> Margins:
    """A later file overrides single margins of the files that it includes."""
    found = [file.parse(("margins",), Margins) or Margins() for file in files if file.has(("margins",))]
    return reduce(override_margins, found, Margins())


def _matches(files: Sequence[File]) -> list[str | None]:
    return [file.parse(("match",), Literal["parameters"]) for file in files if file.has(("match",))]


def _whens(file: File) -> Iterator[When]:
    for place in file.tables("when", array=True):
        if table := file.parse(place, WhenTable):
            if not (table.set or table.unset):
                file.note(place, "a rule must set or unset something", remedy="add set = { ... } or unset = [ ... ]")
            for key in table.unset:
                if key in table.set or key in TREATMENTS:
                    what = f"the rule sets {key}, too" if key in table.set else f"every point needs a {key}"
                    file.note((*place, "unset"), what, value=key, remedy=f"remove {key} from unset")
            yield When(match=table.match, set=table.set, unset=table.unset, where=file.where(place))


def _excludes(file: File) -> Iterator[Exclude]:
    for place in file.tables("exclude", array=True):
        match = file.parse(place, Arguments)
        if match == {}:
            file.note(place, "an empty rule would exclude every point", remedy="name an argument and its value")
        yield Exclude(match=match or {}, where=file.where(place))


def _questions(files: Sequence[File], dims: Mapping[str, Sequence[Value]]) -> tuple[Question, ...]:
    questions: dict[str, Question] = {}
    tables = [(file, place) for file in files for place in file.tables("question", array=True)]
    for file, place in tables:
        if table := file.parse(place, QuestionTable):
            if table.id in questions:
                what = f"two questions have the id {toml_repr(table.id)}"
                file.note((*place, "id"), what, remedy="give each its own")
            questions[table.id] = _question(table, file, place, dims)
    return tuple(questions.values())


def _question(table: QuestionTable, file: File, place: Place, dims: Mapping[str, Sequence[Value]]) -> Question:
    if table.kind != "contrast" and table.contrast:
        what = f"a {table.kind} question compares no values"
        file.note((*place, "contrast"), what, remedy='remove it, or write kind = "contrast"')
    if table.kind != "memory" and table.within_gib:
        what = f"a {table.kind} question has no memory limit"
        file.note((*place, "within_gib"), what, remedy='remove it, or write kind = "memory"')
    if table.kind != "contrast" and table.measure:
        what = f"a {table.kind} question has no measure"
        file.note((*place, "measure"), what, remedy='remove it, or write kind = "contrast"')
    question = Question(id=table.id, ask=table.ask, kind=table.kind, within_gib=table.within_gib, after=table.after)
    if table.kind != "contrast":
        return question
    dim, pair = next(iter(table.contrast.items()), ("", ()))
    if len(table.contrast) != 1 or len(pair) != 2:
        if table.contrast or not file.has((*place, "contrast")):
            what, remedy = (
                "a contrast is one dim with two different values",
                "write contrast = { network_dim = [16, 32] }",
            )
            file.note((*place, "contrast"), what, remedy=remedy)
        return question
    if dim not in dims:
        remedy = did_you_mean(dim, dims, "add it to [dims]")
        file.note((*place, "contrast", dim), f"{dim} is not a dim of this grid", remedy=remedy)
    for level in pair if dim in dims else ():
        if not any(same(level, value) for value in dims[dim]):
            remedy = f"its values: {', '.join(map(toml_repr, dims[dim]))}"
            file.note((*place, "contrast", dim), f"{toml_repr(level)} is not a value of {dim}", remedy=remedy)
    return replace(question, dim=dim, levels=(pair[0], pair[1]), measure=table.measure)
