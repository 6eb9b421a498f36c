"""Measurement of a calibration: embed the references, known-good pairs and impostors, and apply the statistics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from orchestrator import images, scoring, text
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, NotReady, Problem
from orchestrator.evidence.calibration import statistics
from orchestrator.evidence.calibration.inputs import PicturePair
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.calibration.statistics import FloatArray, KnownPair
from orchestrator.scoring import embedding, faces
from orchestrator.scoring.embedding import FaceEmbedding
from orchestrator.scoring.faces.similarity import SAME_PHOTO
from orchestrator.store.hashes import HashCache

_KEY = "score.references"
_MIN_PHOTOS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRequest:
    """What to measure besides the references of the settings. impostors: name of a set -> its images."""

    pairs: tuple[PicturePair, ...] = ()
    impostors: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    allow_training_references: bool = False


def measure(settings: Settings, request: CalibrationRequest) -> CalibrationRecord:
    """Calibrate from the references of the settings.

    Raises NotReady without a pack or photos, InputError for a reference that is also a training image (unless allowed)
    and for a known-good pair without exactly one face in each image.
    """
    references = images.pictures(settings.scoring.references).pictures
    training = [path for one in settings.datasets.values() for path in images.pictures(one.image_dir).pictures]
    members = [path for pair in request.pairs for path in (pair.first, pair.second)]
    paths = list(dict.fromkeys([*references, *training, *members, *chain(*request.impostors.values())]))
    embedded = embedding.embed(settings.scoring, paths, cache=settings.runs / scoring.FACE_CACHE)
    found = dict(zip(paths, embedded, strict=True))
    rejected = {path.name: found[path].unfit for path in references if found[path].unfit}
    used = [path for path in references if path.name not in rejected]
    if len(used) < _MIN_PHOTOS:
        raise NotReady(_too_few(settings, len(used), rejected))
    trained_on = _trained_on(settings, used, training, found)
    if trained_on and not request.allow_training_references:
        raise InputError(*(_leaked(settings, name, copy) for name, copy in trained_on.items()))
    photos, impostors = _faces(used, found), {name: _faces(paths, found) for name, paths in request.impostors.items()}
    names = [path.name for path in used]
    calibration = statistics.calibrate(dict(zip(names, photos, strict=True)), impostors)
    known = _known_pairs(request.pairs, found)
    baseline = statistics.pair_baseline(known) if known else None
    return CalibrationRecord(
        face_pack=faces.inspect(settings.scoring.pack, det_size=settings.scoring.det_size).fingerprint,
        references=HashCache(settings.runs).of_all(references),
        measured_at=text.now(),
        calibration=calibration,
        rejected=rejected,
        trained_on=tuple(trained_on),
        faceless=tuple(name for name, faces_of in impostors.items() if not len(faces_of)),
        twins=tuple((names[one], names[other]) for one, other in _same_photos(photos)),
        known_pairs=known,
        baseline=baseline,
        expected_from_pairs=statistics.expected_centroid_similarity(baseline.mean, len(used)) if baseline else None,
    )


def _faces(paths: Iterable[Path], found: Mapping[Path, FaceEmbedding]) -> FloatArray:
    """(faces, width): embeddings of the images that show a face."""
    return np.array([found[path].embedding for path in paths if found[path].embedding])


def _too_few(settings: Settings, count: int, rejected: Mapping[str, str]) -> Problem:
    why = "".join(f"; {name} {reason}" for name, reason in rejected.items())
    return Problem(
        what=f"only {count} usable reference photos, a calibration needs at least {_MIN_PHOTOS}{why}",
        where=str(settings.scoring.references),
        key=_KEY,
        remedy="add photos with exactly one face: at least 8, better 20",
    )


def _trained_on(
    settings: Settings, references: Sequence[Path], training: Sequence[Path], found: Mapping[Path, FaceEmbedding]
) -> dict[str, Path]:
    """Name of a reference -> the training image that has the same bytes or shows the same photo."""
    hashes = HashCache(settings.runs)
    by_hash = {hashes.of(path): path for path in training}
    copies = {path.name: by_hash[hashes.of(path)] for path in references if hashes.of(path) in by_hash}
    with_face = [path for path in training if found[path].embedding]
    if with_face:
        cosines = statistics.unit(_faces(references, found)) @ statistics.unit(_faces(with_face, found)).T
        for path, row in zip(references, cosines, strict=True):
            if row.max() >= SAME_PHOTO:
                copies.setdefault(path.name, with_face[int(row.argmax())])
    return copies


def _same_photos(photos: FloatArray) -> list[tuple[int, int]]:
    """Index pairs of references that are the same photo."""
    unit = statistics.unit(photos)
    return [(int(one), int(other)) for one, other in np.argwhere(np.triu(unit @ unit.T >= SAME_PHOTO, 1))]


def _leaked(settings: Settings, name: str, copy: Path) -> Problem:
    return Problem(
        what=f"is also a training image ({copy}): similarity to it measures memorisation, not identity",
        where=str(settings.scoring.references / name),
        key=_KEY,
        remedy="remove it from one of the two folders, or use --allow-training-references: all results are then marked",
    )


def _known_pairs(pairs: Iterable[PicturePair], found: Mapping[Path, FaceEmbedding]) -> tuple[KnownPair, ...]:
    members = [path for pair in pairs for path in (pair.first, pair.second)]
    unfit = {path: found[path].unfit for path in members if found[path].unfit}
    if unfit:
        remedy = "remove the pair from the list"
        raise InputError(*(Problem(what=why, where=str(path), remedy=remedy) for path, why in unfit.items()))
    known = []
    for pair in pairs:
        first, second = statistics.unit(_faces((pair.first, pair.second), found))
        known.append(KnownPair(first=str(pair.first), second=str(pair.second), similarity=float(first @ second)))
    return tuple(known)
