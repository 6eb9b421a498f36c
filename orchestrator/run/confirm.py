"""More pictures of the best runs, made to be believed: the best of many looks better than it is."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import InputError, NothingSelected, Problem, errors_of
from orchestrator.evidence import summary
from orchestrator.evidence.confirmation import ConfirmationResult
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.summary import RunSummary
from orchestrator.kohya import prompts
from orchestrator.run import followup
from orchestrator.run.context import Context
from orchestrator.run.followup import FollowupRun
from orchestrator.store.layout import Sweep

TABLE = "confirm.csv"


def best(sweep: Sweep, count: int) -> list[RunSummary]:
    """The scored runs with the highest mean picture value, best first, and the floors of their base models.

    Raises NothingSelected when none is scored yet.
    """
    found = summary.gather(sweep)
    ranked = summary.rank_runs(found)[:count]
    if not ranked:
        what = f"no run of {sweep.name} is scored yet, so there is nothing to confirm"
        raise NothingSelected(Problem(what=what, remedy=f"`orchestrate status {sweep.name}`"))
    bases = {one.run.point.params["base_model"] for one in ranked}
    floors = (one for one in found if one.choice and one.run.point.is_baseline)
    return [*ranked, *(one for one in floors if one.run.point.params["base_model"] in bases)]


def prepare(chosen: Sequence[RunSummary], ctx: Context) -> tuple[list[FollowupRun], Context]:
    """The folders for the pictures, and the world in which they are made; what is there of them already is kept.

    Raises InputError with what is wrong with the prompts.
    """
    fresh = _anew(ctx)
    keys = [followup.key(one, fresh.settings.generation, fresh.prompts) for one in chosen]
    return [followup.prepare(one, one.run.confirmation(key)) for one, key in zip(chosen, keys, strict=True)], fresh


def _anew(ctx: Context) -> Context:
    """The same world with prompts or seeds that no picture of the sweep was made with.

    Prompts of `generate.confirm_prompts`, or the sweep's own; as many seeds as it has, all of them new.
    """
    used = ctx.settings.generation
    first = max(used.seeds) + 1
    seeds = tuple(range(first, first + len(used.seeds)))
    texts = ctx.prompts
    if used.confirm_prompts:
        texts, problems = prompts.read_prompts(used.confirm_prompts)
        problems += [_known(text, used.confirm_prompts) for text in texts if text in ctx.prompts]
        if errors_of(problems):
            raise InputError(*problems)
    generation = replace(used, seeds=seeds, checkpoints="last")
    return replace(ctx, prompts=texts, settings=replace(ctx.settings, generation=generation))


def _known(text: str, path: Path) -> Problem:
    what = "is a prompt of the sweep already, so it confirms nothing"
    return Problem(what=what, where=str(path), key="generate.confirm_prompts", value=text, remedy="write another")


def report(sweep: Sweep) -> Iterator[str]:
    """Write what was confirmed so far as a table, and say it in sentences, the best run first."""
    found = [one for one in summary.gather(sweep) if one.confirmation]
    found.sort(key=lambda one: one.confirmation.comparison.confirmed if one.confirmation else 0.0, reverse=True)
    followup.write_table(sweep.report / TABLE, [_row(one, one.confirmation) for one in found if one.confirmation])
    yield from (_sentence(one, one.confirmation) for one in found if one.confirmation)


def _row(one: RunSummary, found: ConfirmationResult) -> dict[str, str]:
    told = found.comparison
    return {
        "run": one.run.point.name,
        "reported": _number(told.reported),
        "confirmed_similarity": _number(told.confirmed),
        **_bounds("confirmed_similarity", told.confirmed_interval),
        "change": _number(told.change),
        **_bounds("change", told.change_interval),
        "gain": _number(found.gain),
        "reported_gain": _number(one.gain),
        "pictures": str(len(found.scores)),
    }


def _bounds(name: str, interval: Interval | None) -> dict[str, str]:
    return {
        f"{name}_low": _number(interval.low if interval else None),
        f"{name}_high": _number(interval.high if interval else None),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _sentence(one: RunSummary, found: ConfirmationResult) -> str:
    told, ends = found.comparison, found.comparison.change_interval
    bounds = f" ({ends.low:+.3f} to {ends.high:+.3f})" if ends else ""
    return (
        f"{one.run.point.name}: {told.confirmed:.3f} on {len(found.scores)} fresh pictures; "
        f"reported {told.reported:.3f}, a change of {told.change:+.3f}{bounds}{_over_floor(one, found)}"
    )


def _over_floor(one: RunSummary, found: ConfirmationResult) -> str:
    """Fresh prompts and seeds may be harder for everyone; over the floor, that cancels."""
    if found.gain is None or one.gain is None:
        return ""
    return f"; over its floor {found.gain:+.3f}, reported {one.gain:+.3f}"
