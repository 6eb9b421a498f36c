"""An answer to a question of a grid, and answers as Markdown and CSV."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import files
from orchestrator.evidence.side_effects import BETTER
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.report import csv_files
from orchestrator.report.answers.costs import SideEffect
from orchestrator.report.answers.rows import ImagePair
from orchestrator.text import escape_markdown

MARKDOWN, TABLE = "answers.md", "answers.csv"

_COLUMNS = (
    *("sweep", "id", "ask", "contrast", "verdict", "sentence", "difference", "low", "high", "p", "replicates", "pairs"),
    *("left_out", "gpu_hours", "peak_gib", "needs", "exceeds", "warnings"),
)
_SIDE_EFFECTS = tuple(f"{name}{part}" for name in BETTER for part in ("", "_low", "_high", "_margin"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question of one sweep and its answer.

    verdict: yes, "yes, at a cost", no or undecided. sentence: the answer, readable without statistics. contrast: the
    question that yes and no refer to. needs: the runs that are missing for a decision. facts: further lines, each with
    a heading;
    details: the same for test statistics. Both may contain Markdown code spans; all other text is plain.
    difference, interval: in similarity or gain, second level minus first; smallest: the smallest relevant one. images:
    one pair with a typical and one with the largest difference. p: of the test that the verdict is based on. exceeds:
    "yes" or "not shown": whether the difference is larger than `smallest`. warnings: violated assumptions.
    """

    id: str
    ask: str
    sweep: str
    verdict: str
    sentence: str
    contrast: str = ""
    needs: str = ""
    difference: float | None = None
    interval: Interval | None = None
    smallest: float | None = None
    p: float | None = None
    replicates: int | None = None
    pairs: int | None = None
    left_out: int | None = None
    gpu_hours: float | None = None
    peak_gib: float | None = None
    images: tuple[ImagePair, ...] = ()
    exceeds: str | None = None
    warnings: str = ""
    side_effects: tuple[SideEffect, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    details: tuple[tuple[str, str], ...] = ()


def write(folder: Path, answers: Sequence[Answer]) -> None:
    """Write answers.md and answers.csv into the report folder of a sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / MARKDOWN, markdown(answers))
    files.write_text(folder / TABLE, table(answers))


def markdown(answers: Iterable[Answer], *, details: bool = True) -> str:
    """All answers on one page."""
    return "# Answers\n" + "".join(
        f"\n## {escape_markdown(one.id)}\n{block([one], details=details)}" for one in answers
    )


def block(answers: Sequence[Answer], *, details: bool = True) -> str:
    """The answers of several sweeps to one question. Equal answers give equal text."""
    return "\n".join(_paragraph(one, details=details) for one in answers)


def blocks(sweeps: Iterable[Iterable[Answer]]) -> dict[str, str]:
    """Question id -> the answers of all sweeps to it."""
    by_id: dict[str, list[Answer]] = {}
    for answers in sweeps:
        for one in answers:
            by_id.setdefault(one.id, []).append(one)
    return {identity: block(found) for identity, found in by_id.items()}


def table(answers: Iterable[Answer]) -> str:
    """CSV with one row per answer; unknown values are empty."""
    return csv_files.table(
        (*_COLUMNS, *_SIDE_EFFECTS),
        (
            {key: getattr(one, key) if hasattr(one, key) else getattr(one.interval, key, None) for key in _COLUMNS}
            | dict.fromkeys(_SIDE_EFFECTS)
            | {key: value for effect in one.side_effects for key, value in _cells(effect).items()}
            for one in answers
        ),
    )


def _cells(one: SideEffect) -> dict[str, float | None]:
    bounds = (getattr(one.interval, "low", None), getattr(one.interval, "high", None))
    return {
        one.name: one.change,
        f"{one.name}_low": bounds[0],
        f"{one.name}_high": bounds[1],
        f"{one.name}_margin": one.margin,
    }


def _paragraph(one: Answer, *, details: bool) -> str:
    lines = [f"*{escape_markdown(one.ask)}*", "", f"**{one.verdict.capitalize()}.** {_one_line(one.sentence)}", ""]
    lines += [
        f"- {heading}: {_one_line(text)}" for heading, text in (("Sweep", escape_markdown(one.sweep)), *one.facts)
    ]
    if details and one.details:
        lines += ["- Details:", *(f"  - {heading}: {_one_line(text)}" for heading, text in one.details)]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """Without line breaks, and without what opens or closes an HTML comment."""
    return " ".join(text.split()).replace("<!--", "< !--").replace("-->", "-- >")
