"""Answers to contrasts: two levels of one dim, compared over pairs of runs that are equal otherwise."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.evidence.stats import contrast, estimates
from orchestrator.evidence.stats.contrast import ContrastResult, QuestionFamily, TestSettings, Verdict
from orchestrator.evidence.stats.pairs import REPLICATE, Matching, Pair, RunRow
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import LORA, RUNNABLE, Question, State, Value
from orchestrator.report.answers import costs, rows
from orchestrator.report.answers.answer import Answer
from orchestrator.report.answers.costs import SideEffect
from orchestrator.store import provenance
from orchestrator.text import code_span, pluralize
from orchestrator.values import same, toml_repr


def answer(sweeps: Sequence[SweepSummary], settings: TestSettings) -> list[tuple[Answer, ...]]:
    """The answers to the contrasts of each sweep, corrected together over all sweeps."""
    first = contrast.evaluate_together([_family(one, rows.rows(one.runs)) for one in sweeps], settings=settings)
    second = contrast.evaluate_together(
        [_family(one, rows.rows_by_second_pack(one.runs)) for one in sweeps], settings=settings
    )
    return [
        tuple(_answer(sweep, *results) for results in zip(by_first, by_second, strict=True))
        for sweep, by_first, by_second in zip(sweeps, first, second, strict=True)
    ]


def _family(sweep: SweepSummary, found: Sequence[RunRow]) -> QuestionFamily:
    compared = [one for one in sweep.questions if one.kind == "contrast" and one.dim != LORA]
    if sweep.comparison.allow_different_hardware:
        found = [replace(row, environment={}) for row in found]
    return QuestionFamily(
        rows=found, questions=compared, zips=rows.zips(found), design=sweep.design, extended=sweep.seeds_extended
    )


def open_questions(sweep: SweepSummary, settings: TestSettings) -> list[ContrastResult]:
    """The undecided questions of a sequential sweep that further seeds may decide."""
    (results,) = contrast.evaluate_together([_family(sweep, rows.rows(sweep.runs))], settings=settings)
    return [result for result in results if result.open]


def _answer(sweep: SweepSummary, result: ContrastResult, second: ContrastResult) -> Answer:
    question, matching = result.question, result.matching
    cost = rows.cost(_concerned(sweep, question))
    first, other = map(toml_repr, question.levels)
    effects = costs.side_effects(sweep, result)
    excessive = [one for one in effects if one.excessive and result.verdict is Verdict.YES]
    return Answer(
        id=question.id,
        ask=question.ask,
        sweep=sweep.sweep.name,
        verdict=(Verdict.AT_A_COST if excessive else result.verdict).value,
        sentence=_sentence(result) + (f" It comes at a cost of {_costs(excessive)}." if excessive else ""),
        side_effects=effects,
        contrast=f"is {question.dim} {other} better than {first}?",
        needs=_needs(sweep, result),
        difference=result.difference,
        interval=result.interval,
        smallest=result.settings.smallest,
        images=rows.image_pairs(matching.pairs, {run.run.point.name: run for run in sweep.runs}, question.dim),
        p=_tested(result)[0],
        replicates=result.replicates,
        pairs=len(matching.pairs),
        left_out=len(matching.left_out),
        gpu_hours=cost.gpu_hours,
        peak_gib=cost.peak_gib,
        exceeds=None if result.exceeds is None else "yes" if result.exceeds else "not shown",
        warnings="; ".join(result.warnings),
        facts=tuple(fact for fact in _facts(sweep, result, second, cost) if fact[1]),
        details=tuple(fact for fact in _details(result) if fact[1]),
    )


def _costs(effects: Sequence[SideEffect]) -> str:
    return " and ".join(f"{one.cost:.3f} {one.name} (margin {one.margin:.2g})" for one in effects)


def _concerned(sweep: SweepSummary, question: Question) -> list[RunSummary]:
    """The runs with a LoRA at one of the two levels."""
    return [run for level in question.levels for run in _at(sweep, question, level)]


def _at(sweep: SweepSummary, question: Question, level: Value) -> list[RunSummary]:
    trained = [run.run.point for run in sweep.runs if not run.run.point.is_baseline]
    here = {point.name for point in trained if question.dim in point.params and same(point.params[question.dim], level)}
    return [run for run in sweep.runs if run.run.point.name in here]


# --- the sentence -----------------------------------------------------------------------------------------------------


def _sentence(result: ContrastResult) -> str:
    """The verdict and the size of the difference, readable without statistics."""
    first, second = map(_label, result.question.levels)
    subject = f"{result.question.dim} {second}"
    if result.difference is None or result.interval is None:
        return f"Not decided whether {subject} is better than {first}: {result.reason}."
    size = f"{result.difference:+.3f} {result.question.compared} on the same prompts"
    smallest = f"{result.settings.smallest:g}"
    if result.verdict is Verdict.YES:
        exceeds = "is larger than" if result.exceeds else "is not shown to be larger than"
        estimated = f"estimated {size} ({result.interval:+.3f}), {_agreement(result)}"
        return f"{subject} is better than {first}: {estimated}. The difference {exceeds} {smallest}."
    if result.verdict is Verdict.UNDECIDED:
        return f"Not decided whether {subject} is better than {first}: {size}, {_agreement(result)}."
    if result.interval.high < 0:
        return f"{subject} is worse than {first}: {size}, {_agreement(result)}."
    return f"{subject} is not better than {first} by {smallest} or more: {size}."


def _label(value: Value) -> str:
    return code_span(value) if isinstance(value, str) else toml_repr(value)


def _agreement(result: ContrastResult) -> str:
    """In how many training seeds the difference has the same sign as the mean."""
    changes = _by_seed(result.matching, _difference)
    agreeing = sum((np.mean(of_seed) > 0) == ((result.difference or 0) > 0) for of_seed in changes.values())
    return f"in all {len(changes)} seeds" if agreeing == len(changes) else f"in {agreeing} of {len(changes)} seeds"


def _difference(pair: Pair) -> float | None:
    first, second = pair.first.by_prompt, pair.second.by_prompt
    changes = [second[prompt] - first[prompt] for prompt in first.keys() & second.keys()]
    return sum(changes) / len(changes) if changes else None


def _by_seed(matching: Matching, change: Callable[[Pair], float | None]) -> dict[Value | None, list[float]]:
    """Training seed -> the known changes of its pairs."""
    found: dict[Value | None, list[float]] = defaultdict(list)
    for pair in matching.pairs:
        if (value := change(pair)) is not None:
            found[pair.replicate].append(value)
    return found


# --- facts and details ------------------------------------------------------------------------------------------------


def _facts(
    sweep: SweepSummary, result: ContrastResult, second: ContrastResult, cost: rows.Cost
) -> Iterator[tuple[str, str]]:
    question, matching = result.question, result.matching
    runs, concerned = {run.run.point.name: run for run in sweep.runs}, _concerned(sweep, question)
    also = f"; changed with it: {', '.join(matching.varied_with)}" if matching.varied_with else ""
    yield "Warning", "; ".join(result.warnings)
    yield "Compared", f"{question.dim}: {' against '.join(map(_code, question.levels))}{also}"
    yield "Runs", _used(result, len(concerned))
    yield "Different conditions", _conditions(sweep, result)
    yield "Seeds", _rounds(result)
    yield "Difference", _effect(result)
    yield f"Larger than {result.settings.smallest:g}", _exceeds(result)
    yield "Parts of it", _parts(result)
    yield "Stopped early", _stopped(sweep, result)
    yield "Nearest training image", _nearest(matching, runs)
    for effect in costs.side_effects(sweep, result):
        yield effect.name.capitalize(), str(effect)
    yield "Second face pack", _second(result, second)
    yield "Gain over the baseline", _gains(sweep, question)
    yield "Images that pass", _passing(sweep, question)
    if question.dim == "dataset" and (curve := rows.fit_curve(rows.curve_points(sweep.runs))):
        yield "More training images", rows.describe_curve(curve)
    yield (
        "Excluded runs",
        "; ".join(f"{n} {why}" for why, n in Counter(one.reason for one in matching.left_out).items()),
    )
    yield "Needed to decide", _needs(sweep, result)
    yield "Out of memory", rows.memory(concerned)
    yield "Cost", str(cost)
    yield "Images to compare", "; ".join(map(str, rows.image_pairs(matching.pairs, runs, question.dim)))


def _used(result: ContrastResult, concerned: int) -> str:
    """How many of the runs of the current grid at the two levels the answer uses."""
    return f"{2 * len(result.matching.pairs)} of {pluralize(concerned, 'run')}" if concerned else "none"


def _conditions(sweep: SweepSummary, result: ContrastResult) -> str:
    """What differs within the compared pairs, where the settings allow it."""
    made = {run.run.point.name: run.environment for run in sweep.runs}
    found = Counter(
        difference
        for pair in result.matching.pairs
        for difference in provenance.differences(made[pair.first.run], made[pair.second.run])
    )
    return "; ".join(f"{name} in {pluralize(count, 'pair')}" for name, count in found.items())


def _rounds(result: ContrastResult) -> str:
    """The round of a sequential sweep, and whether another one may decide the question."""
    if result.design is None:
        return ""
    found = f"{result.replicates} of at most {result.design.max}"
    if result.chance is None:
        return found
    futile = "" if result.open else ": no further seeds are trained for it"
    return f"{found}; chance to be decided by then {result.chance:.0%}{futile}"


def _code(value: Value) -> str:
    return code_span(toml_repr(value))


def _effect(result: ContrastResult) -> str:
    if result.difference is None:
        return ""
    kind = "repeated interval" if result.design else "interval"
    bounds = f"95 % {kind} {result.interval:+.3f}" if result.interval else "no interval"
    pairs, seeds = pluralize(len(result.matching.pairs), "pair"), pluralize(result.replicates, "training seed")
    size = f"{result.difference:+.3f} {result.question.compared} ({bounds})"
    return f"{size}, {pairs}, {seeds}, {pluralize(result.prompts, 'prompt')}"


def _exceeds(result: ContrastResult) -> str:
    if result.exceeds is None:
        return ""
    return "yes, with the confidence of the verdict" if result.exceeds else "not shown"


def _parts(result: ContrastResult) -> str:
    if result.no_face_difference is None or result.difference is None:
        return ""
    with_face = "no image of one level contains a face"
    if result.similarity_difference is not None:
        with_face = f"{result.similarity_difference:+.3f} similarity of the images with a face"
    without = f"{100 * result.no_face_difference:+.1f} percentage points of images without a face"
    return f"{with_face}, {without}" + (" (each counts as -1)" if result.no_face_difference else "")


def _stopped(sweep: SweepSummary, result: ContrastResult) -> str:
    """How many runs of each level were stopped early, and what is compared instead."""
    counts = {
        level: sum(run.status.state is State.STOPPED for run in _at(sweep, result.question, level))
        for level in result.question.levels
    }
    if not any(counts.values()):
        return ""
    each = ", ".join(f"{count} at {_code(level)}" for level, count in counts.items() if count)
    if result.step is None:
        return f"{each}; their pairs are excluded"
    finished = result.ended
    others = f"; the {finished.pairs} finished pairs differ by {finished.difference:+.3f}" if finished else ""
    return f"{each}; all pairs are compared by their previews at step {result.step}{others}"


def _nearest(matching: Matching, runs: Mapping[str, RunSummary]) -> str:
    """How much more similar the second level is to its nearest training image.

    Only for equal numbers of training images: the nearest of many is nearer than the nearest of few.
    """

    def change(pair: Pair) -> float | None:
        one, other = (runs[row.run] for row in (pair.first, pair.second))
        first, second = one.metrics, other.metrics
        if one.trained_faces != other.trained_faces or not first or not second:
            return None
        if first.nearest_training is None or second.nearest_training is None:
            return None
        return second.nearest_training - first.nearest_training

    by_seed = _by_seed(matching, change)
    if not by_seed:
        return ""
    means = np.array([[np.mean(changes)] for changes in by_seed.values()])
    found = estimates.estimate(means)
    return f"{means.mean():+.3f} similarity to it" + (f" ({found.interval():+.3f})" if found else "")


def _second(result: ContrastResult, second: ContrastResult) -> str:
    if second.difference is None:
        return ""
    bounds = f" ({second.interval:+.3f})" if second.interval else ""
    agrees = "agrees" if second.verdict is result.verdict else "does not agree"
    return f"{agrees}: {second.verdict}, {second.difference:+.3f}{bounds}"


def _gains(sweep: SweepSummary, question: Question) -> str:
    """Mean gain at each level with its interval over training seeds, if the question compares gains."""
    if question.compared != "gain":
        return ""
    found = []
    for level in question.levels:
        names = {run.run.point.name for run in _at(sweep, question, level)}
        gains = [row for row in rows.rows(sweep.runs) if row.run in names and row.gain_by_prompt]
        estimate = estimates.over_seeds((row.params.get(REPLICATE), row.gain_by_prompt) for row in gains)
        means = [sum(row.gain_by_prompt.values()) / len(row.gain_by_prompt) for row in gains]
        bounds = f" ({estimate.interval():+.3f})" if estimate else ""
        found += [f"{sum(means) / len(means):+.3f}{bounds} at {_code(level)}"] if means else []
    return ", ".join(found)


def _passing(sweep: SweepSummary, question: Question) -> str:
    """Mean pass rate at each level; empty without a calibration."""
    if not (record := sweep.calibration):
        return ""
    rates = {
        level: [
            run.metrics.pass_rate
            for run in _at(sweep, question, level)
            if run.metrics and run.metrics.pass_rate is not None
        ]
        for level in question.levels
    }
    found = ", ".join(f"{sum(known) / len(known):.0%} at {_code(level)}" for level, known in rates.items() if known)
    caveats = f" ({'; '.join(record.caveats)})" if record.caveats else ""
    return f"{found}; threshold {record.calibration.threshold:.3f}{caveats}" if found else ""


def _needs(sweep: SweepSummary, result: ContrastResult) -> str:
    """The runs that the sweep has yet to finish or to repeat; if there are none, about how many further seeds."""
    if result.needs is None:
        return ""
    states = [run.status.state for run in _concerned(sweep, result.question)]
    if unfinished := sum(state in RUNNABLE for state in states):
        return f"{pluralize(unfinished, 'run')} of this sweep, not finished yet"
    if failed := states.count(State.FAILED):
        return f"{pluralize(failed, 'failed run')}, repeated with `--retry failed` when the cause is removed"
    if not result.matching.pairs and result.matching.left_out:
        return "runs that can be compared: all were excluded, and further seeds do not change that"
    seeds = pluralize(result.needs.replicates, "more training seed")
    return f"about {seeds} ({pluralize(result.needs.runs_per_arm, 'run')} at each level)"


def _details(result: ContrastResult) -> Iterator[tuple[str, str]]:
    p, against = _tested(result)
    correction = "Holm-corrected over all questions"
    if result.design:
        seeds = f"{result.design.first} to {result.design.max} seeds"
        correction = f"corrected for tests after {seeds} and in equal parts for the questions of the sweep"
    yield "Test", "" if p is None else f"{_p(p)} against {against}, {correction}"
    yield "Sign-flip test", "" if result.sign_flip_p is None else f"{_p(result.sign_flip_p)} against no difference"
    if result.main_effect:
        yield "Main effect over all runs", f"{result.main_effect.mean:+.3f} ({result.main_effect.interval():+.3f})"
    yield (
        "Equal in all pairs",
        ", ".join(f"{key} {_code(value)}" for key, value in result.matching.common_params.items()),
    )


def _p(value: float) -> str:
    return f"p = {value:.3f}" if value >= 0.0005 else "p < 0.001"


def _tested(result: ContrastResult) -> tuple[float | None, str]:
    """The p-value that the verdict is based on, and its null hypothesis."""
    if result.verdict is Verdict.NO:
        return result.p_no, f"a difference of {result.settings.smallest:g} or more"
    return result.p_yes, "no difference"
