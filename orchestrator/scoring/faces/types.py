"""Faces of an image, and the protocol of a model that finds and embeds them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.model import FaceStatus

Pixels: TypeAlias = NDArray[np.uint8]
"""Height x width x 3, RGB."""

Embedding: TypeAlias = NDArray[np.float32]
"""(width,), as the recogniser returned it: not normalised, because its length depends on the image's quality."""


MAX_FACES = 8
"""So many faces of an image are embedded, the largest ones; a crowd would cost too much time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """In pixels of the image. box: left, top, right, bottom. landmarks: left eye, right eye, nose, mouth corners."""

    box: tuple[float, ...]
    landmarks: tuple[tuple[float, float], ...]
    det_score: float

    @property
    def px(self) -> float:
        """The shorter side of its box."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top)

    @property
    def roll(self) -> float:
        """Angle of the line between the eyes in degrees, 0 for an upright face; 0 without landmarks."""
        if len(self.landmarks) < 2:
            return 0.0
        (left_x, left_y), (right_x, right_y) = self.landmarks[:2]
        return math.degrees(math.atan2(right_y - left_y, right_x - left_x))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """The faces of an image, largest first. crops: the first MAX_FACES of them, aligned for the recogniser.

    fallback: the detector's second or third pass if that found them; empty if the first did.
    rotation: degrees anticlockwise by which the image was turned to find them; boxes and landmarks are not turned.
    """

    faces: tuple[Face, ...]
    crops: tuple[Pixels, ...]
    fallback: str = ""
    rotation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceRecord:
    """A detection with embeddings of the first MAX_FACES faces instead of crops; this is what the cache stores."""

    faces: tuple[Face, ...]
    embeddings: tuple[Embedding, ...]
    fallback: str = ""
    rotation: int = 0

    @property
    def embedding(self) -> Embedding | None:
        """Of the largest face."""
        return self.embeddings[0] if self.embeddings else None

    @property
    def status(self) -> FaceStatus:
        if not self.faces:
            return FaceStatus.NO_FACE
        return FaceStatus.OK if len(self.faces) == 1 else FaceStatus.MULTI_FACE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadError:
    """Why an image could not be processed: UNREADABLE if the file is at fault, ERROR if the model is."""

    status: FaceStatus
    note: str


Outcome: TypeAlias = FaceRecord | ReadError


class Faces(Protocol):
    """A detector and a recogniser. Both methods may be called from several threads at once and may raise anything."""

    @property
    def provider(self) -> str:
        """onnxruntime's name of the active execution provider."""
        ...

    def find(self, image: Pixels) -> Detection: ...

    def embed(self, crops: Sequence[Pixels]) -> list[Embedding]:
        """One embedding per crop of `find`, in order."""
        ...
