"""Resumes a training from a saved state: the arguments, complete states, and the epoch to continue with.

A resumed sd-scripts counts steps from zero again and saves that count in the next state: a second resume would start at
the wrong epoch and train too long. So states are identified by the epoch in their name, and `initial_epoch` is always
given.
"""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.kohya.outputs import files, safetensors_header
from orchestrator.model import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSegment:
    """A part of a training: the epochs completed when it started, and its output folder."""

    epoch: int
    folder: Path


def possible(params: Params) -> bool:
    """Whether a resumed training keeps its step count: only with whole epochs, and without saves by step."""
    return bool(params.get("max_train_epochs")) and not params.get("save_every_n_steps")


def save_state_args(params: Params) -> Params:
    """Arguments that save a state at the end of each epoch and keep the last one.

    States are saved with checkpoints: where no earlier checkpoints are requested, only the last one is kept, too.
    """
    kept: Params = {"save_state": True, "save_last_n_epochs_state": 1}
    if params.get("save_every_n_epochs") or params.get("save_n_epoch_ratio"):
        return kept
    return {**kept, "save_every_n_epochs": 1, "save_last_n_epochs": 1}


def resume_args(state: Path, epoch: int) -> Params:
    """Arguments that continue from the state at the end of `epoch`."""
    return {"resume": str(state), "initial_epoch": epoch + 1}


def last_state(output_dir: Path, output_name: str) -> int | None:
    """The last epoch with a complete state; None without any."""
    epochs = [_epoch(path) for path in files.states(output_dir, output_name) if _is_complete(path)]
    return max((epoch for epoch in epochs if epoch), default=None)


def state_of(output_dir: Path, output_name: str, epoch: int) -> Path:
    return output_dir / f"{output_name}-{epoch:06d}-state"


def _epoch(state: Path) -> int | None:
    named = re.search(r"-(\d{6})-state$", state.name)
    return int(named[1]) if named else None


def _is_complete(state: Path) -> bool:
    """sd-scripts writes a state in several steps, so it may be incomplete."""
    try:
        safetensors_header.read_header(state / "model.safetensors")
    except (OSError, ValueError):
        return False
    return all(zipfile.is_zipfile(state / name) for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"))


def segment_of(segments: Sequence[ResumeSegment], epoch: int) -> ResumeSegment:
    """The one of `segments`, oldest first, that trained this epoch."""
    return [segment for segment in segments if segment.epoch < epoch][-1]
