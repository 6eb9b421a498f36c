"""The score stage: scores the run's images in a separate process, so that an image that crashes it costs one row."""

import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator import datasets, images, scoring
from orchestrator.config.schema import Settings
from orchestrator.errors import NotReady, OrchestrateError
from orchestrator.kohya.outputs import log
from orchestrator.model import Failure, Progress, Result
from orchestrator.run import attempt
from orchestrator.run.context import Context
from orchestrator.run.stages import Command, Stage
from orchestrator.scoring import embedding
from orchestrator.store import layout, records
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome

NAME, RANK = "score", "rank"
_CRASH_CODES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}


def perform(run: Run, ctx: Context, name: str = NAME) -> Result:
    """Run one attempt to score the images of the stage before `name`."""
    prepare = partial(_prepare, run, name=name, ctx=ctx)
    stage = Stage(name=name, prepare=prepare, progress=_progress, record=_record)
    return attempt.run_attempt(run, stage, ctx)


def _prepare(run: Run, attempt: Attempt, *, name: str, ctx: Context) -> Command:
    skip, alone = _suspects(run, name)
    attempt.open({"skip": skip, "alone": alone, **ctx.attempt_record(run, NAME)})
    job = scoring.Job(
        settings=ctx.settings.scoring,
        images=run.generated_images(layout.GENERATING[layout.SCORING.index(name)]),
        root=run.path,
        out=_output(attempt),
        cache=ctx.settings.runs / scoring.FACE_CACHE,
        references=images.list_images(ctx.settings.scoring.references).paths,
        clip=_clip(ctx.settings),
        training=_training_images(run, ctx),
        skip=tuple(skip),
        alone=tuple(alone),
        embeddings=run.path / embedding.NAME if name == NAME else None,
        # None for follow-up images, which no report shows.
        thumbnails=layout.thumbnails(run.path) if layout.Sweep(run.path.parent).exists() else None,
    )
    argv = scoring.write_job(attempt.path, job)
    return Command(argv=argv, env={"PYTHONUNBUFFERED": "1"}, cwd=attempt.path)


def _training_images(run: Run, ctx: Context) -> tuple[Path, ...]:
    if run.point.is_baseline or "dataset" not in run.point.params:  # a LoRA of another origin
        return ()
    return ctx.datasets[datasets.dataset_for_point(run.point.params, ctx.settings.datasets).name].images


def _clip(settings: Settings) -> scoring.ClipConfig | None:
    """The triggers of all datasets are left out of the prompts, because runs of different datasets are compared."""
    if settings.scoring.clip is None:
        return None
    return scoring.ClipConfig(
        python=settings.trainer.python,
        model=settings.scoring.clip,
        device=settings.scoring.device,
        triggers=(
            *(dataset.trigger for dataset in settings.datasets.values()),
            *(lora.trigger for lora in settings.loras.values()),
        ),
    )


def _output(attempt: Attempt) -> Path:
    return attempt.path / "scored.json"


def _suspects(run: Run, name: str) -> tuple[list[str], list[str]]:
    """The images that crashed earlier scorers, and the images of batches that did, which are scored one by one."""
    results = [(past, past.result()) for past in run.attempts(name)]
    crashed = [past for past, result in results if result and result.exit_code in _CRASH_CODES]
    batches = [scoring.in_progress(_output(past)) for past in crashed]
    skip = [names[0] for names in batches if len(names) == 1]
    alone = [name for names in batches if len(names) > 1 for name in names if name not in skip]
    return skip, alone


def _record(attempt: Attempt, outcome: Outcome) -> Mapping[str, Any] | FailureReason:
    """The scorer writes its output completely at its end, or not at all."""
    if not _output(attempt).exists():
        return _failure(attempt, outcome)
    try:
        scored = scoring.read_scored(_output(attempt))
    except OrchestrateError as error:
        return FailureReason(Failure.NO_PRODUCT, str(error))
    if scored.too_many_errors:
        errors = [score.note for score in scored.scores if score.note]
        what = f"{len(errors)} of {len(scored.scores)} images raised an error: {errors[0]}"
        return FailureReason(Failure.UNKNOWN, what)
    return records.read(_output(attempt))


def _failure(attempt: Attempt, outcome: Outcome) -> FailureReason:
    code, lines = outcome.exit.code if outcome.exit else None, outcome.log.strip().splitlines()
    if code in _CRASH_CODES:
        names = ", ".join(Path(name).name for name in scoring.in_progress(_output(attempt))) or "no image"
        return FailureReason(Failure.CRASHED, f"the scorer died by signal {-code} while it scored {names}")
    if code == NotReady.exit_code:
        return FailureReason(Failure.BAD_CONFIG, lines[-1] if lines else "not ready")
    if code:
        return FailureReason(*(log.classify(outcome.log, code) or (Failure.UNKNOWN, f"ended with exit code {code}")))
    return FailureReason(Failure.NO_PRODUCT, "the scorer ended without an error and wrote no scores")


def _progress(text: str) -> Progress | None:
    """From the last line `scored: 12/64`."""
    for line in reversed(text.splitlines()):
        done, slash, total = line.removeprefix("scored: ").partition("/")
        if slash and line.startswith("scored: ") and done.isdigit() and total.isdigit():
            return Progress(step=int(done), total=int(total))
    return None
