"""Checks of a grid under its settings, from the files alone: every problem with its file and line."""

import contextlib
import netrc
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator import files
from orchestrator.config import toml_reader
from orchestrator.config.expressions import Expressions, is_expression
from orchestrator.config.grid import Grid
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, Problem, Severity, error, warning
from orchestrator.evidence import preview_scores
from orchestrator.evidence.stats import early_stop_rule
from orchestrator.kohya import base_model, config_files, inheritance, networks, oom_fallback, previews, resume
from orchestrator.kohya.arguments import check, dataset_lint, lint, schema
from orchestrator.kohya.arguments.schema import ArgumentSchema
from orchestrator.model import Params, Point, Value
from orchestrator.plan import train_config, unused_images
from orchestrator.plan.training_length import LengthEstimator
from orchestrator.redaction import find_secret
from orchestrator.store.layout import Attempt, Run
from orchestrator.text import did_you_mean, pluralize
from orchestrator.values import toml_repr


def lint_arguments(grid: Grid, settings: Settings) -> list[Problem]:
    """Arguments that sd-scripts does not accept, for a grid that cannot be expanded to points."""
    plain = [{key: value} for key, value in _written(grid, settings) if not is_expression(value)]
    return _placed(check.check(plain, _accepted(settings)), grid, settings)


def lint_points(points: Sequence[Point], grid: Grid, settings: Settings, lengths: LengthEstimator) -> list[Problem]:
    """Problems of the points, and of the points after each OOM fallback."""
    params, accepted = _without_replicates(points), _accepted(settings)
    seeds: list[Params] = [{"seed": point.params["seed"]} for point in points if "seed" in point.params]
    wrong = check.check([*params, *seeds], accepted)
    broken = _broken(wrong)
    traps = [trap for trap in lint.lint_points(params, datasets=settings.datasets) if trap.key not in broken]
    found = [
        *_causes(wrong, grid, settings),
        *traps,
        *_lint_tracking(params, settings),
        *lint.lint_sweep(points, steps=lengths.steps(points)),
    ]
    of_fallbacks = [] if broken else _lint_fallbacks(params, {trap.what for trap in traps}, settings, accepted)
    placed = _merged(_placed(found, grid, settings))
    known = {one.where for one in placed}
    return [
        *placed,
        *_merged(of_fallbacks),
        *(one for one in _lint_tables(grid, settings, accepted) if one.where not in known),
        *_lint_resume(params, settings, lengths),
        *_lint_base_models(params, settings),
        *_lint_subsets(params, settings, accepted),
        *([] if broken else _lint_sizes(params, settings, accepted)),
        *(_lint_match(points, grid) if grid.match_parameters else ()),
        *(_lint_averages(params, settings) if settings.generation.averages else ()),
        *_merged(_placed(_lint_batches(params, lengths), grid, settings)),
    ]


def _causes(wrong: Sequence[Problem], grid: Grid, settings: Settings) -> list[Problem]:
    """Without problems of values that an expression computes from wrong ones."""
    keys, names = {problem.key for problem in wrong}, Expressions().names
    computed = {key for key, value in dict(_written(grid, settings)).items() if names(value) & keys}
    return [problem for problem in wrong if problem.key not in computed]


def _broken(wrong: Iterable[Problem]) -> set[str]:
    """Keys about which nothing can be said before these problems are solved: wrong ones, and those that depend."""
    keys = {problem.key for problem in wrong}
    keys |= {
        match[1]
        for problem in wrong
        if (match := re.search(r"^(?:did you mean|write) (\w+)(?:\?| instead)", problem.remedy))
    }
    if "network_dim" in keys:
        keys.add("network_alpha")  # often an expression of it
    if keys & {"optimizer_type", "optimizer_args"}:
        keys |= {*inheritance.OF_OPTIMIZER, "lr_scheduler", "lr_warmup_steps", "network_args"}
    return keys


def _merged(problems: Iterable[Problem]) -> list[Problem]:
    """One problem for each place, key and remedy: the first, with the number of other values."""
    groups: dict[tuple[object, ...], list[Problem]] = {}
    for one in problems:
        groups.setdefault((one.where, one.key, one.remedy, one.severity), []).append(one)
    merged = []
    for first, *others in groups.values():
        if distinct := {one.what for one in others} - {first.what}:
            first = replace(first, what=f"{first.what} (and {pluralize(len(distinct), 'case')} more like it)")
        merged.append(first)
    return merged


