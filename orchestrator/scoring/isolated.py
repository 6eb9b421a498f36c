"""Runs the scorer until it ends: an image that crashes it is skipped and gets the status `error`."""

import signal
import subprocess
from dataclasses import replace
from pathlib import Path

from orchestrator import scoring
from orchestrator.errors import NotReady
from orchestrator.scoring import embedding

_CRASH_CODES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}
_MAX_CRASHES = 20
"""More crashes than this mean that the scorer is broken, not the images."""


def run(folder: Path, job: scoring.Job) -> scoring.Scored:
    """Run the job with `folder` for its files. Raises NotReady with the scorer's message."""
    for _ in range(_MAX_CRASHES):
        done = subprocess.run(
            scoring.write_job(folder, job),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=embedding.TIMEOUT_S,
            check=False,
        )
        crashed = scoring.in_progress(job.out) if done.returncode in _CRASH_CODES else ()
        if not crashed:
            break
        names = tuple(name for name in crashed if name not in job.skip)
        job = replace(job, skip=(*job.skip, *names)) if len(names) == 1 else replace(job, alone=(*job.alone, *names))
    if done.returncode:
        raise NotReady(embedding.failure(done, scoring.in_progress(job.out)))
    return scoring.read_scored(job.out)
