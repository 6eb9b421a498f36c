"""What runs have cost, and what memory did to them."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.evidence.summary import AttemptSummary, RunSummary
from orchestrator.model import MEMORY_FAILURES, State
from orchestrator.text import pluralize


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of some runs. gpu_hours: all attempts to train and to generate, those that came to nothing included.

    peak_gib: the highest of the card's memory in a training; None where no card was watched.
    """

    gpu_hours: float
    peak_gib: float | None

    def __str__(self) -> str:
        peak = f"peak {self.peak_gib:.1f} GiB" if self.peak_gib is not None else "the card's memory was not watched"
        return f"{self.gpu_hours:.2g} GPU-hours; {peak}"


def cost(runs: Sequence[RunSummary]) -> Cost:
    """Of these runs together."""
    peaks = [one.result.peak_vram_mib for run in runs for one in run.training if one.result.peak_vram_mib]
    return Cost(
        gpu_hours=sum(_seconds(run) for run in runs) / 3600,
        peak_gib=max(peaks) / 1024 if peaks else None,
    )


def _seconds(run: RunSummary) -> float:
    attempts = [attempt for stage in ("train", "generate") for attempt in run.run.attempts(stage)]
    return sum(result.seconds for attempt in attempts if (result := attempt.result()))


def memory(runs: Sequence[RunSummary]) -> str:
    """In a sentence: how many trainings ran out of memory, and what was conceded; empty when none was begun."""
    begun = [run for run in runs if run.training]
    if not begun:
        return ""
    short = [run for run in begun if any(out_of_memory(one) for one in run.training)]
    if not short:
        return f"none of {pluralize(len(begun), 'training')} ran out of memory"
    fallbacks = dict.fromkeys(rung for run in short for one in run.training for rung in one.fallbacks)
    failed = sum(run.status.state is State.FAILED for run in short)
    then = f"conceded: {', '.join(fallbacks)}" if fallbacks else "nothing was conceded"
    lost = f"; {failed} failed for good" if failed else ""
    return f"{len(short)} of {pluralize(len(begun), 'training')} ran out of memory; {then}{lost}"


def out_of_memory(one: AttemptSummary) -> bool:
    """Whether the card's memory ended this attempt."""
    return one.result.failure in MEMORY_FAILURES
