"""Results of a sweep as tables, and the summary at the end of a run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.markup import escape

from orchestrator.cli.fitted_table import FittedTable
from orchestrator.evidence import configurations, votes
from orchestrator.evidence.side_effects import BETTER
from orchestrator.evidence.summary import SweepSummary
from orchestrator.model import State
from orchestrator.report import overview, results_view
from orchestrator.report import votes as vote_report
from orchestrator.report.answers.answer import Answer
from orchestrator.report.sweep_list import ListedSweep
from orchestrator.text import duration, pluralize, size

HEADINGS = {
    "similarity_mean": "similarity",
    "no_face_rate": "no face",
    "peak_vram_mib": "VRAM MiB",
    "confirmed_similarity": "confirmed",
}
_SIGNED, _SHARES = ("gain",), ("no_face_rate", "pass_rate", "above_band_rate")


def summary(
    read: SweepSummary, answers: Sequence[Answer], *, final: bool = False, running: bool = False
) -> RenderableType:
    """The outcome of a sweep: configurations, the best one, answers, failures and, unless `final`, the next command.

    running: whether another process runs the sweep.
    """
    loras = [run for run in read.runs if not run.run.point.is_baseline]
    done = sum(run.status.state is State.FINISHED for run in loras)
    noun = "training" if all(run.run.point.is_trained for run in loras) else "run"
    parts: list[RenderableType] = [
        "",
        f"[bold]{escape(read.sweep.name)}[/]: {done} of {pluralize(len(loras), noun)} finished",
    ]
    if any(run.choice for run in read.runs):
        parts += ["", table(results_view.table(read, "config"), default_columns(read, "config")), ""]
    next_step = "" if final else overview.next_step(read, running=running)
    return Group(*parts, *map(escape, _sentences(read, answers)), *filter(None, [escape(next_step)]))


def _sentences(read: SweepSummary, answers: Sequence[Answer]) -> Iterator[str]:
    yield from filter(None, [overview.best(configurations.group(read.runs))])
    yield from (f"{one.id}: {one.sentence}" for one in answers)
    yield from (f"Votes, {line}" for line in vote_report.sentences(votes.evaluate(read)))
    for failed in overview.failures(read):
        yield f"{failed.text}\n    -> {failed.remedy}"


def column(name: str) -> str:
    """The column of results.csv with this heading in the table, of `-HEADING` after its sign; others as they are."""
    sign, heading = ("-", name[1:]) if name.startswith("-") else ("", name)
    return sign + next((key for key, shown in HEADINGS.items() if shown.casefold() == heading.casefold()), heading)


def default_columns(read: SweepSummary, by: str) -> list[str]:
    """The label and the main metrics; the confirmed similarity and the side effects only if they were measured."""
    columns = [
        results_view.LABEL[by],
        *(["runs"] if by == "config" else ["state"]),
        "similarity_mean",
        "gain",
        "no_face_rate",
    ]
    columns += ["confirmed_similarity"] if any(run.confirmation for run in read.runs) else []
    columns += [name for name in BETTER if any(run.side_effects.get(name) for run in read.runs)]
    return columns + (["degraded"] if any(run.degraded for run in read.runs) else [])


def table(frame: pd.DataFrame, columns: Sequence[str], labels: Mapping[str, str] | None = None) -> RenderableType:
    """The columns of the frame; a narrow terminal lacks the last ones. labels: instead of runs' names, by id."""
    headings = [HEADINGS.get(name, name) for name in columns]
    numbers = [
        heading
        for heading, name in zip(headings, columns, strict=True)
        if pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name])
    ]
    rows = [
        [
            escape(
                labels[row["id"]]
                if labels and name == "run"
                else _runs(row)
                if name == "runs"
                else _cell(name, row[name])
            )
            for name in columns
        ]
        for _, row in frame.iterrows()
    ]
    return FittedTable(headings, rows, right=numbers, optional=headings[:0:-1])


def _runs(row: Any) -> str:
    return f"{row['runs']}" if row["scored"] == row["runs"] else f"{row['scored']} of {row['runs']}"


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if pd.api.types.is_bool(value):
        return "yes" if value else ""
    if name in _SHARES:
        return f"{100 * value:.0f} %"
    if not pd.api.types.is_float(value):
        return str(value)
    return f"{value:+.3f}" if name in _SIGNED else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def sweeps(found: Sequence[ListedSweep]) -> FittedTable:
    """One row per sweep."""
    rows = []
    for one in found:
        similarity = "" if one.similarity is None else f"{one.similarity:.3f}"
        runs, age = f"{one.finished}/{one.runs}", f"{duration(one.age_s)} ago"
        rows.append([*map(escape, (one.name, one.state, runs, one.best, similarity, size(one.size_bytes), age))])
    numbers = ("runs", "similarity", "size", "last active")
    return FittedTable(
        ("sweep", "state", "runs", "best", *numbers[1:]), rows, right=numbers, optional=("size", "last active")
    )
