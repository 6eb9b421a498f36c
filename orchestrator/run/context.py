"""What varies from machine to machine and from test to test, handed to the work as one value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.config.schema import Settings
from orchestrator.gpu import VramProbe
from orchestrator.model import PreparedDataset, Result
from orchestrator.store.layout import Run


class Stop:
    """How often the user asked to stop: once is polite, twice is now."""

    def __init__(self) -> None:
        self.asked = 0

    def __bool__(self) -> bool:
        return self.asked > 0

    def hurry(self) -> bool:
        return self.asked > 1


class Listener(Protocol):
    """Told when an attempt starts and ends; shows it, and decides nothing."""

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None: ...

    def ended(self, run: Run, stage: str, result: Result) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The outside world of a sweep, and what all its runs share.

    card: UUID of the card in use, empty without one; colocated: others may be on it, too; environ: what children inherit;
    templates: the frozen ones; datasets: by name, as prepared; prompts: in the order of their file.
    """

    settings: Settings
    templates: Path
    datasets: Mapping[str, PreparedDataset]
    prompts: tuple[str, ...]
    probe: VramProbe
    listener: Listener
    environ: Mapping[str, str]
    card: str = ""
    colocated: bool = False
    stop: Stop = field(default_factory=Stop)
