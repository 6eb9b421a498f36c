"""What is wrong with a grid under its settings, from what was written alone: every mistake with its file and line."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.config import toml_reader
from orchestrator.config.expressions import Expressions, is_expression
from orchestrator.config.grid import Grid
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, Problem, Severity
from orchestrator.evidence import preview_scores
from orchestrator.evidence.stats import early_stop_rule
from orchestrator.kohya import base_model, config_files, oom_fallback, previews
from orchestrator.kohya.arguments import check, lint, schema
from orchestrator.kohya.arguments.schema import ArgumentSchema
from orchestrator.kohya.oom_fallback import Fallback
from orchestrator.model import Params, Point, Value
from orchestrator.plan import train_config
from orchestrator.store.layout import Attempt, Run
from orchestrator.values import toml_repr


def as_written(asked: Grid, used: Settings) -> list[Problem]:
    """Arguments that sd-scripts does not take, in whatever combination: told even where no point can be made."""
    plain = [{key: value} for key, value in _written(asked, used) if not is_expression(value)]
    return _placed(check.check(plain, _accepted(used)), asked, used)


def of_points(points: Sequence[Point], asked: Grid, used: Settings, steps: Mapping[str, int]) -> list[Problem]:
    """What sd-scripts would refuse, or worse, not refuse, of the points and of what the ladder makes of them.

    steps: optimizer steps by point id, where they are known.
    """
    params, accepted = _but_for_seeds(points), _accepted(used)
    told = lint.lint_points(params, datasets=used.datasets)
    seeds: list[Params] = [{"seed": point.params["seed"]} for point in points if "seed" in point.params]
    found = [*check.check([*params, *seeds], accepted), *told, *lint.lint_sweep(points, steps=steps)]
    of_ladder = _of_ladder(params, {trap.what for trap in told}, used, accepted)
    return [*_placed(found, asked, used), *of_ladder, *_of_base_models(params, used)]


def _of_base_models(points: Iterable[Params], used: Settings) -> Iterator[Problem]:
    for name in dict.fromkeys(str(params["base_model"]) for params in points):
        path = used.base_models[name].path
        yield from base_model.is_distilled(path, where=str(used.path), key=f"base_models.{name}.path")


def _but_for_seeds(points: Iterable[Point]) -> list[Params]:
    """One of each group of replicates: nothing here depends on which seed it is, and each seed is one too many."""
    distinct: dict[tuple[object, ...], Params] = {}
    for point in points:
        values = [value for key, value in point.params.items() if key != "seed"]
        distinct.setdefault((*point.params, *map(repr, values)), point.params)
    return list(distinct.values())


def _accepted(used: Settings) -> ArgumentSchema:
    return schema.load_schema(used.trainer.sd_scripts)


def _written(asked: Grid, used: Settings) -> Iterator[tuple[str, Value]]:
    yield from used.arguments.items()
    yield from asked.fixed.items()
    for dims in (asked.dims, *asked.zips):
        yield from ((key, value) for key, values in dims.items() for value in values)
    for rule in asked.whens:
        yield from rule.set.items()


def of_templates(runs: Sequence[Run], used: Settings) -> list[Problem]:
    """What keeps these runs from being rendered; one of each set of arguments is proven to read back as meant."""
    renderer = config_files.Renderer(used.templates)
    proven: set[frozenset[str]] = set()
    found: dict[Problem, None] = {}
    for run in runs:
        names = frozenset(run.point.params)
        try:
            train_config.config_toml(
                run, Attempt(run.path / train_config.STAGE / "1"), used, renderer, prove=names not in proven
            )
        except InputError as error:
            found |= dict.fromkeys(error.problems)
        proven.add(names)
    return list(found)


# --- stopping early ---------------------------------------------------------------------------------------------------


def of_early_stop(points: Sequence[Point], asked: Grid, used: Settings, prompts: int) -> list[Problem]:
    """What keeps trainings from being looked at on their way, and what keeps a look from ever ending one."""
    if used.early_stop is None:
        return []
    wrong = [
        Problem(what=_NOT_BESIDE[key], key=key, value=toml_repr(point.params[key]), remedy=_TAKE_OUT)
        for point in points
        for key in _NOT_BESIDE
        if point.params.get(key)
    ]
    return [*_placed(wrong, asked, used), *_of_looks(points, used, prompts)]


_NOT_BESIDE = {
    **dict.fromkeys(previews.ASKING, "early_stop decides when previews are drawn"),
    "max_train_epochs": "early_stop compares trainings at the same step, and epochs are of any length",
}
_TAKE_OUT = "take it out (max_train_steps says how long a training is), or take [early_stop] out of the settings"


def _of_looks(points: Sequence[Point], used: Settings, prompts: int) -> Iterator[Problem]:
    others = max(Counter(preview_scores.comparison_group(point.params) for point in points).values()) - 1
    taken = max(len(preview_scores.check_steps(point.params, used.early_stop)) for point in points)
    if used.early_stop is None or not others * taken:
        what = "can end no training: no two runs share a training seed and a length, or no look is before their ends"
        yield _early_stop(used, "", what, "take it out, or lower `after`", Severity.WARNING)
        return
    needed = early_stop_rule.min_pairs(
        early_stop_rule.per_comparison_alpha(used.early_stop.p, looks=taken, others=others)
    )
    if used.early_stop.pictures < needed:
        what = f"so few pictures cannot tell: looks at {others + 1} runs, {taken} each, share p = {used.early_stop.p:g}"
        yield _early_stop(used, "pictures", what, f"at least {needed}, or a larger p")
    elif prompts and len(preview_scores.cells(prompts, used)) < needed:
        what = f"{prompts} prompts and {len(used.generation.seeds)} seeds make fewer previews than the {needed} needed"
        yield _early_stop(used, "pictures", what, "add prompts or generate.seeds")


def _early_stop(used: Settings, key: str, what: str, remedy: str, severity: Severity = Severity.ERROR) -> Problem:
    path = ("early_stop", key) if key else ("early_stop",)
    where = toml_reader.read(used.path).where(path)
    return Problem(what=what, where=where, key=".".join(path), remedy=remedy, severity=severity)


# --- the ladder -------------------------------------------------------------------------------------------------------


def _of_ladder(points: Iterable[Params], told: set[str], used: Settings, accepted: ArgumentSchema) -> list[Problem]:
    """Only what a rung brings about: a point's own mistakes are told where it is."""
    where = f"{used.path}: [[oom_fallback]]"
    try:
        steps = _steps(points, used)
    except InputError as error:
        return [replace(problem, where=where) for problem in error.problems]
    lowered = lint.lint_points([effective for effective, _ in steps], where=where, datasets=used.datasets)
    return [
        *check.check([step.overrides for _, step in steps], accepted, where=where),
        *(trap for trap in lowered if trap.what not in told),
    ]


def _steps(points: Iterable[Params], used: Settings) -> list[tuple[Params, Fallback]]:
    expressions = Expressions()
    return [
        ({**params, **step.overrides}, step)
        for params in points
        for step in oom_fallback.fallbacks(params, used.oom_fallback, expressions)
    ]


# --- where it was written ---------------------------------------------------------------------------------------------


def _placed(problems: Iterable[Problem], asked: Grid, used: Settings) -> list[Problem]:
    settings = toml_reader.read(used.path)

    def where(problem: Problem) -> str:
        rules = (rule.where for rule in asked.whens if _sets(rule.set, problem))
        if place := next(rules, asked.places.get(problem.key, "")):
            return place
        return settings.where(("arguments", problem.key)) if problem.key in used.arguments else str(asked.path)

    return list(dict.fromkeys(replace(problem, where=where(problem)) for problem in problems))


def _sets(changes: Params, problem: Problem) -> bool:
    return problem.key in changes and toml_repr(changes[problem.key]) == problem.value
