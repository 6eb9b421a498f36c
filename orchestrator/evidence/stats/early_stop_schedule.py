"""When a training is looked at on its way, and how the chance of a false word is shared among the looks."""

import math


def preview_steps(total: int, after: float) -> range:
    """The steps of a training of `total` at which previews are drawn: after this share of it, and as far apart."""
    every = math.floor(total * after) + 1
    return range(every, total, every)


def per_comparison_alpha(p: float, *, looks: int, others: int) -> float:
    """What one comparison may spend of `p` (Bonferroni): every look holds a training against every other one."""
    return p / max(1, looks * others)


def min_pairs(bound: float) -> int:
    """The pairs of pictures from which a signed-rank test can fall below `bound`: n of them reach 2^-n."""
    return math.floor(-math.log2(bound)) + 1
