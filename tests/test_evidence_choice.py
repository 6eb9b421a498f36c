"""Checkpoint choice, metrics of a run, Pareto set, confirmation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from orchestrator.evidence import choice, confirmation, run_metrics
from orchestrator.evidence.stats import estimates, pareto
from orchestrator.model import FaceStatus, Image, Score

CELLS = [(prompt, seed) for prompt in range(8) for seed in (1, 2)]


def score(
    prompt: int,
    seed: int,
    similarity: float | None,
    *,
    checkpoint: str = "a",
    strength: float = 1.0,
    status: FaceStatus | None = None,
    nearest_training: float | None = None,
    face_px: float | None = None,
) -> Score:
    found = FaceStatus.NO_FACE if similarity is None else FaceStatus.OK
    image = Image(
        file=f"{checkpoint}-{prompt}-{seed}.png", checkpoint=checkpoint, strength=strength, prompt=prompt, seed=seed
    )
    return Score(
        image=image,
        status=status or found,
        similarity=similarity,
        nearest_training=nearest_training,
        face_px=face_px,
    )


@pytest.mark.parametrize(("prompts", "seeds"), [(8, 2), (5, 3), (2, 4), (1, 4), (3, 1)])
def test_the_halves_are_disjoint_and_complete(prompts: int, seeds: int) -> None:
    cells = [(p, s) for p in range(prompts) for s in range(seeds)]
    halves = choice.split(cells)
    assert halves.disjoint
    assert halves.selection | halves.reporting == set(cells)
    assert 0 < len(halves.selection) <= len(halves.reporting)
    assert halves == choice.split(list(reversed(cells)))


def test_four_prompts_or_more_are_split_by_prompt() -> None:
    halves = choice.split(CELLS)
    assert not {p for p, _ in halves.selection} & {p for p, _ in halves.reporting}


def test_a_single_cell_selects_and_reports() -> None:
    halves = choice.split([(0, 1)])
    assert not halves.disjoint
    found = choice.choose([score(0, 1, 0.5, checkpoint=c) for c in "ab"], halves)
    assert found is not None
    assert not found.disjoint


def test_the_best_on_the_selection_half_is_reported_on_the_other() -> None:
    halves = choice.split(CELLS)
    scores = [score(*cell, 0.6 if cell in halves.selection else 0.1, checkpoint="b") for cell in CELLS]
    scores += [score(*cell, 0.5, checkpoint="a") for cell in CELLS]
    found = choice.choose(scores, halves)
    assert found is not None
    assert (found.checkpoint, found.selection_n, found.disjoint) == ("b", 8, True)
    assert {s.similarity for s in found.reported} == {0.1}
    assert [c.selection_mean for c in found.candidates] == pytest.approx([0.6, 0.5])


def test_strengths_are_candidates_and_a_single_candidate_reports_all_images() -> None:
    scores = [score(*cell, 0.4 + s / 10, strength=s) for s in (0.5, 1.0) for cell in CELLS]
    several = choice.choose(scores, choice.split(CELLS))
    single = choice.choose(scores[:16], choice.split(CELLS))
    assert several is not None
    assert single is not None
    assert (several.strength, len(several.reported)) == (1.0, 8)
    assert (single.selection_n, len(single.reported), single.disjoint) == (0, 16, True)
    assert choice.choose([], choice.split(CELLS)) is None


def test_missing_images_count_as_failures_in_the_selection() -> None:
    halves = choice.split(CELLS)
    steady = [score(*cell, 0.5, checkpoint="steady") for cell in CELLS]
    first = min(halves.selection)
    partial = [score(*cell, 0.6, checkpoint="partial") for cell in CELLS if cell != first]
    broken = [score(*c, None if c == first else 0.6, checkpoint="broken") for c in CELLS]
    unread = [
        score(*c, 0.6, checkpoint="unread", status=FaceStatus.UNREADABLE if c == first else FaceStatus.OK)
        for c in CELLS
    ]
    found = choice.choose([*partial, *broken, *unread, *steady], halves)
    assert found is not None
    assert found.checkpoint == "steady"


def test_selection_among_equals_does_not_bias_the_reported_mean() -> None:
    """Twenty checkpoints of equal worth: the winner's selection mean is too good, its reported mean is not."""
    rng = np.random.default_rng(0)
    halves, chosen, reported = choice.split(CELLS), [], []
    for _ in range(100):
        scores = [score(*cell, rng.normal(0.5, 0.1), checkpoint=f"{c}") for c in range(20) for cell in CELLS]
        found = choice.choose(scores, halves)
        assert found is not None
        chosen.append(found.candidates[0].selection_mean)
        reported.append(np.mean([s.similarity for s in found.reported if s.similarity is not None]))
    assert np.mean(chosen) > 0.55
    assert abs(np.mean(reported) - 0.5) < 5 * stats.sem(reported)


