"""Builds in a process of its own: a picture or video that crashes a decoder or a model leaves the sweep standing."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from orchestrator.datasets import builder
from orchestrator.errors import InputError, OrchestrateError, Problem
from orchestrator.scorer import hand


def build(request: builder.Request) -> dict[str, Any]:
    """As `builder.build`; InputError that names the pictures in hand where the process died of them."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            outcome = pool.submit(_build, request).result()
        except BrokenProcessPool:
            raise InputError(_died(request)) from None
    if isinstance(outcome, dict):
        return outcome
    kind, problems = outcome
    raise kind(*problems)


def _build(request: builder.Request) -> dict[str, Any] | tuple[type[OrchestrateError], tuple[Problem, ...]]:
    """Errors travel as values: an exception would come back without its problems."""
    try:
        return builder.build(request)
    except OrchestrateError as error:
        return type(error), error.problems


def _died(request: builder.Request) -> Problem:
    held = ", ".join(hand.read(request.hand)) or "nothing that is known"
    return Problem(
        what=f"the process that builds it died with {held} in hand",
        key=f"datasets.{request.dataset.name}",
        remedy="take that picture or video out, or save it anew",
    )
