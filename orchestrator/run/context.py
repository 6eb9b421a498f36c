"""What the runs of a sweep share: settings, prepared datasets, the GPU driver, the listener and the stop request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config.schema import Settings
from orchestrator.gpu import VramProbe
from orchestrator.model import PreparedDataset, Result
from orchestrator.plan import history
from orchestrator.run.generators import Generators
from orchestrator.scoring import prompt_adherence
from orchestrator.store import provenance
from orchestrator.store.layout import Run


class Stop:
    """How often the user asked to stop. Once: programs get time to end. Twice: they are killed at once."""

    def __init__(self) -> None:
        self.asked = 0

    def __bool__(self) -> bool:
        return self.asked > 0

    def hurry(self) -> bool:
        return self.asked > 1


class Listener(Protocol):
    """Is called when an attempt starts and ends, and with further messages for the user."""

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None: ...

    def ended(self, run: Run, stage: str, result: Result) -> None: ...

    def message(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the runs of a sweep share.

    templates: the folder of the frozen templates. datasets: by name, prepared. prompts: in the order of their file.
    environ: what child processes inherit. gpu: the UUID of the GPU to use, empty without one. colocated: other runs
    may be on it. at_once: how many trainings a probe runs on it at once. generators: the resident generators of this
    machine, None where each attempt has its own process.
    """

    settings: Settings
    templates: Path
    datasets: Mapping[str, PreparedDataset]
    prompts: tuple[str, ...]
    probe: VramProbe
    listener: Listener
    environ: Mapping[str, str]
    gpu: str = ""
    colocated: bool = False
    generators: Generators | None = None
    at_once: int = 1
    stop: Stop = field(default_factory=Stop)

    def attempt_record(self, run: Run, stage: str) -> dict[str, Any]:
        """What an attempt of a stage that starts now records: its environment, its threads (of trainings and
        generations), and the conditions of its costs."""
        base = str(run.point.params["base_model"])
        conditions = history.conditions(self.settings, stage, base)
        return {"environment": self.environment(), "threads": self.settings.trainer.threads, "conditions": conditions}

    @property
    def drift_prompts(self) -> frozenset[str]:
        """The prompts without the trigger of any dataset: their images measure drift and count in nothing else."""
        return prompt_adherence.drift_prompts(
            (dataset.trigger for dataset in self.settings.datasets.values()), self.prompts
        )

    @property
    def preview_prompts(self) -> tuple[str, ...]:
        """The prompts of previews: all others."""
        left_out = self.drift_prompts
        return tuple(text for text in self.prompts if text not in left_out)

    def environment(self) -> dict[str, Any]:
        """The GPU model, versions and `trainer.env` of an attempt that starts now, for its record."""
        gpu = next((gpu for gpu in self.probe.gpus() if gpu.uuid == self.gpu), None)
        trainer = self.settings.trainer
        return provenance.environment(gpu.name if gpu else "", gpu.driver if gpu else "", trainer.python, trainer.env)
