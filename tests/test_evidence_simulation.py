"""Intervals, verdicts and required seeds against a known truth, as in `python -m benchmarks.evidence_simulation`.

The bounds allow for chance: without fixed seeds, correct code would fail once in a million runs.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks import evidence_simulation as simulation
from benchmarks.evidence_simulation import WORLDS, World

CHANCE = 1e-6
SWEEPS = 300


@pytest.mark.parametrize(
    "name",
    [
        "3 seeds",
        "3 seeds x 4 cells, seed effect repeated",
        "4 seeds, 5 % without a face",
        "4 seeds, effect differs between prompts",
        "4 seeds, gain over own baselines",
    ],
)
def test_intervals_cover_and_false_yes_is_rare(name: str) -> None:
    found = simulation.tally(WORLDS[name], SWEEPS, np.random.default_rng(7))
    assert found.covered * SWEEPS >= stats.binom.ppf(CHANCE, SWEEPS, 0.93)
    assert found.yes * SWEEPS <= stats.binom.isf(CHANCE, SWEEPS, 0.05)


def test_the_bounds_detect_intervals_that_ignore_the_seed() -> None:
    rng = np.random.default_rng(7)
    assert simulation.others_cover(World(), SWEEPS, rng)["bootstrap"] < stats.binom.ppf(CHANCE, SWEEPS, 0.93) / SWEEPS
    shared = WORLDS["3 seeds x 4 cells, seed effect repeated"]
    assert simulation.others_cover(shared, SWEEPS, rng)["pairs"] < stats.binom.ppf(CHANCE, SWEEPS, 0.93) / SWEEPS


def test_a_true_effect_is_found() -> None:
    found = simulation.tally(replace(WORLDS["6 seeds"], effect=0.2), 100, np.random.default_rng(7))
    assert found.yes * 100 >= stats.binom.ppf(CHANCE, 100, 0.99)


def test_undecided_sweeps_are_decided_with_the_required_seeds() -> None:
    kept, _, n = simulation.matching_verdicts(World(effect=0.1), 80, np.random.default_rng(7))
    assert n > 30
    assert kept * n >= stats.binom.ppf(CHANCE, n, 0.8)


@pytest.mark.parametrize(("kind", "photos"), [("alike", 8), ("skewed", 20)])
def test_the_interval_of_the_threshold_covers(kind: str, photos: int) -> None:
    covered = simulation.threshold_coverage(kind, photos, 100, np.random.default_rng(7))
    assert covered * 100 >= stats.binom.ppf(CHANCE, 100, 0.93)


def test_the_interval_of_the_learning_curve_covers() -> None:
    covered = simulation.curve_coverage(1.0, (9, 18, 36), 3, SWEEPS, np.random.default_rng(7))
    assert covered * SWEEPS >= stats.binom.ppf(CHANCE, SWEEPS, 0.93)
