"""Prints everything: events and problems on stderr, results on stdout."""

from __future__ import annotations

import re
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import rich.console
from rich.console import ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.markup import escape

from orchestrator.cli import status_table
from orchestrator.errors import OrchestrateError, Problem, Severity
from orchestrator.report.labels import labels
from orchestrator.report.listener import SessionListener
from orchestrator.report.progress import ProgressReader, SweepProgress

if TYPE_CHECKING:
    from orchestrator.plan.forecast import Forecast
    from orchestrator.report.files import Report
    from orchestrator.report.status import SweepStatus
    from orchestrator.run.context import Stop
    from orchestrator.store.layout import Run, Sweep


_COMMAND = re.compile(r"`orchestrate (?!(?:completion|demo|import|init|schema)\b|[^`\n]*--settings)[^`\n]*(?=`)")
"""A command that takes `--settings`, and is named without it."""

_CODE = re.compile(r"`[^`\n]+`")
_UNBROKEN = "\ue000"  # stands for a space at which no line is broken

_HEARTBEAT_S = 180.0
_STOPPING = {
    1: "Stopping the running programs; press Ctrl-C again to end them immediately. The same command resumes the sweep.",
    2: "Ending the running programs immediately.",
}


class Terminal(rich.console.Console):
    """With the width of a dumb terminal, too, for which rich assumes 80 columns."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.is_dumb_terminal:
            self.size = ConsoleDimensions(*shutil.get_terminal_size())


class Console(SessionListener):
    """A live table on a terminal, plain lines elsewhere.

    final: the sweep's next steps follow by themselves. settings: the option `--settings FILE` of this command, which
    the commands in messages need as well.
    """

    def __init__(self, *, final: bool = False, settings: str = "") -> None:
        super().__init__()
        self._final, self._settings = final, settings
        self._lock: AbstractContextManager[Any] = nullcontext()
        self._err = Terminal(stderr=True, highlight=False, emoji=False)

    def message(self, text: str) -> None:
        """An event, on stderr."""
        self._print(text)

    def result(self, text: str) -> None:
        """A result on stdout, as it is: a path, a file, a command."""
        print(text, flush=True)

    def sentence(self, text: str) -> None:
        """A sentence on stdout."""
        print(self._wrapped(text, Terminal()), flush=True)

    def problems(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            colour = "red" if problem.severity is Severity.ERROR else "yellow"
            self._print(f"{problem.severity}: {problem}", (problem.severity, f"[{colour}]{problem.severity}[/]"))

    def _print(self, text: str, highlight: tuple[str, str] = ("", "")) -> None:
        with self._lock:
            self._err.print(escape(self._wrapped(text, self._err)).replace(*highlight, 1), soft_wrap=True)

    def _wrapped(self, text: str, terminal: Terminal) -> str:
        """On a terminal lines are broken between words; never within a path or `command`, so that it can be copied."""
        text = self._runnable(text)
        if not terminal.is_terminal:
            return text
        text = _CODE.sub(lambda found: found[0].replace(" ", _UNBROKEN), text)
        wrapper = textwrap.TextWrapper(
            terminal.width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        return "\n".join(map(wrapper.fill, text.splitlines())).replace(_UNBROKEN, " ")

    def _runnable(self, text: str) -> str:
        """With the settings file of this command in the commands that the text names."""
        return _COMMAND.sub(lambda found: f"{found[0]}{self._settings}", text)

    @contextmanager
    def running(
        self,
        sweep: Sweep,
        stop: Stop,
        forecast: Callable[[], Forecast] | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Iterator[None]:
        """SIGINT and SIGTERM end the sweep: once when the running programs have ended, twice immediately."""

        def ask(_number: int, _frame: object) -> None:
            stop.asked += 1
            text = _STOPPING.get(stop.asked)
            if text:  # a thread, because the handler may have interrupted a print
                threading.Thread(target=self.message, args=(text,)).start()

        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)
        with self.live(sweep, forecast, runs):
            yield

    def reported(self, report: Report) -> None:
        """The summary of the sweep, then the paths of its report."""
        from orchestrator.cli import results_table

        self.page(results_table.summary(report.summary, report.answers, final=self._final))
        self.paths(report)

    def paths(self, report: Report) -> None:
        """The paths of the report; that of results.csv is the last line on stdout."""
        self.problems(report.summary.problems)
        self.result(str(report.page))
        self.result(str(report.table))

    @contextmanager
    def live(
        self, sweep: Sweep, forecast: Callable[[], Forecast] | None = None, runs: Sequence[Run] | None = None
    ) -> Iterator[None]:
        """Show the progress of a frozen sweep while the block runs; without a terminal a line every few minutes."""
        if not sweep.exists():
            yield
            return
        reader = ProgressReader(sweep, forecast, runs)

        def read(show: Callable[[SweepProgress], RenderableType]) -> RenderableType:
            try:
                return show(reader.read())
            except OrchestrateError as error:  # a damaged record; the run that it belongs to reports it, too
                return f"the progress is unknown: {error}"

        if self._err.is_terminal:
            with Live(
                get_renderable=lambda: read(status_table.live), console=self._err, refresh_per_second=1, transient=True
            ) as live:
                self._lock = live._lock  # a message must not come between the lines of a refresh
                yield
            return
        ended = threading.Event()

        def beat() -> None:
            self.message(str(read(status_table.heartbeat)))
            while not ended.wait(_HEARTBEAT_S):
                self.message(str(read(status_table.heartbeat)))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def table(self, view: SweepStatus) -> None:
        """The status of a sweep, on stdout."""
        self.page(status_table.table(view, labels([row.run.point for row in view.rows])))

    def page(self, page: RenderableType) -> None:
        """Tables and sentences on stdout; in a file or a pipe lines are not wrapped."""
        parts = page.renderables if isinstance(page, Group) else [page]
        terminal = Terminal(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
        for part in parts:
            terminal.print(self._runnable(part) if isinstance(part, str) else part)
