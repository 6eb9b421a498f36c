"""Gives jobs to a resident generator, as the orchestrator does."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator import files
from orchestrator.store import follow, locks


@contextmanager
def given(folder: Path, jobs: Sequence[Mapping[str, str]]) -> Iterator[None]:
    """While the block runs, its process gets one job after another in `folder`."""
    folder.mkdir()
    owned = threading.Event()

    def give() -> None:
        with locks.acquire(folder / follow.OWNER):
            owned.set()
            for job in jobs:
                files.write_json(folder / follow.JOB, job)
                while (folder / follow.JOB).exists():
                    time.sleep(0.01)

    owner = threading.Thread(target=give, daemon=True)
    owner.start()
    owned.wait()
    yield
    owner.join(timeout=10)
