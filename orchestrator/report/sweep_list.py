"""All sweeps of a project: state, runs, best configuration, size and age."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import OrchestrateError
from orchestrator.evidence import configurations, summary
from orchestrator.model import State
from orchestrator.store import layout
from orchestrator.store.layout import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSweep:
    """state: running, finished, failed, incomplete, or why it cannot be read. best: the label of a configuration.

    similarity: of the best. size_bytes: of all files. age_s: since the last of them was written.
    """

    name: str
    state: str
    runs: int
    finished: int
    best: str
    similarity: float | None
    size_bytes: int
    age_s: float


def sweeps(runs: Path) -> list[ListedSweep]:
    """The sweeps in the folder `runs` and its closed folders, those that were active last first. Raises OSError."""
    folders = [path for path in runs.iterdir() if not path.name.startswith(".")] if runs.exists() else []
    closed = [Sweep(path) for path in folders if path.is_dir() and not os.access(path, os.X_OK)]
    return sorted(map(_listed, [*layout.sweeps(runs), *closed]), key=lambda one: one.age_s)


def _listed(sweep: Sweep) -> ListedSweep:
    stats = list(_stats(sweep.path))
    size, age = (
        sum(one.st_size for one in stats),
        max(0.0, time.time() - max((one.st_mtime for one in stats), default=time.time())),
    )
    try:
        read = summary.read(sweep)
    except (OrchestrateError, OSError) as error:
        state = f"unreadable: {error.problems[0].what if isinstance(error, OrchestrateError) else error.strerror}"
        return ListedSweep(
            name=sweep.name, state=state, runs=0, finished=0, best="", similarity=None, size_bytes=size, age_s=age
        )
    states = Counter(run.status.state for run in read.runs)
    scored = [one for one in configurations.group(read.runs) if one.value is not None and not one.is_baseline]
    return ListedSweep(
        name=sweep.name,
        state=_state(sweep, states, len(read.runs)),
        runs=len(read.runs),
        finished=states[State.FINISHED] + states[State.STOPPED],
        best=scored[0].label if scored else "",
        similarity=scored[0].metric("similarity_mean") if scored else None,
        size_bytes=size,
        age_s=age,
    )


def _state(sweep: Sweep, states: Counter[State], runs: int) -> str:
    if sweep.is_locked():
        return "running"
    if states[State.FINISHED] + states[State.STOPPED] == runs:
        return "finished"
    return "failed" if states[State.FAILED] and not states[State.PENDING] else "incomplete"


def _stats(folder: Path) -> Iterator[os.stat_result]:
    """Of all readable files; a running sweep may remove some meanwhile."""
    for path in folder.rglob("*"):
        with suppress(OSError):
            if not path.is_dir():
                yield path.lstat()
