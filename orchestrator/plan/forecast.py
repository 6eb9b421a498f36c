"""What a sweep will do and cost, before the night: steps, hours, GPU-hours, memory and disk, and how that is known."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.schema import Generation, Settings
from orchestrator.errors import Problem
from orchestrator.kohya import previews, resource_profile, step_count
from orchestrator.kohya.outputs import files
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import Params, Point, State
from orchestrator.plan import history, vram_estimate
from orchestrator.plan.history import ProfileStats, RunHistory
from orchestrator.plan.training_length import LengthEstimator
from orchestrator.plan.vram_estimate import Estimate
from orchestrator.store import state
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status

ASSUMED = "assumed"

_SECONDS_PER_STEP = 1.5
_STEP_BESIDE_S = 50.0
_PICTURE_S = 3.5
_SCORE_S = 0.5
"""Where nothing was measured here: per picture of 1024 x 1024 trained on, made in 28 steps, and scored; beside a
training's steps. As on an H200 with slow cores, where the host decides; a 24 GB card of its time is near it."""

_PNG_BYTES_PER_PIXEL = 1.7
_RECORD_BYTES = 2_000_000
"""A run's logs, records and curves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForecast:
    """One run: what is still to be done. Seconds are 0 where a stage is done, and of a run that failed for good.

    length: None where it is unknown.
    counted: the pictures are here, so that epochs and steps are no estimate. origin: how the pace is known.
    """

    run: Run
    status: Status
    why: str
    length: TrainingLength | None
    counted: bool
    images: int
    train_s: float
    generate_s: float
    score_s: float
    disk_bytes: int
    profile: str
    origin: str

    @property
    def seconds(self) -> float:
        return self.train_s + self.generate_s + self.score_s

    @property
    def exact(self) -> bool:
        """Whether the steps are no estimate: counted, or asked for by their number."""
        return self.counted or "max_train_epochs" not in self.run.point.params


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Trainings that take the same of the card. `settings`: what sets them apart from the sweep's other profiles.

    peak: measured where its error is 0; None where nothing like it was ever measured.
    """

    key: str
    settings: Params
    runs: int
    seconds_per_step: float
    peak: Estimate | None
    fallbacks: tuple[str, ...]
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A sweep's runs and their sums.

    free_bytes: of the disk that holds runs/; card_gib: what one run may use, None where it is not known.
    cards: over how many the runs are spread.
    """

    name: str
    runs: tuple[RunForecast, ...]
    profiles: tuple[Profile, ...]
    free_bytes: int
    cards: int
    card_gib: float | None
    scored_on_gpu: bool

    @property
    def seconds(self) -> float:
        """From start to end, one run after the other on each card; less where runs are colocated onto one."""
        return sum(run.seconds for run in self.runs) / self.cards

    @property
    def gpu_seconds(self) -> float:
        scored = sum(run.score_s for run in self.runs) if self.scored_on_gpu else 0.0
        return sum(run.train_s + run.generate_s for run in self.runs) + scored

    @property
    def disk_bytes(self) -> int:
        return sum(run.disk_bytes for run in self.runs)


def forecast(
    sweep: Sweep, runs: Sequence[Run], used: Settings, *, prompts: int, cards_gib: Sequence[float] = ()
) -> Forecast:
    """What these runs of a sweep still ask for, by what earlier runs and probes took, else by assumption.

    cards_gib: the sizes of the cards in use; none where there are none here.
    """
    known, measure = history.gather(sweep), LengthEstimator(used.datasets)
    return Forecast(
        name=sweep.name,
        runs=tuple(_run(run, used, prompts, known, measure) for run in runs),
        profiles=tuple(_profiles([run.point.params for run in runs if not run.point.is_baseline], known, used)),
        free_bytes=free_bytes(used.runs),
        cards=max(1, len(cards_gib)),
        card_gib=used.vram.budget_gib or min(cards_gib, default=None),
        scored_on_gpu=used.scoring.device == "cuda",
    )


def _profiles(points: Sequence[Params], known: RunHistory, used: Settings) -> Iterator[Profile]:
    by_key: dict[str, list[Params]] = {}
    for params in points:
        by_key.setdefault(history.key_of(params), []).append(params)
    apart = resource_profile.differing([resource_profile.profile(group[0]) for group in by_key.values()])
    for key, group in by_key.items():
        pace = _pace(group[0], known)
        yield Profile(
            key=key,
            settings={name: group[0][name] for name in apart if name in group[0]},
            runs=len(group),
            seconds_per_step=pace.seconds_per_step,
            peak=_peak({**group[0], **({previews.EVERY: 1} if used.early_stop else {})}, pace),
            fallbacks=pace.fallbacks,
            origin=pace.origin,
        )


def shortage(told: Forecast) -> list[Problem]:
    """An error when the sweep does not fit the disk."""
    if told.disk_bytes <= told.free_bytes:
        return []
    needed, free = told.disk_bytes / 1024**3, told.free_bytes / 1024**3
    what = f"the sweep needs about {needed:.1f} GiB of disk, and {free:.1f} GiB are free"
    remedy = "free some, keep fewer checkpoints (save_every_n_epochs, save_last_n_epochs), or move runs"
    return [Problem(what=what, key="runs", remedy=remedy)]


def free_bytes(folder: Path) -> int:
    """Of the disk that holds a folder, which need not be there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


