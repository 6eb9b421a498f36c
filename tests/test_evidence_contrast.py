"""Pairs, estimates and verdicts on small sweeps with known results."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from orchestrator.evidence.stats import contrast, estimates, main_effect, pairs
from orchestrator.evidence.stats.contrast import TestSettings, Verdict
from orchestrator.evidence.stats.pairs import RunRow
from orchestrator.model import Question, State, Value

RANK = Question(id="Q3", ask="Is network_dim 16 too low?", dim="network_dim", levels=(16, 32))


def run(
    rank: int,
    seed: int,
    value: float | Mapping[int, float],
    *,
    state: State = State.FINISHED,
    degraded: bool = False,
    **more: Value,
) -> RunRow:
    """A run of a grid over rank, seed and `more`; alpha follows the rank."""
    return RunRow(
        run=f"r{rank}s{seed}" + "".join(f"-{v}" for v in more.values()),
        params={"network_dim": rank, "network_alpha": rank // 2, "seed": seed, "resolution": "768", **more},
        dims=("network_dim", "seed", *more),
        state=state,
        degraded=degraded,
        by_prompt=value if isinstance(value, Mapping) else {0: value},
    )


def seeds(differences: list[float], base: float = 0.5) -> list[RunRow]:
    """One pair for each difference."""
    return [
        run(rank, seed, base + 0.1 * seed + (rank == 32) * difference)
        for seed, difference in enumerate(differences)
        for rank in (16, 32)
    ]


def answer(rows: list[RunRow], terms: TestSettings | None = None) -> contrast.ContrastResult:
    return contrast.evaluate_questions(rows, [RANK], settings=terms)[0]


def test_pairs_share_all_dims_but_not_params_that_follow_from_the_contrast() -> None:
    rows = [run(rank, seed, 0.5, optimizer_type=o) for rank in (16, 32) for seed in (1, 2) for o in ("a", "b")]
    found = pairs.match(rows, "network_dim", (16, 32))
    assert sorted((p.first.run, p.second.run) for p in found.pairs) == [
        ("r16s1-a", "r32s1-a"),
        ("r16s1-b", "r32s1-b"),
        ("r16s2-a", "r32s2-a"),
        ("r16s2-b", "r32s2-b"),
    ]
    assert found.varied_with == ("network_alpha",)
    assert found.common_params == {"resolution": "768"}


def test_unusable_runs_are_left_out_with_the_reason() -> None:
    rows = [
        run(16, 1, 0.5),
        run(32, 1, 0.6, degraded=True),
        run(16, 2, 0.5),
        run(32, 2, 0.6, state=State.FAILED),
        run(16, 3, 0.5),
        run(32, 3, {}),
        run(64, 3, 0.5),
    ]
    found = pairs.match(rows, "network_dim", (16, 32))
    assert found.pairs == ()
    assert {(x.run, x.reason.split(":")[0]) for x in found.left_out} == {
        ("r32s1", "degraded"),
        ("r32s2", "failed"),
        ("r32s3", "no scores"),
        *((f"r16s{s}", "no partner at the other level") for s in (1, 2, 3)),
    }


def test_two_runs_with_the_same_settings_are_not_paired_at_random() -> None:
    found = pairs.match([run(16, 1, 0.5), run(16, 1, 0.9), run(32, 1, 0.6)], "network_dim", (16, 32))
    assert not found.pairs
    assert {x.reason for x in found.left_out} == {"several runs with the same settings"}


def test_zipped_dims_may_differ_within_pairs() -> None:
    rows = [run(rank, seed, 0.5 + seed / 10 + rank / 100, batch=rank) for rank in (16, 32) for seed in (1, 2, 3)]
    assert "no two finished runs" in contrast.evaluate_questions(rows, [RANK])[0].reason
    zipped = contrast.evaluate_questions(rows, [RANK], zips=[("network_dim", "batch")])[0]
    assert zipped.replicates == 3
    assert zipped.matching.varied_with == ("batch", "network_alpha")


def test_the_interval_over_seeds_is_the_t_interval() -> None:
    differences = [0.08, 0.10, 0.15, 0.11]
    found = answer(seeds(differences))
    expected = stats.ttest_1samp(differences, 0)
    low, high = expected.confidence_interval(0.95)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert found.p_yes == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx(0.11)
    assert found.verdict is Verdict.YES


def test_a_worse_and_an_equal_level_are_both_no() -> None:
    assert answer(seeds([-0.08, -0.10, -0.12])).reason.startswith("worse by -0.100")
    equal = answer(seeds([0.001, -0.001, 0.002, 0.0]))
    assert equal.verdict is Verdict.NO
    assert "no difference of 0.02" in equal.reason


def test_a_certain_but_irrelevant_difference_is_not_yes() -> None:
    small = [0.010, 0.011, 0.012, 0.0105]
    assert answer(seeds(small)).verdict is Verdict.NO
    assert answer(seeds(small), TestSettings(smallest=0.005)).verdict is Verdict.YES


def test_a_noisy_difference_is_undecided_with_the_required_seeds() -> None:
    found = answer(seeds([0.30, -0.10, 0.05]))
    assert found.verdict is Verdict.UNDECIDED
    assert found.needs is not None
    assert found.needs.replicates == found.needs.runs_per_arm > 10
    assert found.detectable is not None
    assert found.detectable > 0.2


def test_runs_per_arm_count_all_cells_of_a_seed() -> None:
    rows = [
        run(rank, seed, 0.5 + (rank == 32) * d, lr=lr)
        for seed, d in enumerate([0.30, -0.10, 0.05])
        for rank in (16, 32)
        for lr in (1, 2, 3, 4)
    ]
    needs = answer(rows).needs
    assert needs is not None
    assert needs.runs_per_arm == 4 * needs.replicates


@pytest.mark.parametrize("cells", [1, 8])
def test_one_training_seed_is_undecided_however_many_pairs(cells: int) -> None:
    rows = [run(rank, 1, 0.3 + 0.4 * (rank == 32) + lr / 1000, lr=lr) for rank in (16, 32) for lr in range(cells)]
    found = answer(rows)
    assert found.verdict is Verdict.UNDECIDED
    assert found.difference == pytest.approx(0.4)
    assert found.interval is None
    assert found.needs is not None
    assert (found.needs.replicates, found.needs.runs_per_arm) == (2, 2 * cells)


def test_equal_results_of_all_seeds_are_reported() -> None:
    rows = [run(rank, seed, 0.5 + 0.25 * (rank == 32)) for rank in (16, 32) for seed in (1, 2, 3)]
    found = answer(rows)
    assert found.verdict is Verdict.UNDECIDED
    assert "does not reach the training" in found.reason


def test_pairs_with_the_same_seed_are_one_observation() -> None:
    """Four cells that repeat a seed's effect add no certainty; as twelve pairs they would give a yes."""
    rows = [
        run(rank, seed, 0.5 + (rank == 32) * d + lr / 1000, lr=lr)
        for seed, d in enumerate([0.01, 0.12, 0.08])
        for rank in (16, 32)
        for lr in (1, 2, 3, 4)
    ]
    assert stats.ttest_1samp(np.repeat([0.01, 0.12, 0.08], 4), 0).pvalue < 0.01
    found = answer(rows)
    assert (len(found.matching.pairs), found.replicates) == (12, 3)
    assert found.verdict is Verdict.UNDECIDED


