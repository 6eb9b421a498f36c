"""Answers to memory questions: do the trainings fit the VRAM? Computed from attempts, not from images."""

import re
from collections.abc import Sequence
from enum import StrEnum

from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.summary import AttemptSummary, RunSummary, SweepSummary
from orchestrator.model import MEMORY_FAILURES, Question, State
from orchestrator.report.answers import rows
from orchestrator.report.answers.answer import Answer
from orchestrator.store import vram_log
from orchestrator.text import code_span, pluralize

_DRIVER_GIB = 0.5
"""VRAM of a GPU that a training cannot use."""
_LIMIT = re.compile(r"(?:total capacity|budget) of ([\d.]+) GiB")
"""In the reason of an out-of-memory failure: the VRAM that the training had."""


class _Fit(StrEnum):
    """What a run shows, as the rest of a sentence "3 trainings ..."."""

    YES = "fit"
    FALLBACK = "fit after an OOM fallback that keeps the result"
    NO = "did not fit"
    OPEN = "not finished"
    SMALLER = "out of memory with less VRAM than that"
    UNKNOWN = "without a measured VRAM use"


def answer(sweep: SweepSummary, question: Question) -> Answer:
    """Yes if all trainings fit `within_gib` (default: the size of their GPU) with the requested result, no if one
    does not, undecided if some runs are not finished or allow no conclusion."""
    runs = [run for run in sweep.runs if run.run.point.is_trained]
    cost, size = rows.cost(runs), question.within_gib or _gpu_gib(runs)
    fits = [_fit(run, size) for run in runs] if size else []
    verdict = _verdict(set(fits))
    too_large = [run.run.point.name for run, fit in zip(runs, fits, strict=False) if fit is _Fit.NO]
    facts = (
        ("Trainings", "; ".join(f"{count} {fit}" for fit in _Fit if (count := fits.count(fit)))),
        ("Did not fit", ", ".join(map(code_span, too_large))),
        ("Out of memory", rows.memory(runs)),
        ("Cost", str(cost)),
    )
    return Answer(
        id=question.id,
        ask=question.ask,
        sweep=sweep.sweep.name,
        verdict=verdict.value,
        sentence=_sentence(verdict, fits, size, cost.peak_gib),
        gpu_hours=cost.gpu_hours,
        peak_gib=cost.peak_gib,
        facts=tuple(fact for fact in facts if fact[1]),
    )


def _gpu_gib(runs: Sequence[RunSummary]) -> float | None:
    """The smallest GPU that a training used; None if VRAM was not monitored."""
    samples = [vram_log.last(attempt.path) for run in runs for attempt in run.run.attempts("train")]
    return min((sample.total_mib / 1024 for sample in samples if sample), default=None)


def _fit(run: RunSummary, size: float) -> _Fit:
    delivered, short = run.trained, [one for one in run.training if one.result.failure in MEMORY_FAILURES]
    failed = run.status.state in (State.FAILED, State.STOPPED)
    if delivered and not delivered.degraded:
        fit = _Fit.FALLBACK if delivered.fallbacks else _Fit.YES
        if peak := delivered.result.peak_vram_mib:
            return fit if peak / 1024 <= size - _DRIVER_GIB else _Fit.NO
        most = _available_gib(run, short[-1]) if short else None
        return fit if most and most <= size - _DRIVER_GIB else _Fit.UNKNOWN
    if short and (delivered or failed):
        available = _available_gib(run, short[-1])
        return _Fit.UNKNOWN if available is None else _Fit.NO if available >= size - _DRIVER_GIB else _Fit.SMALLER
    return _Fit.UNKNOWN if failed else _Fit.OPEN


def _available_gib(run: RunSummary, attempt: AttemptSummary) -> float | None:
    """The VRAM that an attempt could use: its budget, or its GPU without other processes."""
    if limit := _LIMIT.search(attempt.result.reason):
        return float(limit[1])
    started = next((one for one in run.run.attempts("train") if one.number == attempt.number), None)
    sample = vram_log.last(started.path) if started else None
    if sample is None or started is None:
        return None
    others = sum(mib or 0 for mib in (started.request().get("others") or {}).values())
    used = others if sample.own_mib is None else sample.used_mib - sample.own_mib
    return (sample.total_mib - used) / 1024


def _verdict(fits: set[_Fit]) -> Verdict:
    if _Fit.NO in fits:
        return Verdict.NO
    return Verdict.YES if fits and fits <= {_Fit.YES, _Fit.FALLBACK} else Verdict.UNDECIDED


def _sentence(verdict: Verdict, fits: Sequence[_Fit], size: float | None, peak: float | None) -> str:
    if size is None:
        return (
            "Not known: VRAM was not monitored, so neither the size of the GPU nor the use of the trainings is known."
        )
    trainings = pluralize(len(fits), "training")
    if verdict is Verdict.YES:
        after = f", {fits.count(_Fit.FALLBACK)} of them after an OOM fallback" if _Fit.FALLBACK in fits else ""
        highest = f"; the highest use was {peak:.1f} GiB" if peak else ""
        return f"{len(fits)} of {trainings} fit {size:g} GiB of VRAM{after}{highest}."
    if verdict is Verdict.NO:
        return f"{fits.count(_Fit.NO)} of {trainings} did not fit {size:g} GiB of VRAM."
    others = "; ".join(f"{fits.count(fit)} {fit}" for fit in (_Fit.OPEN, _Fit.SMALLER, _Fit.UNKNOWN) if fit in fits)
    return f"Not known whether the trainings fit {size:g} GiB of VRAM: of {trainings}, {others or 'none was started'}."
