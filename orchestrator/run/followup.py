"""Follow-up images of scored runs: confirmation on new prompts or seeds, and transfer to another base model.

Each set of images is a separate run in the folder of the run whose checkpoint it uses.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from orchestrator.config import grid
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, NothingSelected, Problem, errors_of
from orchestrator.evidence import choice, confirmation, summary
from orchestrator.evidence.choice import Choice
from orchestrator.evidence.summary import RunSummary
from orchestrator.kohya import prompts
from orchestrator.model import Point
from orchestrator.plan import plan as planning
from orchestrator.plan.plan import Plan
from orchestrator.run.context import Context
from orchestrator.store.hashes import HashCache, sha256_json
from orchestrator.store.layout import Run, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowupRun:
    """A run of follow-up images, and the LoRA strength to generate them with."""

    run: Run
    strength: float


def plan(settings: Settings, sweep: Sweep, points: Sequence[Point]) -> Plan:
    """The sweep's plan for some of its points, which a session checks for changes since the sweep was frozen."""
    texts, problems = prompts.read_prompts(settings.generation.prompts)
    if errors_of(problems):
        raise InputError(*problems)
    return Plan(
        sweep=sweep,
        settings=settings,
        grid_text=sweep.grids()[-1].read_text(encoding="utf-8"),
        points=tuple(points),
        questions=(),
        prompts=texts,
        warnings=tuple(problems),
        is_followup=True,
    )


def run_all(
    followups: Sequence[FollowupRun], ctx: Context, run_sweep: Callable[[Sequence[Run], Context], None]
) -> None:
    """Generate and score the images with `run_sweep`, once for each strength."""
    for strength in dict.fromkeys(one.strength for one in followups):
        generation = replace(ctx.settings.generation, strengths=(strength,), checkpoints="last")
        runs = [one.run for one in followups if one.strength == strength]
        run_sweep(runs, replace(ctx, settings=replace(ctx.settings, generation=generation)))


# --- confirmation -----------------------------------------------------------------------------------------------------


def best_runs(sweep: Sweep, count: int) -> list[RunSummary]:
    """The scored runs with the highest mean image value, best first, then the baselines of their base models.

    Raises NothingSelected when no run is scored.
    """
    found = summary.gather(sweep)
    return _with_baselines(found, summary.rank_runs(found)[:count], sweep)


def _with_baselines(found: Sequence[RunSummary], ranked: Sequence[RunSummary], sweep: Sweep) -> list[RunSummary]:
    if not ranked:
        what = f"no run of {sweep.name} is scored yet, so there is nothing to confirm"
        raise NothingSelected(Problem(what=what, remedy=f"`orchestrate status {sweep.name}`"))
    bases = {one.run.point.params["base_model"] for one in ranked}
    baselines = (one for one in found if one.choice and one.run.point.is_baseline)
    return [*ranked, *(one for one in baselines if one.run.point.params["base_model"] in bases)]


def best_by_selection(sweep: Sweep) -> list[RunSummary]:
    """The run with the highest mean on the images for selection, and its baseline; as `best_runs` otherwise.

    Its choice names the prompts of these images, so that none of them confirms it.
    """
    found = summary.gather(sweep)
    halves = summary.selection_split(found)
    texts = frozenset(s.image.text for one in found for s in one.scores if choice.cell(s) in halves.selection)
    best, *baselines = _with_baselines(found, summary.rank_runs(found, by_selection=True)[:1], sweep)
    assert best.choice, "only scored runs are ranked"
    return [replace(best, choice=replace(best.choice, selection_texts=texts)), *baselines]


def prepare_confirmation(chosen: Sequence[RunSummary], ctx: Context) -> tuple[list[FollowupRun], Context]:
    """The runs of confirmation images, and the context with the new prompts and seeds. Existing images are kept.

    Raises InputError when a prompt of `generate.confirm_prompts` is invalid or was used by the sweep.
    """
    new = _with_new_cells(chosen, ctx)
    return [
        _create(one.run.confirmation(_key(choice, new, str(one.run.point.params["base_model"]))), one, choice)
        for one in chosen
        if (choice := one.choice)
    ], new


