"""Reads settings and grid into a validated plan; reports all errors at once."""

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from orchestrator.config import grid, settings
from orchestrator.config.grid import Grid
from orchestrator.config.schema import Margins, Settings, override_margins
from orchestrator.datasets import captions
from orchestrator.errors import InputError, NothingSelected, Problem, error, errors_of, warning
from orchestrator.files import from_here
from orchestrator.kohya import config_files, generate, networks, prompts
from orchestrator.kohya.inheritance import Inheritance
from orchestrator.model import Params, Point, Question, SequentialDesign
from orchestrator.plan import lint, train_config, training_length
from orchestrator.redaction import find_secret
from orchestrator.scoring import prompt_adherence
from orchestrator.store.layout import Attempt, Run, Sweep
from orchestrator.text import bad_name, pluralize
from orchestrator.values import toml_repr

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A validated grid under its settings. `prompts`: for generation. `warnings`: problems that are no errors.

    is_followup: `points` are some points of a frozen sweep, whose grid stays as it is. design: of a sequential sweep,
    whose `later` points belong to further seeds. margins: of the settings, overridden by the grid. grid_file: None for
    a plan without one.
    """

    sweep: Sweep
    settings: Settings
    grid_text: str
    points: tuple[Point, ...]
    questions: tuple[Question, ...]
    prompts: tuple[str, ...]
    warnings: tuple[Problem, ...]
    is_followup: bool = False
    design: SequentialDesign | None = None
    margins: Margins = field(default_factory=Margins)
    later: tuple[Point, ...] = ()
    grid_file: Path | None = None
    replaced: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What the grid sets -> the arguments of the settings that it replaces."""

    def runs(self, only: str = "*") -> list[Run]:
        """The runs whose name or id matches a glob, baselines last. Raises NothingSelected when none does."""
        chosen = [point for point in self.points if grid.selects(only, point)]
        if not chosen:
            what = shlex.quote(str(from_here(self.grid_file))) if self.grid_file else "--final"
            remedy = f"`orchestrate plan {what}` lists their names"
            raise NothingSelected(error("--only", f'no run matches "{only}"', remedy))
        return [self.sweep.run(point) for point in chosen]

    def with_next_seed(self) -> "Plan":
        """With the points of the next seed of a sequential sweep, all arms together."""
        seed = min(_seed(point) for point in self.later)
        return self._with(tuple(point for point in self.later if _seed(point) == seed))

    def with_all_seeds(self) -> "Plan":
        """With the points of all seeds of a sequential sweep: the most that it can train."""
        return self._with(self.later)

    def _with(self, more: tuple[Point, ...]) -> "Plan":
        points = sorted((*self.points, *more), key=lambda point: point.is_baseline)
        return replace(self, points=tuple(points), later=tuple(one for one in self.later if one not in more))


def read(settings_file: Path, grid_file: Path, name: str = "", *, text: str | None = None) -> Plan:
    """Read and check settings, grid and prompts. Raises InputError with all errors.

    name: of the sweep. text: settings to read instead of the file's content.
    """
    problems: list[Problem] = []
    used, wrong_settings = _tried(lambda: settings.read(settings_file, text), problems) or (None, [])
    asked, wrong_grid = _tried(lambda: grid.read(grid_file), problems) or (None, [])
    problems += [*wrong_settings, *wrong_grid]
    expandable = not problems
    name = _tried(lambda: _name(name or grid_file.stem), problems) or ""
    texts = _prompts(used, problems) if used else ()
    inherited = Inheritance(used, asked.unset) if used and asked else None
    points = _points(asked, used, inherited, problems, expandable) if used and asked and inherited else ()
    trained = [point for point in points if point.is_trained]
    problems += untriggered(texts, used, points) if used else []
    problems += lint.lint_early_stop(trained, asked, used, len(texts)) if used and asked and trained else []
    if used is None or asked is None or errors_of(problems):
        raise InputError(*problems)
    sweep = Sweep(used.runs / name)
    if wrong := lint.lint_templates([sweep.run(point) for point in trained], used):
        raise InputError(*wrong)
    baselines = map(baseline_point, dict.fromkeys(str(point.params["base_model"]) for point in points))
    points = (*points, *baselines)
    problems += _dropped(sweep, points)
    later = _later(points, asked.design, sweep) if asked.design else ()
    return Plan(
        sweep=sweep,
        settings=used,
        grid_text="\n".join(path.read_text(encoding="utf-8") for path in asked.files),
        points=tuple(point for point in points if point not in later) if later else points,
        later=later,
        grid_file=grid_file.resolve(),
        design=asked.design,
        margins=override_margins(used.margins, asked.margins),
        questions=asked.questions,
        prompts=texts,
        warnings=tuple(problems),
        replaced=inherited.replaced if inherited else {},
    )


def read_final(settings_file: Path, seeds: int = 1, name: str = "", *, text: str | None = None) -> Plan:
    """The plan of the settings alone, with the training seeds 1 to `seeds`, as `read`."""
    with tempfile.TemporaryDirectory() as folder:
        grid_file = Path(folder) / "final.toml"
        grid_file.write_text(f"[dims]\nseed = {list(range(1, seeds + 1))}\n", encoding="utf-8")
        return replace(read(settings_file, grid_file, name, text=text), grid_file=None)


