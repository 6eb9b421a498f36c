"""Forecast of a sweep's steps, time, GPU-hours, VRAM and disk space, and the source of each figure."""

import heapq
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.config.schema import Generation, Settings
from orchestrator.errors import Problem, error
from orchestrator.evidence import choice
from orchestrator.gpu import Gpu
from orchestrator.kohya import previews, resource_profile, step_count
from orchestrator.kohya.outputs import files
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import RUNNABLE, Params, Point, State
from orchestrator.plan import history, vram_estimate
from orchestrator.plan.history import ProfileStats, RunHistory
from orchestrator.plan.training_length import LengthEstimator
from orchestrator.plan.vram_estimate import Estimate
from orchestrator.store import state
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status

ASSUMED = "assumed"

_SECONDS_PER_STEP = 1.5
_OVERHEAD_S = 50.0
_IMAGE_S = 3.5
_SCORE_S = 0.5
"""Assumed until something was measured: seconds per 1024 x 1024 image in a training step, per training in addition
to its steps, per generated image in 28 steps, per scored image. Measured on an H200 with slow CPU cores."""
_MINIATURE_BYTES, _MINIATURE_SECONDS_PER_STEP, _MINIATURE_OVERHEAD_S = 1024**3, 0.01, 5.0
"""A base model below this size is no SDXL but the miniature, which trains faster, on two CPU cores."""