def test_only_prompts_common_to_all_pairs_are_compared() -> None:
    rows = [run(16, s, {0: 0.5, 1: 0.5}) for s in (1, 2)] + [run(32, s, {1: 0.6 + s / 100, 2: 0.0}) for s in (1, 2)]
    found = answer(rows)
    assert found.prompts == 1
    assert found.difference == pytest.approx(0.115)
    apart = answer([run(16, 1, {0: 0.5}), run(32, 1, {1: 0.5})])
    assert (apart.difference, apart.verdict) == (None, Verdict.UNDECIDED)
    assert "no prompt in common" in apart.reason
    assert apart.needs is None


def test_prompt_variance_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    steady = 0.1 + rng.normal(0, 0.01, (6, 1)) + rng.normal(0, 0.005, (6, 8))
    moody = steady + np.tile([0.15, -0.15], 4)
    narrow, wide = estimates.estimate(steady), estimates.estimate(moody)
    assert narrow is not None
    assert wide is not None
    assert wide.mean == pytest.approx(narrow.mean)
    assert wide.interval().high - wide.interval().low > 3 * (narrow.interval().high - narrow.interval().low)
    assert wide.p_value(wide.interval(0.9).low) == pytest.approx(0.1)


def test_more_seeds_do_not_compensate_for_few_prompts() -> None:
    table = np.array([[0.3, -0.2, 0.0], [0.31, -0.18, 0.01], [0.28, -0.21, 0.02]])
    found = estimates.estimate(table)
    assert found is not None
    assert estimates.replicates_needed(found, distance=0.05) is None


