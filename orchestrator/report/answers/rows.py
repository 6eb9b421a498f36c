"""Facts -> the rows that a comparison takes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

from orchestrator.evidence import run_metrics
from orchestrator.evidence.stats.pairs import REPLICATE, RunRow
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Score, State
from orchestrator.values import canonical_json


def rows(runs: Sequence[RunSummary]) -> list[RunRow]:
    """One for each run with a LoRA."""
    return [_with_looks(run, lambda score: score) for run in runs if not run.run.point.is_baseline]


def rows_by_second_pack(runs: Sequence[RunSummary]) -> list[RunRow]:
    """As `rows`, seen by the second face pack; none where some scored run was not looked at by it."""
    scored = [run for run in runs if run.choice and not run.run.point.is_baseline]
    if not scored or any(run.metrics is None or run.metrics.second_similarity is None for run in scored):
        return []
    return [_with_looks(run, _second) for run in runs if not run.run.point.is_baseline]


def _with_looks(run: RunSummary, seen: Callable[[Score], Score]) -> RunRow:
    row = _row(run, list(map(seen, run.choice.reported)) if run.choice else ())
    ended = replace(row, state=State.FINISHED)
    looks = {step: _numbers(ended, list(map(seen, scores))) for step, scores in run.previews.items()}
    return replace(row, previews=looks)


def _second(score: Score) -> Score:
    return replace(score, similarity=score.second_similarity)


def _row(run: RunSummary, reported: Sequence[Score]) -> RunRow:
    bare = RunRow(
        run=run.run.point.name,
        params=run.run.point.params,
        dims=run.run.point.dims,
        state=run.status.state,
        degraded=run.degraded,
    )
    return _numbers(bare, reported)


def _numbers(row: RunRow, scores: Sequence[Score]) -> RunRow:
    """The row with what these pictures say."""
    found = run_metrics.summary(scores) if scores else None
    return replace(
        row,
        by_prompt=run_metrics.by_prompt(scores),
        similarity=found.similarity_mean if found else None,
        no_face_rate=found.no_face_rate if found else None,
    )


def zips(found: Sequence[RunRow]) -> list[tuple[str, str]]:
    """Dims that move together in these runs: each value of one comes with one value of the other, and back.

    Seeds are never among them: what follows the seed is luck.
    """
    dims = sorted({name for row in found for name in row.dims} - {REPLICATE})
    return [pair for pair in combinations(dims, 2) if _together(found, *pair)]


def _together(found: Sequence[RunRow], one: str, other: str) -> bool:
    both = {
        (canonical_json(row.params[one]), canonical_json(row.params[other]))
        for row in found
        if {one, other} <= set(row.params)
    }
    return len(both) > 1 and len({a for a, _ in both}) == len({b for _, b in both}) == len(both)
