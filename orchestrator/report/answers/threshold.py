"""Answers to threshold questions: from which similarity is a LoRA good enough, and which runs reach it?"""

from collections.abc import Sequence

from orchestrator.evidence import votes
from orchestrator.evidence.calibration import text
from orchestrator.evidence.stats import pass_rate
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.stats.pass_rate import PassCount
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import Question
from orchestrator.report import votes as vote_report
from orchestrator.report.answers.answer import Answer
from orchestrator.text import escape_markdown, pluralize


def answer(sweep: SweepSummary, question: Question) -> Answer:
    """The verdict of `pass_rate.judge`; undecided without a calibration, or with one that has caveats."""
    record = sweep.calibration
    if record is None:
        return Answer(
            id=question.id,
            ask=question.ask,
            sweep=sweep.sweep.name,
            verdict=Verdict.UNDECIDED.value,
            sentence="There is no calibration for this sweep. Run `orchestrate calibrate`, then this command again.",
        )
    trained = [run for run in sweep.runs if run.metrics and run.choice and not run.run.point.is_baseline]
    judged = pass_rate.judge([_count(run) for run in trained])
    passing = [trained[number] for number in judged.reaching]
    verdict = Verdict.UNDECIDED if record.caveats else judged.verdict
    caveats = f" The threshold is uncertain ({'; '.join(record.caveats)})." if record.caveats else ""
    return Answer(
        id=question.id,
        ask=question.ask,
        sweep=sweep.sweep.name,
        verdict=verdict.value,
        sentence=f"Of {pluralize(len(trained), 'scored run')} against the threshold of "
        f"{record.calibration.threshold:.3f}, {judged.reason}.{caveats}",
        interval=record.calibration.threshold_interval,
        facts=(
            ("Runs that pass", _named(passing)),
            ("Pass rates of all runs", _named(trained)),
            ("Pareto-best runs", escape_markdown(", ".join(sweep.pareto_best)) or "no run is scored yet"),
            *(("Votes, separate evidence", escape_markdown(line)) for line in _votes(sweep)),
            *(("Calibration", line) for line in text.format_details(record)),
        ),
    )


def _votes(sweep: SweepSummary) -> list[str]:
    found = votes.evaluate(sweep)
    return vote_report.threshold_sentences(found) if found else []


def _count(run: RunSummary) -> PassCount:
    assert run.metrics, "only scored runs are counted"
    assert run.choice, "only scored runs are counted"
    images = run.metrics.images
    return PassCount(
        passed=round((run.metrics.pass_rate or 0.0) * images),
        images=images,
        candidates=1 if run.choice.disjoint else len(run.choice.candidates),
    )


def _named(runs: Sequence[RunSummary]) -> str:
    return (
        ", ".join(
            f"{escape_markdown(run.run.point.name)} ({run.metrics.pass_rate:.0%} of {run.metrics.images} images)"
            for run in runs
            if run.metrics and run.metrics.pass_rate is not None
        )
        or "none"
    )
