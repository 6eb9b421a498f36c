"""What finished sweeps say to the owner's questions: facts -> answers, each with its effect, its cost and its pictures.

Answers to several sweeps' questions are corrected together; none is read from runs of two sweeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.evidence import summary
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.stats.contrast import TestSettings
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Question
from orchestrator.report.answers import calibration_answer, contrasts, vram_answer
from orchestrator.report.answers.answer import Answer
from orchestrator.store.layout import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResults:
    """All of a sweep that its answers are made from."""

    sweep: str
    questions: tuple[Question, ...]
    runs: tuple[RunSummary, ...]
    kept: CalibrationRecord | None


def read(sweep: Sweep) -> SweepResults:
    """Of a frozen sweep, finished or not."""
    kept, _ = summary.calibration(sweep)
    return SweepResults(
        sweep=sweep.name, questions=tuple(sweep.questions()), runs=tuple(summary.gather(sweep)), kept=kept
    )


def answer(sweeps: Sequence[SweepResults], terms: TestSettings | None = None) -> list[tuple[Answer, ...]]:
    """The answers of each sweep: its questions in their order, then what it says of memory and of the threshold."""
    asked = [
        contrasts.SweepQuestions(
            sweep=one.sweep,
            questions=tuple(question for question in one.questions if question.kind == "contrast"),
            runs=one.runs,
            kept=one.kept,
        )
        for one in sweeps
    ]
    answered = contrasts.answer(asked, terms or TestSettings())
    return [
        (*told, *vram_answer.answer(one.sweep, one.runs), *calibration_answer.answer(one.sweep, one.runs, one.kept))
        for one, told in zip(sweeps, answered, strict=True)
    ]
