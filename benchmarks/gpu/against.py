"""The whole job with the real trainer against a loop over the same programs: time to the finished CSV.

Every cell takes less than ten minutes on an H100. The baseline, which both need equally, is left out.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import versus
from benchmarks.gpu import cells, limit, sweeps, watch
from orchestrator.config import settings as settings_file
from orchestrator.store import layout
from orchestrator.store.hashes import HashCache
from orchestrator.store.layout import Run, Sweep

LIMIT_GIB = 24
TRAININGS = "network_dim*"
GRID = """
[fixed]
max_train_epochs = {epochs}
save_every_n_epochs = {every}
optimizer_type = "{optimizer}"

[dims]
network_dim = [32]
min_snr_gamma = {levels}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """LoRAs of one shape with two checkpoints each; an epoch has `sweeps.PICTURES` steps. cards: the number of GPUs."""

    name: str
    epochs: int
    optimizer: str = cells.PRODIGY
    loras: int = 3
    cards: int = 1
    colocate: bool = False

    @property
    def grid(self) -> str:
        every, levels = -(-self.epochs // 2), list(range(1, self.loras + 1))
        return GRID.format(epochs=self.epochs, every=every, optimizer=self.optimizer, levels=levels)

    def vram(self, first_card: int) -> str:
        cards = ",".join(str(first_card + number) for number in range(self.cards))
        return f'card = "{cards}"\ncolocate = {str(self.colocate).lower()}\n'


ALONE = (Job(name="steps-12", epochs=2), Job(name="steps-102", epochs=17, optimizer=cells.ADAMW))
"""One run at a time, under a limit of LIMIT_GIB, and the loop over the same work."""

COLOCATED = tuple(replace(job, name=f"{job.name}-colocated", colocate=True) for job in ALONE)
"""As many at once as fit: the VRAM that they need is known from `orchestrate probe`."""

CARDS = (Job(name="six-1-gpu", epochs=2, loras=6), Job(name="six-2-gpus", epochs=2, loras=6, cards=2))


def run(programs: watch.Programs, files: cells.Inputs, job: Job) -> dict[str, Any]:
    """Seconds of `orchestrate run` on a job, from the start, and what its runs took.

    Without the hash of the base model, which only the first sweep of a base model computes.
    """
    settings, grid = _files(programs, files, job)
    sweep = Sweep(settings_file.load(settings).runs / job.name)
    HashCache(sweep.path.parent).of(files.checkpoint)
    shutil.rmtree(sweep.path, ignore_errors=True)
    gib = LIMIT_GIB if job in ALONE else None
    with limit.mps(programs.work, gib) as environment:
        total = versus.ours(settings, grid, TRAININGS, {**os.environ, **environment})
    runs = [one for one in sweep.runs() if not one.point.is_baseline]
    return {"total_s": round(total, 1), "limit_gib": gib, **figures(runs)}


def probe(programs: watch.Programs, files: cells.Inputs, job: Job) -> dict[str, Any]:
    """Seconds of `orchestrate probe` on a job, and what its one training of 20 steps took."""
    settings, grid = _files(programs, files, job)
    total = versus.ours(settings, grid, TRAININGS, command="probe")
    result = layout.probes(settings_file.load(settings).runs)[-1].attempts("train")[-1].result()
    kept = ("seconds", "seconds_per_step", "steps", "peak_vram_mib")
    return {"total_s": round(total, 1), **{name: getattr(result, name) for name in kept}}


def figures(runs: list[Run]) -> dict[str, Any]:
    """Of finished runs: seconds from the start of the first training to the end of the last, and those of each run."""
    trained, drawn = ([run.attempts(stage)[-1] for run in runs] for stage in ("train", "generate"))
    results = [result for attempt in trained if (result := attempt.result())]
    started = min((attempt.path / "command.json").stat().st_mtime for attempt in trained)
    ended = max((attempt.path / "exit.json").stat().st_mtime for attempt in trained)
    return {
        "trainings_s": round(ended - started, 1),
        "each_training_s": [round(result.seconds, 1) for result in results],
        "seconds_per_step": [result.seconds_per_step for result in results],
        "peak_mib": [result.peak_vram_mib for result in results],
        "colocated": [attempt.colocated for attempt in trained],
        "attempts": [attempt.number for attempt in trained],
        "each_images_s": [round(result.seconds, 1) for attempt in drawn if (result := attempt.result())],
    }


def loops(programs: watch.Programs, files: cells.Inputs, jobs: Sequence[Job]) -> Iterator[tuple[str, Job, Run]]:
    """The cells of the loop over the first of these jobs that is finished, all of the same work: key, job, run."""
    for job in jobs:
        settings, _ = _files(programs, files, job)
        sweep = Sweep(settings_file.load(settings).runs / job.name)
        runs = [one for one in sweep.runs() if not one.point.is_baseline] if sweep.exists() else []
        if runs and all(one.done("score") for one in runs):
            yield from ((f"{jobs[0].name}: the loop: {one.point.params['min_snr_gamma']}", job, one) for one in runs)
            return


def loop(programs: watch.Programs, files: cells.Inputs, job: Job, one: Run) -> dict[str, Any]:
    """Seconds of the loop's work on one LoRA."""
    parts: Mapping[str, float] = versus.loop(*_files(programs, files, job), one)
    return {"total_s": round(sum(parts.values()), 1), **{name: round(seconds, 1) for name, seconds in parts.items()}}


def _files(programs: watch.Programs, files: cells.Inputs, job: Job) -> tuple[Path, Path]:
    """Settings and grid of a job; all jobs share `runs`."""
    folder = programs.work / "against"
    sweeps.furnish(folder, files)
    settings, grid = folder / f"{job.name}.settings.toml", folder / f"{job.name}.toml"
    text = sweeps.settings(programs, files, job.vram(programs.card))
    settings.write_text(text.replace("[generate]\n", '[generate]\ncheckpoints = "all"\n'), encoding="utf-8")
    grid.write_text(job.grid, encoding="utf-8")
    return settings, grid
