"""The files that sdxl_train_network.py writes into its output folder: their names, and which of them to expect."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.files import read_json
from orchestrator.model import Checkpoint, Params


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLength:
    """Length of a training: optimizer steps in total, epochs started, optimizer steps in a full epoch."""

    steps: int
    epochs: int
    steps_per_epoch: int


def last(output_name: str) -> str:
    """The file written at the end; the last epoch has no numbered file."""
    return f"{output_name}.safetensors"


def at_step(output_name: str, step: int) -> str:
    """The file of `save_every_n_steps`, by the trainer's own count."""
    return f"{output_name}-step{step:08d}.safetensors"


def expected(output_name: str, params: Params, length: TrainingLength) -> list[Checkpoint]:
    """The checkpoints that a training of this length must have written, oldest first, ending with `last`.

    Pruned ones (`save_last_n_epochs`, `save_last_n_steps`) are left out. `epoch` is None for saves by step.
    """
    found = [*_by_epoch(output_name, params, length), *_by_step(output_name, params, length)]
    final = Checkpoint(file=last(output_name), epoch=length.epochs, step=length.steps)
    return [*sorted(found, key=lambda checkpoint: checkpoint.step), final]


def _by_epoch(output_name: str, params: Params, length: TrainingLength) -> list[Checkpoint]:
    every = _number(params, "save_every_n_epochs")
    if ratio := _number(params, "save_n_epoch_ratio"):
        every = length.epochs // ratio or 1
    if not every:
        return []
    saved = range(every, length.epochs, every)
    kept = _number(params, "save_last_n_epochs")
    removed = {epoch - every * kept for epoch in saved} if kept is not None else set()
    return [
        Checkpoint(file=f"{output_name}-{epoch:06d}.safetensors", epoch=epoch, step=epoch * length.steps_per_epoch)
        for epoch in saved
        if epoch not in removed
    ]


def _by_step(output_name: str, params: Params, length: TrainingLength) -> list[Checkpoint]:
    every = _number(params, "save_every_n_steps")
    if not every:
        return []
    saved = range(every, length.steps + 1, every)
    kept = _number(params, "save_last_n_steps")
    # As sd-scripts computes it: saving `step` removes the multiple of `every` at or below (step - kept - 1).
    removed = {(step - kept - 1) // every * every for step in saved} if kept is not None else set()
    return [Checkpoint(file=at_step(output_name, step), epoch=None, step=step) for step in saved if step not in removed]


def _number(params: Params, key: str) -> int | None:
    value = params.get(key)
    return value if isinstance(value, int) else None


def states(output_dir: Path, output_name: str) -> list[Path]:
    """The training states (`save_state`) in the folder that have all files, by step; others are left out."""
    found = [(step, path) for path in output_dir.glob("*-state") if (step := _state_step(path, output_name))]
    return [path for _, path in sorted(found)]


def _state_step(path: Path, output_name: str) -> int | None:
    """The step at which a state was saved; None if it belongs to another output, is incomplete or a link."""
    parts = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")
    if not path.name.startswith(f"{output_name}-") or path.is_symlink():
        return None
    if not all((path / part).is_file() for part in parts):
        return None
    try:
        step = read_json(path / "train_state.json")["current_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
