"""Finds images that are the same photo: equal, re-saved, grey or mirrored (perceptual hash), or with an equal face."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator import images
from orchestrator.scoring.faces.similarity import SAME_PHOTO, unit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Photo:
    """hashes: of the image and its mirror image; none if it is unreadable. face: unit vector; None without a face."""

    path: Path
    hashes: tuple[images.PerceptualHash, ...]
    face: NDArray[np.float64] | None


def photo(path: Path, embedding: Iterable[float] | None) -> Photo:
    """Reads the image for its hashes. embedding: of its face, of any length."""
    hashes: tuple[images.PerceptualHash, ...] = ()
    with contextlib.suppress(images.Unreadable):
        hashes = images.perceptual_hashes(images.load(path))
    return Photo(path=path, hashes=hashes, face=None if embedding is None else unit(np.array(embedding, dtype=float)))


def first_same(one: Photo, others: Iterable[Photo]) -> Photo | None:
    """The first of the others that is the same photo."""
    return next((other for other in others if _same(one, other)), None)


def _same(one: Photo, other: Photo) -> bool:
    if one.hashes and other.hashes and images.hash_distance(one.hashes, other.hashes) <= images.SAME_HASH:
        return True
    return one.face is not None and other.face is not None and float(one.face @ other.face) >= SAME_PHOTO
