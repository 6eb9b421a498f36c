"""Answers to the questions of grids: two levels of one dim compared over matched pairs of runs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.stats import contrast, estimates
from orchestrator.evidence.stats.contrast import ContrastResult, QuestionFamily, TestSettings, Verdict
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.stats.pairs import Matching, RunRow
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Params, Question, State, Value
from orchestrator.report.answers import cost, pictures, rows
from orchestrator.report.answers.answer import Answer as Told
from orchestrator.report.answers.learning_curve_text import curve
from orchestrator.values import same, toml_repr


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepQuestions:
    """A sweep's questions, and its runs."""

    sweep: str
    questions: tuple[Question, ...]
    runs: tuple[RunSummary, ...]
    kept: CalibrationRecord | None


def answer(asked: Sequence[SweepQuestions], terms: TestSettings) -> list[tuple[Told, ...]]:
    """The answers of each sweep, corrected together over all of them."""
    first = contrast.evaluate_together([_family(one, rows.rows(one.runs)) for one in asked], settings=terms)
    second = contrast.evaluate_together(
        [_family(one, rows.rows_by_second_pack(one.runs)) for one in asked], settings=terms
    )
    return [
        tuple(_told(one, found, other) for found, other in zip(by_one, by_other, strict=True))
        for one, by_one, by_other in zip(asked, first, second, strict=True)
    ]


def _family(asked: SweepQuestions, found: Sequence[RunRow]) -> QuestionFamily:
    return QuestionFamily(rows=found, questions=asked.questions, zips=rows.zips(found))


def _told(asked: SweepQuestions, found: ContrastResult, second: ContrastResult) -> Told:
    question = found.question
    concerned = [run for run in asked.runs if _has_level(run, question)]
    spent = cost.cost(concerned)
    first, other = map(toml_repr, question.levels)
    return Told(
        id=question.id,
        ask=question.ask,
        sweep=asked.sweep,
        verdict=found.verdict.value,
        reason=found.reason,
        contrast=f"is {question.dim} {other} better than {first}?",
        needs=_needs(found),
        difference=found.difference,
        interval=found.interval,
        p=_tested(found)[0],
        replicates=found.replicates,
        pairs=len(found.matching.pairs),
        left_out=len(found.matching.left_out),
        gpu_hours=spent.gpu_hours,
        peak_gib=spent.peak_gib,
        rows=tuple(row for row in _rows(asked, found, second, concerned, spent) if row[1]),
    )


def _has_level(run: RunSummary, question: Question) -> bool:
    """Whether a run with a LoRA is at one of the two levels."""
    params = run.run.point.params
    if run.run.point.is_baseline or question.dim not in params:
        return False
    return any(same(params[question.dim], level) for level in question.levels)


def _rows(
    asked: SweepQuestions,
    found: ContrastResult,
    second: ContrastResult,
    concerned: Sequence[RunSummary],
    spent: cost.Cost,
) -> Iterator[tuple[str, str]]:
    matching, runs = found.matching, {run.run.point.name: run for run in asked.runs}
    yield "Varied", _varied(found.question, matching)
    yield "Held", _held(matching.common_params)
    yield "Stopped early", _stopped(found, concerned)
    yield "Effect", _effect(found)
    yield "Of which", _parts(found)
    yield "Nearest training picture", _copying(matching, runs)
    yield "Second opinions", "; ".join(_opinions(found, second))
    yield "Over its own floor", _gains(concerned, found.question)
    yield "Pictures that pass", _passing(concerned, found.question, asked.kept)
    yield "More pictures", curve(asked.runs) if found.question.dim == "dataset" else ""
    yield "Left out", _left_out(matching)
    yield "Still needed", _needs(found)
    yield "Memory", cost.memory(concerned)
    yield "Cost", str(spent)
    yield "Look at", "; ".join(pictures.to_look_at(matching.pairs, runs))


def _varied(question: Question, matching: Matching) -> str:
    also = f"; with it {', '.join(matching.varied_with)}" if matching.varied_with else ""
    return f"{question.dim}: {' against '.join(map(toml_repr, question.levels))}{also}"


def _held(held: Params) -> str:
    return ", ".join(f"{key} {toml_repr(value)}" for key, value in held.items())


def _stopped(found: ContrastResult, runs: Sequence[RunSummary]) -> str:
    """How many runs of each level were given up, and what that means for the other lines."""
    question = found.question
    counts = {
        level: sum(run.status.state is State.STOPPED for run in _at(runs, question, level)) for level in question.levels
    }
    if not any(counts.values()):
        return ""
    each = ", ".join(f"{count} at {toml_repr(level)}" for level, count in counts.items() if count)
    if found.step is None:
        return f"{each}, with their partners: the answer is that of the pairs left"
    ended = found.ended
    others = (
        f"; the {ended.pairs} pairs that came to their ends differ by {ended.difference:+.3f} there" if ended else ""
    )
    return f"{each}: all pairs are compared by their previews at step {found.step}{others}"


