"""Locks of GPUs: no two sweeps beside each other use the same one."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.errors import Conflict, Problem
from orchestrator.store import locks, process
from orchestrator.store.layout import Attempt, Run, Sweep


@contextlib.contextmanager
def acquire(sweep: Sweep, gpus: Iterable[str], runs: Sequence[Run] | None = None) -> Iterator[list[str]]:
    """Lock those of these GPUs (UUIDs) that no other sweep beside this one uses, until the block ends.

    runs: other runs of this sweep must not use them, either. Raises Conflict when none is left.
    """
    free, used, orphans = [], [], _orphans_by_gpu(sweep, runs)
    with contextlib.ExitStack() as stack:
        for gpu in gpus:
            lock = sweep.path.parent / ".cards" / f"{gpu}.lock"
            if holder := stack.enter_context(locks.acquire(lock)) or orphans.get(gpu):
                used.append(f"{gpu} by {holder}")
            else:
                free.append(gpu)
        if used and not free:
            what = f"every GPU is in use by another sweep or run: {', '.join(used)}"
            remedy = (
                "wait for it, run it again and stop it with Ctrl-C, set `card` to another GPU, or set "
                "`ignore_other_sweeps = true` in [vram]"
            )
            raise Conflict(Problem(what=what, where=str(sweep.path.parent), key="vram.card", remedy=remedy))
        yield free


def _orphans_by_gpu(sweep: Sweep, runs: Sequence[Run] | None) -> dict[str, str]:
    """By GPU, the running attempt of another sweep, or of a run of this one that is not among `runs`.

    Their orchestrators may have ended. Sweeps may be links to other disks. This sweep's generators are stopped later.
    """
    own, sweeps = sweep.path.resolve(), {path.resolve() for path in sweep.path.parent.glob("*")}
    selected = {own} if runs is None else {run.path.resolve() for run in runs}
    others = [
        path
        for path in process.live_attempts()
        if sweeps.intersection(path.parents) and not selected.intersection(path.parents)
        if own not in path.parents or path.name != "generator"
    ]
    return {str(Attempt(path).request().get("card", "")): f"the attempt in {path}" for path in others}
