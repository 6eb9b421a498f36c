"""What a sweep's disk can spare: checkpoints that nobody chose, and training states; never what a report reads."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.evidence.summary import RunSummary
from orchestrator.model import State


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunableFile:
    """A file, or a folder of training states, that may go."""

    run: str
    path: Path
    size: int


def spare(ranked: Sequence[RunSummary], keep_best: int) -> list[PrunableFile]:
    """What may go of these runs, which come best first: nothing of the first `keep_best`, nothing of an unfinished one.

    The chosen checkpoint of every run stays, and so do its records, logs and pictures: the report is made from them.
    """
    return [
        PrunableFile(run=one.run.point.name, path=path, size=_size(path))
        for one in ranked[keep_best:]
        if one.status.state is State.FINISHED and one.choice
        for path in _unneeded(one)
    ]


def remove(spares: Sequence[PrunableFile]) -> None:
    """Delete them; OSError when the machine refuses."""
    for one in spares:
        if one.path.is_dir():
            shutil.rmtree(one.path)
        else:
            one.path.unlink()


def _unneeded(one: RunSummary) -> Iterator[Path]:
    """sd-scripts' own products in the output folders of every attempt: LoRA files, and states as folders."""
    chosen = (one.run.path / one.choice.checkpoint) if one.choice else None
    for attempt in one.run.attempts("train"):
        for path in sorted((attempt.path / "output").glob("*")):
            if path.is_symlink() or path == chosen:
                continue
            if path.suffix == ".safetensors" or (path.is_dir() and path.name.endswith("-state")):
                yield path


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
