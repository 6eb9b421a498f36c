"""Resumes a training from a saved state: the arguments, complete states, and the epoch to continue with.

A resumed sd-scripts counts steps from zero again and saves that count in the next state: a second resume would start at
the wrong epoch and train too long. So states are identified by the epoch in their name, and `initial_epoch` is always
given.

A resumed sd-scripts always trains to the end of its last epoch. A training whose `max_train_steps` end inside an epoch
therefore skips as many steps when it resumes for the first time as the last epoch has too many.

It saves checkpoints where its own count, from zero in its first epoch, is a multiple of `save_every_n_steps`. So a
state is only used if the steps before that count are a multiple, too.

A power cut may lose pages of a state that looked complete. So each state is flushed to the disk, and the hashes of its
files are recorded beside the output folder; only a state whose files still have these hashes is resumed.
"""

import contextlib
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import OrchestrateError
from orchestrator.files import open_regular, read_json, sync
from orchestrator.kohya import step_count
from orchestrator.kohya.outputs import files, safetensors_header
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import Checkpoint, Params
from orchestrator.store import hashes, records

_PARTS = ("optimizer.bin", "scheduler.bin", "random_states_0.pkl")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSegment:
    """A part of a training: the epochs and steps completed when it started, and its output folder.

    skip: batches of its first epoch that it does not train, but counts.
    """

    epoch: int
    folder: Path
    step: int = 0
    skip: int = 0

    @property
    def offset(self) -> int:
        """The steps of the training that sd-scripts does not count in this part."""
        return self.step - self.skip


def obstacle(params: Params, *, offset: int, skip: int) -> str | None:
    """The argument whose checkpoints, or whose end, would be at other steps after a resume; None if there is none.

    offset: the steps that a resumed sd-scripts does not count; skip: the batches that it does not train. With gradient
    accumulation, sd-scripts skips a wrong number of them.
    """
    if skip and params.get("gradient_accumulation_steps", 1) != 1:
        return "gradient_accumulation_steps"
    at_epochs = next((key for key in ("save_every_n_epochs", "save_n_epoch_ratio") if params.get(key)), None)
    if skip and at_epochs:
        return at_epochs
    every = step_count.whole(params, "save_every_n_steps", 1)
    return "save_every_n_steps" if offset % every else None


def obstacle_in(params: Params, length: TrainingLength) -> str | None:
    """The argument that prevents that a training of this length is resumed after any of its epochs."""
    skip = -length.steps % length.steps_per_epoch
    offsets = [epoch * length.steps_per_epoch - skip for epoch in (1, 2)]
    return next(filter(None, (obstacle(params, offset=offset, skip=skip) for offset in offsets)), None)


def save_state_args(params: Params) -> Params:
    """Arguments that save a state at the end of each epoch and keep the last two: the last may be damaged.

    States are saved with checkpoints: where no earlier checkpoints are requested, only the last one is kept, too.
    """
    by_step = {"save_last_n_steps_state": 1} if params.get("save_every_n_steps") else {}
    kept: Params = {"save_state": True, "save_last_n_epochs_state": 2, **by_step}
    if params.get("save_every_n_epochs") or params.get("save_n_epoch_ratio"):
        return kept
    return {**kept, "save_every_n_epochs": 1, "save_last_n_epochs": 1}


def resume_args(state: Path, segment: ResumeSegment) -> Params:
    """Arguments that continue from a state with the part of the training that starts there."""
    if segment.skip:
        steps = segment.step + segment.skip
        return {"resume": str(state), "initial_step": steps, "skip_until_initial_step": True}
    return {"resume": str(state), "initial_epoch": segment.epoch + 1}


