"""Compares faces to a person: the centroid of the reference pictures, and the nearest single picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.model import Image, Score
from orchestrator.scoring.faces.types import Embedding, Face, FaceRecord, Outcome

Rows: TypeAlias = NDArray[np.float64]
"""Pictures x width; each row has length 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Persona:
    """A person's pictures as directions. centroid: (width,), the references' mean direction, of length 1.

    training: what a LoRA was trained on, no rows when that is not known.
    """

    references: Rows
    training: Rows
    centroid: NDArray[np.float64]


def persona(references: Sequence[Embedding], training: Sequence[Embedding] = ()) -> Persona:
    """At least one reference, all embeddings by the same pack."""
    rows = _rows(references)
    return Persona(
        references=rows, training=_rows(training).reshape(-1, rows.shape[1]), centroid=_unit(rows.mean(axis=0))
    )


def leave_one_out(someone: Persona) -> list[float | None]:
    """Each reference's cosine to the centroid of the others: what a genuine picture reaches. None without others.

    A cosine to a centroid is on another scale than one between two pictures (it grows with the references' number),
    so that only this compares with a score.
    """
    rows = someone.references
    if len(rows) < 2:
        return [None] * len(rows)
    return [float(row @ _unit(rows.sum(axis=0) - row)) for row in rows]


def score(image: Image, outcome: Outcome, someone: Persona) -> Score:
    """The picture's largest face against the person; a picture without a face has a status and no similarity."""
    if not isinstance(outcome, FaceRecord):
        return Score(image=image, status=outcome.status, note=outcome.note)
    if outcome.embedding is None:
        return Score(image=image, status=outcome.status)
    direction = _unit(outcome.embedding)
    return Score(
        image=image,
        status=outcome.status,
        similarity=float(direction @ someone.centroid),
        nearest_reference=_nearest(direction, someone.references),
        nearest_training=_nearest(direction, someone.training),
        faces=len(outcome.faces),
        face_px=outcome.faces[0].px,
        det_score=outcome.faces[0].det_score,
        yaw=_turn(outcome.faces[0]),
        note=f"found by the detector's fallback: {outcome.fallback}" if outcome.fallback else "",
    )


def _turn(face: Face) -> float | None:
    """How far the nose is off the middle of the eyes along the line between them, in distances between the eyes."""
    if len(face.landmarks) < 3:
        return None
    left, right, nose = (np.array(point) for point in face.landmarks[:3])
    across = right - left
    width = float(across @ across)
    return abs(float((nose - (left + right) / 2) @ across)) / width if width else None


def _rows(embeddings: Sequence[Embedding]) -> Rows:
    return np.stack([_unit(one) for one in embeddings]) if embeddings else np.empty((0, 0))


def _unit(vector: NDArray[Any]) -> NDArray[np.float64]:
    exact = vector.astype(np.float64)
    return exact / np.linalg.norm(exact)


def _nearest(direction: NDArray[np.float64], rows: Rows) -> float | None:
    return float((rows @ direction).max()) if len(rows) else None
