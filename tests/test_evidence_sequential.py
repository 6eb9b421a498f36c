"""Group-sequential tests: error levels over all tests, the interval, futility, and the split over questions."""

import numpy as np
import pytest
from scipy import stats
from test_evidence_contrast import RANK, run, seeds, spread

from benchmarks import evidence_simulation as simulation
from orchestrator.evidence.stats import contrast, estimates, sequential
from orchestrator.evidence.stats.contrast import ContrastResult, QuestionFamily, TestSettings, Verdict
from orchestrator.evidence.stats.pairs import RunRow
from orchestrator.model import SequentialDesign

DESIGN = SequentialDesign(first=3, max=12)


def answer(rows: list[RunRow], *, questions: int = 1, design: SequentialDesign | None = DESIGN) -> ContrastResult:
    family = QuestionFamily(rows=rows, questions=[RANK] * questions, design=design)
    return contrast.evaluate_together([family], settings=TestSettings())[0][0]


def test_a_single_test_has_the_level_of_the_t_test() -> None:
    alone = SequentialDesign(first=5, max=5)
    assert sequential.nominal_level(alone, 0.05) == pytest.approx(0.05, rel=0.02)
    assert sequential.adjusted_p(0.01, alone) == pytest.approx(0.01, rel=0.05)
    assert sequential.adjusted_p(1e-9, alone) == pytest.approx(1e-9)


def test_the_error_over_all_tests_is_bounded_and_would_not_be_without_correction() -> None:
    """New random numbers: the share of sweeps without a difference whose smallest p-value is below the level."""
    values = np.random.default_rng(99).normal(3.0, 0.2, (20_000, 12)) - 3.0
    p = np.stack([stats.ttest_1samp(values[:, :n], 0, axis=1).pvalue for n in range(3, 13)]).min(axis=0)
    level = sequential.nominal_level(DESIGN, 0.05)
    assert np.mean(p < level) == pytest.approx(0.05, abs=0.006)
    assert np.mean(p < 0.05) > 0.15
    assert np.mean([sequential.adjusted_p(float(one), DESIGN) < 0.05 for one in p]) == pytest.approx(0.05, abs=0.006)


def test_the_adjusted_p_value_is_below_alpha_exactly_below_the_nominal_level() -> None:
    level = sequential.nominal_level(DESIGN, 0.05)
    assert sequential.adjusted_p(level * 0.98, DESIGN) < 0.05 < sequential.adjusted_p(level * 1.02, DESIGN)


def test_the_interval_is_repeated_and_the_p_value_is_split_over_the_questions() -> None:
    rows = seeds([0.08, 0.10, 0.12, 0.09])
    found, fixed = answer(rows), answer(rows, design=None)
    assert found.estimate is not None
    assert found.interval == found.estimate.interval(1 - sequential.nominal_level(DESIGN, 0.05))
    assert fixed.interval is not None
    assert found.interval.high - found.interval.low > fixed.interval.high - fixed.interval.low
    assert found.p_yes == pytest.approx(sequential.adjusted_p(found.estimate.p_value(0.0), DESIGN))
    assert answer(rows, questions=4).p_yes == pytest.approx(4 * found.p_yes)
    assert "after 4 of at most 12 seeds" in found.reason


def test_a_clear_difference_is_decided_and_a_noisy_one_stays_open() -> None:
    assert answer(seeds([0.200, 0.202, 0.201])).verdict is Verdict.YES
    noisy = answer(seeds([0.08, -0.02, 0.05]))
    assert noisy.verdict is Verdict.UNDECIDED
    assert noisy.open


def test_a_sweep_that_cannot_be_decided_is_futile() -> None:
    hopeless = answer(seeds([0.4, -0.35, 0.3, -0.3, 0.35, -0.4, 0.2, -0.1, 0.1, -0.1, 0.02]))
    assert hopeless.chance is not None
    assert hopeless.chance < sequential.MIN_CHANCE
    assert not hopeless.open
    assert not answer(seeds([0.08, -0.02] * 6)).open, "after the last look"


def test_the_chance_to_decide_is_the_share_of_sweeps_that_are_decided() -> None:
    """With a known spread of many seeds, the predictive chance is near the simulated share."""
    rng, design = np.random.default_rng(3), SequentialDesign(first=10, max=20)
    level = sequential.nominal_level(design, 0.05)
    chances, decided = [], []
    for _ in range(150):
        truth = rng.normal(0.03, 0.03)
        values = rng.normal(truth, 0.07, (20, 1))
        found = estimates.estimate(values[:10])
        assert found is not None
        chances.append(sequential.chance_to_decide(found, design, nominal=level, smallest=0.02, draws=200))
        later = [estimates.estimate(values[:n]) for n in range(11, 21)]
        decided.append(any(e and e.p_value(0.0 if e.mean >= 0.02 else 0.02) < level for e in later))
    assert np.mean(chances) == pytest.approx(np.mean(decided), abs=0.12)


def test_loras_without_an_effect_leave_nothing_open() -> None:
    rows = [
        run(
            rank,
            seed,
            spread({0: -1.0}),
        )
        for rank in (16, 32)
        for seed in (1, 2, 3)
    ]
    assert not answer(rows).open


def test_seeds_added_without_a_declared_maximum_are_reported() -> None:
    family = QuestionFamily(rows=seeds([0.08, 0.10, 0.12]), questions=[RANK], extended=True)
    ((found,),) = contrast.evaluate_together([family], settings=TestSettings())
    assert "the error level of the verdict no longer holds" in found.warnings[0]


def test_sequential_sweeps_need_fewer_seeds_for_a_large_difference() -> None:
    none = simulation.looks(0.0, 300, np.random.default_rng(1))
    large = simulation.looks(0.2, 100, np.random.default_rng(1))
    assert none.yes < 0.05 < none.uncorrected_yes
    assert large.yes > 0.9
    assert large.seeds < 6
