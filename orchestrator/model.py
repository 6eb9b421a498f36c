"""Run-time values that packages pass to each other: frozen, typed, without behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeAlias

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | tuple[Scalar, ...]
Params: TypeAlias = Mapping[str, Value]
"""sd-scripts arguments under their own names, and the dims `base_model` and `dataset`."""

Measure: TypeAlias = Literal["similarity", "gain"]
QuestionKind: TypeAlias = Literal["contrast", "memory", "threshold"]

TREATMENTS = ("base_model", "dataset")
"""Dims that are not sd-scripts arguments: they name an entry of the settings."""

LORA = "lora"
"""The dim of points that are existing LoRA files: they name an entry of the settings and are not trained."""


class State(StrEnum):
    """The state of a run according to its files: the six of W&B, and STOPPED."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CRASHED = "crashed"
    KILLED = "killed"
    STOPPED = "stopped"  # early stopping ended its training; counts as finished


RUNNABLE = frozenset({State.PENDING, State.RUNNING, State.CRASHED, State.KILLED})
"""States of runs that the next start of the sweep continues."""


class Failure(StrEnum):
    """Why an attempt failed."""

    OOM = "oom"  # VRAM: reported by the trainer, or above the budget
    SPILL = "spill"  # the driver moved VRAM to host memory instead of failing
    HOST_OOM = "host_oom"  # host memory
    DISK_FULL = "disk_full"
    STORAGE = "storage"  # a file is missing, or a disk or network folder cannot be read or written
    NETWORK = "network"  # a download or an upload failed, or a port is in use
    NAN = "nan"
    BAD_CONFIG = "bad_config"
    DATASET = "dataset"
    GPU_LOST = "gpu_lost"  # the driver or the GPU does not respond
    STALLED = "stalled"  # no log growth for too long
    TIMEOUT = "timeout"  # the wall limit
    LOG_FLOOD = "log_flood"  # more log than the limit
    NO_PRODUCT = "no_product"  # exit code 0, but the output is missing or damaged
    CRASHED = "crashed"  # it disappeared without an exit code
    KILLED = "killed"  # stopped by orchestrate or by the user
    STOPPED_EARLY = "stopped_early"  # its previews were significantly worse than another run's ([early_stop])
    UNKNOWN = "unknown"


MEMORY_FAILURES = frozenset({Failure.OOM, Failure.SPILL})
"""Failures for want of VRAM."""


# --- the request ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that a grid declares. `kind` selects the answer; the other fields belong to one kind each.

    contrast: is the second of two `levels` of `dim` better than the first, all else equal? By `measure`: similarity, or
    gain over the baseline.
    memory: do the trainings fit `within_gib` of VRAM (None: the GPU that they ran on)?
    threshold: which runs reach the pass threshold of the calibration?
    after: ids of questions to decide first.
    """

    id: str
    ask: str
    kind: QuestionKind = "contrast"
    dim: str = ""
    levels: tuple[Value, Value] = ("", "")
    within_gib: float | None = None
    measure: Measure | None = None
    after: tuple[str, ...] = ()

    @property
    def compared(self) -> Measure:
        """The measure, or its default: base models are compared by gain, because each has its own baseline."""
        return self.measure or ("gain" if self.dim == "base_model" else "similarity")


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialDesign:
    """Seeds are trained in rounds, and questions are tested after `first` seeds and each further one up to `max`."""

    first: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination of a grid. `params` are effective: defaults, fixed, dims and rules, all evaluated.

    written: the values of the dims as the grid writes them, before rules and expressions.
    """

    id: str
    name: str
    params: Params
    dims: tuple[str, ...] = ()
    written: Params = field(default_factory=dict)
    is_baseline: bool = False
    """True for the base model without any LoRA: nothing is trained, only generated and scored."""

    @property
    def is_trained(self) -> bool:
        """Whether it is neither a baseline nor an existing LoRA file."""
        return not self.is_baseline and LORA not in self.params


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDataset:
    """A dataset as it is trained on: a folder of copies in runs/. `key` identifies its content.

    unmasked_dir: a folder of the same images without weights in their alpha, for face detection. subsets: of a
    dataset that has some; `folder` is then the first one's.
    """

    folder: Path
    key: str
    pictures: tuple[str, ...] = ()
    unmasked_dir: Path | None = None
    is_prior: bool = False
    subsets: tuple["PreparedDataset", ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of images, one for each subset."""
        return tuple(part.folder for part in self.subsets or (self,))

    @property
    def images(self) -> tuple[Path, ...]:
        """The images that teach the persona, without weights."""
        taught = [part for part in self.subsets or (self,) if not part.is_prior]
        return tuple((part.unmasked_dir or part.folder) / name for part in taught for name in part.pictures)


# --- the outcome ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The last progress bar of a trainer's log. `loss` is its running average."""

    step: int
    total: int
    seconds_per_step: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VramSample:
    """VRAM of the GPU at one time, MiB. `own_mib`: of this run's processes, if the driver reports it."""

    used_mib: int
    total_mib: int
    own_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExit:
    """How a child process ended: its exit code, or minus the signal. `error`: why it could not be started."""

    code: int
    seconds: float
    error: str = ""
    host_oom: bool = False
    """Killed while the kernel's out-of-memory killer was active."""
    moved: bool = False
    """Its folder had another path when it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one attempt ended. `failure` None: its output was verified; `retry`: another attempt may help."""

    failure: Failure | None
    reason: str = ""
    retry: bool = False
    exit_code: int | None = None
    seconds: float = 0.0
    peak_vram_mib: int | None = None
    seconds_per_step: float | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A trained and verified LoRA file. `epoch` and `step` as trained; `file` is relative to the run's folder.

    average: of the checkpoints until then, `mean` or `ema-0.8`; empty for one that sd-scripts wrote.
    """

    file: str
    epoch: int | None
    step: int
    sha256: str = ""
    average: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A generated image and its inputs. `checkpoint` is a Checkpoint.file; empty: the base model without a LoRA.

    drift_only: its prompt has no trigger, so it is measured for drift and counts in nothing else.
    """

    file: str
    checkpoint: str
    strength: float
    prompt: int
    seed: int
    text: str = ""
    drift_only: bool = False


class FaceStatus(StrEnum):
    """The result of face detection in an image."""

    OK = "ok"
    NO_FACE = "no_face"
    MULTI_FACE = "multi_face"
    UNREADABLE = "unreadable"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One image's similarity to the persona: cosine to the references' centroid; None where there is no face.

    With several faces, the face most similar to the persona is scored. largest_similarity: of the largest face.
    rotation: degrees anticlockwise by which the image was turned to find the face.
    seed_distance: mean of one minus cosine to the faces of the other seeds of the same prompt, checkpoint and strength.
    nearest_reference, nearest_training: cosine to the most similar single image. next_training: mean cosine to the next
    five training images; None with fewer than two.
    face_px: shorter side of the scored face's box, pixels.
    yaw: distance of the nose from the middle of the eyes, in eye distances; 0.35 or more is a side view.
    second_similarity: by the second face pack. adherence: CLIP cosine to the prompt without triggers. Both are None
    unless the settings name a pack or model.
    """

    image: Image
    status: FaceStatus
    similarity: float | None = None
    faces: int = 0
    face_px: float | None = None
    det_score: float | None = None
    nearest_reference: float | None = None
    nearest_training: float | None = None
    next_training: float | None = None
    yaw: float | None = None
    largest_similarity: float | None = None
    rotation: int = 0
    seed_distance: float | None = None
    second_similarity: float | None = None
    adherence: float | None = None
    note: str = ""
