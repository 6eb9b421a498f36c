"""Lock files that name their holder. The kernel releases a lock when its process ends, so no lock is stale."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator import files, text
from orchestrator.errors import NotReady, Problem


@contextlib.contextmanager
def acquire(path: Path) -> Iterator[str]:
    """Acquire the lock until the block ends. Yields "", or the description of the process that has the lock.

    Raises NotReady when the path is a folder, FIFO or device.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        remedy = "delete it, then run the same command"
        raise NotReady(Problem(what=files.why_no_file(path), where=str(path), remedy=remedy))
    with path.open("a+", encoding="utf-8") as file:
        if not _acquire(file.fileno()):
            yield _holder(path)
            return
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": text.now()}))
        file.flush()
        yield ""


def is_locked(path: Path) -> bool:
    """Whether a process has the lock now. False for what cannot be opened or is no file: nothing could lock it."""
    with contextlib.suppress(OSError), files.open_regular(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _holder(path: Path) -> str:
    try:
        return "process {pid} on {host} since {since}".format(**files.read_json(path))
    except (OSError, ValueError, LookupError, TypeError):
        return "a process that has just started"


def _acquire(file: int) -> bool:
    for _ in range(20):  # `is_locked` in another process has it for an instant
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01)
    return False
