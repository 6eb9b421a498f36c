"""Choice of a run's checkpoint and strength on one half of its images; the other half is reported."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from orchestrator.evidence.run_metrics import FAILURE, image_value
from orchestrator.model import Score

Cell: TypeAlias = tuple[int, int]
"""(prompt, seed) of an image."""

FEW = 3
"""With `generate.checkpoints = "best"` one of so many prompts compares the checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSplit:
    """The cells for selection and those for reporting; both contain all cells if there is only one."""

    selection: frozenset[Cell]
    reporting: frozenset[Cell]

    @property
    def disjoint(self) -> bool:
        """True if no image is used for both."""
        return not self.selection & self.reporting


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A checkpoint at a strength, and its mean image value on the selection cells."""

    checkpoint: str
    strength: float
    selection_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen candidate and the scores to report for it.

    candidates: all of them, best first. selection_n: number of selection cells, 0 with a single candidate.
    selection_texts: the prompts of these cells.
    disjoint: False if the reported images were also used for the selection, which makes their mean too high.
    """

    checkpoint: str
    strength: float
    candidates: tuple[Candidate, ...]
    selection_n: int
    reported: tuple[Score, ...]
    disjoint: bool
    selection_texts: frozenset[str] = frozenset()


def split(cells: Collection[Cell], parts: int = 2) -> SelectionSplit:
    """Halve the cells of a sweep, by prompts if there are at least four, otherwise by seeds; the same for every run.

    Prompts stay whole because a checkpoint can suit a prompt. The order is that of a hash, so a pattern in the prompt
    file does not put one kind of prompt into one half. The reporting half is the larger one. parts: one of so many
    parts is for selection, by default a half.
    """
    prompts, seeds = {p for p, _ in cells}, {s for _, s in cells}
    by_prompt = len(prompts) >= 4 or len(seeds) < 2
    items = sorted(prompts if by_prompt else seeds, key=lambda item: hashlib.sha256(str(item).encode()).digest())
    chosen = frozenset(items[: len(items) // parts or len(items) // 2])
    selection = frozenset(cell for cell in cells if cell[0 if by_prompt else 1] in chosen)
    if not selection:
        return SelectionSplit(selection=frozenset(cells), reporting=frozenset(cells))
    return SelectionSplit(selection=selection, reporting=frozenset(cells) - selection)


def choose(scores: Sequence[Score], halves: SelectionSplit) -> Choice | None:
    """The candidate with the highest mean image value on the selection cells; None without scores.

    A missing or unreadable image counts as a failure, so no candidate gains from missing images. Ties go to the first
    in the order of `scores`. A single candidate is reported on all its images.
    """
    groups: dict[tuple[str, float], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.image.checkpoint, score.image.strength), []).append(score)
    if not groups:
        return None
    candidates = [
        Candidate(checkpoint=name, strength=strength, selection_mean=_selection_mean(group, halves.selection))
        for (name, strength), group in groups.items()
    ]
    ranked = sorted(candidates, key=lambda candidate: -candidate.selection_mean)
    best = groups[ranked[0].checkpoint, ranked[0].strength]
    several = len(groups) > 1
    return Choice(
        checkpoint=ranked[0].checkpoint,
        strength=ranked[0].strength,
        candidates=tuple(ranked),
        selection_n=len(halves.selection) if several else 0,
        reported=tuple(s for s in best if not several or cell(s) in halves.reporting),
        disjoint=halves.disjoint or not several,
        selection_texts=frozenset(s.image.text for s in scores if several and cell(s) in halves.selection),
    )


def cell(score: Score) -> Cell:
    """(prompt, seed) of a scored image."""
    return score.image.prompt, score.image.seed


def _selection_mean(scores: Iterable[Score], selection: frozenset[Cell]) -> float:
    values = {cell(score): image_value(score) for score in scores}
    known = (values.get(one) for one in sorted(selection))
    return float(np.mean([FAILURE if value is None else value for value in known]))
