"""Pairs of runs that may be compared: they differ in one dim and in params that follow from it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.model import Params, State, Value
from orchestrator.store import provenance
from orchestrator.values import canonical_json, same

REPLICATE = "seed"
"""The sd-scripts argument whose values are replicates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """The input of a comparison from one run.

    params: effective. dims: those that the grid varied (Point.dims); written: their values as the grid writes them.
    by_prompt: mean image value of each prompt over the reported images (run_metrics.by_prompt); empty without scores.
    similarity: mean over detected faces. no_face_rate: share of images without a face. gain_by_prompt: as by_prompt,
    minus the baseline on the same images; change: mean absolute difference from the baseline over these images; both
    unknown without a baseline. missing: why by_prompt is empty, if it is. environment, baseline_environment: GPU model
    and versions; empty if unknown or if differences are allowed. previews: step -> the run as its previews at that step
    score.
    """

    run: str
    params: Params
    dims: tuple[str, ...]
    state: State
    written: Params = field(default_factory=dict)
    degraded: bool = False
    by_prompt: Mapping[int, float] = field(default_factory=dict)
    similarity: float | None = None
    no_face_rate: float | None = None
    gain_by_prompt: Mapping[int, float] = field(default_factory=dict)
    change: float | None = None
    missing: str = "no scores"
    environment: Mapping[str, str] = field(default_factory=dict)
    baseline_environment: Mapping[str, str] = field(default_factory=dict)
    previews: Mapping[int, "RunRow"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A run at one of the two levels that is not compared, and the reason."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two runs that differ in the contrast only; `first` has the question's first level."""

    first: RunRow
    second: RunRow

    @property
    def replicate(self) -> Value | None:
        """The training seed of both runs."""
        return self.first.params.get(REPLICATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """The pairs, the runs left out, and the params of the pairs.

    varied_with: params besides the dim that differ within pairs (alpha that follows the rank, a zipped dim).
    common_params: params with one value in all pairs.
    """

    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]
    varied_with: tuple[str, ...]
    common_params: Params


def match(rows: Sequence[RunRow], dim: str, levels: tuple[Value, Value], moves_with: Collection[str] = ()) -> Matching:
    """Pairs of usable runs at the two levels of `dim` with equal values of every other dim, including the seed.

    moves_with: dims zipped to this one, which therefore differ within pairs. Dims are compared as the grid writes them,
    and params that are not dims are not compared: what differs within a pair besides the dim follows from it by a rule
    or an expression of the grid.
    """
    others = sorted({name for row in rows for name in row.dims} - {dim, *moves_with})
    at_levels = [row for row in rows if level_of(row, dim, levels) is not None]
    cells: dict[tuple[str, ...], tuple[list[RunRow], list[RunRow]]] = defaultdict(lambda: ([], []))
    for row in at_levels:
        if not unusable(row):
            written = {**row.params, **row.written}
            key = tuple(canonical_json(written[name]) if name in written else "" for name in others)
            cells[key][level_of(row, dim, levels) == 1].append(row)
    matched = [Pair(first=a[0], second=b[0]) for a, b in cells.values() if len(a) == len(b) == 1]
    differing = [(pair, found) for pair in matched if (found := _differences(pair))]
    pairs = tuple(pair for pair in matched if not _differences(pair))
    others_made = [LeftOut(run=row.run, reason=found) for pair, found in differing for row in (pair.first, pair.second)]
    failed = [LeftOut(run=row.run, reason=unusable(row)) for row in at_levels if unusable(row)]
    return Matching(
        pairs=pairs,
        left_out=(*failed, *others_made, *_unmatched(cells.values())),
        varied_with=_varied_with(pairs, dim),
        common_params=_common_params(pairs),
    )


def level_of(row: RunRow, dim: str, levels: tuple[Value, Value]) -> int | None:
    """0 or 1: the level of the run; None at neither."""
    return next((at for at, level in enumerate(levels) if dim in row.params and same(row.params[dim], level)), None)


def unusable(row: RunRow) -> str:
    """Why a run cannot be compared; empty if it can."""
    if row.state is not State.FINISHED:
        return "stopped early" if row.state is State.STOPPED else row.state.value
    if row.degraded:
        return "degraded: an attempt changed its settings"
    return "" if row.by_prompt else row.missing


def _differences(pair: Pair) -> str:
    """Why the two runs were made under different conditions; empty if they were not, or if it is unknown."""
    found = provenance.differences(pair.first.environment, pair.second.environment)
    return f"made under different conditions than the partner: {', '.join(found)}" if found else ""


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


def _common_params(pairs: Sequence[Pair]) -> Params:
    rows = [row for pair in pairs for row in (pair.first, pair.second)]
    if not rows:
        return {}
    return {k: v for k, v in rows[0].params.items() if all(row.params.get(k) == v for row in rows)}
