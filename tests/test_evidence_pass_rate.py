"""The verdict of a threshold question from the passing images of each run."""

import numpy as np
import pytest

from orchestrator.evidence.stats import pass_rate
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.stats.pass_rate import PassCount


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([], "undecided"),
        ([(4, 4)], "undecided"),
        ([(7, 7)], "undecided"),
        ([(8, 8)], "yes"),
        ([(26, 40)], "undecided"),
        ([(30, 40)], "yes"),
        ([(8, 40)], "no"),
        ([(8, 40), (20, 40)], "undecided"),
        ([(8, 40), (0, 4)], "undecided"),
        ([(8, 40), (35, 40)], "yes"),
    ],
)
def test_a_threshold_question_is_judged_by_exact_tests(runs: list[tuple[int, int]], verdict: str) -> None:
    found = pass_rate.judge([PassCount(passed=passed, images=images) for passed, images in runs])
    assert found.verdict == verdict


def test_the_best_of_many_runs_at_one_half_is_rarely_a_yes() -> None:
    rng, yes = np.random.default_rng(0), 0
    for passed in rng.binomial(40, 0.5, size=(2000, 18)):
        yes += pass_rate.judge([PassCount(passed=int(n), images=40) for n in passed]).verdict is Verdict.YES
    assert yes / 2000 <= 0.04
    assert pass_rate.judge([PassCount(passed=38, images=40)] + [PassCount(passed=20, images=40)] * 17).reaching == (0,)


def test_choosing_on_the_reported_images_is_corrected() -> None:
    assert pass_rate.judge([PassCount(passed=29, images=40)]).verdict is Verdict.YES
    assert pass_rate.judge([PassCount(passed=29, images=40, candidates=12)]).verdict is Verdict.UNDECIDED
