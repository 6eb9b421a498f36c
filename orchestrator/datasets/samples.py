"""Pictures on their way into a dataset: where they come from, what is to be done to them, what has been left out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from orchestrator import images
from orchestrator.errors import InputError, Problem
from orchestrator.scoring import faces

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels; right and bottom are outside."""

See: TypeAlias = Callable[[Sequence[Path]], list[faces.Outcome]]
"""Finds the faces of pictures: one outcome each, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One picture to be. `name`: its file's stem; `file`: what is decoded; `caption`: None where there is no file.

    origin: the owner's picture or video; time_s: of a still, from the video's start. face: the largest one, in the
    decoded picture's pixels; others: how many more there are. crop: what is kept of the picture, all when None.
    """

    name: str
    file: Path
    caption: str | None
    origin: str
    time_s: float | None = None
    face: tuple[float, ...] | None = None
    others: int = 0
    crop: Box | None = None
    notes: tuple[str, ...] = ()

    def with_note(self, note: str) -> "Sample":
        return replace(self, notes=(*self.notes, note))


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedSample:
    """What did not come in, and why."""

    origin: str
    why: str
    time_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """What a step has made of the pictures so far, in the order of their names."""

    pieces: tuple[Sample, ...]
    dropped: tuple[DroppedSample, ...] = ()

    def keep(self, pieces: Iterable[Sample], dropped: Iterable[DroppedSample] = ()) -> "SampleSet":
        """These pieces, and what is dropped besides."""
        ordered = sorted(pieces, key=lambda piece: piece.name)
        return SampleSet(pieces=tuple(ordered), dropped=(*self.dropped, *dropped))


def pixels(piece: Sample) -> images.Picture:
    """The whole picture, decoded. InputError that names it where that cannot be done."""
    try:
        return images.load(piece.file)
    except images.Unreadable as error:
        what, remedy = f"cannot be read: {error.reason}", "replace the picture or take it out"
        raise InputError(Problem(what=what, where=piece.origin, remedy=remedy)) from None


def drop(piece: Sample, why: str) -> DroppedSample:
    return DroppedSample(origin=piece.origin, time_s=piece.time_s, why=why)


def with_faces(pieces: Sequence[Sample], see: See) -> list[Sample]:
    """Each with its largest face, noting what stood in the way."""
    return [seen(*pair) for pair in zip(pieces, see([piece.file for piece in pieces]), strict=True)]


def seen(piece: Sample, outcome: faces.Outcome) -> Sample:
    """The same for one that has been looked at."""
    if isinstance(outcome, faces.ReadError):
        return piece.with_note(f"no face: {outcome.note}")
    if not outcome.faces:
        return piece.with_note("no face found")
    found = replace(piece, face=outcome.faces[0].box, others=len(outcome.faces) - 1)
    return found.with_note(f"{len(outcome.faces)} faces, the largest counts") if found.others else found
