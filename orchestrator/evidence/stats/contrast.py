"""Verdicts on the questions of a grid: is the second level better than the first?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from orchestrator.evidence.stats import assumptions, early_stop_rule, estimates, sequential
from orchestrator.evidence.stats.estimates import Estimate, FloatArray, Interval
from orchestrator.evidence.stats.main_effect import main_effect
from orchestrator.evidence.stats.pairs import REPLICATE, Matching, Pair, RunRow, match
from orchestrator.model import Question, SequentialDesign, Value
from orchestrator.store import provenance
from orchestrator.values import canonical_json

MIN_REPLICATES = 3
"""With two seeds the 95 % interval extends 12.7 standard errors to each side, too wide for any decision."""


_NO_FACE = "no image contains a face"
"""The reason without a difference: all image values are -1."""


class Verdict(StrEnum):
    """Is the second level better than the first?"""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"
    AT_A_COST = "yes, at a cost"
    """In reports only: yes, but adherence, diversity or drift is worse by more than its margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSettings:
    """smallest: the smallest relevant difference, in similarity. confidence and power lie between 0 and 1.

    unchanged: a LoRA whose images differ from those of the baseline by less, on average, has changed nothing.
    """

    __test__ = False  # not a test class of pytest

    smallest: float = 0.02
    unchanged: float = 0.002
    confidence: float = 0.95
    power: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredReplicates:
    """Seeds that an undecided question still needs, and the runs that they add at each of its two levels."""

    replicates: int
    runs_per_arm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedPairs:
    """Pairs of finished runs, if others were stopped early; biased, because the worst runs are missing."""

    pairs: int
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastResult:
    """The verdict on a question. Differences are second level minus first; None means unknown.

    difference, estimate, interval: mean image value (a missing face counts -1); a single training seed gives a
    difference without an interval. p_yes: p-value of no difference. p_no: p-value of a difference of
    `settings.smallest`. Both are two-sided and Holm-corrected over the questions evaluated together. exceeds: whether
    the difference is larger than `settings.smallest` with the requested confidence, corrected in the same way.
    sign_flip_p: p_yes without assuming a normal distribution, uncorrected. main_effect: estimate from all runs.
    similarity_difference (over detected faces) and no_face_difference: the two parts of `difference`. step: training
    step of the comparison if runs were stopped early; None for finished runs. ended: the finished pairs in that case.
    needs: None unless undecided, or if no reasonable number of runs decides. detectable: the smallest difference these
    data can show. warnings: violated assumptions of the interval.

    design: of a sequential sweep. Its interval is the repeated confidence interval, which holds for all tests together,
    and its p-values are corrected for the tests and, by a fixed split, for the questions of the sweep. chance: the
    probability that an undecided question is decided by the last test; None if more seeds cannot decide it.
    """

    question: Question
    verdict: Verdict
    reason: str
    settings: TestSettings
    matching: Matching
    replicates: int
    prompts: int
    difference: float | None = None
    estimate: Estimate | None = None
    interval: Interval | None = None
    p_yes: float | None = None
    p_no: float | None = None
    exceeds: bool | None = None
    sign_flip_p: float | None = None
    main_effect: Estimate | None = None
    similarity_difference: float | None = None
    no_face_difference: float | None = None
    step: int | None = None
    ended: FinishedPairs | None = None
    needs: RequiredReplicates | None = None
    detectable: float | None = None
    warnings: tuple[str, ...] = ()
    design: SequentialDesign | None = None
    chance: float | None = None

    @property
    def open(self) -> bool:
        """Whether more seeds of a sequential sweep can still decide the question."""
        return self.chance is not None and self.chance >= sequential.MIN_CHANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionFamily:
    """The runs of one sweep and its questions. `zips`: dims that change together, as in the grid.

    design: of a sequential sweep. extended: seeds were added after results were seen, without such a design.
    """

    rows: Sequence[RunRow]
    questions: Sequence[Question]
    zips: Sequence[Sequence[str]] = ()
    design: SequentialDesign | None = None
    extended: bool = False


