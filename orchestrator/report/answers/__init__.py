"""What finished sweeps say to the owner's questions: facts -> answers, each with its effect, its cost and its pictures.

Answers to several sweeps' questions are corrected together; none is read from runs of two sweeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.evidence import summary
from orchestrator.evidence.calibration.record import Kept
from orchestrator.evidence.stats.contrast import Terms
from orchestrator.evidence.summary import RunFacts
from orchestrator.model import Question
from orchestrator.report.answers import calibration_answer, contrasts, vram_answer
from orchestrator.report.answers.answer import Told
from orchestrator.store.layout import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """All of a sweep that its answers are made from."""

    sweep: str
    questions: tuple[Question, ...]
    runs: tuple[RunFacts, ...]
    kept: Kept | None


def read(sweep: Sweep) -> Read:
    """Of a frozen sweep, finished or not."""
    kept, _ = summary.calibration(sweep)
    return Read(sweep=sweep.name, questions=tuple(sweep.questions()), runs=tuple(summary.gather(sweep)), kept=kept)


def answer(sweeps: Sequence[Read], terms: Terms | None = None) -> list[tuple[Told, ...]]:
    """The answers of each sweep: its questions in their order, then what it says of memory and of the threshold."""
    asked = [contrasts.Asked(sweep=one.sweep, questions=one.questions, runs=one.runs, kept=one.kept) for one in sweeps]
    answered = contrasts.answer(asked, terms or Terms())
    return [
        (*told, *vram_answer.answer(one.sweep, one.runs), *calibration_answer.answer(one.sweep, one.runs, one.kept))
        for one, told in zip(sweeps, answered, strict=True)
    ]
