"""Resuming inside a training: states asked for, found again whole, and taken up at the right step.

sd-scripts counts steps from zero again in a resumed run, and saves that count in the next state: taken up a second
time, it would start at the wrong epoch and train too long. So states are told apart by the epoch in their name, and the
epoch to begin with is always said.
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
    """A part of a training: how many epochs were done when it began, and the output folder of its own."""

    epoch: int
    folder: Path


def possible(params: Params) -> bool:
    """Whether steps come out right: only whole epochs do, and saves by step would be numbered anew."""
    return bool(params.get("max_train_epochs")) and not params.get("save_every_n_steps")


def save_state_args(params: Params) -> Params:
    """Arguments that leave a state at the end of each epoch, the last one kept.

    States come with checkpoints: where none were asked for on the way, the last one alone is kept, too.
    """
    kept: Params = {"save_state": True, "save_last_n_epochs_state": 1}
    if params.get("save_every_n_epochs") or params.get("save_n_epoch_ratio"):
        return kept
    return {**kept, "save_every_n_epochs": 1, "save_last_n_epochs": 1}


def resume_args(state: Path, epoch: int) -> Params:
    """Arguments that go on from the state at the end of `epoch`."""
    return {"resume": str(state), "initial_epoch": epoch + 1}


def last_state(output_dir: Path, output_name: str) -> int | None:
    """The last epoch whose state is whole; None without any."""
    epochs = [_epoch(path) for path in files.states(output_dir, output_name) if _whole(path)]
    return max((epoch for epoch in epochs if epoch), default=None)


def state_of(output_dir: Path, output_name: str, epoch: int) -> Path:
    return output_dir / f"{output_name}-{epoch:06d}-state"


def _epoch(state: Path) -> int | None:
    named = re.search(r"-(\d{6})-state$", state.name)
    return int(named[1]) if named else None


def _whole(state: Path) -> bool:
    """A state is not written in one piece: one that was cut off is no state."""
    try:
        safetensors_header.read_header(state / "model.safetensors")
    except (OSError, ValueError):
        return False
    return all(zipfile.is_zipfile(state / name) for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"))


def segment_of(legs: Sequence[ResumeSegment], epoch: int) -> ResumeSegment:
    """The one of `legs`, oldest first, that trained this epoch."""
    return [leg for leg in legs if leg.epoch < epoch][-1]
