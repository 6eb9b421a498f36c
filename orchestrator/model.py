"""The values that travel between rooms: frozen, typed, without behaviour beyond what follows from their fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeAlias

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | tuple[Scalar, ...]
Params: TypeAlias = Mapping[str, Value]
"""sd-scripts' own argument names, verbatim, and the treatments `base_model` and `dataset`."""

QuestionKind: TypeAlias = Literal["contrast", "memory", "threshold"]

TREATMENTS = ("base_model", "dataset")
"""Dims that are not sd-scripts arguments: they name an entry of the settings."""


class State(StrEnum):
    """What a run's files say of it (W&B's six words, and one of ours)."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CRASHED = "crashed"
    KILLED = "killed"
    STOPPED = "stopped"  # its training was hopeless: an end as good as finished


class Failure(StrEnum):
    """Why an attempt did not deliver."""

    OOM = "oom"  # the card's memory: the trainer said so, or it went over the budget
    SPILL = "spill"  # the driver moved memory to the host instead of failing
    HOST_OOM = "host_oom"  # the machine's memory
    DISK_FULL = "disk_full"
    NAN = "nan"
    BAD_CONFIG = "bad_config"
    DATASET = "dataset"
    GPU_LOST = "gpu_lost"  # the driver or the card went away
    STALLED = "stalled"  # no log growth for too long
    TIMEOUT = "timeout"  # the wall limit
    LOG_FLOOD = "log_flood"  # more log than the limit
    NO_PRODUCT = "no_product"  # it ended well and left nothing, or left something broken
    CRASHED = "crashed"  # it vanished without a word
    KILLED = "killed"  # we or the user stopped it
    STOPPED_EARLY = "stopped_early"  # its previews were hopeless against another run's, as [early_stop] has it
    UNKNOWN = "unknown"


MEMORY_FAILURES = frozenset({Failure.OOM, Failure.SPILL})
"""Failures for want of VRAM."""


# --- what was asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that a grid declares. `kind` selects the answer; the other fields belong to one kind each.

    contrast: is the second of two `levels` of `dim` better than the first, all else equal?
    memory: do the trainings fit `within_gib` of VRAM (None: the card that they ran on)?
    threshold: which runs reach the pass threshold of the calibration?
    """

    id: str
    ask: str
    kind: QuestionKind = "contrast"
    dim: str = ""
    levels: tuple[Value, Value] = ("", "")
    within_gib: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination of a grid. `params` are effective: defaults, fixed, dims and rules, all evaluated."""

    id: str
    name: str
    params: Params
    dims: tuple[str, ...] = ()
    is_baseline: bool = False
    """True for the base model without any LoRA: nothing is trained, only generated and scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDataset:
    """A dataset as it is trained on: a folder of ours with copies. `key` is of its content.

    plain: where the same pictures are without weights in their alpha, for whoever looks for faces.
    """

    folder: Path
    key: str
    pictures: tuple[str, ...]
    plain: Path | None = None


# --- what happened ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The last progress bar of a trainer's log. `loss` is its running average."""

    step: int
    total: int
    seconds_per_step: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VramSample:
    """One poll of the card, MiB. `own_mib`: this run's processes, where the driver tells."""

    used_mib: int
    total_mib: int
    own_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExit:
    """How a child ended: its exit code, or minus the signal. `error`: why it could not be started at all."""

    code: int
    seconds: float
    error: str = ""
    host_oom: bool = False
    """Killed while the kernel was killing for memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one attempt ended. `failure` None means its product was proven; `retry`: another attempt may help."""

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
    """A trained LoRA file, proven. `epoch` and `step` as trained; `file` is relative to the run's folder."""

    file: str
    epoch: int | None
    step: int
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A generated picture and what made it. `checkpoint` is a Checkpoint.file, empty for the base model alone."""

    file: str
    checkpoint: str
    strength: float
    prompt: int
    seed: int
    text: str = ""


class FaceStatus(StrEnum):
    """What the scorer found in a picture."""

    OK = "ok"
    NO_FACE = "no_face"
    MULTI_FACE = "multi_face"
    UNREADABLE = "unreadable"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One picture's similarity to the persona: cosine to the references' centroid; None where there is no face.

    nearest_reference, nearest_training: cosine to the most similar single picture (copying shows there).
    face_px: shorter side of the scored face's box, pixels.
    turn: how far the nose is off the middle of the eyes, in distances between the eyes; a side view from 0.35 on.
    second_similarity: by the second face pack, adherence: cosine to the prompt without triggers by CLIP, where the
    settings name one.
    """

    image: Image
    status: FaceStatus
    similarity: float | None = None
    faces: int = 0
    face_px: float | None = None
    det_score: float | None = None
    nearest_reference: float | None = None
    nearest_training: float | None = None
    yaw: float | None = None
    second_similarity: float | None = None
    adherence: float | None = None
    note: str = ""
