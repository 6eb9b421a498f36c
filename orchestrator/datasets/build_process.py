"""Builds in a process of its own: a picture or video that crashes a decoder or a model leaves the sweep standing.

It is gone with whoever asked for it: ended when that is interrupted, and by itself when that was killed.
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection
from typing import Any

from orchestrator import scoring
from orchestrator.datasets import builder
from orchestrator.errors import InputError, OrchestrateError, Problem


def build(request: builder.Request) -> dict[str, Any]:
    """As `builder.build`; InputError that names the images being processed when the process died."""
    world = multiprocessing.get_context("spawn")
    told, telling = world.Pipe(duplex=False)
    child = world.Process(target=_tell, args=(request, telling))
    child.start()
    telling.close()  # so that the child's end is the end of what is told
    try:
        outcome = told.recv()
    except EOFError:
        raise InputError(_died(request)) from None
    finally:
        child.kill()
        child.join()
    if isinstance(outcome, dict):
        return outcome
    kind, causes = outcome
    raise kind(*causes)


def _tell(request: builder.Request, telling: connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: our parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    telling.send(_outcome(request))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        connection.wait([parent.sentinel])
        os._exit(1)


def _outcome(request: builder.Request) -> dict[str, Any] | tuple[type[Exception], tuple[Any, ...]]:
    """Errors travel by their causes: an exception would come back without its problems."""
    try:
        return builder.build(request)
    except OrchestrateError as error:
        return type(error), error.problems
    except OSError as error:
        return OSError, (error.errno, error.strerror or str(error), error.filename)


def _died(request: builder.Request) -> Problem:
    images = ", ".join(scoring.in_progress(request.folder)) or "an unknown file"
    return Problem(
        what=f"the process that builds it died while it processed {images}",
        key=f"datasets.{request.dataset.name}",
        remedy="remove that image or video, or save it again",
    )