def test_replicates_needed_gives_the_power_on_average() -> None:
    rng, truth, sd, pilots = np.random.default_rng(1), 0.1, 0.1, 400
    kept = []
    for _ in range(pilots):
        pilot = estimates.estimate(rng.normal(0, sd, (4, 1)))
        assert pilot is not None
        total = estimates.replicates_needed(pilot, distance=truth)
        assert total is not None
        kept.append(stats.ttest_1samp(rng.normal(truth, sd, max(total, 2)), 0).pvalue < 0.05)
    assert 0.72 < np.mean(kept) < 0.92


def test_holm_corrects_several_questions() -> None:
    assert contrast.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert contrast.holm([]) == []
    rows = seeds([0.05, 0.10, 0.15, 0.20])
    alone = contrast.evaluate_questions(rows, [RANK])[0]
    among = contrast.evaluate_questions(rows, [RANK, RANK, RANK])[0]
    assert alone.verdict is Verdict.YES
    assert among.verdict is Verdict.UNDECIDED
    assert "Holm" in among.reason
    assert among.interval == alone.interval
    assert among.needs is not None


def test_a_question_without_runs_does_not_count_in_the_correction() -> None:
    nothing = Question(id="Q1", ask="?", dim="base_model", levels=("a", "b"))
    first, second = contrast.evaluate_questions(seeds([0.05, 0.10, 0.15, 0.20]), [nothing, RANK])
    assert (first.verdict, second.verdict) == (Verdict.UNDECIDED, Verdict.YES)
    assert first.difference is None


def test_the_sign_flip_test_is_exact() -> None:
    assert estimates.sign_flip_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])) == pytest.approx(2 / 2**6)
    assert estimates.sign_flip_p(np.array([0.1])) == 1.0


def test_similarity_and_missing_faces_are_reported_separately() -> None:
    rows = [
        RunRow(
            run=f"{rank}-{seed}",
            params={"network_dim": rank, "seed": seed},
            dims=("network_dim", "seed"),
            state=State.FINISHED,
            by_prompt={0: 0.5 + seed / 100},
            similarity=0.6 + 0.1 * (rank == 32),
            no_face_rate=None if seed == 3 else 0.25 * (rank == 32),
        )
        for rank in (16, 32)
        for seed in (1, 2, 3)
    ]
    found = answer(rows)
    assert found.similarity_difference == pytest.approx(0.1)
    assert found.no_face_difference == pytest.approx(0.25)


def test_the_main_effect_equals_the_mean_of_complete_pairs() -> None:
    rng = np.random.default_rng(0)
    rows = [
        run(rank, seed, {p: rng.normal() for p in range(3)}, lr=lr, base_model=b)
        for rank in (16, 32)
        for seed in (1, 2, 3)
        for lr in (1, 2)
        for b in ("x", "y", "z")
    ]
    found = answer(rows)
    assert found.main_effect is not None
    assert found.estimate is not None
    assert found.main_effect.mean == pytest.approx(found.estimate.mean)
    assert found.main_effect.interval().low == pytest.approx(found.estimate.interval().low)


def test_the_main_effect_uses_runs_without_a_partner() -> None:
    """An additive truth; in each seed only one pair of runs differs in the rank alone: least squares finds it."""
    cells = [(16, 1), (32, 1), (64, 1), (16, 2), (64, 2), (32, 3), (64, 3)]
    rows = [
        run(rank, seed, {16: 0.1, 32: 0.3, 64: 0.4}[rank] + 0.05 * lr + seed / 10 + 0.01 * seed * (rank == 32), lr=lr)
        for rank, lr in cells
        for seed in (1, 2, 3)
    ]
    found = main_effect.main_effect(rows, "network_dim", (16, 32))
    assert found is not None
    assert found.mean == pytest.approx(0.2 + 0.02)


