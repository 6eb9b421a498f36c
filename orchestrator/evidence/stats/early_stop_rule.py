"""Early stopping: when to check previews, when a training is clearly worse, how to compare the remaining runs.

Planning imports this module, so NumPy and SciPy are imported only where a test is calculated.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.evidence.stats.pairs import RunRow, match
from orchestrator.model import State, Value


def preview_steps(total: int, after: float) -> range:
    """Steps of a training of `total` steps at which previews are drawn: after the share `after`, and as far apart."""
    every = math.floor(total * after) + 1
    return range(every, total, every)


def per_comparison_alpha(p: float, *, checks: int, others: int) -> float:
    """Significance level of one comparison (Bonferroni): each preview check compares a training with all others."""
    return p / max(1, checks * others)


def min_pairs(alpha: float) -> int:
    """Smallest number of image pairs with which a signed-rank test can fall below `alpha`: n pairs reach 2^-n."""
    return math.floor(-math.log2(alpha)) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopTest:
    """Comparison of a training with another one on previews of the same step.

    difference: mean image value, own minus other. p: one-sided p-value of "not worse by more than the margin".
    """

    difference: float
    p: float
    images: int


def compare(
    own: Mapping[tuple[int, int], float], other: Mapping[tuple[int, int], float], margin: float
) -> EarlyStopTest | None:
    """Wilcoxon's signed-rank test over images of the same (prompt, seed); None without common images.

    The test includes the margin, so chance differences between images do not stop a training. It uses ranks, so a
    single missing face (-1) does not decide.
    """
    cells = sorted(own.keys() & other.keys())
    if not cells:
        return None
    import numpy as np
    from scipy import stats

    differences = np.array([own[cell] - other[cell] for cell in cells])
    mean = float(differences.mean())
    worse = mean < -margin
    p = float(stats.wilcoxon(differences + margin, alternative="less").pvalue) if worse else 1.0
    return EarlyStopTest(difference=mean, p=p, images=len(cells))


def comparable(
    rows: Sequence[RunRow], dim: str, levels: tuple[Value, Value], moves_with: Collection[str] = ()
) -> tuple[Sequence[RunRow], int | None]:
    """The runs to compare, and the step at which they are compared (None: at their ends).

    Dropping stopped runs would favour their level; comparing a stopped run's last previews with the end of another run
    would favour the other. If a pair lost only one of its runs, all runs are compared at the last step that every run
    at these levels reached. Otherwise the pairs of finished runs are used.
    """
    stopped = [row for row in rows if row.state is State.STOPPED and row.previews and row.params.get(dim) in levels]
    if not stopped:
        return rows, None
    step = min(max(row.previews) for row in stopped)
    at_step = [_at_step(row, step) for row in rows]
    names = {row.run for row in stopped}
    pairs = match(at_step, dim, levels, moves_with).pairs
    one_sided = any((pair.first.run in names) is not (pair.second.run in names) for pair in pairs)
    return (at_step, step) if one_sided or not match(rows, dim, levels, moves_with).pairs else (rows, None)


def _at_step(row: RunRow, step: int) -> RunRow:
    """The run with the scores of its previews at `step`; without scores if there are none."""
    if row.state in (State.FINISHED, State.STOPPED) and step in row.previews:
        return row.previews[step]
    return replace(row, by_prompt={}, similarity=None, no_face_rate=None)