def test_metrics_of_a_run() -> None:
    scores = [
        replace(score(0, 1, 0.5, nearest_training=0.9, face_px=100), seed_distance=0.3, rotation=90),
        score(0, 2, 0.7, nearest_training=0.7, face_px=200),
        replace(
            score(1, 1, 0.6, status=FaceStatus.MULTI_FACE, nearest_training=0.8, face_px=300), largest_similarity=0.1
        ),
        score(1, 2, None),
        score(2, 1, None, status=FaceStatus.UNREADABLE),
        score(2, 2, None, status=FaceStatus.ERROR),
    ]
    found = run_metrics.summary(scores, run_metrics.Thresholds(threshold=0.55, band_high=0.65))
    assert (found.images, found.unreadable, found.no_face, found.multi_face) == (4, 2, 1, 1)
    assert (found.similarity_median, found.similarity_mean, found.similarity_p25) == pytest.approx((0.6, 0.6, 0.55))
    assert (found.no_face_rate, found.pass_rate) == (0.25, 0.5)
    assert found.pass_interval == estimates.wilson(2, 4)
    assert found.diversity == pytest.approx(0.3)
    assert (found.other_face, found.rotated) == (pytest.approx(1 / 3), 1)
    assert (found.nearest_training, found.copying, found.face_px) == (0.8, None, 200)
    assert found.above_band_rate == pytest.approx(1 / 3)


def test_unknown_metrics_are_none() -> None:
    nothing = run_metrics.summary([])
    assert (nothing.images, nothing.similarity_median, nothing.no_face_rate, nothing.pass_rate) == (0, None, None, None)
    faceless = run_metrics.summary([score(0, 1, None)], run_metrics.Thresholds(threshold=0.5, band_high=0.6))
    assert (faceless.no_face_rate, faceless.pass_rate, faceless.similarity_mean) == (1.0, 0.0, None)
    assert (faceless.copying, faceless.above_band_rate, faceless.diversity, faceless.face_px) == (None,) * 4
    uncalibrated = run_metrics.summary([score(0, 1, 0.5, nearest_training=0.99)])
    assert (uncalibrated.pass_rate, uncalibrated.pass_interval, uncalibrated.copying) == (None, None, None)


def test_a_missing_face_counts_as_failure_in_prompt_means() -> None:
    scores = [score(0, 1, 0.5), score(0, 2, None), score(1, 1, None, status=FaceStatus.UNREADABLE), score(2, 1, 0.4)]
    values = run_metrics.by_prompt(scores)
    assert values == pytest.approx({0: -0.25, 2: 0.4})
    assert run_metrics.gain(values, {0: 0.05, 1: 0.1}) == pytest.approx({0: -0.30})


def test_intervals_of_shares() -> None:
    found = estimates.wilson(8, 10)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert estimates.wilson(0, 0) is None
    assert estimates.clopper_pearson_upper(0, 60) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert estimates.clopper_pearson_upper(3, 60) == pytest.approx(stats.beta.ppf(0.95, 4, 57))
    assert estimates.clopper_pearson_upper(60, 60) == 1.0