def _lint_resume(points: Iterable[Params], settings: Settings, lengths: LengthEstimator) -> Iterator[Problem]:
    """A warning if trainer.resume is set and interrupted trainings start from the beginning anyway."""
    known = [(params, length) for params in points if settings.trainer.resume and (length := lengths.length(params))]
    blocked = [(params, length, key) for params, length in known if (key := resume.obstacle_in(params, length))]
    if not blocked:
        return
    params, length, key = blocked[0]
    epoch, epochs = length.steps_per_epoch, max(1, round(length.steps / length.steps_per_epoch))
    remedy = f"set max_train_steps = {epochs * epoch}, which is {pluralize(epochs, 'epoch')}"
    what = f"max_train_steps = {length.steps} ends inside an epoch of {epoch} steps, where {key} prevents a resume"
    if key == "save_every_n_steps":
        every = int(str(params[key]))
        what = f"save_every_n_steps = {every} and epochs of {epoch} steps: a resumed training would save at other steps"
        saves = f"unset save_every_n_steps, and set save_every_n_epochs = {max(1, round(every / epoch))}"
        remedy = f"{saves}; {remedy}" if length.steps % epoch else saves
    yield Problem(
        what=f"{what}; an interrupted one starts from its first step",
        where=toml_reader.read(settings.path).where(("trainer", "resume")),
        key="trainer.resume",
        remedy=f"{remedy}, or set resume = false in [trainer]",
        severity=Severity.WARNING,
    )


def _lint_tracking(points: Iterable[Params], settings: Settings) -> Iterator[Problem]:
    """An error if wandb would ask for a key: it is in the environment, or in ~/.netrc after `wandb login`."""
    environment = {**os.environ, **settings.trainer.env}
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        if netrc.netrc(environment.get("NETRC")).authenticators(host):
            return
    for params in points:
        if params.get("log_with") in ("wandb", "all"):
            what = "wandb needs a key, or it asks for one when a training starts, which then fails"
            yield error("log_with", what, 'set WANDB_API_KEY in the environment, or set log_with = "tensorboard"')


def _lint_batches(points: Iterable[Params], lengths: LengthEstimator) -> Iterator[Problem]:
    """A warning if a batch has more places than an epoch has images: the trainer fills none of them twice."""
    for params in points:
        found, batch = lengths.dataset_size(str(params["dataset"])), params.get("train_batch_size", 1)
        if found and isinstance(batch, int) and batch > (epoch := len(found.sizes) * found.repeats):
            what = f"train_batch_size = {batch}, but an epoch has {pluralize(epoch, 'image')}: no batch is larger"
            yield warning("train_batch_size", what, f"set train_batch_size = {epoch} or less, or raise num_repeats")


def _lint_tables(grid: Grid, settings: Settings, accepted: ArgumentSchema) -> list[Problem]:
    """Mistakes in [optimizers.NAME], and keys of `unset` that sd-scripts does not have."""
    file = toml_reader.read(settings.path)
    found = []
    for name, table in settings.optimizers.items():
        plain = {key: value for key, value in table.items() if not is_expression(value)}
        for one in check.check([{"optimizer_type": name, **plain}], accepted):
            place = ("optimizers", name) if one.key == "optimizer_type" else ("optimizers", name, one.key)
            found.append(replace(one, where=file.where(place), key=toml_reader.dotted(place)))
    for key in (*grid.unset, *[key for rule in grid.whens for key in rule.unset]):
        if key not in accepted.by_name:
            remedy, where = did_you_mean(key, accepted.by_name), grid.places.get(key, str(grid.path))
            found.append(error("unset", f"{key} is not an argument", remedy, where=where, value=key))
    return found


def _lint_sizes(points: Sequence[Params], settings: Settings, accepted: ArgumentSchema) -> list[Problem]:
    """Mistakes in `resolutions` of datasets, images that are skipped, and splits that leave no image or share one."""
    file, found = toml_reader.read(settings.path), list[Problem]()
    for name in dict.fromkeys(str(params["dataset"]) for params in points):
        dataset = settings.datasets[name]
        for at, one in enumerate(dataset.resolutions):
            for problem in check.check([one], accepted):
                place = ("datasets", name, "resolutions", at, problem.key)
                found.append(replace(problem, where=file.where(place), key=toml_reader.dotted(place)))
        trained = [params for params in points if params["dataset"] == name]
        sizes = [{**params, **one} for params in trained for one in dataset.resolutions or ({},)]
        for part in dataset.parts:
            found += [] if part.recipe else unused_images.unused(part, sizes)
    return list(dict.fromkeys(found))


def _lint_subsets(points: Iterable[Params], settings: Settings, accepted: ArgumentSchema) -> list[Problem]:
    """Mistakes in the keys of subsets. A recipe has those of its source, whose table is named."""
    file, found = toml_reader.read(settings.path), dict[tuple[str, str], Problem]()
    for name in dict.fromkeys(str(params["dataset"]) for params in points):
        for part in settings.datasets[name].parts:
            for problem in dataset_lint.check_subset(part.subset, accepted):
                source = part
                while source.recipe and source.recipe.source in settings.datasets:
                    parent = settings.datasets[source.recipe.source]
                    if problem.key not in parent.subset:
                        break
                    source = parent
                place = ("datasets", *source.name.split("."), "subset", problem.key)
                found.setdefault(
                    (problem.key, problem.what),
                    replace(problem, where=file.where(place), key=toml_reader.dotted(place)),
                )
    return list(found.values())