_PNG_BYTES_PER_PIXEL = 1.7
_RECORD_BYTES = 2_000_000
"""Logs and records of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForecast:
    """The remaining work of one run. Seconds are 0 for a stage that is done and for a run that failed or was stopped.

    length: None where the number of images is unknown. counted: whether it was counted on this machine. candidates:
    those of its images that only compare its checkpoints.
    profile: key of the memory profile, empty for a baseline. origin: the source of the times. at_once: how many
    trainings share a GPU; `train_s` is then this run's share of their time.
    """

    run: Run
    status: Status
    why: str
    length: TrainingLength | None
    counted: bool
    images: int
    candidates: int
    train_s: float
    generate_s: float
    score_s: float
    disk_bytes: int
    profile: str
    origin: str
    at_once: int

    @property
    def seconds(self) -> float:
        return self.train_s + self.generate_s + self.score_s

    @property
    def known(self) -> bool:
        """Whether the sums include all that is left: the steps of a training whose images are missing are unknown."""
        return self.length is not None or not self.train_s

    @property
    def exact(self) -> bool:
        """Whether the number of steps is no estimate."""
        return self.counted or "max_train_epochs" not in self.run.point.params


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Trainings with the same VRAM need. `settings`: the arguments that differ from the sweep's other profiles.

    peak: measured where its error is 0; None where it is unknown. together: the costs of several at once, if probed.
    """

    key: str
    settings: Params
    runs: int
    seconds_per_step: float
    peak: Estimate | None
    fallbacks: tuple[str, ...]
    origin: str
    together: ProfileStats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A sweep's runs and their sums.

    free_bytes: of the disk of runs/. gpus: their number. gpu_gib: VRAM that one run may use, None if unknown.
    colocate: whether runs share a GPU.
    """

    name: str
    runs: tuple[RunForecast, ...]
    profiles: tuple[Profile, ...]
    free_bytes: int
    gpus: int
    gpu_gib: float | None
    scored_on_gpu: bool
    colocate: bool

    @property
    def known(self) -> bool:
        """Whether the sums are those of all runs; else they lack trainings whose number of steps is unknown."""
        return all(run.known for run in self.runs)

    @property
    def seconds(self) -> float:
        """Duration with one run at a time on each GPU, or as many trainings at once as were probed."""
        return makespan(self.gpus, [(run.train_s, run.generate_s + run.score_s) for run in self.runs])

    @property
    def gpu_seconds(self) -> float:
        scored = sum(run.score_s for run in self.runs) if self.scored_on_gpu else 0.0
        return sum(run.train_s + run.generate_s for run in self.runs) + scored

    @property
    def disk_bytes(self) -> int:
        return sum(run.disk_bytes for run in self.runs)


def makespan(gpus: int, runs: Sequence[tuple[float, float]]) -> float:
    """Seconds until the last run has ended. runs: those of its training, and of its images with their scores.

    Each stage starts on the GPU that is free first, all trainings before the images.
    """
    busy = [0.0] * gpus
    for stage in zip(*runs, strict=True):
        for seconds in stage:
            heapq.heapreplace(busy, busy[0] + seconds)
    return max(*busy, *map(sum, runs), 0.0)


def forecast(
    sweep: Sweep,
    runs: Sequence[Run],
    settings: Settings,
    *,
    prompts: int,
    gpus: Sequence[Gpu] = (),
    probes_first: bool = False,
) -> Forecast:
    """Forecast the remaining work of these runs from earlier runs and probes, else from assumptions.

    prompts: their number. gpus: those of this machine that the settings choose. probes_first: prefer probes to earlier
    runs.
    """
    known = history.gather(sweep, settings, gpus={gpu.name for gpu in gpus}, probes_first=probes_first)
    lengths, count = LengthEstimator(settings.datasets), max(1, len(gpus))
    costs = _of_shared_gpus(known, runs, count) if settings.vram.colocate else known
    return Forecast(
        name=sweep.name,
        runs=tuple(_run(run, settings, prompts, costs, lengths) for run in runs),
        profiles=tuple(_profiles([run.point.params for run in runs if run.point.is_trained], known, settings)),
        free_bytes=free_bytes(settings.runs),
        gpus=count,
        gpu_gib=settings.vram.budget_gib or min((gpu.total_mib / 1024 for gpu in gpus), default=None),
        scored_on_gpu=settings.scoring.device == "cuda",
        colocate=settings.vram.colocate,
    )


def _of_shared_gpus(known: RunHistory, runs: Sequence[Run], gpus: int) -> RunHistory:
    """With the costs of several trainings at once where they were probed; at most as many as are left for a GPU."""
    left = sum(run.point.is_trained and not run.done("train") for run in runs)
    most = math.ceil(left / gpus)
    together = {key: replace(one, at_once=min(one.at_once, most)) for key, one in known.at_once.items()}
    return replace(known, by_profile={**known.by_profile, **together}) if most > 1 else known


def _profiles(points: Sequence[Params], known: RunHistory, settings: Settings) -> Iterator[Profile]:
    by_key: dict[str, list[Params]] = {}
    for params in points:
        by_key.setdefault(history.key_of(params), []).append(params)
    differing = resource_profile.differing([resource_profile.profile(group[0]) for group in by_key.values()])
    for key, group in by_key.items():
        stats, params = (
            _stats(group[0], known, settings),
            {**group[0], **({previews.EVERY: 1} if settings.early_stop else {})},
        )
        yield Profile(
            key=key,
            settings={name: group[0][name] for name in differing if name in group[0]},
            runs=len(group),
            seconds_per_step=stats.seconds_per_step,
            peak=Estimate(gib=stats.peak_mib / 1024, error_gib=0.0)
            if stats.peak_mib
            else vram_estimate.estimate(params),
            fallbacks=stats.fallbacks,
            origin=stats.origin,
            together=known.at_once.get(key),
        )


def shortage(planned: Forecast) -> list[Problem]:
    """An error when the sweep does not fit on the disk."""
    if planned.disk_bytes <= planned.free_bytes:
        return []
    needed, free = planned.disk_bytes / 1024**3, planned.free_bytes / 1024**3
    what = f"the sweep needs about {needed:.1f} GiB of disk, and {free:.1f} GiB are free"
    remedy = "free disk space, save fewer checkpoints (save_every_n_epochs, save_last_n_epochs), or move `runs`"
    return [error("runs", what, remedy)]


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


# --- one run ----------------------------------------------------------------------------------------------------------


def _run(run: Run, settings: Settings, prompts: int, known: RunHistory, lengths: LengthEstimator) -> RunForecast:
    params, status = run.point.params, state.status(run)
    base = str(params["base_model"])
    length = lengths.length(params) if run.point.is_trained else None
    pictures = lengths.dataset_size(str(params["dataset"])) if run.point.is_trained else None
    candidates, images = _images(run.point, length, settings.generation, prompts)
    stats = _stats(params, known, settings)
    train_s = (stats.overhead_s + stats.seconds_per_step * (length.steps if length else 0)) / stats.at_once
    selecting = ("select", "rank") if candidates else ()
    todo = [one for one in (*selecting, *run.stages) if status.state in RUNNABLE and not run.done(one)]
    new = candidates * ("select" in todo) + images * ("generate" in todo)
    scored = candidates * ("rank" in todo) + images * ("score" in todo)
    return RunForecast(
        run=run,
        status=status,
        why=why(status),
        length=length,
        counted=pictures is not None and pictures.counted,
        images=candidates + images,
        candidates=candidates,
        train_s=train_s if "train" in todo and run.point.is_trained else 0.0,
        generate_s=new * (known.image_s.get(base) or _image_s(settings.generation_of(base))),
        score_s=scored * (known.score_s.get(base) or _SCORE_S),
        disk_bytes=_disk(params, todo, length, new, settings.generation),
        profile=history.key_of(params) if run.point.is_trained else "",
        origin=stats.origin,
        at_once=stats.at_once,
    )


_WHY = {
    State.FINISHED: "finished",
    State.RUNNING: "running",
    State.FAILED: "failed: runs again only with --retry failed",
    State.STOPPED: "stopped early",
    State.CRASHED: "crashed: another attempt",
    State.KILLED: "interrupted: another attempt",
}


def why(status: Status) -> str:
    """What `run` would do with a run, and why."""
    if status.state is State.PENDING:
        return f"to {status.stage}" + (f", after attempt {status.attempt}" if status.attempt else "")
    return _WHY[status.state] + (f" ({status.reason})" if status.reason else "")


def _stats(params: Params, known: RunHistory, settings: Settings) -> ProfileStats:
    base = str(params["base_model"])
    return (
        known.by_profile.get(history.key_of(params))
        or known.sweep.get(base)
        or _assumed(params, settings.base_models[base].path)
    )


def _assumed(params: Params, base: Path) -> ProfileStats:
    small = base.exists() and base.stat().st_size < _MINIATURE_BYTES
    per_step, overhead_s = (
        (_MINIATURE_SECONDS_PER_STEP, _MINIATURE_OVERHEAD_S) if small else (_SECONDS_PER_STEP, _OVERHEAD_S)
    )
    batch = step_count.whole(params, "train_batch_size", 1) * step_count.whole(params, "gradient_accumulation_steps", 1)
    return ProfileStats(
        seconds_per_step=per_step * batch * step_count.area(params) / 1024**2,
        overhead_s=overhead_s,
        peak_mib=None,
        fallbacks=(),
        origin=ASSUMED,
    )


def _images(point: Point, length: TrainingLength | None, generation: Generation, prompts: int) -> tuple[int, int]:
    """Images that compare the checkpoints, and further ones; a baseline and a LoRA file have one per cell."""
    cells = {(prompt, seed) for prompt in range(prompts) for seed in generation.seeds}
    if not point.is_trained:
        return 0, len(cells)
    count, each = _checkpoints(point.params, length, generation), len(generation.strengths)
    if generation.checkpoints != "best":
        return 0, len(cells) * each * count
    few = len(choice.split(cells, choice.FEW).selection) if count * each > 1 else 0
    return few * each * count, (len(cells) - few) * each


def _checkpoints(params: Params, length: TrainingLength | None, generation: Generation) -> int:
    """The number of checkpoints to generate from, averages included."""
    which, averages = generation.checkpoints, len(generation.averages)
    saved = files.expected("x", params, length) if length else []
    if len(saved) < 2 or which == "last":
        return 1 + averages * (len(saved) > 1)
    every = which in ("all", "best")
    return averages + (len(saved) if every else max(1, sum(one.epoch in which for one in saved)))


def _image_s(generation: Generation) -> float:
    return _IMAGE_S * generation.steps / 28 * generation.width * generation.height / 1024**2


def _disk(
    params: Params, todo: Sequence[str], length: TrainingLength | None, images: int, generation: Generation
) -> int:
    trained = resource_profile.training_bytes(params, length) if "train" in todo and length else 0
    averages = len(generation.averages) * resource_profile.checkpoint_bytes(params) if "train" in todo else 0
    made = images * generation.width * generation.height * _PNG_BYTES_PER_PIXEL
    return int(trained + averages + made) + (_RECORD_BYTES if todo else 0)
