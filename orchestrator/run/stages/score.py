"""SCORE: pictures -> faces -> similarity, in a child of its own: a picture that kills the scorer costs one row."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator import datasets, images
from orchestrator import scoring as scorer
from orchestrator.config.schema import Settings
from orchestrator.errors import NotReady, OrchestrateError
from orchestrator.kohya.outputs import log
from orchestrator.model import Failure, Progress, Result
from orchestrator.run import attempt
from orchestrator.run.attempt import Command, Stage
from orchestrator.run.context import Context
from orchestrator.store import layout, records
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome

NAME = "score"
_OWN_DEATHS = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}


def perform(run: Run, ctx: Context) -> Result:
    """Carry out one attempt to score the run's pictures."""
    job = Stage(
        stage=NAME,
        prepare=lambda attempt: _prepare(run, attempt, ctx),
        progress=_progress,
        record=_judge,
    )
    return attempt.run_attempt(run, job, ctx)


def _prepare(run: Run, attempt: Attempt, ctx: Context) -> Command:
    scoring = ctx.settings.scoring
    skip, alone = _suspects(run)
    attempt.open({"skip": skip, "alone": alone})
    trained = (
        None
        if run.point.is_baseline
        else ctx.datasets[datasets.dataset_for_point(run.point.params, ctx.settings.datasets).name]
    )
    job = scorer.Job(
        settings=scoring,
        clip=_clip(ctx.settings),
        cache=ctx.settings.runs / scorer.FACE_CACHE,
        references=images.pictures(scoring.references).pictures,
        training=tuple((trained.plain or trained.folder) / name for name in trained.pictures) if trained else (),
        images=run.pictures(),
        root=run.path,
        out=_out(attempt),
        skip=tuple(skip),
        alone=tuple(alone),
        thumbnails=_thumbnails(run),
    )
    argv = scorer.write_job(attempt.path, job)
    return Command(argv=argv, env={"PYTHONUNBUFFERED": "1"}, cwd=attempt.path)


def _thumbnails(run: Run) -> Path | None:
    """None for further pictures beside a run: no report shows them."""
    return layout.thumbnails(run.path) if layout.Sweep(run.path.parent).exists() else None


def _clip(settings: Settings) -> scorer.ClipConfig | None:
    """No dataset's trigger counts: prompts are shared, and the runs of two datasets and the floor are compared."""
    if settings.scoring.clip is None:
        return None
    return scorer.ClipConfig(
        python=settings.trainer.python,
        model=settings.scoring.clip,
        device=settings.scoring.device,
        triggers=tuple(dataset.trigger for dataset in settings.datasets.values()),
    )


def _out(attempt: Attempt) -> Path:
    return attempt.path / "scored.json"


def _suspects(run: Run) -> tuple[list[str], list[str]]:
    """The pictures that earlier scorers died of, and those that one of several of them did."""
    held = [scorer.in_progress(_out(past)) for past in run.attempts(NAME) if _died(past)]
    skip = [names[0] for names in held if len(names) == 1]
    alone = [name for names in held if len(names) > 1 for name in names if name not in skip]
    return skip, alone


def _died(past: Attempt) -> bool:
    result = past.result()
    return result is not None and result.exit_code in _OWN_DEATHS


def _judge(attempt: Attempt, outcome: Outcome) -> Mapping[str, Any] | FailureReason:
    """The scores are written whole, or not at all, at the scorer's end."""
    if not _out(attempt).exists():
        return _failed(attempt, outcome)
    try:
        scored = scorer.read_scored(_out(attempt))
    except OrchestrateError as error:
        return FailureReason(Failure.NO_PRODUCT, str(error))
    if scored.too_many_errors:
        errors = [score.note for score in scored.scores if score.note]
        return FailureReason(
            Failure.UNKNOWN, f"{len(errors)} of {len(scored.scores)} pictures raised an error: {errors[0]}"
        )
    return records.read(_out(attempt))


def _failed(attempt: Attempt, outcome: Outcome) -> FailureReason:
    code = outcome.exit.code if outcome.exit else None
    if code in _OWN_DEATHS:
        names = ", ".join(Path(name).name for name in scorer.in_progress(_out(attempt))) or "no image"
        return FailureReason(Failure.CRASHED, f"the scorer died of signal {-code} while it processed {names}")
    if code == NotReady.exit_code:
        return FailureReason(
            Failure.BAD_CONFIG, outcome.log.strip().splitlines()[-1] if outcome.log.strip() else "not ready"
        )
    if code:
        return FailureReason(*(log.classify(outcome.log, code) or (Failure.UNKNOWN, f"ended with exit code {code}")))
    return FailureReason(Failure.NO_PRODUCT, "it ended well and left no scores")


def _progress(text: str) -> Progress | None:
    for line in reversed(text.splitlines()):
        done, slash, total = line.removeprefix("scored: ").partition("/")
        if slash and line.startswith("scored: ") and done.isdigit() and total.isdigit():
            return Progress(step=int(done), total=int(total))
    return None