def evaluate_questions(
    rows: Sequence[RunRow],
    questions: Sequence[Question],
    *,
    settings: TestSettings | None = None,
    zips: Sequence[Sequence[str]] = (),
) -> tuple[ContrastResult, ...]:
    """One result for each question, corrected together. `zips`: dims that change together, as in the grid.

    yes        the interval lies above zero, also after Holm's correction, and the estimate is at least `smallest`: the
               second level is better; `exceeds` says whether by more than `smallest`;
    no         the interval lies below `smallest`, also after the correction: no relevant difference, or a loss;
    undecided  otherwise, and always if all pairs have the same training seed, if the LoRAs changed nothing, or if no
               image contains a face.
    """
    family = QuestionFamily(rows=rows, questions=questions, zips=zips)
    return evaluate_together([family], settings=settings or TestSettings())[0]


def evaluate_together(
    families: Sequence[QuestionFamily], *, settings: TestSettings
) -> list[tuple[ContrastResult, ...]]:
    """As `evaluate_questions` for several sweeps: each question from its own sweep's runs, all corrected together.

    Questions of a sequential sweep share its error level in equal parts, and are not part of Holm's correction. The
    warnings that need a test are corrected among themselves, over all questions.
    """
    compared = [(*_compare(one, question, settings), one) for one in families for question in one.questions]
    tested = [found.estimate for found, _, one in compared if found.estimate and not one.design]
    p_yes = iter(holm([found.p_value(0.0) for found in tested]))
    p_no = iter(holm([found.p_value(settings.smallest) for found in tested]))
    warned = [
        list(assumptions.tested_warnings(found.matching.pairs, table, settings.smallest))
        for found, table, _ in compared
    ]
    p_warned = iter(holm([p for tests in warned for _, p in tests]))
    results = []
    for (result, table, family), tests in zip(compared, warned, strict=True):
        found = [warning for warning, _ in tests if next(p_warned) < 1 - settings.confidence]
        result = replace(result, warnings=(*result.warnings, *dict.fromkeys(found)))
        if result.estimate and family.design:
            result = _decide_sequentially(result, result.estimate, table, family.design, len(family.questions))
        elif result.estimate:
            result = _decide(result, result.estimate, table, next(p_yes), next(p_no), len(tested))
        results.append(result)
    following = iter(results)
    return [tuple(next(following) for _ in one.questions) for one in families]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down corrected p-values, in the given order."""
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    return [float(p) for p in corrected]


def _compare(family: QuestionFamily, question: Question, settings: TestSettings) -> tuple[ContrastResult, FloatArray]:
    """The undecided result and its table of differences, which is empty where it shows nothing."""
    rows, dim, levels = family.rows, question.dim, question.levels
    zipped = {name for group in family.zips if dim in group for name in group} - {dim}
    measured = [_by_gain(row) for row in rows] if question.compared == "gain" else rows
    compared, step = early_stop_rule.comparable(measured, dim, levels, zipped)
    matching = match(compared, dim, levels, zipped)
    table, pairs = _difference_table(matching.pairs), matching.pairs
    present = len(table)
    nothing = _nothing_to_compare(pairs, rows, settings)
    if question.compared == "gain" and "base_model" in (dim, *matching.varied_with) and table.shape[1] == 1:
        nothing = nothing or "one prompt does not show the noise of the two baselines: use several prompts"
    result = ContrastResult(
        question=question,
        verdict=Verdict.UNDECIDED,
        reason=(nothing or _why_untested(matching, present, dim)) + _as_of(step),
        settings=settings,
        matching=matching,
        replicates=present,
        prompts=table.shape[1],
        difference=float(table.mean()) if table.size and nothing != _NO_FACE else None,
        estimate=None if nothing else estimates.estimate(table),
        main_effect=main_effect(compared, dim, levels, zipped),
        similarity_difference=_mean_difference((p.first.similarity, p.second.similarity) for p in pairs),
        no_face_difference=_mean_difference((p.first.no_face_rate, p.second.no_face_rate) for p in pairs),
        step=step,
        ended=_finished_pairs(match(measured, dim, levels, zipped).pairs) if step else None,
        needs=_missing(MIN_REPLICATES, present, len(pairs)) if not nothing and (present == 1 or not pairs) else None,
        warnings=() if nothing else (*_extended(family), *assumptions.warnings(pairs, table)),
        design=family.design,
    )
    return result, np.empty((0, 0)) if nothing else table


def _extended(family: QuestionFamily) -> tuple[str, ...]:
    if not family.extended:
        return ()
    return (
        "seeds were added after results were known, without a declared maximum (`[seeds] first, max` in the grid): the "
        "error level of the verdict no longer holds",
    )


def _by_gain(row: RunRow) -> RunRow:
    """The run compared by its gain over the baseline. Previews have no baseline."""
    gains, missing = row.gain_by_prompt, "no baseline to subtract" if row.by_prompt else row.missing
    if found := provenance.differences(row.environment, row.baseline_environment):
        gains, missing = {}, f"made under different conditions than the baseline: {', '.join(found)}"
    return replace(row, by_prompt=gains, similarity=None, no_face_rate=None, previews={}, missing=missing)


def _nothing_to_compare(pairs: Sequence[Pair], rows: Sequence[RunRow], settings: TestSettings) -> str:
    """The reason if the images of no compared run show an effect of training; else empty."""
    names = {row.run for pair in pairs for row in (pair.first, pair.second)}
    compared = [row for row in rows if row.run in names]
    if compared and all(row.no_face_rate == 1 for row in compared):
        return _NO_FACE
    changes = [row.change for row in compared if row.change is not None]
    if compared and len(changes) == len(compared) and max(changes) < settings.unchanged:
        return (
            "the LoRAs changed nothing: their images score like those of the base model without a LoRA "
            f"(mean difference at most {max(changes):.2g})"
        )
    return ""


def _finished_pairs(pairs: Sequence[Pair]) -> FinishedPairs | None:
    table = _difference_table(pairs)
    return FinishedPairs(pairs=len(pairs), difference=float(table.mean())) if table.size else None


def _difference_table(pairs: Sequence[Pair]) -> FloatArray:
    """(training seeds, prompts common to all pairs): mean difference over the pairs of a seed."""
    if not pairs:
        return np.empty((0, 0))
    prompts = sorted(set.intersection(*(set(p.first.by_prompt) & set(p.second.by_prompt) for p in pairs)))
    seeds: dict[Value | None, list[list[float]]] = {}
    for pair in pairs:
        row = [pair.second.by_prompt[n] - pair.first.by_prompt[n] for n in prompts]
        seeds.setdefault(pair.replicate, []).append(row)
    return np.array([np.mean(rows, axis=0) for rows in seeds.values()]) if prompts else np.empty((0, 0))


def _decide(
    result: ContrastResult, found: Estimate, table: FloatArray, p_yes: float, p_no: float, family: int
) -> ContrastResult:
    settings = result.settings
    verdict, reason = _verdict(found, p_yes, p_no, settings, settings.confidence, "Holm")
    confidence = 1 - (1 - settings.confidence) / family
    pairs = len(result.matching.pairs)
    return replace(
        result,
        verdict=verdict,
        reason=reason + _as_of(result.step),
        interval=found.interval(settings.confidence),
        p_yes=p_yes,
        p_no=p_no,
        exceeds=p_no < 1 - settings.confidence and found.mean > settings.smallest,
        sign_flip_p=estimates.sign_flip_p(table.mean(axis=1)),
        needs=_needs(found, pairs, confidence, settings) if verdict is Verdict.UNDECIDED else None,
        detectable=estimates.detectable(found, confidence, settings.power),
    )


def _decide_sequentially(
    result: ContrastResult, found: Estimate, table: FloatArray, design: SequentialDesign, questions: int
) -> ContrastResult:
    """As `_decide`, at one test of a design. `questions`: those that share the error level."""
    settings = result.settings
    alpha = 1 - settings.confidence
    p_yes, p_no = (
        min(questions * sequential.adjusted_p(found.p_value(null), design), 1.0) for null in (0.0, settings.smallest)
    )
    confidence = 1 - sequential.nominal_level(design, alpha)
    verdict, reason = _verdict(found, p_yes, p_no, settings, confidence, "fixed split")
    chance = None
    if verdict is Verdict.UNDECIDED and found.replicates < design.max:
        nominal = sequential.nominal_level(design, alpha / questions)
        chance = sequential.chance_to_decide(found, design, nominal=nominal, smallest=settings.smallest)
    return replace(
        result,
        verdict=verdict,
        reason=f"{reason}, after {found.replicates} of at most {design.max} seeds" + _as_of(result.step),
        interval=found.interval(confidence),
        p_yes=p_yes,
        p_no=p_no,
        exceeds=p_no < alpha and found.mean > settings.smallest,
        sign_flip_p=estimates.sign_flip_p(table.mean(axis=1)),
        chance=chance,
    )


def _as_of(step: int | None) -> str:
    return f", as of step {step}: some runs were stopped early" if step else ""


def _verdict(
    found: Estimate, p_yes: float, p_no: float, settings: TestSettings, confidence: float, correction: str
) -> tuple[Verdict, str]:
    """The verdict and its reason. confidence: of the reported interval."""
    alpha, bounds, smallest = 1 - settings.confidence, found.interval(confidence), settings.smallest
    size = f"{found.mean:+.3f} ({bounds:+.3f})"
    if p_yes < alpha and found.mean > 0 and found.mean >= smallest:
        return Verdict.YES, f"better, estimated {size}"
    if p_no < alpha and found.mean < smallest:
        if bounds.high < 0:
            return Verdict.NO, f"worse by {size}"
        return Verdict.NO, f"no difference of {smallest:g} or more in its favour: {size}"
    if (bounds.low > 0 and found.mean >= smallest) or bounds.high < smallest:
        what = f"{size} is decisive alone, but not after the correction for several questions ({correction})"
        return Verdict.UNDECIDED, what
    return Verdict.UNDECIDED, f"{size} leaves open whether there is a difference of {smallest:g}"


def _needs(found: Estimate, pairs: int, confidence: float, settings: TestSettings) -> RequiredReplicates | None:
    """Seeds and runs still missing for a decision at `settings.power`, if the measured difference is the true one."""
    if found.mean >= settings.smallest:
        distance, slack = found.mean, found.mean - settings.smallest
    else:
        distance, slack = settings.smallest - found.mean, np.inf
    total = estimates.replicates_needed(
        found, distance=distance, slack=slack, confidence=confidence, power=settings.power
    )
    return None if total is None else _missing(total, found.replicates, pairs)


def _missing(total: int, present: int, pairs: int) -> RequiredReplicates:
    more = max(total - present, 1)
    return RequiredReplicates(replicates=more, runs_per_arm=more * round(max(pairs, 1) / max(present, 1)))


def _why_untested(matching: Matching, present: int, dim: str) -> str:
    if not matching.pairs:
        return "no two finished runs differ in this dim alone"
    if present == 0:
        return "the runs have no prompt in common"
    if present == 1:
        return "all finished pairs have the same training seed; further seeds separate the effect from seed variance"
    return _why_without_variance(matching, dim)


def _why_without_variance(matching: Matching, dim: str) -> str:
    """The differences of all seeds are equal to the last bit."""
    runs: dict[str, list[RunRow]] = {}
    for pair in matching.pairs:
        for row in (pair.first, pair.second):
            dims = [f"{name}={canonical_json(row.params[name])}" for name in sorted(row.dims) if name != REPLICATE]
            runs.setdefault(" ".join(dims), []).append(row)
    equal = all(row.by_prompt == group[0].by_prompt for group in runs.values() for row in group)
    if not equal:
        return "the difference is equal to the last bit in all training seeds, so its variance is unknown"
    differ = dim != "base_model" and any(pair.first.by_prompt != pair.second.by_prompt for pair in matching.pairs)
    if differ or any(row.change for group in runs.values() for row in group):
        return "all training seeds gave equal results to the last bit: the seed does not reach the training"
    return "all training seeds gave equal results to the last bit, and without a baseline the cause is unknown"


def _mean_difference(values: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Mean of second minus first over the pairs where both are known."""
    known = [second - first for first, second in values if first is not None and second is not None]
    return float(np.mean(known)) if known else None
