"""Sweep summaries -> answers to the questions of their grids, each with its effect, its cost and its images."""

from collections.abc import Iterator, Sequence

from orchestrator.evidence.stats.contrast import TestSettings
from orchestrator.evidence.summary import SweepSummary
from orchestrator.model import LORA, Question
from orchestrator.report.answers import contrasts, files, threshold, vram
from orchestrator.report.answers.answer import Answer


def answer_questions(sweeps: Sequence[SweepSummary], settings: TestSettings | None = None) -> list[tuple[Answer, ...]]:
    """The answers of each sweep, in the order of its questions.

    The contrasts of all sweeps are corrected together; each is computed from the runs of its own sweep.
    """
    used = settings or TestSettings()
    compared = contrasts.answer(sweeps, used)
    return [
        tuple(_answer(sweep, question, answered, used) for question in sweep.questions)
        for sweep, answered in zip(sweeps, map(iter, compared), strict=True)
    ]


def _answer(sweep: SweepSummary, question: Question, compared: Iterator[Answer], settings: TestSettings) -> Answer:
    if question.kind == "memory":
        return vram.answer(sweep, question)
    if question.kind == "threshold":
        return threshold.answer(sweep, question)
    if question.dim == LORA:
        return files.answer(sweep, question, settings)
    return next(compared)
