"""The status of a sweep as a table."""

from rich.markup import escape
from rich.table import Table

from orchestrator.model import State
from orchestrator.report.status import StatusRow, SweepStatus
from orchestrator.text import duration

_COLOURS = {
    State.FINISHED: "green",
    State.RUNNING: "cyan",
    State.FAILED: "red",
    State.CRASHED: "yellow",
    State.KILLED: "yellow",
    State.PENDING: "dim",
    State.STOPPED: "blue",
}
_ORDER = [State.RUNNING, State.CRASHED, State.KILLED, State.FAILED, State.PENDING, State.STOPPED, State.FINISHED]
_LIVE_ROWS, PRINTED_ROWS = 25, 200


def table(view: SweepStatus, limit: int = _LIVE_ROWS) -> Table:
    """One row per run; of a large sweep at most `limit`, active and failed runs first."""
    left = f", about {duration(view.left_s)} left" if view.left_s else ""
    done = f"{view.count(State.FINISHED)}/{len(view.rows)} finished"
    shown = Table(title=f"{view.name}: {done}{left}", title_justify="left", box=None, pad_edge=False)
    for heading in ("run", "state", "stage", "step", "loss", "s/step", "VRAM", "left"):
        shown.add_column(heading, justify="left" if heading in ("run", "state", "stage", "VRAM") else "right")
    by_state = sorted(view.rows, key=lambda row: _ORDER.index(row.status.state))
    for row in (by_state if limit < len(view.rows) else view.rows)[:limit]:
        shown.add_row(*_cells(row))
    if len(view.rows) > limit:
        shown.caption = f"and {len(view.rows) - limit} more"
    return shown


def _cells(row: StatusRow) -> list[str]:
    status, done = row.status, row.progress
    state = f"[{_COLOURS[status.state]}]{status.state}[/]"
    return [
        escape(row.run.point.name),
        state + (f" ({status.failure})" if status.failure else ""),
        status.stage + (f" {status.attempt}" if status.attempt > 1 else ""),
        f"{done.step}/{done.total}" if done else "",
        f"{done.loss:.4f}" if done and done.loss is not None else "",
        f"{done.seconds_per_step:.2f}" if done and done.seconds_per_step else "",
        _vram_bar(row),
        duration(row.left_s) if row.left_s is not None else "",
    ]


def _vram_bar(row: StatusRow) -> str:
    if row.vram is None:
        return ""
    used, total = row.vram.used_mib, row.vram.total_mib
    full = round(8 * used / total)
    return f"{'█' * full}{'░' * (8 - full)} {used / 1024:.1f}/{total / 1024:.0f} GiB"