def continue_from(segment: ResumeSegment, output_name: str, epoch: int, params: Params) -> tuple[int, int] | None:
    """The steps completed at the end of `epoch`, which `segment` trained, and the batches to skip after it.

    None if sd-scripts rejects the sum of both because it is not below max_train_steps, or if there is an obstacle.
    Raises OSError, ValueError, KeyError when the state's own record cannot be read.
    """
    state = state_of(segment.folder, output_name, epoch)
    counted = int(read_json(state / "train_state.json")["current_step"])
    step, skip = segment.offset + counted, 0
    if not (params.get("max_train_epochs") or segment.epoch):  # an earlier resume has skipped the batches
        steps = step_count.whole(params, "max_train_steps", step_count.DEFAULT_STEPS)
        skip = -steps % max(counted // epoch, 1)
        if counted + skip >= steps:
            return None
    return None if obstacle(params, offset=step - skip, skip=skip) else (step, skip)


def record_states(output_dir: Path, output_name: str) -> None:
    """Flush each complete state to the disk and record the hashes of its files, once. Call it while states are saved.

    A state that is removed meanwhile, or cannot be recorded, is left for the next call.
    """
    for state in files.states(output_dir, output_name):
        if _epoch(state) and not _record_of(state).exists() and _is_complete(state):
            with contextlib.suppress(OSError):
                for path in (*state.iterdir(), state, output_dir):
                    sync(path)
                records.write(_record_of(state), {**_identity(state), "files": _hashes(state)}, exact=True)


def last_state(output_dir: Path, output_name: str, until: int | None = None) -> int | None:
    """The last epoch, at most `until`, with a state that is as recorded; None without any.

    Damaged states after it are renamed to `damaged-...`, so that they are not examined again.
    """
    for state in reversed(files.states(output_dir, output_name)):
        epoch = _epoch(state)
        if epoch and (until is None or epoch <= until):
            if _is_as_recorded(state):
                return epoch
            with contextlib.suppress(OSError):
                state.rename(state.with_name(f"damaged-{state.name}"))
    return None


def damaged_states(output_dir: Path) -> list[str]:
    """The states that `last_state` has renamed."""
    return sorted(path.name for path in output_dir.glob("damaged-*-state"))


def state_of(output_dir: Path, output_name: str, epoch: int) -> Path:
    return output_dir / f"{output_name}-{epoch:06d}-state"


def _epoch(state: Path) -> int | None:
    named = re.search(r"-(\d{6})-state$", state.name)
    return int(named[1]) if named else None


def _record_of(state: Path) -> Path:
    """Not in the state's folder: the trainer removes it, and must not meet another writer there."""
    return state.parent.with_name(f"{state.name}.json")


def _identity(state: Path) -> dict[str, str]:
    """The names of the state's folder, which has its epoch, and of the folder of its run."""
    return {"run": state.parents[3].name, "state": state.name}


def _is_as_recorded(state: Path) -> bool:
    try:
        record = records.read(_record_of(state))
        recorded = {**_identity(state), **record}  # records of earlier versions lack names
        return recorded == {**_identity(state), "files": _hashes(state)}
    except (OSError, OrchestrateError):
        return False


def _hashes(state: Path) -> dict[str, str]:
    """By file name. Raises OSError."""
    return {path.name: hashes.sha256(path) for path in sorted(state.iterdir())}


def _is_complete(state: Path) -> bool:
    """Whether every part is whole, read to its end without unpickling. sd-scripts writes a state in several steps."""
    try:
        safetensors_header.read_header(state / "model.safetensors")
        return all(_is_whole_zip(state / name) for name in _PARTS)
    except (OSError, ValueError):
        return False


def _is_whole_zip(path: Path) -> bool:
    """Whether a zip file (the format of `torch.save`) has members, each with its checksum."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as members:
            return bool(members.namelist()) and members.testzip() is None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, RuntimeError, EOFError):
        return False


def segment_of(segments: Sequence[ResumeSegment], checkpoint: Checkpoint) -> ResumeSegment:
    """The one of `segments`, oldest first, that trained this checkpoint."""
    if checkpoint.epoch is None:
        return [segment for segment in segments if segment.step < checkpoint.step][-1]
    return [segment for segment in segments if segment.epoch < checkpoint.epoch][-1]
