"""Scores images in a separate process, so that a decoder or a model that crashes does not end the sweep.

    python -m orchestrator.scoring JOB.json

Exit codes: 0 every image has a score or a reason, 4 not ready (the problems are on stderr), 1 otherwise. On stdout
lines like `scored: 12/64`. Job and result are JSON records; both processes read and write them with this module.

After a crash, `in_progress` names the images that were being processed. One image: run the job again with it in
`skip`. Several: run it again with them in `alone`. Images that were done come from the cache.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.config.schema import Scoring
from orchestrator.errors import OrchestrateError, Problem, error
from orchestrator.files import read_json
from orchestrator.model import FaceStatus, Image, Score
from orchestrator.store import records

MAX_ERROR_RATE = 0.05
"""A larger share of images with the status `error` means that the model is broken, not the images."""

MIN_SEPARATION = 0.25
"""Of the cosines of upright and upside-down faces: 0.75 for SFace on real photos, at most 0.09 with wrong scaling."""

FACE_CACHE = ".faces"
"""Name of the folder in `runs/` with the faces found so far; several machines may share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """The CLIP model that measures adherence to the prompts. triggers: words removed from the prompts first.

    python: an interpreter that has torch and transformers, the trainer's.
    """

    python: Path
    model: Path
    device: str = "cpu"
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Which images to score, and with what. `images[].file`, `skip` and `alone` are absolute or relative to `root`.

    settings: face pack, second pack, device. references: the persona's photos; without any, faces are only embedded.
    training: images that a LoRA was trained on, for `nearest_training`. skip: images that are not opened and score as
    `error`. alone: images processed one at a time, after the others. thumbnails: folder for small copies of the
    images for the report. embeddings: file for the embeddings of the images, see `embedding.Embeddings`.
    test_pack: whether to score the references upside down, see `Scored.upside_down`.
    """

    settings: Scoring
    images: tuple[Image, ...]
    root: Path
    out: Path
    cache: Path
    references: tuple[Path, ...] = ()
    training: tuple[Path, ...] = ()
    clip: ClipConfig | None = None
    skip: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    thumbnails: Path | None = None
    embeddings: Path | None = None
    test_pack: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The persona's reference photos, by path.

    leave_one_out: cosine of each used photo to the centroid of the others; None when there are no others.
    rejected: why a photo is not used. training: (cosine to the most similar training image, mean cosine to the next
    five) of each used photo, and average_training: of the average training face; none with fewer than two training
    images.
    """

    leave_one_out: Mapping[str, float | None]
    rejected: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    average_training: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scorer's result; `scores` are in the order of the job's images.

    provider: onnxruntime's execution provider, empty when every image was in the cache.
    training: number of different training images with a face.
    upside_down: similarity of the references' faces, turned upside down after alignment. A recogniser sees no person
    there: they score as other people do (SFace on real photos: median 0.11, other people 0.12, the persona 0.86).
    """

    fingerprint: str
    provider: str
    references: References
    training: int
    scores: tuple[Score, ...]
    second_fingerprint: str = ""
    upside_down: tuple[float, ...] = ()

    @property
    def too_many_errors(self) -> bool:
        errors = sum(score.status is FaceStatus.ERROR for score in self.scores)
        return errors > MAX_ERROR_RATE * len(self.scores)

    def pack_problem(self, pack: Path, key: str = "score.pack") -> Problem | None:
        """An error when the face pack does not separate the persona from other people: its input is wrongly scaled.

        key: the setting that names the pack.
        """
        genuine = [cosine for cosine in self.references.leave_one_out.values() if cosine is not None]
        if not self.upside_down:
            return None
        right, wrong = median(genuine or [1.0]), median(self.upside_down)
        if right - wrong >= MIN_SEPARATION:
            return None
        what = f"the face pack does not separate people: the references score {right:.2f}, upside down {wrong:.2f}"
        remedy = "use another recogniser: this one expects other input values than InsightFace gives it"
        return error(key, what, remedy, where=str(pack))


def write_job(folder: Path, job: Job) -> list[str]:
    """Write `job.json` into the folder; returns the command that runs it."""
    records.write(folder / "job.json", _adapter(Job).dump_python(job, mode="json"), exact=True)
    return [sys.executable, "-m", "orchestrator.scoring", str(folder / "job.json")]


def read_job(path: Path) -> Job:
    """Raises OrchestrateError when the file is damaged or has another schema."""
    job: Job = _read(path, Job)
    return job


def write_scored(path: Path, scored: Scored) -> None:
    records.write(path, _adapter(Scored).dump_python(scored, mode="json"))


def read_scored(path: Path) -> Scored:
    """Raises OrchestrateError when the file is damaged or has another schema."""
    scored: Scored = _read(path, Scored)
    return scored


def read_scores(path: Path) -> tuple[Score, ...]:
    """The scores that count, in the order of the job: without images for drift only. Raises as `read_scored`."""
    return tuple(score for score in read_scored(path).scores if not score.image.drift_only)


def unfit(score: Score) -> str:
    """Why an image does not show exactly one face; empty when it does."""
    if score.status in (FaceStatus.UNREADABLE, FaceStatus.ERROR):
        return score.note
    return "" if score.faces == 1 else f"shows {score.faces} faces" if score.faces else "shows no face"


def in_progress_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.in_progress")


def in_progress(out: Path) -> tuple[str, ...]:
    """Absolute paths of the images that a scorer was processing when it died; none when it ended well or is unknown."""
    try:
        return tuple(map(str, read_json(in_progress_path(out))))
    except (OSError, ValueError, TypeError):
        return ()


def _read(path: Path, kind: Any) -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(records.read(path))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        what = f"cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise OrchestrateError(Problem(what=what, where=str(path))) from invalid


@cache
def _adapter(kind: Any) -> Any:
    """A pydantic TypeAdapter, imported lazily and built once per type."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
