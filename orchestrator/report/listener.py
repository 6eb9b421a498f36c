"""The events of a session: logged here; the command line shows them on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import TYPE_CHECKING

from orchestrator.errors import Problem, Severity
from orchestrator.kohya.outputs import log
from orchestrator.model import MEMORY_FAILURES, Failure, Result
from orchestrator.text import duration

if TYPE_CHECKING:
    from orchestrator.plan.forecast import Forecast
    from orchestrator.report.files import Report
    from orchestrator.run.context import Stop
    from orchestrator.store.layout import Run, Sweep

_log = logging.getLogger("orchestrator")
_CAUSE = 120
"""Characters of the cause of a failure in a message; the report has all of it."""


class SessionListener:
    """Receives the events of a session and logs them under the name `orchestrator`. Subclass it to show them.

    labels: short names of runs by the id of their point, set when the first attempt can start.
    """

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}

    def message(self, text: str) -> None:
        """One line about what happens now."""
        _log.info(text)

    def problems(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            _log.log(logging.ERROR if problem.severity is Severity.ERROR else logging.WARNING, str(problem))

    @contextmanager
    def running(
        self,
        sweep: Sweep,  # noqa: ARG002
        stop: Stop,
        forecast: Callable[[], Forecast] | None = None,  # noqa: ARG002
        runs: Sequence[Run] | None = None,  # noqa: ARG002
    ) -> Iterator[None]:
        """Entered before the first attempt starts, left after the last has ended. Ctrl-C ends the running attempts.

        forecast: of the remaining runs, if the sweep itself is run. runs: those that run, if they are not the sweep's.
        """
        try:
            yield
        except KeyboardInterrupt:
            stop.asked += 1
            raise

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        details = [f"attempt {attempt}"] if attempt > 1 else []
        details += [f"with {note}"] if note else []
        self.message(f"{self._label(run)}: {stage}" + (f" ({', '.join(details)})" if details else ""))

    def ended(self, run: Run, stage: str, result: Result) -> None:
        if result.failure is None:
            peak = f", peak {result.peak_vram_mib / 1024:.1f} GiB" if result.peak_vram_mib else ""
            text = f"{stage} done in {duration(result.seconds)}{peak}"
        elif result.failure is Failure.STOPPED_EARLY:
            text = f"{stage} stopped early: {result.reason}"
        elif result.failure is Failure.KILLED:
            text = f"{stage}: {result.reason}"
        else:
            cause, trying, following = log.shorten(result.reason).partition("; trying")
            known = result.failure in MEMORY_FAILURES and cause.startswith("out of memory")
            text = ("" if known else f"{stage} failed: ") + shorten(cause, _CAUSE, placeholder=" ...")
            text += trying + following + ("" if result.retry else "; given up")
        self.message(f"{self._label(run)}: {text}")

    def _label(self, run: Run) -> str:
        return self.labels.get(run.point.id, run.point.name)

    def reported(self, report: Report) -> None:
        """The report is written."""
        self.problems(report.summary.problems)
        self.message(str(report.page))
        self.message(str(report.table))