# --- one run ----------------------------------------------------------------------------------------------------------


def _run(run: Run, used: Settings, prompts: int, known: RunHistory, measure: LengthEstimator) -> RunForecast:
    params, status = run.point.params, state.status(run)
    length = None if run.point.is_baseline else measure.length(params)
    pictures = None if run.point.is_baseline else measure.pictures(str(params["dataset"]))
    images = _images(run.point, length, used.generation) * prompts
    pace = _pace(params, known)
    given_up = status.state in (State.FAILED, State.STOPPED)
    todo = [] if given_up else [stage for stage in run.stages if not run.done(stage)]
    return RunForecast(
        run=run,
        status=status,
        why=why(status),
        length=length,
        counted=pictures is not None and pictures.counted and not params.get("validation_split"),
        images=images,
        train_s=pace.overhead_s + pace.seconds_per_step * (length.steps if length else 0) if "train" in todo else 0.0,
        generate_s=images * (known.picture_s or _made_s(used.generation)) if "generate" in todo else 0.0,
        score_s=images * (known.score_s or _SCORE_S) if "score" in todo else 0.0,
        disk_bytes=_disk(params, todo, length, images, used.generation),
        profile="" if run.point.is_baseline else history.key_of(params),
        origin=pace.origin,
    )


_WHY = {
    State.FINISHED: "finished: nothing to do",
    State.RUNNING: "is running: will be watched to its end",
    State.FAILED: "failed for good: only with --retry failed",
    State.STOPPED: "stopped early: nothing to do",
    State.CRASHED: "crashed: another attempt",
    State.KILLED: "was stopped: another attempt",
}


def why(status: Status) -> str:
    """Why a run would be worked on, or not."""
    if status.state is State.PENDING:
        return f"to {status.stage}" + (f": attempt {status.attempt} left off there" if status.attempt else "")
    return _WHY[status.state] + (f" ({status.reason})" if status.reason else "")


def _pace(params: Params, known: RunHistory) -> ProfileStats:
    return known.paces.get(history.key_of(params)) or known.sweep or _assumed(params)


def _assumed(params: Params) -> ProfileStats:
    batch = step_count.whole(params, "train_batch_size", 1) * step_count.whole(params, "gradient_accumulation_steps", 1)
    return ProfileStats(
        seconds_per_step=_SECONDS_PER_STEP * batch * step_count.area(params) / 1024**2,
        overhead_s=_STEP_BESIDE_S,
        peak_mib=None,
        fallbacks=(),
        origin=ASSUMED,
    )


def _peak(params: Params, pace: ProfileStats) -> Estimate | None:
    return Estimate(gib=pace.peak_mib / 1024, error_gib=0.0) if pace.peak_mib else vram_estimate.estimate(params)


def _images(point: Point, length: TrainingLength | None, generation: Generation) -> int:
    """How many pictures a run makes of each prompt; of a floor, one for each seed."""
    if point.is_baseline:
        return len(generation.seeds)
    chosen = _chosen(point.params, length, generation.checkpoints)
    return len(generation.seeds) * len(generation.strengths) * chosen


def _chosen(params: Params, length: TrainingLength | None, which: str | tuple[int, ...]) -> int:
    if length is None or which == "last":
        return 1
    there = files.expected("x", params, length)
    return len(there) if which == "all" else max(1, sum(one.epoch in which for one in there))


def _made_s(generation: Generation) -> float:
    return _PICTURE_S * generation.steps / 28 * generation.width * generation.height / 1024**2


def _disk(
    params: Params, todo: Sequence[str], length: TrainingLength | None, images: int, generation: Generation
) -> int:
    trained = resource_profile.training_bytes(params, length) if "train" in todo and length else 0
    made = images * generation.width * generation.height * _PNG_BYTES_PER_PIXEL if "generate" in todo else 0
    return int(trained + made) + (_RECORD_BYTES if todo else 0)
