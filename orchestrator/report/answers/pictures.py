"""Which pictures a person should look at before believing an answer."""

from collections.abc import Mapping, Sequence

from orchestrator.evidence import choice, run_metrics
from orchestrator.evidence.choice import Cell
from orchestrator.evidence.stats.pairs import Pair
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Score


def to_look_at(pairs: Sequence[Pair], runs: Mapping[str, RunSummary]) -> list[str]:
    """Pictures of one prompt and seed, one of each level: where the difference is typical, and where it is largest.

    Paths are relative to the folder of all sweeps.
    """
    found = [
        (after - before, first, second)
        for pair in pairs
        for before, first, after, second in _cells(runs[pair.first.run], runs[pair.second.run])
    ]
    if not found:
        return []
    found.sort(key=lambda one: (one[0], one[1]))
    typical, largest = found[len(found) // 2], max(found, key=lambda one: abs(one[0]))
    chosen = {"typical": typical, "largest difference": largest}
    return [f"{name}, {one[0]:+.3f}: `{one[1]}` against `{one[2]}`" for name, one in chosen.items()]


def _cells(first: RunSummary, second: RunSummary) -> list[tuple[float, str, float, str]]:
    """Value and path on both sides, of every cell that both have."""
    one, other = _by_cell(first), _by_cell(second)
    return [(*one[cell], *other[cell]) for cell in sorted(one.keys() & other.keys())]


def _by_cell(run: RunSummary) -> dict[Cell, tuple[float, str]]:
    reported = run.choice.reported if run.choice else ()
    values = ((score, run_metrics.picture_value(score)) for score in reported)
    return {choice.cell(score): (value, _path(run, score)) for score, value in values if value is not None}


def _path(run: RunSummary, score: Score) -> str:
    return f"{run.run.path.parent.name}/{run.run.path.name}/{score.image.file}"
