"""Which checkpoint and strength of a run to report: chosen on one half of its pictures, reported on the other."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from orchestrator.evidence.run_metrics import FAILURE, picture_value
from orchestrator.model import Score

Cell: TypeAlias = tuple[int, int]
"""(prompt, seed) of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSplit:
    """The cells that choose and those that report; equal (and then not fresh) when there is only one cell."""

    selection: frozenset[Cell]
    reporting: frozenset[Cell]

    @property
    def fresh(self) -> bool:
        """True when no picture both chooses and reports."""
        return not self.selection & self.reporting


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A checkpoint at a strength, and its mean picture value on the selection cells."""

    checkpoint: str
    strength: float
    selection_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen candidate and the scores that may be reported for it.

    candidates: all of them, best first. selection_n: cells that chose, 0 when there was nothing to choose.
    fresh: False when the reported pictures also did the choosing: the number is then too good.
    """

    checkpoint: str
    strength: float
    candidates: tuple[Candidate, ...]
    selection_n: int
    reported: tuple[Score, ...]
    fresh: bool


def split(cells: Collection[Cell]) -> SelectionSplit:
    """Halves the cells of a sweep, the same way for every run, by prompts when there are at least four of them.

    Whole prompts are kept together because a checkpoint can suit a prompt. With fewer prompts the seeds are halved.
    The order is that of a hash, so that a prompt file written in a pattern does not put one kind into one half. The
    reporting half is the larger.
    """
    prompts, seeds = {p for p, _ in cells}, {s for _, s in cells}
    by_prompt = len(prompts) >= 4 or len(seeds) < 2
    chosen = _half(prompts if by_prompt else seeds)
    selection = frozenset(cell for cell in cells if cell[0 if by_prompt else 1] in chosen)
    if not selection:
        return SelectionSplit(selection=frozenset(cells), reporting=frozenset(cells))
    return SelectionSplit(selection=selection, reporting=frozenset(cells) - selection)


def choose(scores: Sequence[Score], halves: SelectionSplit) -> Choice | None:
    """The candidate with the highest mean picture value on the selection cells; None without scores.

    A picture that is missing or could not be read counts as a failure here, so that no candidate wins by leaving
    pictures out. Ties go to the first in the order of `scores`. With one candidate nothing is chosen and all its
    pictures are reported.
    """
    groups = _by_candidate(scores)
    if not groups:
        return None
    ranked = sorted(_candidates(groups, halves), key=lambda c: -c.selection_mean)
    best = groups[ranked[0].checkpoint, ranked[0].strength]
    several = len(groups) > 1
    return Choice(
        checkpoint=ranked[0].checkpoint,
        strength=ranked[0].strength,
        candidates=tuple(ranked),
        selection_n=len(halves.selection) if several else 0,
        reported=tuple(s for s in best if not several or cell(s) in halves.reporting),
        fresh=halves.fresh or not several,
    )


def cell(score: Score) -> Cell:
    """Where in the sweep's prompts and seeds a picture stands."""
    return score.image.prompt, score.image.seed


def _half(items: Iterable[int]) -> frozenset[int]:
    ordered = sorted(items, key=lambda item: hashlib.sha256(str(item).encode()).digest())
    return frozenset(ordered[: len(ordered) // 2])


def _by_candidate(scores: Sequence[Score]) -> dict[tuple[str, float], list[Score]]:
    groups: dict[tuple[str, float], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.image.checkpoint, score.image.strength), []).append(score)
    return groups


def _candidates(groups: Mapping[tuple[str, float], list[Score]], halves: SelectionSplit) -> list[Candidate]:
    return [
        Candidate(checkpoint=name, strength=strength, selection_mean=_selection_mean(group, halves.selection))
        for (name, strength), group in groups.items()
    ]


def _selection_mean(scores: Iterable[Score], selection: frozenset[Cell]) -> float:
    values = {cell(score): picture_value(score) for score in scores}
    known = (values.get(one) for one in sorted(selection))
    return float(np.mean([FAILURE if value is None else value for value in known]))
