"""What a grid asks for, read and checked before anything starts: every mistake in one go."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from orchestrator import grid, ladder, settings
from orchestrator.errors import InputError, NothingSelected, Problem, errors_of
from orchestrator.expressions import Expressions
from orchestrator.kohya import check, generate, keys, prompts, traps
from orchestrator.model import Params, Point, Question, Settings
from orchestrator.store import Run, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a grid asks for under these settings, checked; `warnings` did not stop it."""

    sweep: Sweep
    settings: Settings
    grid_text: str
    points: tuple[Point, ...]
    questions: tuple[Question, ...]
    prompts: tuple[str, ...]
    warnings: tuple[Problem, ...]

    def runs(self, only: str = "*") -> list[Run]:
        """The asked runs whose name or id matches a glob; floors last."""
        chosen = [point for point in self.points if fnmatchcase(point.name, only) or fnmatchcase(point.id, only)]
        if not chosen:
            remedy = "`orchestrate plan` lists their names"
            raise NothingSelected(Problem(what=f'no run matches "{only}"', key="--only", remedy=remedy))
        return [self.sweep.run(point) for point in chosen]


def read(settings_file: Path, grid_file: Path, name: str = "") -> Plan:
    """Read and check everything that the user wrote; raises InputError with every mistake in all of it."""
    found, problems = _collect(lambda: settings.load(settings_file), lambda: grid.load(grid_file))
    if problems:
        raise InputError(*problems)
    used, asked = found
    points = grid.expand(asked, used)
    texts, problems = prompts.read_prompts(used.generation.prompts)
    problems += [*_wrong(points, used, str(grid_file)), *generate.check(used.generation, where=str(settings_file))]
    if errors_of(problems):
        raise InputError(*problems)
    return Plan(
        sweep=Sweep(used.runs / _name(name or grid_file.stem)),
        settings=used,
        grid_text=grid_file.read_text(encoding="utf-8"),
        points=(*points, *_floors(points)),
        questions=asked.questions,
        prompts=texts,
        warnings=tuple(problems),
    )


def _collect(*readers: Callable[[], Any]) -> tuple[list[Any], list[Problem]]:
    found: list[Any] = []
    problems: list[Problem] = []
    for read in readers:
        try:
            found.append(read())
        except InputError as error:
            problems += error.problems
    return found, problems


def _name(name: str) -> str:
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0") or len(name) > 100:
        raise InputError(Problem(what=f'"{name}" cannot name a sweep', key="--name", remedy="use a plain file name"))
    return name


def _floors(points: Iterable[Point]) -> list[Point]:
    """One run without any LoRA for each base model: the same prompts and seeds, made once, shared by all."""
    bases = dict.fromkeys(str(point.params["base_model"]) for point in points)
    return [_floor(base) for base in bases]


def _floor(base: str) -> Point:
    params: Params = {"base_model": base}
    identity = grid.point_id({**params, "floor": True})
    return Point(id=identity, name=f"floor-{grid.point_name(params, params, identity)}", params=params, floor=True)


def _wrong(points: Sequence[Point], used: Settings, where: str) -> list[Problem]:
    """What sd-scripts would refuse, or worse, not refuse, of the points and of what the ladder makes of them."""
    accepted, expressions = keys.accepted(used.trainer.sd_scripts), Expressions()
    asked = [point.params for point in points]
    steps = [(params, step.overrides) for params in asked for step in ladder.steps(params, used.ladder, expressions)]
    rungs = f"{used.path}: ladder"
    told = traps.traps(asked, where=where)
    lowered = traps.traps([{**params, **overrides} for params, overrides in steps], where=rungs)
    return [
        *check.check(asked, accepted, where=where),
        *check.check([overrides for _, overrides in steps], accepted, where=rungs),
        *told,
        *(trap for trap in lowered if trap.what not in {known.what for known in told}),
        *traps.sweep_traps(points, where=where),
    ]
