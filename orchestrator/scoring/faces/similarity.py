"""Compares faces with a persona: with the centroid of its references, and with the nearest single image."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.model import Image, Score
from orchestrator.scoring.faces.types import Embedding, Face, FaceRecord, Outcome

Rows: TypeAlias = NDArray[np.float64]
"""Images x width; each row has length 1."""


SAME_PHOTO = 0.98
"""Images with at least this face cosine are the same photo, re-saved or cropped: InsightFace's own constant."""

NEXT = 5
"""A copy is compared with this number of next training images."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Persona:
    """Embeddings of length 1. centroid: (width,), the references' mean direction.

    training: of the images that a LoRA was trained on, each photo once; no rows when they are not known.
    """

    references: Rows
    training: Rows
    centroid: NDArray[np.float64]


def persona(references: Sequence[Embedding], training: Sequence[Embedding] = ()) -> Persona:
    """Takes at least one reference; all embeddings must be from the same pack."""
    rows, trained = _rows(references), _rows(training)
    return Persona(
        references=rows,
        training=trained[distinct(trained)].reshape(-1, rows.shape[1]),
        centroid=unit(rows.mean(axis=0)),
    )


def leave_one_out(persona: Persona) -> list[float | None]:
    """Each reference's cosine to the centroid of the others; None without others.

    A cosine to a centroid grows with the number of references, so a score compares only with these values, not with a
    cosine between two images.
    """
    rows = persona.references
    if len(rows) < 2:
        return [None] * len(rows)
    return [float(row @ unit(rows.sum(axis=0) - row)) for row in rows]


def distinct(rows: Rows) -> list[int]:
    """Indices of the rows that are not the same photo as an earlier row."""
    kept: list[int] = []
    for number, row in enumerate(rows):
        if not kept or float((rows[kept] @ row).max()) < SAME_PHOTO:
            kept.append(number)
    return kept


def closeness(rows: Rows, training: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine of each row to its most similar training image, and the mean cosine to the next five.

    With fewer than six training images the mean is over the others. Takes at least two training images.
    """
    cosines = np.sort(rows @ training.T, axis=1)[:, ::-1]
    return cosines[:, 0], cosines[:, 1 : NEXT + 1].mean(axis=1)


def reference_closeness(persona: Persona) -> tuple[list[tuple[float, float]], tuple[float, float] | None]:
    """`closeness` of each reference, and of the average training face; nothing with fewer than two training images."""
    if len(persona.training) < 2:
        return [], None
    rows = np.vstack([persona.references, unit(persona.training.mean(axis=0))])
    *references, average = [
        (float(near), float(far)) for near, far in zip(*closeness(rows, persona.training), strict=True)
    ]
    return references, average


def unit(vector: NDArray[Any]) -> NDArray[np.float64]:
    """The vector scaled to length one."""
    exact = vector.astype(np.float64)
    return exact / np.linalg.norm(exact)


def score(image: Image, outcome: Outcome, persona: Persona | None) -> Score:
    """The image's face that is most similar to the persona; the largest one without a persona.

    Without a face or without a persona there is no similarity.
    """
    if not isinstance(outcome, FaceRecord):
        return Score(image=image, status=outcome.status, note=outcome.note)
    if not outcome.embeddings:
        return Score(image=image, status=outcome.status)
    chosen = most_similar(outcome, persona)
    face, direction = outcome.faces[chosen], unit(outcome.embeddings[chosen])
    nearest, following = _training_closeness(direction, persona.training) if persona else (None, None)
    return Score(
        image=image,
        status=outcome.status,
        similarity=float(direction @ persona.centroid) if persona else None,
        largest_similarity=float(unit(outcome.embeddings[0]) @ persona.centroid) if persona else None,
        nearest_reference=_nearest(direction, persona.references) if persona else None,
        nearest_training=nearest,
        next_training=following,
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
        rows = np.stack([unit(embeddings[index]) for index in group])
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
    return int(np.argmax([unit(one) @ persona.centroid for one in record.embeddings]))


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
    return np.stack([unit(one) for one in embeddings]) if embeddings else np.empty((0, 0))


def _training_closeness(direction: NDArray[np.float64], training: Rows) -> tuple[float | None, float | None]:
    if len(training) < 2:
        return _nearest(direction, training), None
    nearest, following = closeness(direction[None], training)
    return float(nearest[0]), float(following[0])


def _nearest(direction: NDArray[np.float64], rows: Rows) -> float | None:
    return float((rows @ direction).max()) if len(rows) else None
