"""What a grid asks for, read and checked before anything starts: every mistake in one go."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from orchestrator.config import grid, settings
from orchestrator.config.grid import Grid
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, NothingSelected, Problem, errors_of
from orchestrator.kohya import config_files, generate, prompts
from orchestrator.model import Params, Point, Question
from orchestrator.plan import lint, train_config, training_length
from orchestrator.store.layout import Attempt, Run, Sweep

T = TypeVar("T")


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
    problems: list[Problem] = []
    used = _tried(lambda: settings.load(settings_file), problems)
    asked = _tried(lambda: grid.load(grid_file), problems)
    name = _tried(lambda: _name(name or grid_file.stem), problems) or ""
    texts = _prompts(used, problems) if used else ()
    points = _points(asked, used, problems) if used and asked else ()
    problems += lint.of_early_stop(points, asked, used, len(texts)) if used and asked and points else []
    if used is None or asked is None or errors_of(problems):
        raise InputError(*problems)
    sweep = Sweep(used.runs / name)
    if wrong := lint.of_templates([sweep.run(point) for point in points], used):
        raise InputError(*wrong)
    return Plan(
        sweep=sweep,
        settings=used,
        grid_text="\n".join(path.read_text(encoding="utf-8") for path in asked.files),
        points=(*points, *_floors(points)),
        questions=asked.questions,
        prompts=texts,
        warnings=tuple(problems),
    )


def _tried(read: Callable[[], T], problems: list[Problem]) -> T | None:
    try:
        return read()
    except InputError as error:
        problems += error.problems
        return None


def _prompts(used: Settings, problems: list[Problem]) -> tuple[str, ...]:
    texts, wrong = prompts.read_prompts(used.generation.prompts)
    problems += [*wrong, *generate.check(used.generation, where=str(used.path))]
    return texts


def _points(asked: Grid, used: Settings, problems: list[Problem]) -> tuple[Point, ...]:
    points = _tried(lambda: grid.expand(asked, used), problems)
    if points is None:
        problems += lint.as_written(asked, used)
        return ()
    problems += lint.of_points(points, asked, used, training_length.LengthEstimator(used.datasets).steps(points))
    return points


def example(asked: Plan, only: str) -> str:
    """sd-scripts' config of the first asked run that trains; empty where none does."""
    for run in asked.runs(only):
        if not run.point.is_baseline:
            attempt = Attempt(run.path / train_config.STAGE / str(len(run.attempts(train_config.STAGE)) + 1))
            renderer = config_files.Renderer(asked.settings.templates)
            return train_config.config_toml(run, attempt, asked.settings, renderer)
    return ""


def _name(name: str) -> str:
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0") or len(name) > 100:
        raise InputError(Problem(what=f'"{name}" cannot name a sweep', key="--name", remedy="use a plain file name"))
    return name


def _floors(points: Iterable[Point]) -> list[Point]:
    """One run without any LoRA for each base model: the same prompts and seeds, made once, shared by all."""
    bases = dict.fromkeys(str(point.params["base_model"]) for point in points)
    return [baseline_point(base) for base in bases]


def baseline_point(base: str) -> Point:
    """The base model without any LoRA: nothing is trained, only generated and scored."""
    params: Params = {"base_model": base}
    identity = grid.point_id({**params, "is_baseline": True})
    return Point(
        id=identity, name=f"baseline-{grid.point_name(params, params, identity)}", params=params, is_baseline=True
    )
