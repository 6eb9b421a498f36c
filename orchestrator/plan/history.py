"""What the records under runs/ say of cost: seconds per step, memory and seconds per picture, by memory profile."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from orchestrator.config import grid
from orchestrator.kohya import resource_profile
from orchestrator.model import Params, Result
from orchestrator.store import layout
from orchestrator.store.layout import Run, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileStats:
    """What trainings of one memory profile took. `beside_s`: loading, caching and saving, beside the steps.

    fallbacks: what they had to concede; origin: where this is known from.
    """

    seconds_per_step: float
    overhead_s: float
    peak_mib: int | None
    fallbacks: tuple[str, ...]
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """`paces` by key of the memory profile; `sweep`: the mean of this sweep's own trainings, whatever their profile.

    picture_s, score_s: seconds per picture made and scored, with what loading took; None before the first.
    """

    paces: Mapping[str, ProfileStats]
    sweep: ProfileStats | None = None
    picture_s: float | None = None
    score_s: float | None = None


def key_of(params: Params) -> str:
    """Names the memory profile of a point."""
    return grid.point_id(resource_profile.profile(params))


def gather(sweep: Sweep) -> RunHistory:
    """From this sweep, the others beside it, and what was probed; the sweep's own trainings count first."""
    runs = sweep.path.parent
    own = list(_trained(sweep.runs() if sweep.exists() else (), "this sweep"))
    others = [one for one in layout.sweeps(runs) if one.path != sweep.path]
    known = [one for other in others for one in _trained(other.runs(), f"sweep {other.name}")]
    probed = list(_trained(layout.probes(runs), "probe"))
    finished = [run for one in (sweep, *others) if one.exists() for run in one.runs()]
    return RunHistory(
        paces={**_mean_by_key(probed), **_mean_by_key(known), **_mean_by_key(own)},
        sweep=_rough(_mean([pace for _, pace in own])) if own else None,
        picture_s=_seconds_per_picture(finished, "generate"),
        score_s=_seconds_per_picture(finished, "score"),
    )


def _mean_by_key(found: Sequence[tuple[str, ProfileStats]]) -> dict[str, ProfileStats]:
    by_key: dict[str, list[ProfileStats]] = {}
    for key, pace in found:
        by_key.setdefault(key, []).append(pace)
    return {key: _mean(paces) for key, paces in by_key.items()}


def _mean(paces: Sequence[ProfileStats]) -> ProfileStats:
    """The peak and what was conceded are those of the worst."""
    return ProfileStats(
        seconds_per_step=fmean(pace.seconds_per_step for pace in paces),
        overhead_s=fmean(pace.overhead_s for pace in paces),
        peak_mib=max((pace.peak_mib for pace in paces if pace.peak_mib), default=None),
        fallbacks=max((pace.fallbacks for pace in paces), key=len),
        origin=paces[0].origin,
    )


def _rough(pace: ProfileStats) -> ProfileStats:
    """Of trainings with other settings only the time is a guess for one's own, not the memory."""
    return replace(pace, peak_mib=None, fallbacks=(), origin="this sweep's other runs")


def _trained(runs: Sequence[Run], origin: str) -> Iterator[tuple[str, ProfileStats]]:
    """The trainings that delivered, under the profile that was asked for, whatever they conceded."""
    for run in runs:
        if run.point.is_baseline or not run.done("train"):
            continue
        attempt = run.attempts("train")[-1]
        result, fallbacks = attempt.result(), tuple(attempt.request().get("fallbacks", ()))
        if result and result.failure is None and result.seconds_per_step and result.steps:
            yield key_of(run.point.params), _pace(result, fallbacks, origin)


def _pace(result: Result, fallbacks: tuple[str, ...], origin: str) -> ProfileStats:
    per_step, steps = result.seconds_per_step or 0.0, result.steps or 0
    return ProfileStats(
        seconds_per_step=per_step,
        overhead_s=max(0.0, result.seconds - per_step * steps),
        peak_mib=result.peak_vram_mib,
        fallbacks=fallbacks,
        origin=origin,
    )


def _seconds_per_picture(runs: Sequence[Run], stage: str) -> float | None:
    spent = [(result.seconds, count) for run in runs for result, count in _delivered(run, stage)]
    pictures = sum(count for _, count in spent)
    return sum(seconds for seconds, _ in spent) / pictures if pictures else None


def _delivered(run: Run, stage: str) -> Iterator[tuple[Result, int]]:
    if not run.done(stage):
        return
    for attempt in run.attempts(stage):
        result = attempt.result()
        count = attempt.request().get("images") if stage == "generate" else len(run.pictures())
        if result and result.failure is None and isinstance(count, int) and count:
            yield result, count
