"""Which runs may be compared: pairs that differ in one dim and in what follows from it, and nothing else."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.model import Params, State, Value

REPLICATE = "seed"
"""The sd-scripts argument whose values are replicates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """What a run brings to a comparison.

    params: effective; dims: those that the grid varied (Point.dims).
    by_prompt: mean picture value of each prompt on the reported pictures (numbers.by_prompt); empty when not scored.
    similarity: mean over the faces found; no_face_rate: share of pictures without a face.
    looks: the same run by its previews at steps of its training, as if it had finished there.
    """

    run: str
    params: Params
    dims: tuple[str, ...]
    state: State
    degraded: bool = False
    by_prompt: Mapping[int, float] = field(default_factory=dict)
    similarity: float | None = None
    no_face_rate: float | None = None
    looks: Mapping[int, "RunRow"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A run that has one of the two levels and is not in the comparison, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two runs alike but for the contrast: `first` has the question's first level."""

    first: RunRow
    second: RunRow

    @property
    def replicate(self) -> Value | None:
        """The training seed that both share."""
        return self.first.params.get(REPLICATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """The pairs, the runs left out, and what else differs inside the pairs.

    varied_with: params that differ between the two runs of a pair besides the dim itself (an alpha that follows the
    rank, a dim zipped to this one). held: params with one value in all pairs.
    """

    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]
    varied_with: tuple[str, ...]
    held: Params


def match(rows: Sequence[RunRow], dim: str, levels: tuple[Value, Value], moves_with: Collection[str] = ()) -> Matching:
    """Pairs of usable runs at the two levels of `dim` with equal values in every other dim, replicate included.

    moves_with: dims zipped to this one, which therefore cannot be held. A param that is no dim is not compared: it can
    only differ by following from the dims.
    """
    others = sorted({name for row in rows for name in row.dims} - {dim, *moves_with})
    asked = [row for row in rows if row.params.get(dim) in levels]
    usable = [row for row in asked if not unusable(row)]
    cells: dict[tuple[Value | None, ...], tuple[list[RunRow], list[RunRow]]] = defaultdict(lambda: ([], []))
    for row in usable:
        cells[tuple(row.params.get(name) for name in others)][row.params[dim] == levels[1]].append(row)
    pairs = tuple(Pair(first=a[0], second=b[0]) for a, b in cells.values() if len(a) == len(b) == 1)
    failed = [LeftOut(run=row.run, reason=unusable(row)) for row in asked if unusable(row)]
    return Matching(
        pairs=pairs,
        left_out=(*failed, *_unmatched(cells.values())),
        varied_with=_varied_with(pairs, dim),
        held=_held(pairs),
    )


def unusable(row: RunRow) -> str:
    """Why a run proves nothing about its params; empty when it does."""
    if row.state is not State.FINISHED:
        return "stopped early" if row.state is State.STOPPED else row.state.value
    if row.degraded:
        return "degraded: an attempt changed its settings"
    return "" if row.by_prompt else "no scores"


def _unmatched(cells: Iterable[tuple[list[RunRow], list[RunRow]]]) -> list[LeftOut]:
    left = []
    for a, b in cells:
        if len(a) != 1 or len(b) != 1:
            reason = "no partner at the other level" if not (a and b) else "several runs with the same settings"
            left += [LeftOut(run=row.run, reason=reason) for row in (*a, *b)]
    return left


def _varied_with(pairs: Sequence[Pair], dim: str) -> tuple[str, ...]:
    names = {name for pair in pairs for name in (*pair.first.params, *pair.second.params)} - {dim}
    return tuple(
        sorted(n for n in names if any(pair.first.params.get(n) != pair.second.params.get(n) for pair in pairs))
    )


def _held(pairs: Sequence[Pair]) -> Params:
    rows = [row for pair in pairs for row in (pair.first, pair.second)]
    if not rows:
        return {}
    return {k: v for k, v in rows[0].params.items() if all(row.params.get(k) == v for row in rows)}
