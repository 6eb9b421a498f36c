"""Measured costs of earlier runs, by memory profile: seconds per step, peak VRAM, seconds per image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from orchestrator.config import grid
from orchestrator.kohya import resource_profile
from orchestrator.model import Params, Result
from orchestrator.store import layout
from orchestrator.store.layout import Run, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileStats:
    """Costs of the trainings of one memory profile.

    overhead_s: loading, caching and saving, in addition to the steps. fallbacks: the OOM fallbacks that were applied.
    origin: the source of the figures, such as "this sweep" or "probe".
    """

    seconds_per_step: float
    overhead_s: float
    peak_mib: int | None
    fallbacks: tuple[str, ...]
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """Costs by key of the memory profile, and the mean of all trainings of this sweep.

    image_s, score_s: seconds to generate and to score one image, including loading; None where nothing was measured.
    """

    by_profile: Mapping[str, ProfileStats]
    sweep: ProfileStats | None = None
    image_s: float | None = None
    score_s: float | None = None


_OTHER_PROFILES: dict[str, Any] = {"peak_mib": None, "fallbacks": (), "origin": "this sweep's other runs"}
"""Times of other memory profiles are an estimate for a new profile; their memory is not."""


def key_of(params: Params) -> str:
    """The key of a point's memory profile."""
    return grid.point_id(resource_profile.profile(params))


def gather(sweep: Sweep, *, probes_first: bool = False) -> RunHistory:
    """Costs from this sweep, else from other sweeps in `runs`, else from probes; or from probes before all others."""
    runs = sweep.path.parent
    own = list(_trained(sweep.all_runs() if sweep.exists() else (), "this sweep"))
    others = [one for one in layout.sweeps(runs) if one.path != sweep.path]
    known = [one for other in others for one in _trained(other.all_runs(), f"sweep {other.name}")]
    probed = list(_trained(layout.probes(runs), "probe"))
    finished = [run for one in (sweep, *others) if one.exists() for run in one.all_runs()]
    return RunHistory(
        by_profile={
            key: stats
            for source in ((known, own, probed) if probes_first else (probed, known, own))
            for key, stats in _mean_by_key(source).items()
        },
        sweep=replace(_mean([stats for _, stats in own]), **_OTHER_PROFILES) if own else None,
        image_s=_seconds_per_image(finished, "generate"),
        score_s=_seconds_per_image(finished, "score"),
    )


def _mean_by_key(found: Sequence[tuple[str, ProfileStats]]) -> dict[str, ProfileStats]:
    by_key: dict[str, list[ProfileStats]] = {}
    for key, stats in found:
        by_key.setdefault(key, []).append(stats)
    return {key: _mean(group) for key, group in by_key.items()}


def _mean(group: Sequence[ProfileStats]) -> ProfileStats:
    """Mean times, the highest peak and the most fallbacks."""
    return ProfileStats(
        seconds_per_step=fmean(one.seconds_per_step for one in group),
        overhead_s=fmean(one.overhead_s for one in group),
        peak_mib=max((one.peak_mib for one in group if one.peak_mib), default=None),
        fallbacks=max((one.fallbacks for one in group), key=len),
        origin=group[0].origin,
    )


def _trained(runs: Sequence[Run], origin: str) -> Iterator[tuple[str, ProfileStats]]:
    """Costs of the finished trainings, by the profile of their point, also where fallbacks were applied."""
    for run in runs:
        if run.point.is_baseline or not run.done("train"):
            continue
        attempt = run.attempts("train")[-1]
        result = attempt.result()
        if result and result.failure is None and result.seconds_per_step and result.steps:
            yield (
                key_of(run.point.params),
                ProfileStats(
                    seconds_per_step=result.seconds_per_step,
                    overhead_s=max(0.0, result.seconds - result.seconds_per_step * result.steps),
                    peak_mib=result.peak_vram_mib,
                    fallbacks=tuple(attempt.request().get("fallbacks", ())),
                    origin=origin,
                ),
            )


def _seconds_per_image(runs: Sequence[Run], stage: str) -> float | None:
    spent = [(result.seconds, count) for run in runs for result, count in _successful(run, stage)]
    images = sum(count for _, count in spent)
    return sum(seconds for seconds, _ in spent) / images if images else None


def _successful(run: Run, stage: str) -> Iterator[tuple[Result, int]]:
    """Results of the successful attempts with their numbers of images."""
    for attempt in run.attempts(stage) if run.done(stage) else ():
        result = attempt.result()
        count = attempt.request().get("images") if stage == "generate" else len(run.pictures())
        if result and result.failure is None and isinstance(count, int) and count:
            yield result, count
