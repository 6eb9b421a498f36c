"""The retry policy: one table, and one function that applies it."""

import pytest

from orchestrator.model import Failure
from orchestrator.run import retry
from orchestrator.run.retry import Action, FailedAttempt

FINAL = (Action.PAUSE, Action.GIVE_UP)


def test_every_failure_has_a_rule_that_always_gives_an_action() -> None:
    assert retry.RULES.keys() == set(Failure)
    for failure in Failure:
        action = retry.decide(FailedAttempt(failure=failure, limit=1))
        assert action in FINAL or failure is Failure.KILLED, failure


@pytest.mark.parametrize(
    ("attempt", "action"),
    [
        (FailedAttempt(failure=Failure.OOM, fallback=True), Action.FALLBACK),
        (FailedAttempt(failure=Failure.OOM, fallback=True, colocated=True), Action.ALONE),
        (FailedAttempt(failure=Failure.OOM), Action.GIVE_UP),
        (FailedAttempt(failure=Failure.HOST_OOM, colocated=True), Action.ALONE),
        (FailedAttempt(failure=Failure.HOST_OOM, fallback=True), Action.PAUSE),
        (FailedAttempt(failure=Failure.GPU_LOST, resumed=True), Action.PAUSE),
        (FailedAttempt(failure=Failure.GPU_LOST, colocated=True), Action.ALONE),
        (FailedAttempt(failure=Failure.STALLED, colocated=True), Action.ALONE),
        (FailedAttempt(failure=Failure.UNKNOWN, colocated=True, resumed=True), Action.ALONE),
        (FailedAttempt(failure=Failure.NO_PRODUCT, resumed=True), Action.RESTART),
        (FailedAttempt(failure=Failure.NO_PRODUCT), Action.GIVE_UP),
        (FailedAttempt(failure=Failure.NAN, resumed=True), Action.GIVE_UP),
        (FailedAttempt(failure=Failure.TIMEOUT, resumed=True), Action.GIVE_UP),
    ],
)
def test_the_first_possible_action_is_taken(attempt: FailedAttempt, action: Action) -> None:
    assert retry.decide(attempt) is action


CRASHED, KILLED, FULL = Failure.CRASHED, Failure.KILLED, Failure.DISK_FULL


@pytest.mark.parametrize(
    ("earlier", "action"),
    [
        ([], Action.SAME),
        ([CRASHED], Action.SAME),
        ([CRASHED, FULL], Action.PAUSE),
        ([CRASHED, KILLED, KILLED, CRASHED], Action.PAUSE),
        ([CRASHED, CRASHED, Failure.OOM, CRASHED], Action.SAME),
        ([CRASHED, None, CRASHED], Action.SAME),
        ([KILLED, KILLED, KILLED], Action.SAME),
    ],
)
def test_three_crashes_in_a_row_are_too_many(earlier: list[Failure | None], action: Action) -> None:
    """Interruptions neither count nor end the row."""
    assert retry.decide(FailedAttempt(failure=CRASHED, earlier=earlier, limit=3)) is action


def test_an_interruption_is_always_repeated() -> None:
    assert retry.decide(FailedAttempt(failure=KILLED, earlier=[CRASHED] * 9, limit=3)) is Action.SAME
