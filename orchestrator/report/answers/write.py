"""Answers as Markdown and CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator import files
from orchestrator.report.answers.answer import Answer

MARKDOWN, TABLE = "answers.md", "answers.csv"

_COLUMNS = (
    *("sweep", "id", "ask", "contrast", "verdict", "difference", "low", "high", "p", "replicates", "pairs"),
    *("left_out", "gpu_hours", "peak_gib", "needs", "reason"),
)


def write(folder: Path, told: Sequence[Answer]) -> None:
    """(Re)write both files of a sweep's report folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / MARKDOWN, markdown(told))
    files.write_text(folder / TABLE, table(told))


def markdown(told: Iterable[Answer]) -> str:
    """All answers on one page."""
    return "# Answers\n" + "".join(f"\n## {one.id}\n{block([one])}" for one in told)


def block(told: Sequence[Answer]) -> str:
    """The answers to one question, by one sweep each. The same answers give the same text."""
    return "\n".join(_paragraph(one) for one in told)


def blocks(sweeps: Iterable[Iterable[Answer]]) -> dict[str, str]:
    """By a question's id, what all sweeps say to it."""
    by_id: dict[str, list[Answer]] = {}
    for told in sweeps:
        for one in told:
            by_id.setdefault(one.id, []).append(one)
    return {name: block(found) for name, found in by_id.items()}


def table(told: Iterable[Answer]) -> str:
    """One row per answer; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in told:
        bounds = {"low": one.interval.low, "high": one.interval.high} if one.interval else {}
        record = {key: getattr(one, key) for key in _COLUMNS if key not in ("low", "high")} | bounds
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in record.items()})
    return text.getvalue()


def _paragraph(one: Answer) -> str:
    compared = f"{one.contrast[0].upper()}{one.contrast[1:]} " if one.contrast else ""
    lines = [f"*{one.ask}*", "", f"{compared}**{one.verdict.capitalize()}**: {one.reason}.", ""]
    lines.append(f"- Sweep: {one.sweep}")
    lines += [f"- {heading}: {text}" for heading, text in one.rows]
    return "\n".join(_plain(line) for line in lines) + "\n"


def _plain(line: str) -> str:
    """On one line, and without what would open or close a comment."""
    return " ".join(line.splitlines()).replace("<!--", "< !--").replace("-->", "-- >")
