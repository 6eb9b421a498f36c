"""Does Prodigy fit a 24 GB card: read from the attempts, not from pictures."""

from collections.abc import Iterable, Iterator, Sequence

from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.summary import AttemptSummary, RunSummary
from orchestrator.model import State
from orchestrator.report.answers import cost
from orchestrator.report.answers.answer import Answer
from orchestrator.text import pluralize

ID = "Q5"
"""The question's heading on the owner's page."""

_ASK = "Does Prodigy train an SDXL LoRA within 24 GB of VRAM?"
_OPTIMIZER = "Prodigy"
_CARD_GIB = 24.0
_DRIVER_GIB = 0.5
"""What a card of 24 GB does not give to a training."""


def answer(sweep: str, runs: Sequence[RunSummary]) -> Iterator[Answer]:
    """One answer where the sweep has trained with Prodigy, or has tried to."""
    asked = [run for run in runs if _is_prodigy(run.run.point.params.get("optimizer_type"))]
    attempts = [one for run in asked for one in run.training if _with_prodigy(one)]
    if not attempts:
        return
    spent, peak = cost.cost(asked), _peak_gib(attempts)
    verdict, reason = _of_the_short(asked) or _of_the_trained(attempts, peak)
    rows = {
        "Read from": f"{pluralize(len(attempts), 'attempt')} of {pluralize(len(asked), 'run')} asked for {_OPTIMIZER}",
        "Memory": cost.memory(asked),
        "Peak with Prodigy": f"{peak:.1f} GiB" if peak else "not known: no card was watched",
        "Cost": str(spent),
    }
    yield Answer(
        id=ID,
        ask=_ASK,
        sweep=sweep,
        verdict=verdict.value,
        reason=reason,
        gpu_hours=spent.gpu_hours,
        peak_gib=peak,
        rows=tuple(rows.items()),
    )


def _with_prodigy(one: AttemptSummary) -> bool:
    return _is_prodigy(one.overrides.get("optimizer_type", _OPTIMIZER))


def _is_prodigy(name: object) -> bool:
    """sd-scripts does not mind the case."""
    return str(name).lower() == _OPTIMIZER.lower()


def _peak_gib(attempts: Iterable[AttemptSummary]) -> float | None:
    peaks = [one.result.peak_vram_mib for one in attempts if one.result.peak_vram_mib]
    return max(peaks) / 1024 if peaks else None


def _of_the_short(runs: Sequence[RunSummary]) -> tuple[Verdict, str] | None:
    """What runs that ran out of memory say; None where there are none, or all of them ended with Prodigy."""
    short = [run for run in runs if any(map(cost.out_of_memory, run.training))]
    lost, of_all = sum(map(_ended_without, short)), f"of {pluralize(len(runs), 'run')}"
    if lost:
        return Verdict.NO, f"{lost} {of_all} ran out of memory and did not end with {_OPTIMIZER}"
    if going := sum(run.trained is None and run.status.state is not State.STOPPED for run in short):
        return Verdict.UNDECIDED, f"{going} {of_all} ran out of memory, with more still to be conceded"
    return None


def _of_the_trained(attempts: Sequence[AttemptSummary], peak: float | None) -> tuple[Verdict, str]:
    done = [one for one in attempts if one.result.failure is None]
    ended = f"{pluralize(len(done), 'training')} ended well"
    if not done:
        return Verdict.UNDECIDED, "no training with it has ended well yet"
    if peak is None:
        return Verdict.UNDECIDED, f"{ended}, but nobody watched the card's memory"
    delivered = _peak_gib(done) or peak
    if delivered > _CARD_GIB - _DRIVER_GIB:
        return (
            Verdict.NO,
            f"it took {delivered:.1f} GiB; set vram.budget_gib = {_CARD_GIB:g} to see what the ladder does",
        )
    fallbacks = dict.fromkeys(rung for one in done for rung in one.fallbacks)
    conceding = f" after conceding {', '.join(fallbacks)}" if fallbacks else ""
    return Verdict.YES, f"{ended}{conceding}, with {delivered:.1f} GiB at most"


def _ended_without(run: RunSummary) -> bool:
    """Whether it came to its end, and not with Prodigy."""
    return run.status.state is State.FAILED if run.trained is None else not _with_prodigy(run.trained)
