"""Texts for people: quantities, times, suggestions for unknown names."""

import difflib
import time
from collections.abc import Collection

_GIB = 1024**3


def duration(seconds: float) -> str:
    """`4 s`, `3 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Of bytes: `12 MiB`, `3.4 GiB`."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB // 2 else f"{count / 1024**2:.0f} MiB"


def pluralize(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def now() -> str:
    """The time in UTC, to the second; nothing is measured with it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def did_you_mean(name: str, known: Collection[str], otherwise: str = "remove it") -> str:
    """The remedy for an unknown name: the most similar known one in any case, or all when they are at most 20."""
    folded = {candidate.casefold(): candidate for candidate in known}
    if near := difflib.get_close_matches(name.casefold(), folded, n=1):
        return f"did you mean {folded[near[0]]}?"
    return f"known here: {', '.join(sorted(known))}" if 0 < len(known) <= 20 else otherwise