def _lint_base_models(points: Iterable[Params], settings: Settings) -> Iterator[Problem]:
    for name in dict.fromkeys(str(params["base_model"]) for params in points):
        path = settings.base_models[name].path
        yield from base_model.is_distilled(path, where=str(settings.path), key=f"base_models.{name}.path")


def _lint_averages(points: Iterable[Params], settings: Settings) -> Iterator[Problem]:
    """An error if a training saves only its last checkpoint, of which there is no average."""
    saving = ("save_every_n_epochs", "save_every_n_steps", "save_n_epoch_ratio")
    if any(not any(params.get(key) for key in saving) for params in points):
        where = toml_reader.read(settings.path).where(("generate", "averages"))
        what = "a training that saves one checkpoint has no average"
        yield error("generate.averages", what, "set save_every_n_epochs = 1 in [arguments], or remove it", where=where)


_MATCHED = 1.1
"""Ratio of the largest to the smallest number of parameters that still counts as equal."""


def _lint_match(points: Iterable[Point], grid: Grid) -> Iterator[Problem]:
    """A warning for networks that cannot have as many parameters as the others."""
    groups: dict[tuple[Value | None, ...], dict[str, int]] = {}
    for point in points:
        params = point.params
        key = (point.written.get("network_dim"), params.get("network_train_unet_only"))
        name = f"{networks.module_of(params)} {networks.algorithm(params)} at {params.get('network_dim')}"
        groups.setdefault(key, {})[name] = networks.trained_numbers(params)
    for counts in groups.values():
        if max(counts.values()) > _MATCHED * min(counts.values()):
            listed = ", ".join(f"{name}: {count / 1e6:.1f} million" for name, count in counts.items())
            remedy = "lower network_dim, or change network_args (a smaller factor for LoKr)"
            yield warning("match", f"the numbers of parameters differ ({listed})", remedy, where=str(grid.path))


def _without_replicates(points: Iterable[Point]) -> list[Params]:
    """The params of one point of each group of replicates: no check depends on the seed's value."""
    distinct: dict[tuple[object, ...], Params] = {}
    for point in points:
        values = [value for key, value in point.params.items() if key != "seed"]
        distinct.setdefault((*point.params, *map(repr, values)), point.params)
    return list(distinct.values())


def _accepted(settings: Settings) -> ArgumentSchema:
    return schema.load_schema(settings.trainer.sd_scripts)


def _written(grid: Grid, settings: Settings) -> Iterator[tuple[str, Value]]:
    yield from settings.arguments.items()
    yield from grid.fixed.items()
    for dims in (grid.dims, *grid.zips):
        yield from ((key, value) for key, values in dims.items() for value in values)
    for rule in grid.whens:
        yield from rule.set.items()


def lint_templates(runs: Sequence[Run], settings: Settings) -> list[Problem]:
    """Problems of rendering the runs' configs. One config of each set of argument names is read back to verify it."""
    if unreadable := list(_unreadable_templates(settings.templates)):
        return unreadable
    renderer = config_files.Renderer(settings.templates)
    verified: set[frozenset[str]] = set()
    found: dict[Problem, None] = {}
    for run in runs:
        names = frozenset(run.point.params)
        try:
            train_config.config_toml(
                run, Attempt(run.path / train_config.STAGE / "1"), settings, renderer, verify=names not in verified
            )
        except InputError as error:
            found |= dict.fromkeys(error.problems)
        verified.add(names)
    for name, run in {str(run.point.params["dataset"]): run for run in runs}.items():
        dataset = settings.datasets[name]
        try:
            renderer.dataset_toml(run.point, dataset=dataset, folders=[part.image_dir for part in dataset.parts])
        except InputError as error:
            found |= dict.fromkeys(error.problems)
    return list(found)


def _unreadable_templates(folder: Path) -> Iterator[Problem]:
    """Templates that Jinja must not open, or that contain a secret: the sweep's folder gets a copy."""
    for path in (folder / name for name in config_files.TEMPLATES):
        try:
            found = find_secret(files.read_text(path))
        except FileNotFoundError:  # the renderer reports it
            continue
        except OSError as problem:
            what = f"cannot be read: {problem.strerror}"
            yield Problem(what=what, where=str(path), remedy="copy it again from the templates of orchestrate")
        else:
            if found:
                what = f"contains {found}, and would be recorded"
                yield Problem(what=what, where=str(path), remedy="remove it; programs get secrets from the environment")


# --- early stopping ---------------------------------------------------------------------------------------------------


