"""A part of the pictures, nested: the first of one fixed order, so that 12 are part of 24 are part of 36."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.config.recipe import Choose
from orchestrator.datasets.samples import Sample, SampleSet, drop
from orchestrator.errors import InputError, Problem
from orchestrator.store.hashes import sha256, sha256_text

REPEATED = "repeated for equal steps"
"""The note of a picture that is there once more."""


def apply(choose: Choose, batch: SampleSet, *, key: str) -> SampleSet:
    """The first `n` of a draw. InputError where there are fewer; `key`: the recipe's, for the message."""
    if choose.n > len(batch.pieces):
        what = f"asks for {choose.n} of {len(batch.pieces)} pictures"
        raise InputError(Problem(what=what, key=f"{key}.choose.n", remedy=f"write {len(batch.pieces)} or less"))
    ordered = order(batch.pieces, draw=choose.draw)
    left = [drop(piece, f"not among the {choose.n} of draw {choose.draw}") for piece in ordered[choose.n :]]
    return batch.keep(ordered[: choose.n], left)


def order(pieces: Iterable[Sample], *, draw: int) -> list[Sample]:
    """A shuffle that hangs on nothing but the pictures' content and the draw: one picture more moves no other."""
    return sorted(pieces, key=lambda piece: (_rank(piece, draw), piece.name))


def _rank(piece: Sample, draw: int) -> str:
    return sha256_text(f"{draw} {sha256(piece.file)}")


def repeated(pieces: Sequence[Sample], total: int) -> list[Sample]:
    """As many as `total`: all of them equally often, and where that does not come out even, some once more."""
    ordered, mark = order(pieces, draw=1), _mark(pieces)
    indices = range(max(total, len(ordered)))
    return [_again(ordered[index % len(ordered)], index // len(ordered), mark) for index in indices]


def _mark(pieces: Iterable[Sample]) -> str:
    """What no name has in it: phones call an edited picture `NAME~2`."""
    names, mark = [piece.name for piece in pieces], "~"
    while any(mark in name for name in names):
        mark += "~"
    return mark


def _again(piece: Sample, time: int, mark: str) -> Sample:
    return replace(piece, name=f"{piece.name}{mark}{time + 1}").with_note(REPEATED) if time else piece
