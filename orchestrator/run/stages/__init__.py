"""The stages of a run: train, generate, score. Each describes its program to `run_attempt` by a Stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.model import Progress
from orchestrator.store.layout import Attempt
from orchestrator.store.outcome import FailureReason, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start; `env` is added to the orchestrator's own environment."""

    argv: list[str]
    env: Mapping[str, str]
    cwd: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How to run the program of one stage.

    prepare: writes the attempt's files and gives its command; progress: reads the end of a log; record: the record of
    the stage's product, or why there is none; check: why the stage itself wants to stop the attempt, called at every
    poll, so it must be fast; fallback: the next OOM fallback step, empty if none is left; note: shown at the start.
    """

    name: str
    prepare: Callable[[Attempt], Command]
    progress: Callable[[str], Progress | None]
    record: Callable[[Attempt, Outcome], Mapping[str, Any] | FailureReason]
    check: Callable[[Attempt], FailureReason | None] = lambda _attempt: None
    fallback: str = ""
    note: str = ""
