"""From which similarity on is a LoRA good enough: the calibration, and which runs reach it."""

from collections.abc import Iterator, Sequence

from orchestrator.evidence import summary
from orchestrator.evidence.calibration import text
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.summary import RunSummary
from orchestrator.report.answers.answer import Answer

ID = "Q8"
"""The question's heading on the owner's page."""

_ASK = "At what face similarity is a LoRA production ready, and does one of these reach it?"
_MOST = 0.5
"""A run is good enough when even the lower end of its pass rate's interval has most pictures passing."""


def answer(sweep: str, runs: Sequence[RunSummary], kept: CalibrationRecord | None) -> Iterator[Answer]:
    """One answer where there is a calibration for the sweep."""
    if kept is None:
        return
    passing = [run for run in runs if not run.run.point.is_baseline and _low(run) > _MOST]
    provisional = bool(kept.caveats)
    yield Answer(
        id=ID,
        ask=_ASK,
        sweep=sweep,
        verdict=(Verdict.UNDECIDED if provisional else Verdict.YES if passing else Verdict.NO).value,
        reason=text.format_verdict(kept),
        interval=kept.calibration.threshold_interval,
        rows=(
            ("Passing", _passing(passing)),
            *(("Measured", line) for line in text.format_details(kept)),
            ("Not beaten", ", ".join(summary.pareto_front_of(runs).front) or "no run is scored yet"),
        ),
    )


def _low(run: RunSummary) -> float:
    rate = run.metrics.pass_interval if run.metrics else None
    return rate.low if rate else 0.0


def _passing(runs: Sequence[RunSummary]) -> str:
    named = [
        f"{run.run.point.name} ({100 * run.metrics.pass_rate:.0f} % of {run.metrics.images} pictures)"
        for run in runs
        if run.metrics and run.metrics.pass_rate is not None
    ]
    return ", ".join(named) or "no run has most of its pictures above it, beyond chance"