def test_the_main_effect_is_none_if_the_levels_are_confounded() -> None:
    confounded = [run(rank, seed, 0.5 + rank / 100 + seed / 10, lr=rank) for rank in (16, 32) for seed in (1, 2, 3)]
    assert main_effect.main_effect(confounded, "network_dim", (16, 32)) is None
    assert main_effect.main_effect([run(16, 1, 0.5), run(16, 2, 0.6)], "network_dim", (16, 32)) is None


# --- nothing to compare -----------------------------------------------------------------------------------------------


def test_loras_that_changed_nothing_get_no_verdict() -> None:
    """All gains are at most 0.00014: the interval is narrow, but there is no training to judge."""
    rows = [replace(row, change=0.00014) for row in seeds([0.0001, -0.0001, 0.00014, 0.0])]
    assert answer(seeds([0.0001, -0.0001, 0.00014, 0.0])).verdict is Verdict.NO
    found = answer(rows)
    assert (found.verdict, found.interval, found.p_no) == (Verdict.UNDECIDED, None, None)
    assert "the LoRAs changed nothing" in found.reason
    assert "at most 0.00014" in found.reason
    assert found.difference == pytest.approx(0.000035)


def test_one_arm_that_changed_nothing_is_compared() -> None:
    rows = [replace(row, change=0.0 if row.params["network_dim"] == 16 else 0.1) for row in seeds([0.08, 0.10, 0.12])]
    assert answer(rows).verdict is Verdict.YES


def test_images_without_any_face_get_no_verdict() -> None:
    rows = [replace(run(rank, s, -1.0), no_face_rate=1.0, change=0.0) for rank in (16, 32) for s in (1, 2, 3)]
    found = answer(rows)
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason == "no image contains a face"
    assert (found.difference, found.needs) == (None, None)
    assert "seed" not in found.reason


def test_equal_results_say_that_the_seed_is_ignored_only_if_training_had_an_effect() -> None:
    equal = [run(rank, seed, 0.5) for rank in (16, 32) for seed in (1, 2, 3)]
    assert "without a baseline the cause is unknown" in answer(equal).reason
    assert "does not reach the training" in answer([replace(row, change=0.2) for row in equal]).reason
    assert "changed nothing" in answer([replace(row, change=0.0) for row in equal]).reason
    shifted = [run(rank, seed, 0.5 + seed / 8 + (rank == 32) / 4) for rank in (16, 32) for seed in (1, 2, 3)]
    assert "its variance is unknown" in answer(shifted).reason


# --- what is tested ---------------------------------------------------------------------------------------------------


def test_yes_and_exceeding_the_smallest_relevant_difference_are_separate() -> None:
    clear, slight = answer(seeds([0.08, 0.10, 0.12])), answer(seeds([0.020, 0.026, 0.032, 0.025]))
    assert (clear.verdict, clear.exceeds) == (Verdict.YES, True)
    assert (slight.verdict, slight.exceeds) == (Verdict.YES, False)
    assert slight.reason == "better, estimated +0.026 (+0.018 to +0.034)"


