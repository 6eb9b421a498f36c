"""Compares faces with a persona: with the centroid of its references, and with the nearest single image."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.model import Image, Score
from orchestrator.scoring.faces.types import Embedding, Face, FaceRecord, Outcome

SAME_PHOTO = 0.98
"""Images with at least this face cosine are the same photo, re-saved or cropped."""

Rows: TypeAlias = NDArray[np.float64]
"""Images x width; each row has length 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Persona:
    """Embeddings of length 1. centroid: (width,), the references' mean direction.

    training: of the images that a LoRA was trained on; no rows when they are not known.
    """

    references: Rows
    training: Rows
    centroid: NDArray[np.float64]


def persona(references: Sequence[Embedding], training: Sequence[Embedding] = ()) -> Persona:
    """Takes at least one reference; all embeddings must be from the same pack."""
    rows = _rows(references)
    return Persona(
        references=rows, training=_rows(training).reshape(-1, rows.shape[1]), centroid=_unit(rows.mean(axis=0))
    )


def leave_one_out(persona: Persona) -> list[float | None]:
    """Each reference's cosine to the centroid of the others; None without others.

    A cosine to a centroid grows with the number of references, so a score compares only with these values, not with a
    cosine between two images.
    """
    rows = persona.references
    if len(rows) < 2:
        return [None] * len(rows)
    return [float(row @ _unit(rows.sum(axis=0) - row)) for row in rows]


def score(image: Image, outcome: Outcome, persona: Persona | None) -> Score:
    """The image's face that is most similar to the persona; the largest one without a persona.

    Without a face or without a persona there is no similarity.
    """
    if not isinstance(outcome, FaceRecord):
        return Score(image=image, status=outcome.status, note=outcome.note)
    if not outcome.embeddings:
        return Score(image=image, status=outcome.status)
    chosen = most_similar(outcome, persona)
    face, direction = outcome.faces[chosen], _unit(outcome.embeddings[chosen])
    return Score(
        image=image,
        status=outcome.status,
        similarity=float(direction @ persona.centroid) if persona else None,
        largest_similarity=float(_unit(outcome.embeddings[0]) @ persona.centroid) if persona else None,
        nearest_reference=_nearest(direction, persona.references) if persona else None,
        nearest_training=_nearest(direction, persona.training) if persona else None,
        faces=len(outcome.faces),
        face_px=face.px,
        det_score=face.det_score,
        yaw=_yaw(face),
        rotation=outcome.rotation,
        note=f"found by the detector's fallback: {outcome.fallback}" if outcome.fallback else "",
    )


def with_seed_distances(scores: Sequence[Score], embeddings: NDArray[np.float32]) -> tuple[Score, ...]:
    """The scores with their mean distance (one minus cosine) to the other seeds' faces of the same prompt.

    Only images of the same checkpoint and strength are compared. embeddings: (images, width), NaN without a face.
    """
    groups: dict[tuple[str, float, int], list[int]] = defaultdict(list)
    for index, one in enumerate(scores):
        if one.similarity is not None:
            groups[one.image.checkpoint, one.image.strength, one.image.prompt].append(index)
    found = list(scores)
    for group in groups.values():
        rows = np.stack([_unit(embeddings[index]) for index in group])
        cosines = rows @ rows.T
        for place, index in enumerate(group):
            if len(group) > 1:
                mean = (cosines[place].sum() - cosines[place, place]) / (len(group) - 1)
                found[index] = replace(found[index], seed_distance=1 - float(mean))
    return tuple(found)


def most_similar(record: FaceRecord, persona: Persona | None) -> int:
    """Index of the face most similar to the persona, 0 (the largest) without a persona or with only one face."""
    if persona is None or len(record.embeddings) < 2:
        return 0
    return int(np.argmax([_unit(one) @ persona.centroid for one in record.embeddings]))


def _yaw(face: Face) -> float | None:
    """Distance of the nose from the middle of the eyes, along the line between them, in distances of the eyes."""
    if len(face.landmarks) < 3:
        return None
    left, right, nose = (np.array(point) for point in face.landmarks[:3])
    across = right - left
    width = float(across @ across)
    return abs(float((nose - (left + right) / 2) @ across)) / width if width else None


def embeddings(outcomes: Iterable[Outcome], persona: Persona | None = None) -> list[Embedding]:
    """Of each image that shows a face, the face most similar to the persona; the largest one without a persona."""
    records = [outcome for outcome in outcomes if isinstance(outcome, FaceRecord) and outcome.embeddings]
    return [record.embeddings[most_similar(record, persona)] for record in records]


def _rows(embeddings: Sequence[Embedding]) -> Rows:
    return np.stack([_unit(one) for one in embeddings]) if embeddings else np.empty((0, 0))


def _unit(vector: NDArray[Any]) -> NDArray[np.float64]:
    exact = vector.astype(np.float64)
    return exact / np.linalg.norm(exact)


def _nearest(direction: NDArray[np.float64], rows: Rows) -> float | None:
    return float((rows @ direction).max()) if len(rows) else None
