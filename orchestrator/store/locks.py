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


@contextlib.contextmanager
def acquire(path: Path) -> Iterator[str]:
    """Acquire the lock until the block ends. Yields "", or the description of the process that has the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _acquire(file.fileno()):
            yield _holder(path)
            return
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": text.now()}))
        file.flush()
        yield ""


def is_locked(path: Path) -> bool:
    """Whether a process has the lock now."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _holder(path: Path) -> str:
    try:
        return "process {pid} on {host} since {since}".format(**json.loads(files.read_text(path)))
    except (ValueError, KeyError, TypeError):
        return "a process that has just started"


def _acquire(file: int) -> bool:
    for _ in range(20):  # `is_locked` in another process has it for an instant
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01)
    return False
