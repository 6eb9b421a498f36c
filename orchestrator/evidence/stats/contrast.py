"""Answers to the questions of a grid: is the second level better than the first, and is that known?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from orchestrator.evidence.stats import early_stop_rule, estimates
from orchestrator.evidence.stats.estimates import Estimate, FloatArray, Interval
from orchestrator.evidence.stats.main_effect import main_effect
from orchestrator.evidence.stats.pairs import Matching, Pair, RunRow, match
from orchestrator.model import Question, Value

FEWEST_REPLICATES = 3
"""With two seeds the 95 % interval is 12.7 standard errors to each side: it decides nothing that matters."""


class Verdict(StrEnum):
    """Is the second level better than the first?"""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSettings:
    """On which terms a question is decided. smallest: the smallest difference of interest, in similarity."""

    smallest: float = 0.02
    confidence: float = 0.95
    power: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredReplicates:
    """What an undecided question still needs; `runs_per_arm` counts the runs at each of its two levels."""

    replicates: int
    runs_per_arm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedPairs:
    """The pairs of which both runs came to their ends, where others did not: the better ones of a level alone."""

    pairs: int
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastResult:
    """What the runs say to a question. Differences are second level minus first; None is "not known".

    difference, estimate, interval: mean picture value (a missing face counts -1); one training seed has a difference
    but no interval. p_yes: of no difference; p_no: of a difference of at least `terms.smallest`; both two-sided and
    Holm-corrected over the questions answered together. sign_flip_p: second opinion on p_yes without a normal
    distribution, uncorrected. main_effect: second opinion from all runs. similarity_difference (over found faces) and
    no_face_difference: the two things that `difference` mixes. step: of the training, where runs were stopped early and
    all are compared as they stood there; None at their ends. ended: what became of the others by then. needs: None
    unless undecided, and None where no reasonable number of runs decides. detectable: the smallest difference these
    data would have shown.
    """

    question: Question
    verdict: Verdict
    reason: str
    terms: TestSettings
    matching: Matching
    replicates: int
    prompts: int
    difference: float | None = None
    estimate: Estimate | None = None
    interval: Interval | None = None
    p_yes: float | None = None
    p_no: float | None = None
    sign_flip_p: float | None = None
    main_effect: Estimate | None = None
    similarity_difference: float | None = None
    no_face_difference: float | None = None
    step: int | None = None
    ended: FinishedPairs | None = None
    needs: RequiredReplicates | None = None
    detectable: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionFamily:
    """The runs of one sweep and the questions asked of them. `zips`: dims that move together, as in the grid."""

    rows: Sequence[RunRow]
    questions: Sequence[Question]
    zips: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    question: Question
    matching: Matching
    step: int | None
    ended: FinishedPairs | None
    table: FloatArray
    estimate: Estimate | None
    main_effect: Estimate | None


def evaluate_questions(
    rows: Sequence[RunRow],
    questions: Sequence[Question],
    *,
    terms: TestSettings | None = None,
    zips: Sequence[Sequence[str]] = (),
) -> tuple[ContrastResult, ...]:
    """One answer for each question, corrected together. `zips`: dims that move together, as in the grid.

    yes        the interval lies above zero, still after Holm's correction, and the difference is at least `smallest`;
    no         the interval lies below `smallest`, still after the correction: no difference worth having, or a loss;
    undecided  all else, and always when all pairs have one training seed.
    """
    return evaluate_together(
        [QuestionFamily(rows=rows, questions=questions, zips=zips)], terms=terms or TestSettings()
    )[0]


def evaluate_together(families: Sequence[QuestionFamily], *, terms: TestSettings) -> list[tuple[ContrastResult, ...]]:
    """As `answers`, for the questions of several sweeps: each from its own runs, all corrected together."""
    measured = [_measure(one.rows, question, one.zips) for one in families for question in one.questions]
    found = iter(_corrected(measured, terms))
    return [tuple(next(found) for _ in one.questions) for one in families]


def _corrected(measured: Sequence[_Measured], terms: TestSettings) -> list[ContrastResult]:
    tested = [m.estimate for m in measured if m.estimate]
    p_yes = iter(holm([found.p_value(0.0) for found in tested]))
    p_no = iter(holm([found.p_value(terms.smallest) for found in tested]))
    return [
        _answer(m, m.estimate, next(p_yes), next(p_no), len(tested), terms) if m.estimate else _unknown(m, terms)
        for m in measured
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given: below alpha while the family's error stays below alpha."""
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    return [float(p) for p in corrected]


def _measure(rows: Sequence[RunRow], question: Question, zips: Sequence[Sequence[str]]) -> _Measured:
    mates = {name for group in zips if question.dim in group for name in group} - {question.dim}
    ends, (rows, step) = rows, early_stop_rule.comparable(rows, question.dim, question.levels, mates)
    matching = match(rows, question.dim, question.levels, mates)
    table = _difference_table(matching.pairs)
    return _Measured(
        question=question,
        matching=matching,
        step=step,
        ended=_ended(match(ends, question.dim, question.levels, mates).pairs) if step else None,
        table=table,
        estimate=estimates.estimate(table),
        main_effect=main_effect(rows, question.dim, question.levels, mates),
    )


def _ended(pairs: Sequence[Pair]) -> FinishedPairs | None:
    table = _difference_table(pairs)
    return FinishedPairs(pairs=len(pairs), difference=float(table.mean())) if table.size else None


