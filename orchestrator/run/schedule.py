"""Which run goes on now, on which card, and beside whom: decisions alone; whoever drives carries them out."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.config.schema import Settings
from orchestrator.model import Params, Result, State
from orchestrator.plan import history, train_config
from orchestrator.run import retry
from orchestrator.run.stages import generate, score, train
from orchestrator.store import layout, process, state
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.state import Status

RUNNABLE = frozenset({State.PENDING, State.RUNNING, State.CRASHED, State.KILLED})

CORES_PER_TRAINING = 2
"""A training keeps one core busy with the card and another with its pictures."""

LOADING_MIB = 4096
"""What a program takes of the host's memory beside the base model that it loads: libraries, CUDA, pictures."""

SPARE_MIB = 1024
"""Of each card, never promised: fragments, and what a poll once a second does not see."""

_HEADROOM = 1.05
"""A peak that was measured may be passed by so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One attempt at the next stage of a run.

    key: of what it takes of a card; alone: it ran out of memory beside others; living: the card of an attempt that
    an earlier orchestrator began and that lives still, None for any other; host: the machine where that lives.
    """

    run: Run
    stage: str
    key: str
    alone: bool = False
    living: str | None = None
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where a turn is taken. `colocated`: others may be, or come, on the same card."""

    card: str
    colocated: bool = False


# --- the line ---------------------------------------------------------------------------------------------------------


def build_queue(runs: Iterable[Run], settings: Settings, *, again: bool = False) -> list[Task]:
    """What is to be done next for every run that is not at its end, in an order that makes answers early.

    First what lives already, then runs that have begun, then floors, then the first replicate of every arm, the second
    of every arm, and so on. again: those that failed for good, too.
    """
    turns = []
    for run, rank in _by_replicate(runs):
        status = state.status(run)
        turn = next_task(run, status, settings, again=again)
        if turn:
            begun = status.attempt > 0 or turn.stage != run.stages[0]
            turns.append(((turn.living is None, not begun, not run.point.is_baseline, rank), turn))
    return [turn for _, turn in sorted(turns, key=lambda entry: entry[0])]


def next_task(run: Run, status: Status, settings: Settings, *, again: bool = False) -> Task | None:
    """What a run needs next; None when it is finished, or failed and not to be tried again."""
    if status.state not in RUNNABLE and not (again and status.state is State.FAILED):
        return None
    past = run.attempts(status.stage)
    lives = past[-1] if status.state is State.RUNNING else None
    return Task(
        run=run,
        stage=status.stage,
        key=_key(run, status.stage, settings) if settings.vram.colocate else "",
        alone=any(map(retry.needs_gpu_alone, past)),
        living=str(lives.request().get("card") or "") if lives else None,
        host=process.host(lives.path) if lives else "",
    )


def _by_replicate(runs: Iterable[Run]) -> list[tuple[Run, int]]:
    """Each run with its number among the replicates of its arm."""
    seen: dict[str, int] = {}
    found = []
    for run in runs:
        arm = repr(sorted((key, value) for key, value in run.point.params.items() if key != "seed"))
        seen[arm] = seen.get(arm, -1) + 1
        found.append((run, seen[arm]))
    return found


# --- what a turn takes ------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class PeakVramTable:
    """The highest use of a card by key, MiB, as measured of attempts that delivered."""

    by_key: dict[str, int] = field(default_factory=dict)

    @classmethod
    def gather(cls, runs: Sequence[Run]) -> "PeakVramTable":
        """From these runs, the other sweeps beside theirs, and what was probed."""
        found = cls()
        known = history.gather(layout.Sweep(runs[0].path.parent)).by_profile if runs else {}
        found.by_key |= {key: pace.peak_mib for key, pace in known.items() if pace.peak_mib and not pace.fallbacks}
        for run, stage in itertools.product(runs, (train.NAME, generate.NAME)):
            for attempt in run.attempts(stage):
                if result := attempt.result():
                    found.learn(_key_of(run, stage, attempt), result)
        return found

    def learn(self, key: str, result: Result) -> None:
        if result.failure is None and result.peak_vram_mib:
            self.by_key[key] = max(result.peak_vram_mib, self.by_key.get(key, 0))

    def need_mib(self, turn: Task) -> int | None:
        """What to promise it of a card; None when that is not known, or it must be alone."""
        peak = self.by_key.get(turn.key)
        return None if peak is None or turn.alone else int(peak * _HEADROOM)


def _key(run: Run, stage: str, settings: Settings) -> str:
    return _named(run, stage, train.choose_fallback(run, settings).overrides if stage == train.NAME else {})


def _key_of(run: Run, stage: str, attempt: Attempt) -> str:
    return _named(run, stage, train_config.fallback_of(attempt).overrides if stage == train.NAME else {})


def _named(run: Run, stage: str, overrides: Params) -> str:
    """All pictures of a sweep are made alike, but for the LoRA."""
    if stage != train.NAME:
        return f"{stage} {'floor' if run.point.is_baseline else 'lora'}"
    return history.key_of({**run.point.params, **overrides})


@dataclass(slots=True)
class MemoryBudget:
    """A memory that is shared with strangers: what they hold is what is used beyond what was promised to ours."""

    other_processes_mib: int = 0

    def free_mib(self, total_mib: int, used_mib: int, promised_mib: Collection[int], own_mib: int | None = None) -> int:
        """What can still be promised. Without being told what ours hold, strangers are seen at their most so far."""
        beyond = max(0, used_mib - (sum(promised_mib) if own_mib is None else own_mib))
        told = own_mib is not None or not promised_mib
        self.other_processes_mib = beyond if told else max(self.other_processes_mib, beyond)
        return total_mib - self.other_processes_mib - sum(promised_mib) - SPARE_MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad:
    """A card as it stands: how many turns are taken on it, whether one of them wants it alone, and what is left."""

    card: str
    turns: int = 0
    alone: bool = False
    free_mib: int = 0


def choose(turn: Task, need_mib: int | None, loads: Sequence[GpuLoad]) -> Slot | None:
    """Where a turn that wants a card is taken now; None when it has to wait."""
    if turn.living is not None:
        return Slot(card=turn.living, colocated=turn.run.attempts(turn.stage)[-1].colocated)
    for load in sorted(loads, key=lambda load: load.turns):
        if not load.turns:
            return Slot(card=load.card, colocated=need_mib is not None and need_mib <= load.free_mib)
        if need_mib is not None and not load.alone and need_mib <= load.free_mib:
            return Slot(card=load.card, colocated=True)
    return None


def needs_gpu(turn: Task, settings: Settings) -> bool:
    return turn.stage != score.NAME or settings.scoring.device != "cpu"


def host_mib(turn: Task, settings: Settings) -> int:
    """What a turn takes of the host's memory while it loads the base model."""
    base = settings.base_models[str(turn.run.point.params["base_model"])].path
    return LOADING_MIB + (base.stat().st_size // 1024**2 if base.exists() else 0)
