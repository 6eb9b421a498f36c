"""Grid -> points: every combination of the dims, with the rules and expressions applied, and every problem with it."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from orchestrator.config.expressions import ExpressionError, Expressions, is_expression
from orchestrator.config.grid.identity import canonical, point_id, point_name
from orchestrator.config.grid.reading import Grid
from orchestrator.config.grid.rules import Rules
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, Problem
from orchestrator.model import LORA, Params, Point, Value
from orchestrator.text import did_you_mean
from orchestrator.values import toml_repr

MAX_POINTS = 100_000


Inherit: TypeAlias = Callable[[Params], Params]
"""What a point inherits from the settings, given what the grid sets; the same object for equal results."""


MatchRank: TypeAlias = Callable[[Params], int]
"""The rank of a network with the number of parameters that networks.lora has at these arguments."""


def expand(
    grid: Grid, settings: Settings, inherit: Inherit | None = None, match_rank: MatchRank | None = None
) -> tuple[Point, ...]:
    """All points, the first dim changing slowest. InputError with every problem, each named once.

    match_rank: computes network_dim where the grid matches networks by parameters, before other expressions.

    Later words win: what points inherit (by default the settings' arguments), [fixed], [dims] and [[zip]], [[when]];
    then expressions; then [[exclude]].
    """
    _refuse_too_many(grid)
    arguments = {key: value for key, value in settings.arguments.items() if key not in grid.unset}
    match_rank = match_rank if grid.match_parameters else None
    expansion = _Expansion(grid, settings, inherit or (lambda _: arguments), match_rank)
    points = tuple(point for levels in _combinations(grid) if (point := expansion.point(levels)))
    points += tuple(point for name in grid.dims.get(LORA, ()) if (point := expansion.file_point(str(name))))
    if problems := expansion.problems():
        raise InputError(*problems)
    if not points:
        what = "the grid is empty: every point is excluded"
        raise InputError(Problem(what=what, where=grid.excludes[0].where, key="exclude", remedy="exclude less"))
    return points


def _refuse_too_many(grid: Grid) -> None:
    count = math.prod(len(axis) for axis in _axes(grid))
    if count > MAX_POINTS:
        what = f"the dims make {count:,} points; {MAX_POINTS:,} are the most"
        raise InputError(Problem(what=what, where=str(grid.path), key="dims", remedy="drop values or dims"))


def _combinations(grid: Grid) -> Iterator[dict[str, Value]]:
    """The levels of each trained point: all combinations of the dims; none if LoRA files are the only dim."""
    if not _axes(grid) and LORA in grid.dims:
        return
    for steps in itertools.product(*_axes(grid)):
        yield {key: value for step in steps for key, value in step}


def _axes(grid: Grid) -> list[list[tuple[tuple[str, Value], ...]]]:
    """For each dim, and each group that moves together, its steps; a step is the arguments it sets."""
    groups = [*({key: levels} for key, levels in grid.dims.items() if key != LORA), *grid.zips]
    return [[tuple(zip(group, step, strict=True)) for step in zip(*group.values(), strict=True)] for group in groups]


class _Expansion:
    """Makes points of combinations, and collects the problems and the points made."""

    def __init__(self, grid: Grid, settings: Settings, inherit: Inherit, match_rank: MatchRank | None) -> None:
        self._grid = grid
        self._match_rank = match_rank
        self._settings = settings
        self._inherit = inherit
        self._treatments: Params = {"base_model": settings.base_model, "dataset": settings.dataset}
        tables = (settings.arguments, *settings.optimizers.values(), grid.fixed)
        computed = _keys_with_expressions(grid, [item for table in tables for item in table.items()])
        self._evaluation = _Evaluation(computed)
        self._rules = Rules(grid, computed)
        self._problems: dict[Problem, None] = {}
        self._made: dict[str, tuple[Params, Params]] = {}
        self._twins: list[Problem] = []

    def point(self, levels: Params) -> Point | None:
        """The point of one combination; None where it is excluded or has a problem."""
        params, places, failures = self._computed({**self._grid.fixed, **levels}, levels)
        for key, error in failures.items():
            self._note_failure(key, error, places, params)
        if (
            failures
            or not levels.keys() <= params.keys()
            or not self._knows_treatments(params, places)
            or self._rules.exclude(params)
        ):
            return None
        identity = point_id(params)
        self._check_twin(identity, params, levels)
        name = point_name(params, levels, identity)
        return Point(id=identity, name=name, params=params, dims=tuple(levels), written=levels)

    def file_point(self, name: str) -> Point | None:
        """The point of an existing LoRA file; None if the settings do not have it. It has no training arguments."""
        if name not in self._settings.loras:
            what = f"{toml_repr(name)} is not among the LoRAs of {self._settings.path.name}"
            remedy = did_you_mean(name, self._settings.loras, f"add a table [loras.{toml_repr(name)}] with its path")
            self._note(what, LORA, {}, remedy=remedy)
            return None
        params: Params = {"base_model": self._settings.loras[name].base_model, LORA: name}
        written, identity = {LORA: name}, point_id(params)
        self._check_twin(identity, params, written)
        named = point_name(params, written, identity)
        return Point(id=identity, name=named, params=params, dims=(LORA,), written=written)

    def _computed(
        self, asked: Params, levels: Params
    ) -> tuple[dict[str, Value], Mapping[str, str], dict[str, ExpressionError]]:
        """The arguments of one combination, where rules set them, and what could not be computed.

        What a point inherits depends on what the grid sets, which rules and expressions can change: then once more.
        """
        inherited = self._inherit(asked)
        for last in (False, True):
            params = {**self._treatments, **inherited, **asked}
            places = self._rules.apply(params, levels)
            if self._match_rank and not self._evaluation.evaluate(known := dict(params)):
                params["network_dim"] = self._match_rank(known)
            failures = self._evaluation.evaluate(params)
            own = {key: params[key] for key in (*asked, *places) if key in params}
            if last or failures or inherited is (inherited := self._inherit(own)):
                break
        return params, places, failures

    def problems(self) -> list[Problem]:
        """The problems, each once; consequences of other problems are left out."""
        return [*self._problems, *self._rules.wrong()] or [*self._twins, *self._rules.idle()]

    def _note_failure(self, key: str, error: ExpressionError, places: Mapping[str, str], params: Params) -> None:
        remedy = "docs/grid.md explains expressions"
        if error.missing:
            remedy = did_you_mean(error.missing, params, f"set {error.missing} in [fixed]")
        self._note(f"cannot be computed: {error}", key, places, value=toml_repr(params[key]), remedy=remedy)

    def _knows_treatments(self, params: Params, places: Mapping[str, str]) -> bool:
        names = {"base_model": self._settings.base_models, "dataset": self._settings.datasets}
        unknown = [key for key in names if params[key] not in names[key]]
        for key in unknown:
            what = f"{toml_repr(params[key])} is not among the {key}s of {self._settings.path.name}"
            self._note(what, key, places, remedy=did_you_mean(str(params[key]), names[key], f"add [{key}s.NAME]"))
        return not unknown

    def _check_twin(self, identity: str, params: Params, levels: Params) -> None:
        if identity not in self._made:
            self._made[identity] = (params, levels)
            return
        twin, others = self._made[identity]
        if canonical(twin) == canonical(params):
            what = f"({_listed(others)}) and ({_listed(levels)}) make the same point"
            remedy = "remove one of the values from its dim"
        else:
            what = f"({_listed(others)}) and ({_listed(levels)}) share the id {identity} by chance"
            remedy = 'add `metadata_title = "..."` to [fixed]: it changes the ids, and nothing in the training'
        self._twins.append(Problem(what=what, where=str(self._grid.path), key="dims", remedy=remedy))

    def _note(self, what: str, key: str, places: Mapping[str, str], *, value: str = "", remedy: str) -> None:
        where = places.get(key) or self._grid.places.get(key) or str(self._settings.path)
        self._problems[Problem(what=what, where=where, key=key, value=value, remedy=remedy)] = None


class _Evaluation:
    """Computes the expressions of many points; `keys` are the arguments that can have one."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)
        self._expressions = Expressions()

    def evaluate(self, params: dict[str, Value]) -> dict[str, ExpressionError]:
        """Replace every expression in `params` by its value, after those that it depends on. Returns the failures."""
        waiting = {key: params[key] for key in self._keys if key in params and is_expression(params[key])}
        failures: dict[str, ExpressionError | None] = {}
        """None where the cause is the failure of another argument."""
        for start in tuple(waiting):
            trail = {start: self._names(params[start])} if start in waiting else {}
            while trail:
                key, names = next(reversed(trail.items()))
                needed = next((name for name in names if name in waiting), None)
                if needed is None:
                    del trail[key], waiting[key]
                    self._evaluate(key, params, failures)
                elif needed in trail:
                    cycle = [*list(trail)[list(trail).index(needed) :], needed]
                    failures |= dict.fromkeys(cycle)
                    failures[needed] = ExpressionError(" -> ".join(cycle) + " is circular")
                else:
                    trail[needed] = self._names(params[needed])
        return {key: error for key, error in failures.items() if error}

    def _evaluate(self, key: str, params: dict[str, Value], failures: dict[str, ExpressionError | None]) -> None:
        if key in failures:
            return
        try:
            if failures and not failures.keys().isdisjoint(self._expressions.names(params[key])):
                failures[key] = None
            else:
                params[key] = self._expressions.evaluate(params[key], params)
        except ExpressionError as error:
            failures[key] = error

    def _names(self, value: Value) -> Iterator[str]:
        try:
            return iter(sorted(self._expressions.names(value)))
        except ExpressionError:
            return iter(())  # evaluating it raises the error again


def _keys_with_expressions(grid: Grid, inherited: Iterable[tuple[str, Value]]) -> list[str]:
    """The arguments that have an expression anywhere."""
    written = [*inherited, *((key, value) for rule in grid.whens for key, value in rule.set.items())]
    written += [(key, value) for dims in (grid.dims, *grid.zips) for key in dims for value in dims[key]]
    return list(dict.fromkeys(key for key, value in written if is_expression(value)))


def _listed(levels: Params) -> str:
    return ", ".join(f"{key} = {toml_repr(value)}" for key, value in levels.items())
