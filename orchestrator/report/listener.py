"""The events of a session: logged here; the command line shows them on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.errors import Problem, Severity
from orchestrator.model import Failure, Result
from orchestrator.text import duration

if TYPE_CHECKING:
    from orchestrator.report.files import Report
    from orchestrator.run.context import Stop
    from orchestrator.store.layout import Run, Sweep

_log = logging.getLogger("orchestrator")


class SessionListener:
    """Receives the events of a session and logs them under the name `orchestrator`. Subclass it to show them."""

    def message(self, text: str) -> None:
        """One line about what happens now."""
        _log.info(text)

    def problems(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            _log.log(logging.ERROR if problem.severity is Severity.ERROR else logging.WARNING, str(problem))

    @contextmanager
    def running(self, sweep: Sweep, stop: Stop) -> Iterator[None]:  # noqa: ARG002
        """Entered before the first attempt starts, left after the last has ended. Ctrl-C ends the running attempts."""
        try:
            yield
        except KeyboardInterrupt:
            stop.asked += 1
            raise

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self.message(f"{run.point.name}: {stage}{again}" + (f", changed after out of memory: {note}" if note else ""))

    def ended(self, run: Run, stage: str, result: Result) -> None:
        if result.failure is None:
            peak = f", peak {result.peak_vram_mib / 1024:.1f} GiB" if result.peak_vram_mib else ""
            self.message(f"{run.point.name}: {stage} done in {duration(result.seconds)}{peak}")
        elif result.failure is Failure.STOPPED_EARLY:
            self.message(f"{run.point.name}: {stage} stopped early: {result.reason}")
        else:
            then = "another attempt follows" if result.retry else "given up"
            self.message(f"{run.point.name}: {stage} failed, {result.failure}: {result.reason}; {then}")

    def reported(self, report: Report) -> None:
        """The report is written."""
        self.problems(report.problems)
        self.message(str(report.page))
        self.message(str(report.table))
