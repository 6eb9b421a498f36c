"""Writes all files of a report: report.html, results.csv and images.csv."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Problem
from orchestrator.evidence import summary
from orchestrator.report import answers, html, results_csv
from orchestrator.store.layout import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where a report is. problems: why its calibration is not used, if there is one."""

    page: Path
    table: Path
    problems: tuple[Problem, ...] = ()


def write(sweep: Sweep, environ: Mapping[str, str]) -> Report:
    """(Re)write the report of a frozen sweep, finished or not. environ: of child processes; its secrets are hidden."""
    read = summary.read(sweep)
    table = results_csv.write(read)
    page = html.write(read, answers.answer_questions([read])[0], environ)
    return Report(page=page, table=table, problems=read.problems)


def write_if_outdated(sweep: Sweep, environ: Mapping[str, str]) -> Report:
    """As `write`, but a report that is younger than all records of its finished sweep is left as it is."""
    if current := sweep.current_report():
        page, table = current
        return Report(page=page, table=table)
    return write(sweep, environ)