def test_a_question_of_gains_subtracts_the_baseline_of_each_run() -> None:
    """The second base model starts 0.3 higher; its LoRAs add 0.1 less."""
    base = Question(id="Q1", ask="?", dim="base_model", levels=("a", "b"))
    rows = [
        RunRow(
            run=f"{level}{seed}",
            params={"base_model": level, "seed": seed},
            dims=("base_model", "seed"),
            state=State.FINISHED,
            by_prompt=dict.fromkeys((0, 1), 0.5 + 0.2 * (level == "b") + noise),
            gain_by_prompt=dict.fromkeys((0, 1), 0.4 - 0.1 * (level == "b") + noise),
            change=0.4,
        )
        for level, sign in (("a", 0), ("b", 1))
        for seed in (1, 2, 3)
        for noise in [sign * 0.002 * (seed - 2)]
    ]
    gain, similarity = contrast.evaluate_questions(rows, [base, replace(base, measure="similarity")])
    assert (gain.verdict, gain.difference) == (Verdict.NO, pytest.approx(-0.1))
    assert gain.interval is not None
    expected = stats.t.interval(0.95, 2, loc=-0.1, scale=0.002 / 3**0.5)
    assert (gain.interval.low, gain.interval.high) == pytest.approx(expected)
    assert (similarity.verdict, similarity.difference) == (Verdict.YES, pytest.approx(0.2))
    one_prompt = [replace(row, gain_by_prompt={0: row.gain_by_prompt[0]}) for row in rows]
    assert "noise of the two baselines" in contrast.evaluate_questions(one_prompt, [base])[0].reason
    without = contrast.evaluate_questions([replace(row, gain_by_prompt={}) for row in rows], [base])[0]
    assert {one.reason for one in without.matching.left_out} == {"no baseline to subtract"}


# --- violated assumptions ---------------------------------------------------------------------------------------------


def spread(values: Mapping[int, float], prompts: int = 8) -> dict[int, float]:
    return dict.fromkeys(range(prompts), values[0])


def test_few_prompts_are_reported_beside_the_verdict() -> None:
    assert answer(seeds([0.08, 0.10, 0.12])).warnings == (
        "only 1 prompt: for other prompts the interval is too narrow; use at least 8",
    )
    assert answer([replace(row, by_prompt=spread(row.by_prompt)) for row in seeds([0.08, 0.10, 0.12])]).warnings == ()


def test_one_collapsed_run_is_named() -> None:
    rng = np.random.default_rng(0)
    rows = [
        run(rank, seed, spread({0: 0.6 + rng.normal(0, 0.02) - 0.5 * (rank == 32 and seed == 3)}))
        for rank in (16, 32)
        for seed in range(5)
    ]
    (warning,) = answer(rows).warnings
    assert warning.startswith("r32s3 lies 0.")
    assert "may have collapsed" in warning


def test_equal_noise_rarely_looks_collapsed_or_skewed() -> None:
    rng, flagged = np.random.default_rng(1), 0
    for _ in range(200):
        rows = [run(rank, seed, spread({0: rng.normal(0.6, 0.07)})) for rank in (16, 32) for seed in range(4)]
        flagged += bool(answer(rows).warnings)
    assert flagged <= 10


def test_skewed_differences_are_reported_from_eight_seeds_on() -> None:
    skewed = [0.01, 0.0, 0.01, 0.02, 0.0, 0.01, 0.02, 0.01, 0.01, 0.09]
    rows = [replace(row, by_prompt=spread(row.by_prompt)) for row in seeds(skewed)]
    assert "skewed" in answer(rows).warnings[-1]


def test_skewed_differences_are_corrected_for_all_tests_of_the_report() -> None:
    """The test of skewness has p = 0.009 here: below 0.05 alone, not among 16 tests."""
    family = contrast.QuestionFamily(rows=seeds([0.0, 0.01, 0.0, 0.02, 0.01, 0.02, 0.01, 0.06]), questions=[RANK])
    for families, warned in ((1, True), (16, False)):
        results = contrast.evaluate_together([family] * families, settings=TestSettings())
        assert ["skewed" in " ".join(one.warnings) for (one,) in results] == [warned] * families


def test_a_dependence_on_another_dim_is_corrected_for_all_tests_of_the_report() -> None:
    """Welch's test has p = 0.008 here: below 0.05 alone, not among 16 tests."""
    rows = [
        run(rank, seed, 0.5 + (rank == 32) * (effect + 0.01 * seed), resolution=size)
        for size, effect in (("768", 0.05), ("1024", 0.09))
        for rank in (16, 32)
        for seed in (-1, 0, 1)
    ]
    family = contrast.QuestionFamily(rows=rows, questions=[RANK])
    for families, warned in ((1, True), (16, False)):
        results = contrast.evaluate_together([family] * families, settings=TestSettings())
        found = ["the difference depends on resolution" in " ".join(one.warnings) for (one,) in results]
        assert found == [warned] * families
