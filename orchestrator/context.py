"""What varies from machine to machine and from test to test, handed to the work as one value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.model import Progress, Result, Settings, VramSample
from orchestrator.store import Run
from orchestrator.vram import VramProbe


class Stop:
    """How often the user asked to stop: once is polite, twice is now."""

    def __init__(self) -> None:
        self.asked = 0

    def __bool__(self) -> bool:
        return self.asked > 0

    def hurry(self) -> bool:
        return self.asked > 1


class Listener(Protocol):
    """Told of what happens while it happens; shows it, and decides nothing."""

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None: ...

    def progress(self, run: Run, stage: str, progress: Progress | None, vram: VramSample | None) -> None: ...

    def ended(self, run: Run, stage: str, attempt: int, result: Result) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The outside world of a sweep. `card`: UUID of the card in use, empty without one; `environ`: for children."""

    settings: Settings
    probe: VramProbe
    listener: Listener
    environ: Mapping[str, str]
    card: str = ""
    stop: Stop = field(default_factory=Stop)
