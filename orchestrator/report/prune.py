"""Lists and deletes files that no report needs.

These are unselected checkpoints and training states of finished runs, and runs that are no longer in the grid.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.evidence.summary import RunSummary
from orchestrator.model import State
from orchestrator.store import state
from orchestrator.store.layout import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunableFile:
    """A checkpoint file, a folder with a training state, or the folder of a run. size: in bytes."""

    run: str
    path: Path
    size: int


def find_prunable(ranked: Sequence[RunSummary], keep_best: int) -> list[PrunableFile]:
    """What can be deleted of these runs (best first), except the first `keep_best` and unfinished ones.

    The selected checkpoint of every run stays, as do records, logs and images.
    """
    return [
        PrunableFile(run=one.run.point.name, path=path, size=_size(path))
        for one in ranked[keep_best:]
        if one.status.state is State.FINISHED and one.choice
        for path in _unneeded(one, one.run.path / one.choice.checkpoint)
    ]


def find_dropped(sweep: Sweep) -> list[PrunableFile]:
    """The folders of the runs that are no longer in the grid, without those that are still running."""
    runs = [run for run in sweep.all_runs()[len(sweep.runs()) :] if state.status(run).state is not State.RUNNING]
    return [PrunableFile(run=run.path.name, path=run.path, size=_size(run.path)) for run in runs]


def remove(prunable: Sequence[PrunableFile]) -> None:
    """Delete them. Raises OSError."""
    for one in prunable:
        if one.path.is_dir():
            shutil.rmtree(one.path)
        else:
            one.path.unlink()


def _unneeded(one: RunSummary, selected: Path) -> Iterator[Path]:
    """The outputs of sd-scripts in all attempts, except the selected checkpoint and links."""
    for attempt in one.run.attempts("train"):
        for path in sorted((attempt.path / "output").glob("*")):
            is_state = path.is_dir() and path.name.endswith("-state")
            if (path.suffix == ".safetensors" or is_state) and path != selected and not path.is_symlink():
                yield path


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
