"""The only printer: events and tables on stderr, results on stdout."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console as Terminal
from rich.console import RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orchestrator.errors import Problem, Severity
from orchestrator.model import Failure, Result, State
from orchestrator.report.status import StatusRow, SweepStatus
from orchestrator.store.layout import Run
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
_SHOWN_ROWS = 25
_READ_ROWS = 200


class Console:
    """A live table on a terminal, plain lines elsewhere. Is the Listener of a sweep."""

    def __init__(self) -> None:
        self._err = Terminal(stderr=True, highlight=False, soft_wrap=True)

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self.say(f"{run.point.name}: {stage}{again}" + (f", conceding: {note}" if note else ""))

    def ended(self, run: Run, stage: str, result: Result) -> None:
        if result.failure is None:
            peak = f", peak {result.peak_vram_mib / 1024:.1f} GiB" if result.peak_vram_mib else ""
            self.say(f"{run.point.name}: {stage} done in {duration(result.seconds)}{peak}")
        elif result.failure is Failure.STOPPED_EARLY:
            self.say(f"{run.point.name}: {stage} stopped early: {result.reason}")
        else:
            then = "another attempt follows" if result.retry else "given up"
            self.say(f"{run.point.name}: {stage} failed, {result.failure}: {result.reason}; {then}")

    def say(self, text: str) -> None:
        """An event, for the person at the screen."""
        self._err.print(escape(text))

    def result(self, text: str) -> None:
        """A result, for whatever reads our stdout."""
        print(text, flush=True)

    def problems(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            colour = "red" if problem.severity is Severity.ERROR else "yellow"
            self._err.print(f"[{colour}]{problem.severity}[/]: {escape(str(problem))}")

    @contextmanager
    def live(self, look: Callable[[], SweepStatus]) -> Iterator[None]:
        """Keep a table of the sweep on the screen while the block runs; nothing where there is no terminal."""
        if not self._err.is_terminal:
            yield
            return
        with Live(get_renderable=lambda: table(look()), console=self._err, refresh_per_second=1, transient=True):
            yield

    def table(self, view: SweepStatus) -> None:
        """All of it, but of a large sweep only so much as a person reads, the restless runs first."""
        Terminal(highlight=False).print(table(view, limit=_READ_ROWS))

    def page(self, page: RenderableType) -> None:
        """A result for people; in a file or a pipe no line is folded."""
        Terminal(highlight=False, width=None if sys.stdout.isatty() else 240).print(page)


def table(view: SweepStatus, limit: int = _SHOWN_ROWS) -> Table:
    """The sweep at a glance: what runs, what has gone wrong, what is next, within `limit` rows."""
    left = f", about {duration(view.left_s)} left" if view.left_s else ""
    done = f"{view.count(State.FINISHED)}/{len(view.rows)} finished"
    shown = Table(title=f"{view.name}: {done}{left}", title_justify="left", box=None, pad_edge=False)
    for heading in ("run", "state", "stage", "step", "loss", "s/step", "VRAM", "left"):
        shown.add_column(heading, justify="left" if heading in ("run", "state", "stage", "VRAM") else "right")
    order = [State.RUNNING, State.CRASHED, State.KILLED, State.FAILED, State.PENDING, State.STOPPED, State.FINISHED]
    rows = sorted(view.rows, key=lambda row: order.index(row.status.state)) if limit < len(view.rows) else view.rows
    for row in rows[:limit]:
        shown.add_row(*_cells(row))
    if len(rows) > limit:
        shown.caption = f"and {len(rows) - limit} more"
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
        _bar(row),
        duration(row.left_s) if row.left_s is not None else "",
    ]


def _bar(row: StatusRow) -> str:
    if row.vram is None:
        return ""
    used, total = row.vram.used_mib, row.vram.total_mib
    full = round(8 * used / total)
    return f"{'█' * full}{'░' * (8 - full)} {used / 1024:.1f}/{total / 1024:.0f} GiB"
