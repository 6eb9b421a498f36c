"""Builds a dataset in a separate process, so that a crash of a decoder or model does not end the sweep.

The process ends with its parent: it is killed when the parent is interrupted, and exits when the parent was killed.
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
    """As `builder.build`; InputError that names the files being processed when the process died."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(request, sender))
    child.start()
    sender.close()  # so that the pipe ends when the child does
    try:
        outcome = receiver.recv()
    except EOFError:
        names = ", ".join(scoring.in_progress(request.folder)) or "an unknown file"
        what = f"the process that builds it died while it processed {names}"
        remedy = "remove that image or video, or save it again"
        raise InputError(Problem(what=what, key=f"datasets.{request.dataset.name}", remedy=remedy)) from None
    finally:
        child.kill()
        child.join()
    if isinstance(outcome, dict):
        return outcome
    kind, arguments = outcome
    raise kind(*arguments)


def _run(request: builder.Request, sender: connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal: the parent ends this process
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        sender.send(builder.build(request))
    except OrchestrateError as error:  # sent as its arguments: pickled exceptions lose their problems
        sender.send((type(error), error.problems))
    except OSError as error:
        sender.send((OSError, (error.errno, error.strerror or str(error), error.filename)))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        connection.wait([parent.sentinel])
        os._exit(1)
