"""The retry policy: what follows a failed attempt."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.model import Failure, Result
from orchestrator.store.layout import Attempt


class Action(StrEnum):
    """What to do after a failed attempt."""

    SAME = "same"  # repeat it, at most `limits.crashes` times in a row
    FALLBACK = "fallback"  # repeat it with the next OOM fallback step
    ALONE = "alone"  # repeat it with no other run on the GPU, whose fault may have ended it: it is not counted
    RESTART = "restart"  # repeat a resumed training from its first step: its saved state may be the cause
    PAUSE = "pause"  # the run failed and the machine may be the cause: several in a row pause the sweep
    GIVE_UP = "give_up"  # the run failed


@dataclass(frozen=True, slots=True)
class Rule:
    """The actions after a failure: the first that is possible is taken.

    resume: whether a training may then continue from its last saved state.
    """

    actions: tuple[Action, ...]
    resume: bool = False


_CONFIG = Rule((Action.RESTART, Action.GIVE_UP))

RULES: Mapping[Failure, Rule] = {
    Failure.OOM: Rule((Action.ALONE, Action.FALLBACK, Action.GIVE_UP)),
    Failure.SPILL: Rule((Action.ALONE, Action.FALLBACK, Action.GIVE_UP)),
    Failure.HOST_OOM: Rule((Action.ALONE, Action.PAUSE), resume=True),
    Failure.CRASHED: Rule((Action.ALONE, Action.SAME, Action.PAUSE), resume=True),
    Failure.DISK_FULL: Rule((Action.SAME, Action.PAUSE), resume=True),
    Failure.STORAGE: Rule((Action.SAME, Action.PAUSE), resume=True),
    Failure.NETWORK: Rule((Action.SAME, Action.PAUSE), resume=True),
    Failure.GPU_LOST: Rule((Action.ALONE, Action.PAUSE), resume=True),
    Failure.STALLED: Rule((Action.ALONE, Action.PAUSE), resume=True),
    Failure.KILLED: Rule((Action.SAME,), resume=True),  # interrupted: it is not counted as a crash
    Failure.TIMEOUT: Rule((Action.GIVE_UP,), resume=True),
    Failure.LOG_FLOOD: Rule((Action.GIVE_UP,)),
    Failure.NAN: Rule((Action.GIVE_UP,)),
    Failure.STOPPED_EARLY: Rule((Action.GIVE_UP,)),
    Failure.BAD_CONFIG: _CONFIG,
    Failure.DATASET: _CONFIG,
    Failure.NO_PRODUCT: _CONFIG,
    Failure.UNKNOWN: Rule((Action.ALONE, *_CONFIG.actions)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """What the decision depends on.

    colocated: other runs could be on the GPU. resumed: it began from a saved state. fallback: the OOM fallback has
    another step. earlier: the failures of earlier attempts, oldest first. limit: crashes in a row (`limits.crashes`).
    """

    failure: Failure
    colocated: bool = False
    resumed: bool = False
    fallback: bool = False
    earlier: Sequence[Failure | None] = ()
    limit: int = 1


def decide(attempt: FailedAttempt) -> Action:
    """The action after a failed attempt. Interruptions (`killed`) neither count as crashes nor end a row of them."""
    possible = {
        Action.SAME: attempt.failure is Failure.KILLED or _crashes_in_a_row(attempt) < attempt.limit,
        Action.FALLBACK: attempt.fallback,
        Action.ALONE: attempt.colocated,
        Action.RESTART: attempt.resumed,
    }
    return next(action for action in RULES[attempt.failure].actions if possible.get(action, True))


def _crashes_in_a_row(attempt: FailedAttempt) -> int:
    """Including this attempt."""
    failures = reversed([failure for failure in attempt.earlier if failure is not Failure.KILLED])
    return 1 + len(list(itertools.takewhile(lambda one: one and Action.SAME in RULES[one].actions, failures)))


def needs_gpu_alone(attempt: Attempt) -> bool:
    """Whether runs on the same GPU may have caused the attempt's failure."""
    result = attempt.result()
    return bool(result and result.failure and attempt.colocated and Action.ALONE in RULES[result.failure].actions)


class FailureStreak:
    """Counts equal failures in a row per GPU and stage, of runs that are not tried again."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failures: dict[tuple[str, str], list[Failure]] = {}

    def pauses(self, gpu: str, stage: str, result: Result) -> bool:
        """Add the result of an attempt; whether nothing more may be started on this GPU."""
        if result.retry:
            return False
        streak = self._failures.setdefault((gpu, stage), [])
        if result.failure is None or result.failure not in streak:
            streak.clear()
        if result.failure is not None and Action.PAUSE in RULES[result.failure].actions:
            streak.append(result.failure)
        return len(streak) >= self._limit