def _effect(found: ContrastResult) -> str:
    if found.difference is None:
        return ""
    bounds = f" (95 %: {_ends(found.interval)})" if found.interval else " (no interval)"
    seeds = f"{found.replicates} training seeds" if found.replicates != 1 else "one training seed"
    return (
        f"{found.difference:+.3f} similarity{bounds}, over {len(found.matching.pairs)} pairs of {seeds} and "
        f"{found.prompts} prompts"
    )


def _ends(interval: Interval) -> str:
    return f"{interval.low:+.3f} to {interval.high:+.3f}"


def _parts(found: ContrastResult) -> str:
    """The two things that the effect mixes."""
    if found.similarity_difference is None or found.no_face_difference is None:
        return ""
    return (
        f"{found.similarity_difference:+.3f} similarity of the faces found, "
        f"{100 * found.no_face_difference:+.1f} points of pictures without a face"
    )


def _copying(matching: Matching, runs: Mapping[str, RunSummary]) -> str:
    """How much nearer the second level comes to the pictures that it was trained on."""
    by_seed: dict[Value | None, list[float]] = {}
    for pair in matching.pairs:
        before, after = (runs[row.run].metrics for row in (pair.first, pair.second))
        if before and after and before.nearest_training is not None and after.nearest_training is not None:
            by_seed.setdefault(pair.replicate, []).append(after.nearest_training - before.nearest_training)
    if not by_seed:
        return ""
    means = np.array([[np.mean(changes)] for changes in by_seed.values()])
    found = estimates.estimate(means)
    return f"{means.mean():+.3f} similarity to it" + (f" ({_ends(found.interval())})" if found else "")


def _opinions(found: ContrastResult, second: ContrastResult) -> Iterator[str]:
    p, of = _tested(found)
    if p is not None:
        yield f"p {p:.3f} of {of}, corrected (Holm)"
    if found.sign_flip_p is not None:
        yield f"sign-flip p {found.sign_flip_p:.3f}"
    if found.main_effect is not None:
        yield f"main effect over all runs {found.main_effect.mean:+.3f} ({_ends(found.main_effect.interval())})"
    if second.difference is not None:
        bounds = f" ({_ends(second.interval)})" if second.interval else ""
        agree = "" if second.verdict is found.verdict else "; the packs do not agree"
        yield f"second face pack: {second.verdict}, {second.difference:+.3f}{bounds}{agree}"


def _tested(found: ContrastResult) -> tuple[float | None, str]:
    """The p-value that the verdict rests on, and what it speaks against."""
    if found.verdict is Verdict.NO:
        return found.p_no, f"a difference of {found.settings.smallest:g}"
    return found.p_yes, "no difference"


def _gains(runs: Sequence[RunSummary], question: Question) -> str:
    """What the LoRAs of each level add to their base model: another base has another floor."""
    if question.dim != "base_model":
        return ""
    found = []
    for level in question.levels:
        gains = [run.gain for run in _at(runs, question, level) if run.gain is not None]
        if gains:
            found.append(f"{sum(gains) / len(gains):+.3f} at {level}")
    return ", ".join(found)


def _passing(runs: Sequence[RunSummary], question: Question, kept: CalibrationRecord | None) -> str:
    """The share of good enough pictures at each level; empty without a yardstick."""
    if kept is None:
        return ""
    found = []
    for level in question.levels:
        rates = [run.metrics.pass_rate for run in _at(runs, question, level) if run.metrics]
        known = [rate for rate in rates if rate is not None]
        if known:
            found.append(f"{100 * sum(known) / len(known):.0f} % at {toml_repr(level)}")
    caveats = f" ({'; '.join(kept.caveats)})" if kept.caveats else ""
    return f"the threshold {kept.calibration.threshold:.3f}{caveats}: {', '.join(found)}" if found else ""


def _at(runs: Sequence[RunSummary], question: Question, level: object) -> list[RunSummary]:
    return [run for run in runs if run.run.point.params[question.dim] == level]


def _left_out(matching: Matching) -> str:
    reasons = Counter(one.reason for one in matching.left_out)
    return "; ".join(f"{count} {reason}" for reason, count in reasons.items())


def _needs(found: ContrastResult) -> str:
    if found.needs is None:
        return ""
    more, runs = found.needs.replicates, found.needs.runs_per_arm
    return f"about {more} more training seeds, {runs} more runs at each of the two levels"
