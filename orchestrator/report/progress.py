"""The progress of a running sweep: elapsed and remaining time, and its running stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.model import State
from orchestrator.report import status
from orchestrator.report.labels import labels
from orchestrator.report.status import StatusRow, SweepStatus
from orchestrator.store.layout import Run, Sweep
from orchestrator.text import duration

if TYPE_CHECKING:
    from orchestrator.plan.forecast import Forecast

_RENEW_S, _SHARE = 10.0, 0.05
"""The forecast is renewed after this time, or later so that it takes at most this share of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepProgress:
    """A running sweep. elapsed_s: since it was started. left_s: None if unknown. labels: by the id of a point."""

    view: SweepStatus
    labels: Mapping[str, str]
    elapsed_s: float
    left_s: float | None

    @property
    def share(self) -> float:
        """The finished share of this call's time; of the runs if the remaining time is unknown."""
        if self.left_s is None:
            return self.view.count(State.FINISHED) / max(1, len(self.view.rows))
        return self.elapsed_s / max(1e-9, self.elapsed_s + self.left_s)

    @property
    def running(self) -> list[StatusRow]:
        return [row for row in self.view.rows if row.status.state is State.RUNNING]

    def counts(self) -> str:
        """`3 of 9 runs finished, 1 failed`."""
        failed = self.view.count(State.FAILED)
        done = self.view.count(State.FINISHED) + self.view.count(State.STOPPED)
        return f"{done} of {len(self.view.rows)} runs finished" + (f", {failed} failed" if failed else "")

    def times(self) -> str:
        """`elapsed 12 min, about 24 min left`."""
        left = "remaining time unknown" if self.left_s is None else f"about {duration(self.left_s)} left"
        return f"elapsed {duration(self.elapsed_s)}, {left}"


class ProgressReader:
    """Reads the progress of a sweep. forecast: of its remaining runs; without it the remaining time is unknown.

    runs: those to read instead of the sweep's.
    """

    def __init__(
        self, sweep: Sweep, forecast: Callable[[], Forecast] | None = None, runs: Sequence[Run] | None = None
    ) -> None:
        self._sweep, self._forecast, self._runs = sweep, forecast, runs
        self._labels = labels(list({run.point.id: run.point for run in (*sweep.runs(), *(runs or ()))}.values()))
        self._left_s, self._read_at, self._renew_at = 0.0, 0.0, 0.0

    def read(self) -> SweepProgress:
        view = status.read_status(self._sweep, self._runs)
        elapsed = max(0.0, time.time() - self._sweep.started_at())
        return SweepProgress(view=view, labels=self._labels, elapsed_s=elapsed, left_s=self._left(view))

    def _left(self, view: SweepStatus) -> float | None:
        """The last forecast, less the time since."""
        if self._forecast is None:
            return None
        began = time.monotonic()
        if began >= self._renew_at:
            self._left_s = _remaining(self._forecast(), view)
            self._read_at = time.monotonic()
            self._renew_at = self._read_at + max(_RENEW_S, (self._read_at - began) / _SHARE)
        return max(0.0, self._left_s - (time.monotonic() - self._read_at))


def _remaining(costs: Forecast, view: SweepStatus) -> float:
    """Seconds on all GPUs together; a running stage counts with what its own progress leaves."""
    from orchestrator.plan import forecast

    left = {row.run.point.id: (row.status.stage, row.left_s) for row in view.rows if row.left_s is not None}
    runs = []
    for run in costs.runs:
        stages = {"train": run.train_s, "generate": run.generate_s, "score": run.score_s}
        if run.run.point.id in left:
            stage, seconds = left[run.run.point.id]
            if stage in stages:  # else the forecast includes it
                stages[stage] = seconds or 0.0
        train_s = stages.pop("train")
        runs.append((train_s, sum(stages.values())))
    return forecast.makespan(costs.gpus, runs)
