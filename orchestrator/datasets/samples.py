"""Images on their way into a dataset: their origin, what is to be done to them, and what was left out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from orchestrator import images
from orchestrator.errors import InputError, Problem
from orchestrator.scoring import faces

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels; right and bottom are exclusive."""

FindFaces: TypeAlias = Callable[[Sequence[Path]], list[faces.Outcome]]
"""Finds the faces of images: one outcome each, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of the dataset. name: the file's stem. file: what is decoded. caption: None without a caption file.

    origin: the user's image or video. time_s: position of a still in its video. face: box of the largest face, in
    pixels of the decoded image; others: the number of further faces. crop: the part to keep, all of it when None.
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

    def pixels(self) -> images.Pixels:
        """The whole image, decoded. Raises InputError that names it when it cannot be read."""
        try:
            return images.load(self.file)
        except images.Unreadable as error:
            what, remedy = f"cannot be read: {error.reason}", "replace the image or remove it"
            raise InputError(Problem(what=what, where=self.origin, remedy=remedy)) from None

    def with_face(self, outcome: faces.Outcome) -> "Sample":
        """The sample with its largest face, or with a note why it has none."""
        if isinstance(outcome, faces.ReadError):
            return self.with_note(f"no face: {outcome.note}")
        if not outcome.faces:
            return self.with_note("no face found")
        found = replace(self, face=outcome.faces[0].box, others=len(outcome.faces) - 1)
        return found.with_note(f"{len(outcome.faces)} faces, the largest is used") if found.others else found


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedSample:
    """An image that was left out, and why."""

    origin: str
    why: str
    time_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """The result of a step: samples in the order of their names, and what this and earlier steps left out."""

    samples: tuple[Sample, ...]
    dropped: tuple[DroppedSample, ...] = ()

    def keep(self, samples: Iterable[Sample], dropped: Iterable[DroppedSample] = ()) -> "SampleSet":
        """These samples; `dropped` is added to what was left out before."""
        ordered = sorted(samples, key=lambda sample: sample.name)
        return SampleSet(samples=tuple(ordered), dropped=(*self.dropped, *dropped))


def drop(sample: Sample, why: str) -> DroppedSample:
    return DroppedSample(origin=sample.origin, time_s=sample.time_s, why=why)


def with_faces(samples: Sequence[Sample], find: FindFaces) -> list[Sample]:
    """Each sample with its largest face, or with a note why it has none."""
    outcomes = find([sample.file for sample in samples])
    return [sample.with_face(outcome) for sample, outcome in zip(samples, outcomes, strict=True)]