def criteria(*values: float | None) -> dict[str, float | None]:
    return dict(zip(pareto.CRITERIA, values, strict=False))


def test_the_pareto_set_contains_the_runs_that_are_not_dominated() -> None:
    runs = {
        "good": criteria(0.7, 0.1, 1.0),
        "safe": criteria(0.6, 0.0, 0.0),
        "worse": criteria(0.6, 0.1, 1.0),
        "twin": criteria(0.7, 0.1, 1.0),
        "unscored": criteria(None, None, None),
    }
    assert pareto.pareto_set(runs) == ("good", "safe", "twin")


def test_a_criterion_unknown_for_one_run_is_not_compared() -> None:
    runs = {"a": criteria(0.7, 0.1, None), "b": criteria(0.6, 0.1, 0.2)}
    assert pareto.pareto_set(runs) == ("a",)
    assert pareto.pareto_set({**runs, "a": criteria(0.7, 0.1, 0.3)}) == ("a", "b")


def test_the_pareto_set_compares_adherence_diversity_and_drift() -> None:
    runs = {
        "similar": criteria(0.8, 0.0, 0.0, 0.25, 0.30, 0.20),
        "faithful": criteria(0.7, 0.0, 0.0, 0.31, 0.30, 0.20),
        "varied": criteria(0.7, 0.0, 0.0, 0.25, 0.40, 0.20),
        "near": criteria(0.7, 0.0, 0.0, 0.25, 0.30, 0.10),
        "dominated": criteria(0.7, 0.0, 0.0, 0.25, 0.29, 0.21),
    }
    assert pareto.pareto_set(runs) == ("similar", "faithful", "varied", "near")


def test_irrelevant_losses_do_not_keep_a_run_in_the_pareto_set() -> None:
    runs = {"good": criteria(0.80, 0.0, 0.0, 0.300), "worse": criteria(0.60, 0.0, 0.0, 0.305)}
    assert pareto.pareto_set(runs) == ("good", "worse")
    assert pareto.pareto_set(runs, {"similarity": 0.02, "adherence": 0.01}) == ("good",)
    assert pareto.pareto_set(runs, {"similarity": 0.02, "adherence": 0.004}) == ("good", "worse")
    equal = {"good": criteria(0.61, 0.0, 0.0, 0.300), "worse": criteria(0.60, 0.0, 0.0, 0.300)}
    assert pareto.pareto_set(equal, {"similarity": 0.02}) == ("good", "worse")


def test_the_pareto_set_is_never_empty() -> None:
    """Each run is better than the next one by more than a margin, within the margins of the other criteria."""
    rows = [(0.654, 0.627, 0.600), (0.600, 0.654, 0.627), (0.627, 0.600, 0.654)]
    runs = {str(number): criteria(a, 0.0, 0.0, b, c) for number, (a, b, c) in enumerate(rows)}
    assert pareto.pareto_set(runs, dict.fromkeys(pareto.CRITERIA, 0.03)) == ("0", "1", "2")


def test_confirmation_on_other_prompts_uses_welchs_interval() -> None:
    reported, fresh = {0: 0.6, 1: 0.7, 2: 0.65}, {10: 0.5, 11: 0.52, 12: 0.48, 13: 0.51}
    found = confirmation.confirmation(reported, fresh)
    assert found is not None
    assert found.change == pytest.approx(0.5025 - 0.65)
    expected = stats.ttest_ind(list(fresh.values()), list(reported.values()), equal_var=False).confidence_interval()
    assert found.change_interval is not None
    assert (found.change_interval.low, found.change_interval.high) == pytest.approx((expected.low, expected.high))
    single = confirmation.confirmation({0: 0.6}, {1: 0.5})
    assert single is not None
    assert (single.change_interval, single.confirmed_interval) == (None, None)
    assert confirmation.confirmation({}, fresh) is None
