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
from orchestrator.evidence.calibration.inputs import ImagePair
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.calibration.statistics import Calibration, FloatArray, Impostors, KnownPair
from orchestrator.scoring import copies, embedding, faces, same_photo
from orchestrator.scoring.embedding import FaceEmbedding
from orchestrator.store.hashes import HashCache

_KEY = "score.references"
_MIN_PHOTOS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRequest:
    """What to measure besides the references of the settings.

    impostors: name of a set -> images of other people. baselines: the same of base models without LoRA, whose faces may
    resemble the persona.
    """

    pairs: tuple[ImagePair, ...] = ()
    impostors: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    baselines: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    allow_training_references: bool = False


def measure(settings: Settings, request: CalibrationRequest) -> CalibrationRecord:
    """Calibrate from the references of the settings.

    Raises NotReady without photos or without a pack that separates people, InputError for a reference that is also a
    training image (unless allowed), for impostors as similar as the persona, and for a known-good pair without exactly
    one face in each image.
    """
    others = {**request.baselines, **request.impostors}
    references = images.list_images(settings.scoring.references).paths
    taught = [part for one in settings.datasets.values() for part in one.parts if not part.is_prior]
    training = [path for one in taught for path in images.list_images(one.image_dir).paths]
    members = [path for pair in request.pairs for path in (pair.first, pair.second)]
    paths = list(dict.fromkeys([*references, *training, *members, *chain(*others.values())]))
    cache = settings.runs / scoring.FACE_CACHE
    embedded = embedding.embed(settings.scoring, paths, cache=cache)
    found = dict(zip(paths, embedded, strict=True))
    if fit := [path for path in references if not found[path].unfit]:
        tested, _ = embedding.score(settings.scoring, [], references=fit, cache=cache)
        if broken := tested.pack_problem(settings.scoring.pack):
            raise NotReady(broken)
    used, rejected = _usable(references, found)
    for path in images.unsupported(settings.scoring.references):
        rejected[path.name] = f"has the unsupported suffix {path.suffix}: convert it to .jpg or .png"
    if len(used) < _MIN_PHOTOS:
        raise NotReady(_too_few(settings, len(used), rejected))
    trained_on = _trained_on(used, training, found, cache)
    if trained_on and not request.allow_training_references:
        raise InputError(*(_leaked(settings, name, copy) for name, copy in trained_on.items()))
    photos, impostors = _faces(used, found), {name: _faces(paths, found) for name, paths in others.items()}
    names = [path.name for path in used]
    calibration = statistics.calibrate(dict(zip(names, photos, strict=True)), impostors)
    people = [one for one in calibration.impostors if one.name in request.impostors]
    inseparable = [one for one in people if one.separation < statistics.MIN_SEPARATION]
    if inseparable:
        raise InputError(*(_inseparable(settings, calibration, one) for one in inseparable))
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
    references: Sequence[Path], training: Sequence[Path], found: Mapping[Path, FaceEmbedding], cache: Path
) -> dict[str, Path]:
    """Name of a reference -> the training image that is the same photo, or a crop of it, or of which it is a crop."""
    copied = {path.name: original for path, original in copies.copies_of(training, references, cache=cache).items()}
    trained = [same_photo.photo(path, found[path].embedding) for path in training]
    matches = {
        path.name: same_photo.first_same(same_photo.photo(path, found[path].embedding), trained) for path in references
    }
    return copied | {name: match.path for name, match in matches.items() if match}


def _usable(references: Sequence[Path], found: Mapping[Path, FaceEmbedding]) -> tuple[list[Path], dict[str, str]]:
    """The references that count, each photo once as in scoring, and name -> reason for the others."""
    used, rejected = list[same_photo.Photo](), dict[str, str]()
    for path in references:
        photo = same_photo.photo(path, found[path].embedding)
        if found[path].unfit:
            rejected[path.name] = found[path].unfit
        elif twin := same_photo.first_same(photo, used):
            rejected[path.name] = f"is the same photo as {twin.path.name}"
        else:
            used.append(photo)
    return [photo.path for photo in used], rejected


def _inseparable(settings: Settings, calibration: Calibration, one: Impostors) -> Problem:
    genuine = np.median([reference.similarity for reference in calibration.references])
    return Problem(
        what=f"does not separate the persona from {one.name}: the median similarity is {genuine:.3f} for the persona's "
        f"photos and {np.median(one.similarities):.3f} for the other faces",
        where=str(settings.scoring.pack),
        key="score.pack",
        remedy="check that these images show other people; otherwise the recogniser does not fit InsightFace's input "
        "normalisation: use another face pack",
    )


def _leaked(settings: Settings, name: str, copy: Path) -> Problem:
    return Problem(
        what=f"is also a training image ({copy}): similarity to it measures memorisation, not identity",
        where=str(settings.scoring.references / name),
        key=_KEY,
        remedy="remove it from one of the two folders, or use --allow-training-references: all results are then marked",
    )


def _known_pairs(pairs: Iterable[ImagePair], found: Mapping[Path, FaceEmbedding]) -> tuple[KnownPair, ...]:
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
