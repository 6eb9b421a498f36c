"""Scores pictures in a process of its own, so that a decoder or a model that crashes takes nothing else with it.

    python -m orchestrator.scoring JOB.json

Exit codes: 0 every picture has a score or a reason, 4 not ready (the problems are on stderr), 1 otherwise. On stdout
lines like `scored: 12/64`. Both sides of the fence read and write the two files with what is in this module.

After a crash, `in_hand` says whose turn it was. One name: run the job again with it in `skip`. Several: run it again
with them in `alone`, and what was done is not done twice, thanks to the cache.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.model import FaceStatus, Image, Score
from orchestrator.scoring import in_progress
from orchestrator.store import records

FACE_CACHE = ".faces"
"""The folder below `runs` that caches face embeddings."""
TOO_MANY_ERRORS = 0.05
"""A share of `error` above this means that the model is at fault, not the pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """By which CLIP the pictures are held against their prompts, and which words are left out of these.

    python: an interpreter that has torch and transformers, the trainer's.
    """

    python: Path
    model: Path
    device: str = "cpu"
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to score against whom. `images[].file`, `skip` and `alone` are absolute or relative to `root`.

    training: pictures that a LoRA was trained on, for `nearest_training`. second_pack: scores every picture, too.
    cache: may be shared between machines. skip: pictures that are not opened and score as `error`. alone: pictures
    taken one at a time, after the others. thumbnails: where small copies of the images are left for the report; None
    for pictures that it does not show.
    """

    pack: Path
    device: str
    det_size: int
    workers: int
    cache: Path
    references: tuple[Path, ...]
    images: tuple[Image, ...]
    root: Path
    out: Path
    training: tuple[Path, ...] = ()
    second_pack: Path | None = None
    adherence: ClipConfig | None = None
    skip: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    thumbnails: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The persona's yardstick, by the pictures' paths.

    leave_one_out: each used picture's cosine to the centroid of the others; None when there are no others.
    rejected: why a picture is not used.
    """

    leave_one_out: Mapping[str, float | None]
    rejected: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What the scorer leaves. provider: what computed, empty when every picture was in the cache.

    training: how many different training pictures have a face. scores: in the order of the job's images.
    """

    fingerprint: str
    provider: str
    references: References
    training: int
    scores: tuple[Score, ...]
    second_fingerprint: str = ""

    @property
    def too_many_errors(self) -> bool:
        errors = sum(score.status is FaceStatus.ERROR for score in self.scores)
        return errors > TOO_MANY_ERRORS * len(self.scores)


def write_job(path: Path, job: Job) -> None:
    records.write(path, plain(asdict(job)))


def read_job(path: Path) -> Job:
    """Raises OrchestrateError when the file is damaged or of another version."""
    record = records.read(path)
    for key in ("pack", "cache", "root", "out"):
        record[key] = Path(record[key])
    for key in ("second_pack", "thumbnails"):
        record[key] = Path(record[key]) if record[key] else None
    for key in ("references", "training"):
        record[key] = tuple(Path(name) for name in record[key])
    for key in ("skip", "alone"):
        record[key] = tuple(record[key])
    record["adherence"] = _adherence(record["adherence"]) if record["adherence"] else None
    record["images"] = tuple(Image(**image) for image in record["images"])
    return Job(**record)


def _adherence(record: dict[str, Any]) -> ClipConfig:
    paths = {key: Path(record[key]) for key in ("python", "model")}
    return ClipConfig(**record | paths | {"triggers": tuple(record["triggers"])})


def write_scored(path: Path, scored: Scored) -> None:
    records.write(path, {**asdict(scored), "too_many_errors": scored.too_many_errors})


def read_scored(path: Path) -> Scored:
    """Raises OrchestrateError when the file is damaged or of another version."""
    record = records.read(path)
    del record["too_many_errors"]
    record["references"] = References(**record["references"])
    record["scores"] = tuple(_score(score) for score in record["scores"])
    return Scored(**record)


def read_scores(path: Path) -> tuple[Score, ...]:
    """The scores alone, in the order of the job's images. Raises as `read_scored`."""
    return read_scored(path).scores


def in_hand_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.in_hand")


def in_hand(out: Path) -> tuple[str, ...]:
    """The pictures, as absolute paths, that a scorer had in hand when it died; none when it came to its end."""
    return in_progress.read(in_hand_path(out))


def plain(value: Any) -> Any:
    """`value` with its paths as text, for JSON."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _score(record: dict[str, Any]) -> Score:
    image, status = Image(**record.pop("image")), FaceStatus(record.pop("status"))
    return Score(image=image, status=status, **record)
