"""Writes all files of a report: report.html, results.csv and images.csv."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.schema import Comparison
from orchestrator.evidence import summary
from orchestrator.evidence.summary import SweepSummary
from orchestrator.report import answers, html, results_csv, votes
from orchestrator.report.answers.answer import Answer
from orchestrator.store.layout import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was reported, and where."""

    page: Path
    table: Path
    summary: SweepSummary
    answers: tuple[Answer, ...]


def write(
    sweep: Sweep, environ: Mapping[str, str], *, comparison: Comparison | None = None, if_outdated: bool = False
) -> Report:
    """(Re)write the report of a frozen sweep, finished or not. environ: of child processes; its secrets are hidden.

    comparison: of the settings. if_outdated: leave a report whose page, which is written last, shows the same.
    """
    read = summary.read(sweep, comparison)
    answered = answers.answer_questions([read])[0]
    table = sweep.report / results_csv.RESULTS
    if not (if_outdated and table.exists() and html.is_current(read, answered)):
        results_csv.write(read)
        votes.write(read)
    page = html.write(read, answered, environ)
    return Report(page=page, table=table, summary=read, answers=answered)