def _with_new_cells(chosen: Sequence[RunSummary], ctx: Context) -> Context:
    """Prompts of `generate.confirm_prompts`, or those of the sweep without the prompts on which every run was selected,
    or all of the sweep if none remains; as many seeds as the sweep's, all of them new."""
    generation = ctx.settings.generation
    selected = [one.choice.selection_texts for one in chosen if one.choice and not one.run.point.is_baseline]
    used = frozenset.intersection(*selected) if selected else frozenset()
    scored = tuple(text for text in ctx.prompts if text not in ctx.drift_prompts)
    texts = tuple(text for text in scored if text not in used) or scored
    first = max(generation.seeds) + 1
    if path := generation.confirm_prompts:
        texts, problems = prompts.read_prompts(path, "generate.confirm_prompts")
        what, remedy = "is a prompt of the sweep, so it confirms nothing", "replace it by a new prompt"
        problems += [
            Problem(what=what, where=str(path), key="generate.confirm_prompts", value=text, remedy=remedy)
            for text in texts
            if text in ctx.prompts
        ]
        if errors_of(problems):
            raise InputError(*problems)
    seeds = tuple(range(first, first + len(generation.seeds)))
    generation = replace(generation, seeds=seeds, checkpoints="last")
    return replace(ctx, prompts=texts, settings=replace(ctx.settings, generation=generation))


# --- transfer ---------------------------------------------------------------------------------------------------------


def transferable_runs(sweep: Sweep, base: str, only: str, settings: Settings) -> list[RunSummary]:
    """The scored runs that match `only` and were trained on another base model than `base`.

    Raises InputError when `base` is not in the settings, NothingSelected when no run matches.
    """
    if base not in settings.base_models:
        remedy = f"choose one of {', '.join(settings.base_models)}"
        raise InputError(Problem(what=f"there is no [base_models.{base}]", key="--to", value=base, remedy=remedy))
    found = [
        one
        for one in summary.gather(sweep)
        if one.choice and not one.run.point.is_baseline and one.run.point.params["base_model"] != base
        if grid.selects(only, one.run.point)
    ]
    if not found:
        what = f"no scored run of {sweep.name} matches that was trained on another base model than {base}"
        raise NothingSelected(Problem(what=what, remedy=f"`orchestrate status {sweep.name}`"))
    return found


def transfer_points(chosen: Sequence[RunSummary], base: str) -> list[Point]:
    """The points of the runs with `base` as their base model, then its baseline: what preflight has to check."""
    moved = [replace(one.run.point, params={**one.run.point.params, "base_model": base}) for one in chosen]
    return [*moved, planning.baseline_point(base)]


def prepare_transfer(
    chosen: Sequence[RunSummary], base: str, sweep: Sweep, ctx: Context
) -> tuple[list[FollowupRun], Context]:
    """The runs of images on `base` and its baseline, and the context, unchanged. Existing images are kept."""
    content = HashCache(ctx.settings.runs).of(ctx.settings.base_models[base].path)
    *points, baseline = transfer_points(chosen, base)
    followups = [
        _create(one.run.transfer(f"{base}-{_key(choice, ctx, base, content)}", point), one, choice)
        for one, point in zip(chosen, points, strict=True)
        if (choice := one.choice)
    ]
    return [*followups, FollowupRun(run=sweep.baseline_run(baseline), strength=0.0)], ctx


# --- both -------------------------------------------------------------------------------------------------------------


def _key(choice: Choice, ctx: Context, base: str, *more: str) -> str:
    """A hash of everything that the images of a checkpoint on the base model depend on."""
    generation = {**asdict(ctx.settings.generation_of(base)), "strengths": None}
    return sha256_json([(choice.checkpoint, choice.strength), ctx.prompts, generation, more])[:8]


def _create(run: Run, origin: RunSummary, choice: Choice) -> FollowupRun:
    """Create `run`, two folders below that of `origin`, with the selected checkpoint of `origin` as its training."""
    run.create()
    if not run.point.is_baseline and not run.done("train"):
        checkpoint = next(one for one in origin.run.checkpoints() if one.file == choice.checkpoint)
        record = asdict(replace(checkpoint, file=f"{confirmation.UP}{checkpoint.file}"))
        run.finish("train", {"checkpoints": [record]})
    return FollowupRun(run=run, strength=choice.strength)
