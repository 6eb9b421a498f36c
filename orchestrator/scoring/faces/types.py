"""What was found in a picture, and the protocol of whoever finds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.model import FaceStatus

Picture: TypeAlias = NDArray[np.uint8]
"""Height x width x 3, RGB."""

Embedding: TypeAlias = NDArray[np.float32]
"""(width,), as the recogniser gave it: not normalised, for its length tells of the picture's quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """Pixels of the picture. box: left, top, right, bottom. landmarks: left eye, right eye, nose, corners of mouth."""

    box: tuple[float, ...]
    landmarks: tuple[tuple[float, float], ...]
    det_score: float

    @property
    def px(self) -> float:
        """The shorter side of its box."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """The faces of a picture, largest first; the largest, aligned for the recogniser; None where there is no face.

    fallback: the detector's second or third try that found them, empty when the first did.
    """

    faces: tuple[Face, ...]
    crop: Picture | None
    fallback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceRecord:
    """A sighting with the embedding of its largest face: all that is ever needed of a picture again."""

    faces: tuple[Face, ...]
    embedding: Embedding | None
    fallback: str = ""

    @property
    def status(self) -> FaceStatus:
        if not self.faces:
            return FaceStatus.NO_FACE
        return FaceStatus.OK if len(self.faces) == 1 else FaceStatus.MULTI_FACE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadError:
    """Why a picture could not be looked at: UNREADABLE is the file's fault, ERROR the model's."""

    status: FaceStatus
    note: str


Outcome: TypeAlias = FaceRecord | ReadError


class Faces(Protocol):
    """A detector and a recogniser. Both methods may be called from several threads at once, and may raise anything."""

    @property
    def provider(self) -> str:
        """What computes: onnxruntime's name of the execution provider that is really active."""
        ...

    def find(self, picture: Picture) -> Detection: ...

    def embed(self, crops: Sequence[Picture]) -> list[Embedding]:
        """One embedding per crop of `find`, in order."""
        ...
