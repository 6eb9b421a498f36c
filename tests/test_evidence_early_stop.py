"""The early-stop test, and comparisons of runs that were stopped early."""

from dataclasses import replace

import numpy as np
import pytest
from test_evidence_contrast import RANK, run

from benchmarks import early_stop
from orchestrator.config.schema import EarlyStop
from orchestrator.evidence.stats import contrast, early_stop_rule
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.stats.pairs import RunRow
from orchestrator.model import State


def cells(*values: float) -> dict[tuple[int, int], float]:
    return {(prompt, 1): value for prompt, value in enumerate(values)}


@pytest.mark.parametrize(
    ("total", "after", "steps"),
    [(2160, 0.34, [735, 1470]), (120, 0.5, [61]), (100, 0.25, [26, 52, 78]), (4, 0.9, [])],
)
def test_preview_steps_are_evenly_spaced_and_before_the_end(total: int, after: float, steps: list[int]) -> None:
    assert list(early_stop_rule.preview_steps(total, after)) == steps


def test_alpha_is_divided_by_the_number_of_comparisons() -> None:
    bound = early_stop_rule.per_comparison_alpha(0.01, checks=2, others=5)
    assert bound == pytest.approx(0.001)
    assert 2.0 ** -early_stop_rule.min_pairs(bound) < bound <= 2.0 ** -(early_stop_rule.min_pairs(bound) - 1)


def test_the_p_value_is_that_of_wilcoxons_test() -> None:
    """All of n differences below the margin: the smallest p there is, 2^-n; one on the other side, by the tables."""
    own, other = cells(0.1, 0.12, 0.14, 0.16, 0.18), cells(0.6, 0.61, 0.62, 0.63, 0.64)
    found = early_stop_rule.compare(own, other, 0.1)
    assert found
    assert found.p == pytest.approx(1 / 32)
    assert found.difference == pytest.approx(-0.48)
    assert found.images == 5
    turned = early_stop_rule.compare(own | {(4, 1): 0.6}, other, 0.1)
    assert turned
    assert turned.p == pytest.approx(2 / 32)


def test_the_test_includes_the_margin() -> None:
    own, other = cells(*[0.30 + 0.01 * n for n in range(8)]), cells(*[0.5 + 0.012 * n for n in range(8)])
    small, large = early_stop_rule.compare(own, other, 0.1), early_stop_rule.compare(own, other, 0.22)
    assert small
    assert small.p == pytest.approx(2**-8)
    assert large
    assert large.p == 1.0


def test_one_missing_face_does_not_stop_a_training_but_all_missing_do() -> None:
    other = cells(*[0.5 + 0.01 * n for n in range(8)])
    one = early_stop_rule.compare(cells(-1.0, *[0.5 + 0.011 * n for n in range(1, 8)]), other, 0.15)
    all_of_them = early_stop_rule.compare(cells(*[-1.0] * 8), other, 0.15)
    assert one
    assert one.p > 0.5
    assert all_of_them
    assert all_of_them.p == pytest.approx(2**-8)


def test_images_of_only_one_training_are_ignored() -> None:
    assert early_stop_rule.compare(cells(0.1), {(9, 9): 0.9}, 0.1) is None


@pytest.mark.parametrize("kind", ["all arms alike", "arms that differ a little", "four of six far worse"])
def test_the_best_run_of_simulated_sweeps_is_never_stopped(kind: str) -> None:
    best_run, best_arm, wrongly, stopped, _ = early_stop.tally(
        early_stop.KINDS[kind], EarlyStop(), 50, np.random.default_rng(7)
    )
    assert (best_run, best_arm) == (0, 0)
    assert wrongly < 0.01
    assert (stopped > 0.25) is ("far worse" in kind)


