"""The generate stage: images of prompts x seeds x checkpoints x strengths. Complete images are not made again."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator import images as image_files
from orchestrator.config.schema import Generation
from orchestrator.kohya import argv as trainer_argv
from orchestrator.kohya import generate
from orchestrator.kohya.outputs import log
from orchestrator.model import Checkpoint, Failure, Image, Result
from orchestrator.run import attempt
from orchestrator.run.context import Context
from orchestrator.run.stages import Command, Stage
from orchestrator.store import vram_log
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome

NAME = "generate"


def perform(run: Run, ctx: Context) -> Result:
    """Run one attempt to generate the run's missing images."""
    images = wanted(run, ctx.settings.generation, ctx.prompts, ctx.drift_prompts)
    stage = Stage(
        name=NAME,
        prepare=lambda attempt: _prepare(run, attempt, images, ctx),
        progress=log.read_images,
        record=lambda attempt, outcome: _record(run, attempt, images, outcome),
    )
    return attempt.run_attempt(run, stage, ctx)


def wanted(
    run: Run, generation: Generation, prompts: Sequence[str], drift_prompts: Collection[str] = ()
) -> list[Image]:
    """All images of a run, grouped by checkpoint and strength; every run has the same prompts and seeds.

    drift_prompts: those of `prompts` that measure drift only.
    """
    baseline = run.point.is_baseline
    checkpoints = [""] if baseline else [one.file for one in choose(run.checkpoints(), generation.checkpoints)]
    strengths = (0.0,) if baseline else generation.strengths
    return [
        Image(
            file=f"images/c{index}_s{strength:g}_p{prompt:03d}_{seed}.png",
            checkpoint=checkpoint,
            strength=strength,
            prompt=prompt,
            seed=seed,
            text=text,
            drift_only=text in drift_prompts,
        )
        for index, checkpoint in enumerate(checkpoints)
        for strength in strengths
        for prompt, text in enumerate(prompts)
        for seed in generation.seeds
    ]


def choose(checkpoints: Sequence[Checkpoint], which: str | tuple[int, ...]) -> list[Checkpoint]:
    """The checkpoints to generate with: `last`, `all`, or those of the given epochs, the last if none matches."""
    if which == "all":
        return list(checkpoints)
    named = [item for item in checkpoints if item.epoch in which] if isinstance(which, tuple) else []
    return named or [checkpoints[-1]]


def _prepare(run: Run, attempt: Attempt, images: Sequence[Image], ctx: Context) -> Command:
    settings, base = ctx.settings, str(run.point.params["base_model"])
    generation = settings.generation_of(base)
    run.images.mkdir(exist_ok=True)
    missing = [image for image in images if not _is_complete(run.path / image.file)]
    plan = generate.plan(missing, folder=run.path, negative=generation.negative_prompt)
    (attempt.path / "plan.json").write_text(json.dumps(plan, ensure_ascii=False, indent=1), encoding="utf-8")
    record = {"images": len(missing), "card": ctx.card, "colocated": ctx.colocated}
    attempt.open({**record, **ctx.attempt_record(run, NAME)})
    loras = plan["loras"]
    argv = generate.generate_argv(
        settings.trainer,
        settings.base_models[base],
        generation,
        plan=attempt.path / "plan.json",
        outdir=run.images,
        lora=Path(str(loras[0])) if isinstance(loras, list) and loras else None,
        params=run.point.params,
    )
    return Command(argv=argv, env=trainer_argv.environment(settings.trainer, card=ctx.card or None), cwd=attempt.path)


def _is_complete(path: Path) -> bool:
    """Whether the image exists and decodes; a truncated one is generated again."""
    try:
        image_files.load(path)
    except image_files.Unreadable:
        return False
    return True


def _record(run: Run, attempt: Attempt, images: Sequence[Image], outcome: Outcome) -> Mapping[str, Any] | FailureReason:
    missing = [image.file for image in images if not _is_complete(run.path / image.file)]
    if not missing:
        return {"images": [asdict(image) for image in images]}
    full = vram_log.was_full(attempt.path)
    logged = log.classify(outcome.log, outcome.exit.code, gpu_full=full) if outcome.exit else None
    what = f"{len(missing)} of {len(images)} images are missing, the first is {missing[0]}"
    return FailureReason(*(logged or (Failure.NO_PRODUCT, what)))
