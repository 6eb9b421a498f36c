"""Measured costs of earlier runs: seconds per step and peak VRAM by memory profile, seconds per image.

Only attempts with the same program, base model, image size and GPU model count: a `runs` folder may contain others.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from orchestrator.config import grid
from orchestrator.config.schema import Settings
from orchestrator.kohya import resource_profile
from orchestrator.model import Params, Result
from orchestrator.store import layout
from orchestrator.store.layout import Run, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileStats:
    """Costs of the trainings of one memory profile.

    overhead_s: loading, caching and saving, in addition to the steps. fallbacks: the OOM fallbacks that were applied.
    origin: the source of the figures, such as "this sweep" or "probe". at_once: the trainings on the GPU meanwhile.
    """

    seconds_per_step: float
    overhead_s: float
    peak_mib: int | None
    fallbacks: tuple[str, ...]
    origin: str
    at_once: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """Costs by key of the memory profile, and by base model the mean of all trainings of this sweep.

    at_once: by key, if several trainings at once on one GPU were probed. image_s, score_s: by base model, seconds to
    generate and to score one image, including loading.
    """

    by_profile: Mapping[str, ProfileStats]
    at_once: Mapping[str, ProfileStats] = field(default_factory=dict)
    sweep: Mapping[str, ProfileStats] = field(default_factory=dict)
    image_s: Mapping[str, float] = field(default_factory=dict)
    score_s: Mapping[str, float] = field(default_factory=dict)


_OTHER_PROFILES: dict[str, Any] = {"peak_mib": None, "fallbacks": (), "origin": "this sweep's other runs"}
"""Times of other memory profiles are an estimate for a new profile; their memory is not."""


def key_of(params: Params) -> str:
    """The key of a point's memory profile."""
    return grid.point_id(resource_profile.profile(params))


def conditions(settings: Settings, stage: str, base_model: str) -> dict[str, Any]:
    """What the costs of a stage depend on besides its arguments and GPU: an attempt records it as `conditions`."""
    if base_model not in settings.base_models:
        return {}
    trainer, generation = settings.trainer, settings.generation_of(base_model)
    base, size = str(settings.base_models[base_model].path), [generation.width, generation.height]
    if stage == "train":
        return {"program": str(trainer.sd_scripts / trainer.train_script), "base_model": base}
    if stage == "generate":
        program = str(trainer.sd_scripts / trainer.generate_script)
        return {"program": program, "base_model": base, "size": size, "steps": generation.steps}
    scored = settings.scoring
    return {"program": str(scored.pack), "size": size, "device": scored.device}


@dataclass(frozen=True, slots=True)
class _Comparable:
    """Attempts count if they have the conditions of these settings and ran on one of these GPU models, if known."""

    settings: Settings
    gpus: Collection[str]

    def counts(self, run: Run, stage: str, request: Mapping[str, Any]) -> bool:
        wanted = conditions(self.settings, stage, str(run.point.params["base_model"]))
        gpu = (request.get("environment") or {}).get("gpu", "")
        on_gpu = stage != "score" or self.settings.scoring.device == "cuda"
        return request.get("conditions") == wanted and (not (on_gpu and self.gpus) or gpu in self.gpus)


def gather(sweep: Sweep, settings: Settings, *, gpus: Collection[str] = (), probes_first: bool = False) -> RunHistory:
    """Costs from this sweep, else from other sweeps in `runs`, else from probes; or from probes before all others.

    gpus: the models of this machine's GPUs; empty accepts attempts on every GPU.
    """
    folder, comparable = sweep.path.parent, _Comparable(settings, gpus)
    own_runs = sweep.all_runs() if sweep.exists() else []
    own = list(_trained(own_runs, "this sweep", comparable))
    others = {one.name: one.all_runs() for one in layout.sweeps(folder) if one.path != sweep.path}
    known = [one for name, runs in others.items() for one in _trained(runs, f"sweep {name}", comparable)]
    probes = list(_trained(layout.probes(folder), "probe", comparable))
    probed = [one for one in probes if one[2].at_once == 1]
    finished = [run for runs in (own_runs, *others.values()) for run in runs]
    by_base = _mean_by_key([(base, stats) for _, base, stats in own])
    return RunHistory(
        by_profile={
            key: stats
            for source in ((known, own, probed) if probes_first else (probed, known, own))
            for key, stats in _mean_by_key([(key, stats) for key, _, stats in source]).items()
        },
        at_once=_at_once([(key, stats) for key, _, stats in probes]),
        sweep={base: replace(stats, **_OTHER_PROFILES) for base, stats in by_base.items()},
        image_s=_seconds_per_image(finished, "generate", comparable),
        score_s=_seconds_per_image(finished, "score", comparable),
    )


def _at_once(probed: Sequence[tuple[str, ProfileStats]]) -> dict[str, ProfileStats]:
    """By key, the mean of the most trainings at once, all of which succeeded."""
    groups: dict[tuple[int, str], list[ProfileStats]] = {}
    for key, stats in probed:
        groups.setdefault((stats.at_once, key), []).append(stats)
    return {key: _mean(group) for (count, key), group in sorted(groups.items()) if 1 < count == len(group)}


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
        at_once=group[0].at_once,
    )


def _trained(runs: Sequence[Run], origin: str, comparable: _Comparable) -> Iterator[tuple[str, str, ProfileStats]]:
    """(profile, base model, costs) of the finished trainings, also where fallbacks were applied.

    Without colocated runs: how many others were on the GPU, and how long, is not known.
    """
    for run in runs:
        if not run.point.is_trained or not run.done("train"):
            continue
        attempt = run.attempts("train")[-1]
        request, result = attempt.request(), attempt.result()
        at_once = request.get("at_once", 1)
        if not comparable.counts(run, "train", request) or (attempt.colocated and at_once == 1):
            continue
        if result and result.failure is None and result.seconds_per_step and result.steps:
            yield (
                key_of(run.point.params),
                str(run.point.params["base_model"]),
                ProfileStats(
                    seconds_per_step=result.seconds_per_step,
                    overhead_s=max(0.0, result.seconds - result.seconds_per_step * result.steps),
                    peak_mib=result.peak_vram_mib,
                    fallbacks=tuple(request.get("fallbacks", ())),
                    origin=origin,
                    at_once=at_once,
                ),
            )


def _seconds_per_image(runs: Sequence[Run], stage: str, comparable: _Comparable) -> dict[str, float]:
    """By base model."""
    spent: dict[str, list[tuple[float, int]]] = {}
    for run in runs:
        for result, count in _successful(run, stage, comparable):
            spent.setdefault(str(run.point.params["base_model"]), []).append((result.seconds, count))
    return {
        base: sum(seconds for seconds, _ in found) / sum(count for _, count in found) for base, found in spent.items()
    }


def _successful(run: Run, stage: str, comparable: _Comparable) -> Iterator[tuple[Result, int]]:
    """Results of the successful attempts with their numbers of images."""
    for attempt in run.attempts(stage) if run.done(stage) else ():
        result, request = attempt.result(), attempt.request()
        count = request.get("images") if stage == "generate" else len(run.generated_images())
        known = result is not None and result.failure is None and comparable.counts(run, stage, request)
        if known and result and isinstance(count, int) and count:
            yield result, count
