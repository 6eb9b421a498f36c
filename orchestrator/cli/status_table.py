"""The status of a sweep as a table, and its progress while it runs."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from orchestrator.cli.fitted_table import FittedTable
from orchestrator.model import State
from orchestrator.report.progress import SweepProgress
from orchestrator.report.status import StatusRow, SweepStatus
from orchestrator.text import duration

_COLOURS = {
    State.RUNNING: "cyan",
    State.CRASHED: "yellow",
    State.KILLED: "yellow",
    State.FAILED: "red",
    State.PENDING: "dim",
    State.STOPPED: "blue",
    State.FINISHED: "green",
}
"""By state, in the order in which a large sweep is listed."""
_PROGRESS = ("step", "loss", "s/step", "VRAM", "left")
_NUMBERS = ("step", "loss", "s/step", "left")
_ROWS, _RUNNING_ROWS = 200, 16


def table(view: SweepStatus, labels: Mapping[str, str]) -> RenderableType:
    """One row per run; of a large sweep at most 200, active and failed runs first."""
    left = f", about {duration(view.left_s)} left" if view.left_s else ""
    done = f"{view.count(State.FINISHED)}/{len(view.rows)} finished"
    by_state = sorted(view.rows, key=lambda row: list(_COLOURS).index(row.status.state))
    rows = (by_state if len(view.rows) > _ROWS else view.rows)[:_ROWS]
    cells = [[escape(labels[row.run.point.id]), _state(row), _stage(row), *_progress(row)] for row in rows]
    more = [f"and {len(view.rows) - _ROWS} more"] if len(view.rows) > _ROWS else []
    return Group(f"{escape(view.name)}: {done}{left}", _table(("run", "state", "stage", *_PROGRESS), cells), *more)


def live(progress: SweepProgress) -> RenderableType:
    """One line for each running stage, and a bar for the sweep.

    The last line is short: the terminal appends ^C to it, and a line break would confuse the next refresh.
    """
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=1.0, completed=progress.share, width=24)
    head.add_row(bar, f"{100 * progress.share:.0f} %", progress.times())
    rows = [
        [escape(progress.labels[row.run.point.id]), _stage(row), _bar(row), *_progress(row)]
        for row in progress.running[:_RUNNING_ROWS]
    ]
    shown = _table(("running", "stage", "", *_PROGRESS), rows, optional=("", "loss", "VRAM"))
    more = len(progress.running) - _RUNNING_ROWS
    parts: list[RenderableType] = [shown] if rows else []
    parts += [f"and {more} more"] if more > 0 else []
    return Group(*parts, head, f"{escape(progress.view.name)}: {progress.counts()}")


def heartbeat(progress: SweepProgress) -> str:
    """The same on one line, with the time."""
    running = [
        f"{progress.labels[row.run.point.id]}: {row.status.stage}"
        + (f" {row.progress.step}/{row.progress.total}" if row.progress else "")
        for row in progress.running
    ]
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return "; ".join([f"{now} {progress.view.name}: {progress.counts()}", progress.times(), *running])


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[RenderableType]], optional: Sequence[str] = ("loss", "VRAM")
) -> RenderableType:
    """Without the columns that are empty."""
    used = [index for index in range(len(headings)) if any(row[index] != "" for row in rows)]
    return FittedTable(
        [headings[index] for index in used],
        [[row[index] for index in used] for row in rows],
        right=_NUMBERS,
        optional=optional,
        notes=False,
    )


def _state(row: StatusRow) -> str:
    failure = row.status.failure
    shown = f" ({failure})" if failure and failure.value != row.status.state.value else ""
    return f"[{_COLOURS[row.status.state]}]{row.status.state}[/]{shown}"


def _bar(row: StatusRow) -> RenderableType:
    done = row.progress
    return ProgressBar(total=done.total or 1, completed=done.step, width=10) if done else ""


def _stage(row: StatusRow) -> str:
    return row.status.stage + (f" {row.status.attempt}" if row.status.attempt > 1 else "")


def _progress(row: StatusRow) -> list[str]:
    """The cells of _PROGRESS."""
    done, vram = row.progress, row.vram
    return [
        f"{done.step}/{done.total}" if done else "",
        f"{done.loss:.4f}" if done and done.loss is not None else "",
        f"{done.seconds_per_step:.2f}" if done and done.seconds_per_step else "",
        f"{vram.used_mib / 1024:.1f}/{vram.total_mib / 1024:.0f} GiB" if vram else "",
        duration(row.left_s) if row.left_s is not None else "",
    ]
