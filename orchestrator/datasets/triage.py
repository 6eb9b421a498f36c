"""Recommends which images of a dataset to keep, by size, sharpness, duplicates, faces and persona. Changes nothing."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator import images
from orchestrator.datasets import contact_sheet
from orchestrator.datasets.face_finder import FaceFinder
from orchestrator.scoring import faces
from orchestrator.scoring.faces.similarity import SAME_PHOTO
from orchestrator.text import pluralize

BLURRED = 0.6
"""Of `blur_effect`, 0 sharp to 1. Four photos with 512 pixels: 0.29 to 0.40; blurred with sigma 2: 0.60 to 0.68."""
_MEASURED_PX = 64
"""Least side of a face whose sharpness is measured; else that of the whole image is."""
_ENOUGH = 0.95
"""Share of the resolution's area from which an image is large enough."""
FRAMINGS = {"face": 0.35, "bust": 0.13, "full body": 0.0}
"""Least height of the face, from forehead to chin, as a share of the image's height."""
_FEW = 0.1
"""A framing with a smaller share of the images is reported."""


@dataclass(slots=True, kw_only=True)
class Triaged:
    """An image and what was found. size: pixels. blur: 0 sharp to 1. similarity: cosine to the references' centroid.

    remove, check: the reasons to remove the image, or to look at it.
    """

    path: Path
    size: tuple[int, int] | None = None
    blur: float | None = None
    similarity: float | None = None
    framing: str = ""
    face: tuple[float, ...] | None = None
    remove: list[str] = field(default_factory=list)
    check: list[str] = field(default_factory=list)

    @property
    def recommendation(self) -> str:
        """`keep`, `check` or `remove`, with the reasons."""
        verdict = "remove" if self.remove else "check" if self.check else "keep"
        return ": ".join(filter(None, [verdict, "; ".join([*self.remove, *self.check])]))


def triage(paths: Sequence[Path], finder: FaceFinder, *, area: int, similarity: float) -> list[Triaged]:
    """One result per image, in order. area: pixels of the training's resolution. similarity: least of the persona."""
    found = [Triaged(path=path) for path in paths]
    hashes: list[tuple[images.PerceptualHash, ...]] = []
    outcomes = finder.find(paths)
    for one, outcome in zip(found, outcomes, strict=True):
        try:
            image = images.load(one.path)
        except images.Unreadable as error:
            one.remove.append(f"cannot be read: {error.reason}")
            hashes.append(())
            continue
        hashes.append(images.perceptual_hashes(image))
        one.size = (image.shape[1], image.shape[0])
        if one.size[0] * one.size[1] < _ENOUGH * area:
            one.check.append(f"too small: {one.size[0]} x {one.size[1]}")
        _judge_face(one, outcome, finder, similarity)
        one.blur = _blur(image, one.face, area)
        if one.blur >= BLURRED:
            one.check.append(f"blurred ({one.blur:.2f})")
    embeddings = [outcome.embedding if isinstance(outcome, faces.FaceRecord) else None for outcome in outcomes]
    _mark_duplicates(found, hashes, embeddings)
    return found


def _judge_face(one: Triaged, outcome: faces.Outcome, finder: FaceFinder, similarity: float) -> None:
    if isinstance(outcome, faces.ReadError):
        one.check.append(outcome.note)
        return
    if outcome.embedding is None or one.size is None:
        one.check.append("no face found")
        return
    if len(outcome.faces) > 1:
        one.check.append(f"{len(outcome.faces)} faces: crop it to the persona")
    cosines = [finder.similarity(embedding) for embedding in outcome.embeddings]
    nearest = int(np.argmax(cosines))
    one.similarity, one.face = cosines[nearest], outcome.faces[nearest].box
    share = (one.face[3] - one.face[1]) / one.size[1]
    one.framing = next(name for name, least in FRAMINGS.items() if share >= least)
    if one.similarity < similarity:
        one.remove.append(f"not this persona (similarity {one.similarity:.2f})")


def _blur(image: images.Pixels, face: tuple[float, ...] | None, area: int) -> float:
    """Of the face where it is large enough, else of the image, at the size at which it is trained."""
    from skimage.measure import blur_effect

    height, width = image.shape[:2]
    scale = min(1.0, math.sqrt(area / (width * height)))
    grey = Image.fromarray(image).convert("L")
    if face and scale * min(face[2] - face[0], face[3] - face[1]) >= _MEASURED_PX:
        grey = grey.crop(tuple(map(round, face)))  # type: ignore[arg-type]
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    pixels = np.asarray(grey.resize(size, Image.Resampling.LANCZOS))
    value = float(blur_effect(pixels))  # type: ignore[no-untyped-call]
    return 1.0 if math.isnan(value) else value  # one colour everywhere


def _mark_duplicates(
    found: Sequence[Triaged],
    hashes: Sequence[tuple[images.PerceptualHash, ...]],
    embeddings: Sequence[faces.Embedding | None],
) -> None:
    """Of each group of duplicates the image with the most pixels stays; among equals, the first."""
    units = [None if one is None else one / np.linalg.norm(one) for one in embeddings]
    kept: list[int] = []
    for index in sorted(range(len(found)), key=lambda at: -math.prod(found[at].size or (0,))):
        if not hashes[index]:
            continue
        for other in kept:
            one, two = units[index], units[other]
            near = images.hash_distance(hashes[index], hashes[other]) <= images.SAME_HASH
            if near or (one is not None and two is not None and float(one @ two) >= SAME_PHOTO):
                found[index].remove.append(f"near-duplicate of {found[other].path.name}")
                break
        else:
            kept.append(index)


def balance(found: Sequence[Triaged]) -> str:
    """How many images show the face, the bust or the full body, and which of these are few."""
    used = [one for one in found if not one.remove and one.framing]
    counts = Counter(one.framing for one in used)
    text = ", ".join(f"{counts[name]} {name}" for name in FRAMINGS)
    few = [name for name in FRAMINGS if counts[name] < _FEW * len(used)]
    hint = f"; few show {' or '.join(few)}: prompts for these will look less like the persona" if few else ""
    return f"{pluralize(len(used), 'image')} with the persona: {text}{hint}"


def write_sheet(folder: Path, found: Sequence[Triaged]) -> Path | None:
    """Write a contact sheet with the recommendations into `folder`; None without a readable image."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[dict[str, Any]] = [
        {
            "name": one.path.name,
            "file": os.path.relpath(one.path, folder),
            "face": one.face,
            "crop": None,
            "notes": [one.recommendation],
        }
        for one in found
        if one.size
    ]
    return contact_sheet.write(folder, {"pictures": [one["name"] for one in made], "made": made}) if made else None
