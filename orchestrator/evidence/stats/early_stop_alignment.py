"""What two levels are compared by when trainings were stopped early: how all of them stood when all of them ran.

Dropping the stopped ones would flatter their level, whose hopeless runs would be missing; taking their last previews
for their ends would compare the middle of one training with the end of another.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from orchestrator.evidence.stats.pairs import RunRow, match
from orchestrator.model import State, Value

_LOOKED_AT = (State.FINISHED, State.STOPPED)


def comparable(
    rows: Sequence[RunRow], dim: str, levels: tuple[Value, Value], moves_with: Collection[str] = ()
) -> tuple[Sequence[RunRow], int | None]:
    """The runs at their ends, or as they stood at the last step that all at these levels reached, and that step.

    Their ends serve as long as there are pairs and none of them lost one of its two alone: where both were stopped,
    neither level is flattered, and the answer is that of the pairs left. The step is None where the ends serve.
    """
    stopped = [row for row in rows if row.state is State.STOPPED and row.looks and row.params.get(dim) in levels]
    if not stopped:
        return rows, None
    step = min(max(row.looks) for row in stopped)
    stood = [_stood(row, step) for row in rows]
    names = {row.run for row in stopped}
    pairs = match(stood, dim, levels, moves_with).pairs
    one_sided = any((pair.first.run in names) is not (pair.second.run in names) for pair in pairs)
    return (stood, step) if one_sided or not match(rows, dim, levels, moves_with).pairs else (rows, None)


def _stood(row: RunRow, step: int) -> RunRow:
    """A run as it stood at a step; without any numbers where nobody looked."""
    if row.state in _LOOKED_AT and step in row.looks:
        return row.looks[step]
    return replace(row, by_prompt={}, similarity=None, no_face_rate=None)