def _tried(read: Callable[[], T], problems: list[Problem]) -> T | None:
    try:
        return read()
    except InputError as error:
        problems += error.problems
        return None


def _prompts(used: Settings, problems: list[Problem]) -> tuple[str, ...]:
    texts, wrong = prompts.read_prompts(used.generation.prompts)
    problems += [*wrong, *generate.check(used.generation, where=str(used.path))]
    for name, base in used.base_models.items():
        key = f"base_models.{name}"
        problems += generate.check(used.generation_of(name), where=str(used.path), key=key, only=base.generation)
    triggers = [dataset.trigger for dataset in used.datasets.values()]
    if (plain := prompt_adherence.drift_prompts(triggers, texts)) and not used.scoring.clip:
        what = f"{pluralize(len(plain), 'prompt')} without a trigger: their images measure drift only, which needs CLIP"
        remedy = "set score.clip, add the trigger to the prompts, or remove them"
        problems.append(warning("generate.prompts", what, remedy, where=str(used.generation.prompts)))
    return texts


def untriggered(texts: Sequence[str], used: Settings, points: Sequence[Point]) -> list[Problem]:
    """A warning for each trigger of the trained datasets that no prompt contains."""
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(str(point.params["dataset"]) for point in points if point.is_trained):
        dataset = used.datasets[name]
        triggers = [part.trigger for part in dataset.parts if part.trigger]
        rewrites = dataset.recipe.captions if dataset.recipe else None
        used_by = [text for text in texts for trigger in triggers if captions.find_trigger(text, trigger)]
        if texts and triggers and not used_by and not (rewrites and rewrites.replace_trigger):
            names.setdefault(triggers[0], []).append(name)
    return [
        warning(
            "generate.prompts",
            f"no prompt contains the trigger of {', '.join(found)}, so the images would not show what was trained",
            f"write the trigger into the prompts, or correct datasets.{found[0]}.trigger",
            where=str(used.generation.prompts),
            value=trigger,
        )
        for trigger, found in names.items()
    ]


def _points(
    asked: Grid, used: Settings, inherited: Inheritance, problems: list[Problem], expandable: bool
) -> tuple[Point, ...]:
    """The points, checked. Unless they are `expandable`, only the arguments as written are checked."""
    points = (
        _tried(lambda: grid.expand(asked, used, inherited.params, networks.matching_rank), problems)
        if expandable
        else None
    )
    if points is None:
        problems += lint.lint_arguments(asked, used)
        return ()
    trained = [point for point in points if point.is_trained]
    problems += lint.lint_points(trained, asked, used, training_length.LengthEstimator(used.datasets))
    return points


def _later(points: Sequence[Point], design: SequentialDesign, sweep: Sweep) -> tuple[Point, ...]:
    """The points of seeds that no round has reached; the frozen sweep lists those that were."""
    listed = {run.point.id for run in sweep.runs()} if sweep.exists() else set()
    reached = max((_seed(point) for point in points if point.id in listed and point.is_trained), default=0)
    opened = max(reached, design.first)
    return tuple(point for point in points if point.is_trained and _seed(point) > opened)


def _seed(point: Point) -> int:
    """The seed as the grid writes it: its round."""
    return int(str(point.written["seed"]))


def _dropped(sweep: Sweep, points: tuple[Point, ...]) -> list[Problem]:
    """A warning if the sweep has runs that are not in the grid."""
    if not (dropped := sweep.dropped(points)):
        return []
    what = (
        f"{pluralize(len(dropped), 'run')} of {sweep.name} {'is' if len(dropped) == 1 else 'are'} no longer in the grid"
    )
    remedy = (
        f"they stay on disk and are not reported; `orchestrate prune {sweep.name} --dropped` lists them after a run"
    )
    return [warning("", what, remedy, where=str(sweep.path))]


def example(asked: Plan, only: str) -> str:
    """sd-scripts' config of the first asked run that trains; empty where none does."""
    for run in asked.runs(only):
        if run.point.is_trained:
            attempt = Attempt(run.path / train_config.STAGE / str(len(run.attempts(train_config.STAGE)) + 1))
            renderer = config_files.Renderer(asked.settings.templates)
            return train_config.config_toml(run, attempt, asked.settings, renderer)
    return ""


def _name(name: str) -> str:
    if found := find_secret(name):
        raise InputError(error("--name", f"the name of the sweep contains {found}", "give another name with --name"))
    if reason := bad_name(name):
        raise InputError(
            error("--name", f"{toml_repr(name)} cannot name a sweep: it {reason}", "give another name with --name")
        )
    return name


def baseline_point(base: str) -> Point:
    """The base model without a LoRA: it is not trained, only generated from and scored."""
    params: Params = {"base_model": base}
    identity = grid.point_id({**params, "is_baseline": True})
    name = f"baseline-{grid.point_name(params, params, identity)}"
    return Point(id=identity, name=name, params=params, is_baseline=True)
