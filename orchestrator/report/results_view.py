"""Results as tables: one row per run, or one per configuration with means over its seeds; best first."""

from collections.abc import Collection, Sequence

import pandas as pd

from orchestrator.errors import InputError, Problem
from orchestrator.evidence import configurations, votes
from orchestrator.evidence.ballot import QUESTIONS
from orchestrator.evidence.configurations import Configuration
from orchestrator.evidence.side_effects import BETTER
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.evidence.summary import SweepSummary, rank_runs
from orchestrator.evidence.votes import VoteResults
from orchestrator.report import results_csv
from orchestrator.text import did_you_mean

LABEL = {"run": "run", "config": "configuration"}
"""The column that names a row, by the kind of the rows."""


def table(summary: SweepSummary, by: str) -> pd.DataFrame:
    """by: `run` or `config`. The columns of results.csv, after the label of the row.

    A configuration has the mean of each number over its counted runs (see `Configuration`), and the values that all its
    runs share. `value`: mean image value. `value_low`, `value_high`: its 95 % interval over seeds and prompts; the same
    for adherence, diversity and drift. `runs`: how many it has; `scored`: how many are counted; `degraded`: how many an
    OOM fallback changed. With blind votes, for each question `votes_persona` and `votes_image`: its share of the votes
    on all its pairs, `_low` and `_high`: the interval, `_number`: of votes.
    """
    frame = results_csv.results(summary).set_index("id", drop=False)
    if by == "run":
        ranked_ids = [run.run.point.id for run in rank_runs(summary.runs)]
        return frame.loc[[*ranked_ids, *(identity for identity in frame["id"] if identity not in ranked_ids)]]
    rows, cast = [], votes.evaluate(summary)
    for one in configurations.group(summary.runs):
        runs, counted = (frame.loc[[run.run.point.id for run in group]] for group in (one.runs, one.counted))
        shared = {column: runs[column].iloc[0] for column in runs if runs[column].nunique(dropna=False) == 1}
        means = counted.select_dtypes("number").mean().to_dict()
        counts = {"runs": len(runs), "scored": len(counted), "degraded": one.degraded}
        rows.append(
            {LABEL["config"]: one.label, **counts, **shared, **means, **counts, **_means(one), **_votes(one, cast)}
        )
    return pd.DataFrame(rows).convert_dtypes().drop(columns=["run", "id", f"params_{REPLICATE}"], errors="ignore")


def _means(one: Configuration) -> dict[str, float | None]:
    found = {"value": one.interval, **{name: one.side_effect_interval(name) for name in BETTER}}
    ends = {f"{name}_{end}": getattr(bounds, end, None) for name, bounds in found.items() for end in ("low", "high")}
    return {"value": one.value, **{name: one.side_effect(name) for name in BETTER}, **ends}


def _votes(one: Configuration, cast: VoteResults | None) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for question in QUESTIONS if cast else ():
        name, share = f"votes_{question}", cast.standings.get((question, one.label)) if cast else None
        bounds = share.interval if share else None
        found |= {name: share.mean if share else None, f"{name}_number": share.votes if share else None}
        found |= {f"{name}_low": bounds.low if bounds else None, f"{name}_high": bounds.high if bounds else None}
    return found


def select(frame: pd.DataFrame, columns: Sequence[str], sort: str, headings: Collection[str] = ()) -> pd.DataFrame:
    """The named columns, all without names; sorted by a column, highest first, or lowest first as `-COLUMN`.

    headings: further names that the user could have meant. Raises InputError for an unknown column.
    """
    ascending, key = sort.startswith("-"), sort.removeprefix("-")
    for name in (*columns, *([key] if key else [])):
        if name not in frame:
            known = did_you_mean(name, [*headings, *frame.columns], "`--json` lists all columns")
            raise InputError(Problem(what=f'there is no column "{name}"', key="--columns, --sort", remedy=known))
    if key:
        frame = frame.sort_values(key, ascending=ascending, na_position="last", kind="stable")
    return frame[list(columns)] if columns else frame