def lint_early_stop(points: Sequence[Point], grid: Grid, settings: Settings, prompts: int) -> list[Problem]:
    """Arguments that contradict [early_stop], and settings with which it cannot stop any training."""
    if settings.early_stop is None:
        return []
    found = [
        error(key, _CONTRADICTIONS[key], _REMOVE, value=toml_repr(point.params[key]))
        for point in points
        for key in _CONTRADICTIONS
        if point.params.get(key)
    ]
    return [*_placed(found, grid, settings), *_lint_preview_checks(points, settings, prompts)]


_CONTRADICTIONS = {
    **dict.fromkeys(previews.ASKING, "early_stop decides when previews are drawn"),
    "max_train_epochs": "early_stop compares trainings at the same step, but epochs differ in length",
}
_REMOVE = "remove it (set the length with max_train_steps), or remove [early_stop] from the settings"


def _lint_preview_checks(points: Sequence[Point], settings: Settings, prompts: int) -> Iterator[Problem]:
    others = max(Counter(preview_scores.comparison_group(point.params) for point in points).values()) - 1
    checks = max(len(preview_scores.check_steps(point.params, settings.early_stop)) for point in points)
    if settings.early_stop is None or not others * checks:
        what = "cannot stop any training: no two runs share a training seed and a length, or `after` is too late"
        yield _early_stop(settings, "", what, "remove it, or lower `after`", Severity.WARNING)
        return
    alpha = early_stop_rule.per_comparison_alpha(settings.early_stop.p, checks=checks, others=others)
    needed = early_stop_rule.min_pairs(alpha)
    if settings.early_stop.pictures < needed:
        p = f"{settings.early_stop.p:g}"
        what = f"too few images for any decision: {checks} checks of {others + 1} runs share p = {p}"
        yield _early_stop(settings, "pictures", what, f"set at least {needed}, or a larger p")
    elif prompts and len(preview_scores.cells(prompts, settings)) < needed:
        what = (
            f"{prompts} prompts and {len(settings.generation.seeds)} seeds make fewer previews than the {needed} needed"
        )
        yield _early_stop(settings, "pictures", what, "add prompts or generate.seeds")


def _early_stop(settings: Settings, key: str, what: str, remedy: str, severity: Severity = Severity.ERROR) -> Problem:
    path = ("early_stop", key) if key else ("early_stop",)
    where = toml_reader.read(settings.path).where(path)
    return Problem(what=what, where=where, key=".".join(path), remedy=remedy, severity=severity)


# --- OOM fallbacks ----------------------------------------------------------------------------------------------------


def _lint_fallbacks(
    points: Iterable[Params], known: set[str], settings: Settings, accepted: ArgumentSchema
) -> list[Problem]:
    """Problems of the points after each OOM fallback, without the `known` ones that the points have themselves."""
    expressions = Expressions()
    try:
        steps = [
            (params, step.overrides)
            for params in points
            for step in oom_fallback.fallbacks(params, settings.oom_fallback, settings.optimizers, expressions)
        ]
    except InputError as failed:
        return [_in_fallbacks(problem, settings) for problem in failed.problems]
    effective = [{**params, **overrides} for params, overrides in steps]
    traps = lint.lint_points(effective, datasets=settings.datasets)
    wrong = check.check([overrides for _, overrides in steps], accepted)
    return [_in_fallbacks(one, settings) for one in (*wrong, *(trap for trap in traps if trap.what not in known))]


def _in_fallbacks(problem: Problem, settings: Settings) -> Problem:
    """With the line of the step that sets the key, preferably to this value; some keys follow from several steps."""
    key = problem.key.removeprefix("oom_fallback.set.")
    found = [(index, step.set[key]) for index, step in enumerate(settings.oom_fallback) if key in step.set]
    if not found:
        return replace(problem, where=f"{settings.path}: [[oom_fallback]]")
    index = next((index for index, value in found if toml_repr(value) == problem.value), found[0][0])
    place = ("oom_fallback", index, "set", key)
    return replace(problem, where=toml_reader.read(settings.path).where(place), key=toml_reader.dotted(place))


# --- file and line ----------------------------------------------------------------------------------------------------


def _placed(problems: Iterable[Problem], grid: Grid, settings: Settings) -> list[Problem]:
    file = toml_reader.read(settings.path)

    def where(problem: Problem) -> str:
        key, value = problem.key, problem.value
        rules = (rule.where for rule in grid.whens if key in rule.set and toml_repr(rule.set[key]) == value)
        if place := next(rules, grid.places.get(key, "")):
            return place
        for name, table in settings.optimizers.items():
            if key in table and toml_repr(table[key]) == value:
                return file.where(("optimizers", name, key))
        return file.where(("arguments", key)) if key in settings.arguments else str(grid.path)

    return list(dict.fromkeys(replace(problem, where=where(problem)) for problem in problems))
