"""Answers to threshold questions: from which similarity is a LoRA good enough, and which runs reach it?"""

from collections.abc import Sequence

from orchestrator.evidence.calibration import text
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import Question
from orchestrator.report.answers.answer import Answer
from orchestrator.text import escape_markdown, pluralize

_MAJORITY = 0.5
"""A run reaches the threshold if the lower bound of its pass rate exceeds this."""


def answer(sweep: SweepSummary, question: Question) -> Answer:
    """Yes if a run reaches the threshold. Undecided without a calibration, or with one that has caveats."""
    record = sweep.calibration
    if record is None:
        return Answer(
            id=question.id,
            ask=question.ask,
            sweep=sweep.sweep.name,
            verdict=Verdict.UNDECIDED.value,
            sentence="There is no calibration for this sweep. Run `orchestrate calibrate`, then this command again.",
        )
    trained = [run for run in sweep.runs if run.metrics and not run.run.point.is_baseline]
    passing = [run for run in trained if _lower_bound(run) > _MAJORITY]
    verdict = Verdict.UNDECIDED if record.caveats else Verdict.YES if passing else Verdict.NO
    caveats = f" The threshold is uncertain ({'; '.join(record.caveats)})." if record.caveats else ""
    return Answer(
        id=question.id,
        ask=question.ask,
        sweep=sweep.sweep.name,
        verdict=verdict.value,
        sentence=f"{len(passing)} of {pluralize(len(trained), 'scored run')} reach the threshold of "
        f"{record.calibration.threshold:.3f} in most of their images.{caveats}",
        interval=record.calibration.threshold_interval,
        facts=(
            ("Runs that pass", _named(passing)),
            ("Pareto-best runs", escape_markdown(", ".join(sweep.pareto_best)) or "no run is scored yet"),
            *(("Calibration", line) for line in text.format_details(record)),
        ),
    )


def _lower_bound(run: RunSummary) -> float:
    rate = run.metrics.pass_interval if run.metrics else None
    return rate.low if rate else 0.0


def _named(runs: Sequence[RunSummary]) -> str:
    return (
        ", ".join(
            f"{escape_markdown(run.run.point.name)} ({run.metrics.pass_rate:.0%} of {run.metrics.images} images)"
            for run in runs
            if run.metrics and run.metrics.pass_rate is not None
        )
        or "none"
    )
