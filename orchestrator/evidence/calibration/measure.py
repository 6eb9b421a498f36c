"""Measures the yardstick: looks at the references, the owner's pairs and the impostors, and does the statistics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from orchestrator.store.hashes import HashCache

SAME_PHOTO = 0.98
"""From this cosine on two pictures are one photo, saved anew or cut otherwise: InsightFace's own constant."""

_KEY = "score.references"
_FEWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRequest:
    """What to measure besides the references of the settings. impostors: a name for each set -> its pictures."""

    pairs: tuple[PicturePair, ...] = ()
    impostors: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    allow_training_references: bool = False


def measure(settings: Settings, asked: CalibrationRequest) -> CalibrationRecord:
    """The yardstick of the settings' references.

    Raises NotReady without pack or photos, InputError when a reference was also trained on and that is not allowed.
    """
    references = images.pictures(settings.scoring.references).pictures
    training = [path for one in settings.datasets.values() for path in images.pictures(one.image_dir).pictures]
    looked = _look(settings, [*references, *training, *_members(asked.pairs), *_all(asked.impostors.values())])
    rejected = {path.name: looked[path].unfit for path in references if looked[path].unfit}
    photos = {path.name: _direction(looked[path]) for path in references if path.name not in rejected}
    if len(photos) < _FEWEST:
        raise NotReady(_too_few(settings, len(photos), rejected))
    trained_on = _trained_on(settings, [path for path in references if path.name in photos], training, looked)
    if trained_on and not asked.allow_training_references:
        raise InputError(*(_both(settings, name, twin) for name, twin in trained_on.items()))
    others = {name: _faces(paths, looked) for name, paths in asked.impostors.items()}
    kept = CalibrationRecord(
        face_pack=_pack(settings),
        references=_hashes(settings).of_all(references),
        measured_at=text.now(),
        calibration=statistics.calibrate(photos, others),
        rejected=rejected,
        trained_on=tuple(trained_on),
        faceless=tuple(name for name, found in others.items() if not len(found)),
        twins=_twins(photos),
    )
    return _with_pairs(kept, _known_pairs(asked.pairs, looked))


def _look(settings: Settings, paths: Iterable[Path]) -> dict[Path, FaceEmbedding]:
    pictures = list(dict.fromkeys(paths))
    found = embedding.embed(settings.scoring, pictures, cache=settings.runs / scoring.FACE_CACHE)
    return dict(zip(pictures, found, strict=True))


def _members(pairs: Iterable[PicturePair]) -> list[Path]:
    return [path for pair in pairs for path in (pair.first, pair.second)]


def _all(groups: Iterable[Sequence[Path]]) -> list[Path]:
    return [path for group in groups for path in group]


def _direction(looked: FaceEmbedding) -> FloatArray:
    return np.array(looked.embedding)


def _faces(paths: Iterable[Path], looked: Mapping[Path, FaceEmbedding]) -> FloatArray:
    """(faces, width): of those pictures that show one at least."""
    return np.array([looked[path].embedding for path in paths if looked[path].embedding])


def _too_few(settings: Settings, count: int, rejected: Mapping[str, str]) -> Problem:
    why = "".join(f"; {name} {reason}" for name, reason in rejected.items())
    return Problem(
        what=f"only {count} usable reference pictures, a calibration takes {_FEWEST} at least{why}",
        where=str(settings.scoring.references),
        key=_KEY,
        remedy="put photos with exactly one face there: eight at least, better twenty",
    )


def _trained_on(
    settings: Settings, references: Sequence[Path], training: Sequence[Path], looked: Mapping[Path, FaceEmbedding]
) -> dict[str, Path]:
    """References that are also training pictures, by their bytes or by their face, and which."""
    hashes = _hashes(settings)
    by_hash = {hashes.of(path): path for path in training}
    found = {path.name: by_hash[hashes.of(path)] for path in references if hashes.of(path) in by_hash}
    seen = [path for path in training if looked[path].embedding]
    if seen:
        cosines = statistics.unit(_faces(references, looked)) @ statistics.unit(_faces(seen, looked)).T
        for path, row in zip(references, cosines, strict=True):
            if row.max() >= SAME_PHOTO:
                found.setdefault(path.name, seen[int(row.argmax())])
    return found


def _twins(photos: Mapping[str, FloatArray]) -> tuple[tuple[str, str], ...]:
    """Pairs of references that are the same photo."""
    faces = statistics.unit(np.stack(list(photos.values())))
    alike = np.argwhere(np.triu(faces @ faces.T >= SAME_PHOTO, 1))
    names = list(photos)
    return tuple((names[one], names[other]) for one, other in alike)


def _both(settings: Settings, name: str, twin: Path) -> Problem:
    return Problem(
        what=f"is also a training picture ({twin}): likeness to it is memory, not identity",
        where=str(settings.scoring.references / name),
        key=_KEY,
        remedy="take it out of one of the two, or say --allow-training-references: every number is then marked",
    )


def _with_pairs(kept: CalibrationRecord, known: tuple[KnownPair, ...]) -> CalibrationRecord:
    if not known:
        return kept
    baseline = statistics.from_pairs(known)
    expected = statistics.expected_centroid_similarity(baseline.mean, kept.calibration.photos)
    return replace(kept, known_pairs=known, baseline=baseline, expected_from_pairs=expected)


def _known_pairs(pairs: Iterable[PicturePair], looked: Mapping[Path, FaceEmbedding]) -> tuple[KnownPair, ...]:
    """The pairs with their similarity; InputError naming every picture that does not show exactly one face."""
    unfit = {path: looked[path].unfit for path in _members(pairs) if looked[path].unfit}
    if unfit:
        remedy = "take the pair out of the list"
        raise InputError(*(Problem(what=why, where=str(path), remedy=remedy) for path, why in unfit.items()))
    found = []
    for pair in pairs:
        first, second = (statistics.unit(_direction(looked[path])) for path in (pair.first, pair.second))
        found.append(KnownPair(first=str(pair.first), second=str(pair.second), similarity=float(first @ second)))
    return tuple(found)


def _pack(settings: Settings) -> str:
    used = settings.scoring
    return faces.inspect(used.pack, det_size=used.det_size).fingerprint


def _hashes(settings: Settings) -> HashCache:
    return HashCache(settings.runs)
