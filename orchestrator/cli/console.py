"""Prints everything: events and problems on stderr, results on stdout."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console as Terminal
from rich.console import RenderableType
from rich.live import Live
from rich.markup import escape

from orchestrator.cli import status_table
from orchestrator.errors import Problem, Severity
from orchestrator.report import status
from orchestrator.report.listener import SessionListener

if TYPE_CHECKING:
    from orchestrator.report.files import Report
    from orchestrator.report.status import SweepStatus
    from orchestrator.run.context import Stop
    from orchestrator.store.layout import Sweep


class Console(SessionListener):
    """A live table on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._err = Terminal(stderr=True, highlight=False, soft_wrap=True)

    def message(self, text: str) -> None:
        """An event, on stderr."""
        self._err.print(escape(text))

    def result(self, text: str) -> None:
        """A result, on stdout."""
        print(text, flush=True)

    def problems(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            colour = "red" if problem.severity is Severity.ERROR else "yellow"
            self._err.print(f"[{colour}]{problem.severity}[/]: {escape(str(problem))}")

    @contextmanager
    def running(self, sweep: Sweep, stop: Stop) -> Iterator[None]:
        """SIGINT and SIGTERM end the sweep: once after the running attempts have been stopped, twice immediately."""

        def ask(_number: int, _frame: object) -> None:
            stop.asked += 1

        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)
        with self.live(sweep):
            yield

    def reported(self, report: Report) -> None:
        """The summary of the sweep, then the paths of its report."""
        from orchestrator.cli import results_table

        self.page(results_table.summary(report.summary, report.answers))
        self.paths(report)

    def paths(self, report: Report) -> None:
        """The paths of the report; that of results.csv is the last line on stdout."""
        self.problems(report.summary.problems)
        self.result(str(report.page))
        self.result(str(report.table))

    @contextmanager
    def live(self, sweep: Sweep) -> Iterator[None]:
        """Show the status of the sweep while the block runs, if this is a terminal."""
        if not self._err.is_terminal or not sweep.exists():
            yield
            return

        def table() -> RenderableType:
            return status_table.table(status.read_status(sweep))

        with Live(get_renderable=table, console=self._err, refresh_per_second=1, transient=True):
            yield

    def table(self, view: SweepStatus) -> None:
        """The status of a sweep, on stdout."""
        Terminal(highlight=False).print(status_table.table(view, limit=status_table.PRINTED_ROWS))

    def page(self, page: RenderableType) -> None:
        """A table on stdout; in a file or a pipe lines are not wrapped."""
        Terminal(highlight=False, width=None if sys.stdout.isatty() else 240).print(page)