def test_intervals_of_stopped_sweeps_cover_the_truth_at_their_step() -> None:
    """Two equal arms, of which chance decides which runs are stopped: 1,000 sweeps gave 95.9 % and 2.1 %."""
    kind, asked, rng = early_stop.PAIRS["alike, near the limit"], EarlyStop(), np.random.default_rng(7)
    sweeps = [early_stop.sweep(kind, asked, rng) for _ in range(100)]
    found = early_stop.answered(asked, sweeps, leave_out=False)
    assert found.covered > 0.86
    assert found.yes < 0.1


# --- contrasts --------------------------------------------------------------------------------------------------------


def looked(row: RunRow, **looks: float) -> RunRow:
    """A run with what its previews were worth at steps, `s50=0.4`."""
    stood = {int(name[1:]): replace(row, state=State.FINISHED, by_prompt={0: value}) for name, value in looks.items()}
    return replace(row, previews=stood)


def stopped(rank: int, seed: int, **looks: float) -> RunRow:
    return looked(replace(run(rank, seed, 0.0), state=State.STOPPED, by_prompt={}), **looks)


def ended(rank: int, seed: int, value: float, **looks: float) -> RunRow:
    return looked(run(rank, seed, value), **looks)


def test_a_single_stopped_run_moves_all_pairs_to_its_last_step() -> None:
    rows = [ended(16, seed, 0.7, s50=0.5 + 0.01 * seed, s80=0.6) for seed in (1, 2, 3)]
    rows += [stopped(32, 1, s50=0.1), stopped(32, 2, s50=0.12, s80=0.1), ended(32, 3, 0.69, s50=0.2, s80=0.68)]
    found = contrast.evaluate_questions(rows, [RANK])[0]
    assert found.step == 50, "the last step that all of them reached"
    assert found.difference == pytest.approx((0.1 + 0.12 + 0.2 - 0.51 - 0.52 - 0.53) / 3)
    assert (found.verdict, found.replicates, found.matching.left_out) == (Verdict.NO, 3, ())
    assert "as of step 50" in found.reason


def test_leaving_out_a_stopped_run_favours_its_level() -> None:
    """In the one complete pair the second level is as good; in the two others it was far worse."""
    rows = [ended(16, seed, 0.7 + 0.01 * seed, s50=0.5) for seed in (1, 2, 3)]
    rows += [stopped(32, 1, s50=0.1), stopped(32, 2, s50=0.12), ended(32, 3, 0.73, s50=0.3)]
    found = contrast.evaluate_questions(rows, [RANK])[0]
    assert found.difference is not None
    assert found.difference < -0.2
    assert found.ended == contrast.FinishedPairs(pairs=1, difference=pytest.approx(0.0))
    assert found.main_effect is not None
    assert found.main_effect.mean < -0.2


def test_pairs_stopped_together_leave_the_others_at_their_ends() -> None:
    rows = [ended(rank, seed, 0.5 + 0.01 * seed * (rank == 32), s50=0.4) for rank in (16, 32) for seed in (1, 2, 3)]
    rows += [stopped(16, 4, s50=0.1), stopped(32, 4, s50=0.1)]
    found = contrast.evaluate_questions(rows, [RANK])[0]
    assert found.step is None
    assert found.difference == pytest.approx(0.02)
    assert {one.reason for one in found.matching.left_out} == {"stopped early"}


def test_if_all_pairs_were_stopped_they_are_compared_at_their_last_step() -> None:
    rows = [stopped(rank, seed, s50=0.1 * seed + 0.01 * (rank == 32)) for rank in (16, 32) for seed in (1, 2)]
    found = contrast.evaluate_questions(rows, [RANK])[0]
    assert (found.step, found.replicates) == (50, 2)


def test_a_run_without_previews_is_left_out_with_the_reason() -> None:
    rows = [ended(16, 1, 0.7, s50=0.5), stopped(32, 1, s50=0.1), ended(16, 2, 0.7), ended(32, 2, 0.7, s50=0.5)]
    found = contrast.evaluate_questions(rows, [RANK])[0]
    assert found.step == 50
    assert {one.run: one.reason for one in found.matching.left_out} == {
        "r16s2": "no scores",
        "r32s2": "no partner at the other level",
    }
