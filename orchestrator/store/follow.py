"""Follows one job of a resident process: copies its log until the job is done. An attempt's program in its place.

    python -m orchestrator.store.follow FOLDER OFFSET

FOLDER is the resident's, with `job.json` until the job is done. OFFSET is where the job's part of its `log` begins.
Ends with 0 when the job is done, and like the resident if that ends before.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from orchestrator.store import process

JOB, OWNER = "job.json", "owner.lock"
"""The job in a resident's folder, and the lock of the process that gives it jobs."""

_POLL_S = 0.1


def main(folder: Path, offset: int) -> int:
    """The exit code."""
    with (folder / "log").open("rb") as log:
        log.seek(offset)
        while True:
            running = process.running(folder)  # first: an ended resident does not finish the job any more
            done = not (folder / JOB).exists()
            shutil.copyfileobj(log, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            if done:
                return 0
            if not running:
                return _end_like(folder)
            process.wait(folder, _POLL_S)


def _end_like(folder: Path) -> int:
    """The exit code of the ended resident; a signal that ended it ends this process, too."""
    ended = process.exited(folder)
    code = ended.code if ended else -signal.SIGKILL
    if code < 0:
        os.kill(os.getpid(), -code)
    return code or 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