def _difference_table(pairs: Sequence[Pair]) -> FloatArray:
    """(training seeds, prompts that all pairs have): mean difference of the seed's pairs on the prompt."""
    if not pairs:
        return np.empty((0, 0))
    prompts = sorted(set.intersection(*(set(p.first.by_prompt) & set(p.second.by_prompt) for p in pairs)))
    seeds: dict[Value | None, list[list[float]]] = {}
    for pair in pairs:
        row = [pair.second.by_prompt[n] - pair.first.by_prompt[n] for n in prompts]
        seeds.setdefault(pair.replicate, []).append(row)
    return np.array([np.mean(rows, axis=0) for rows in seeds.values()]) if prompts else np.empty((0, 0))


def _answer(
    m: _Measured, found: Estimate, p_yes: float, p_no: float, family: int, terms: TestSettings
) -> ContrastResult:
    verdict, reason = _verdict(found, p_yes, p_no, terms)
    confidence = 1 - (1 - terms.confidence) / family
    return ContrastResult(
        question=m.question,
        verdict=verdict,
        reason=reason + _as_of(m.step),
        terms=terms,
        matching=m.matching,
        replicates=found.replicates,
        prompts=found.prompts,
        difference=found.mean,
        estimate=found,
        interval=found.interval(terms.confidence),
        p_yes=p_yes,
        p_no=p_no,
        sign_flip_p=estimates.sign_flip_p(m.table.mean(axis=1)),
        main_effect=m.main_effect,
        step=m.step,
        ended=m.ended,
        similarity_difference=_mean_difference((p.first.similarity, p.second.similarity) for p in m.matching.pairs),
        no_face_difference=_mean_difference((p.first.no_face_rate, p.second.no_face_rate) for p in m.matching.pairs),
        needs=_needs(found, len(m.matching.pairs), confidence, terms) if verdict is Verdict.UNDECIDED else None,
        detectable=estimates.detectable(found, confidence, terms.power),
    )


def _verdict(found: Estimate, p_yes: float, p_no: float, terms: TestSettings) -> tuple[Verdict, str]:
    alpha, bounds = 1 - terms.confidence, found.interval(terms.confidence)
    size = f"{found.mean:+.3f} ({bounds.low:+.3f} to {bounds.high:+.3f})"
    if p_yes < alpha and found.mean > 0 and found.mean >= terms.smallest:
        return Verdict.YES, f"better by {size}"
    if p_no < alpha and found.mean < terms.smallest:
        if bounds.high < 0:
            return Verdict.NO, f"worse by {size}"
        return Verdict.NO, f"no difference of {terms.smallest:g} or more in its favour: {size}"
    if (bounds.low > 0 and found.mean >= terms.smallest) or bounds.high < terms.smallest:
        return Verdict.UNDECIDED, f"{size} would decide alone, but not among so many questions (Holm)"
    return Verdict.UNDECIDED, f"{size} leaves open whether there is a difference of {terms.smallest:g}"


def _needs(found: Estimate, pairs: int, confidence: float, terms: TestSettings) -> RequiredReplicates | None:
    """If the truth is what was measured: the seeds and runs still missing for a decision at `terms.power`."""
    if found.mean >= terms.smallest:
        distance, slack = found.mean, found.mean - terms.smallest
    else:
        distance, slack = terms.smallest - found.mean, np.inf
    total = estimates.replicates_needed(found, distance=distance, slack=slack, confidence=confidence, power=terms.power)
    return None if total is None else _more(total, found.replicates, pairs)


def _more(total: int, present: int, pairs: int) -> RequiredReplicates:
    more = max(total - present, 1)
    return RequiredReplicates(replicates=more, runs_per_arm=more * round(max(pairs, 1) / max(present, 1)))


def _unknown(m: _Measured, terms: TestSettings) -> ContrastResult:
    """An answer without an interval: too few training seeds, or nothing to compare at all."""
    present, prompts = m.table.shape
    return ContrastResult(
        question=m.question,
        verdict=Verdict.UNDECIDED,
        reason=_why_unknown(m.matching, present) + _as_of(m.step),
        terms=terms,
        matching=m.matching,
        replicates=present,
        prompts=prompts,
        difference=float(m.table.mean()) if m.table.size else None,
        main_effect=m.main_effect,
        step=m.step,
        ended=m.ended,
        similarity_difference=_mean_difference((p.first.similarity, p.second.similarity) for p in m.matching.pairs),
        no_face_difference=_mean_difference((p.first.no_face_rate, p.second.no_face_rate) for p in m.matching.pairs),
        needs=_more(FEWEST_REPLICATES, present, len(m.matching.pairs))
        if present == 1 or not m.matching.pairs
        else None,
    )


def _as_of(step: int | None) -> str:
    return f", as of step {step}: some runs were stopped early" if step else ""


def _why_unknown(matching: Matching, present: int) -> str:
    if not matching.pairs:
        return "no two finished runs differ in this dim alone"
    if present == 0:
        return "the runs have no prompt in common"
    if present == 1:
        return "all pairs have the same training seed, so its luck cannot be told from an effect"
    return "the training seeds gave equal results to the last bit: the seed does not reach the training"


def _mean_difference(values: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Mean of second minus first over the pairs where both are known."""
    known = [second - first for first, second in values if first is not None and second is not None]
    return float(np.mean(known)) if known else None
