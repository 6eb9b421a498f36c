"""The state of a sweep now, read from its records by any process."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.files import from_here
from orchestrator.kohya.outputs import log
from orchestrator.model import RUNNABLE, Progress, State, VramSample
from orchestrator.store import layout, outcome, state, vram_log
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status

_READERS = {"train": log.read_progress, **dict.fromkeys(layout.GENERATING, log.read_images)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """One run. left_s: seconds until its current stage ends, at the current pace."""

    run: Run
    status: Status
    progress: Progress | None = None
    vram: VramSample | None = None

    @property
    def left_s(self) -> float | None:
        done = self.progress
        if done is None or not done.seconds_per_step:
            return None
        return (done.total - done.step) * done.seconds_per_step


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStatus:
    """A sweep. left_s: seconds until it ends, estimated from finished trainings; None before the first."""

    name: str
    rows: tuple[StatusRow, ...]
    left_s: float | None

    def count(self, state: State) -> int:
        return sum(row.status.state is state for row in self.rows)


def read_status(sweep: Sweep, runs: Sequence[Run] | None = None) -> SweepStatus:
    """The current state of these runs, by default all of the sweep in the order of the grid."""
    rows = tuple(_row(run) for run in (sweep.runs() if runs is None else runs))
    return SweepStatus(name=sweep.name, rows=rows, left_s=_left(rows))


def resume_hint(name: str, grid: Path | None) -> str:
    """The command that continues a sweep. grid: its file, None for `--final` and where it is unknown."""
    if grid is None:
        selection = "--final" if name == "final" else f"GRID --name {name}"
    else:
        selection = shlex.quote(str(from_here(grid))) + ("" if name == grid.stem else f" --name {name}")
    return f"Next: `orchestrate run {selection}` resumes the sweep."


def _row(run: Run) -> StatusRow:
    status = state.status(run)
    if status.state is not State.RUNNING:
        return StatusRow(run=run, status=status)
    folder = run.attempts(status.stage)[-1].path
    reader = _READERS.get(status.stage)
    progress = reader(outcome.tail(folder / "log", 16 * 1024)) if reader else None
    return StatusRow(run=run, status=status, progress=progress, vram=vram_log.last(folder))


def _left(rows: Sequence[StatusRow]) -> float | None:
    """Seconds: the mean of the finished trainings for each pending one, plus the rest of the running ones."""
    spent = [seconds for row in rows if (seconds := _trained_s(row.run)) is not None]
    if not spent:
        return None
    mean = sum(spent) / len(spent)
    waiting = [row for row in rows if row.status.stage == "train" and row.status.state in RUNNABLE]
    return sum(mean if row.left_s is None else row.left_s for row in waiting)


def _trained_s(run: Run) -> float | None:
    if run.point.is_baseline or not run.done("train"):
        return None
    results = [attempt.result() for attempt in run.attempts("train")]
    return sum(result.seconds for result in results if result)
