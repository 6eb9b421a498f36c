"""The generate stage: images of prompts x seeds x checkpoints x strengths. Complete images are not made again.

And the select stage before it, for `checkpoints = "best"`: the images on which all checkpoints are compared.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator import images as image_files
from orchestrator import scoring
from orchestrator.config.schema import Generation
from orchestrator.evidence import choice
from orchestrator.kohya import argv as trainer_argv
from orchestrator.kohya import generate, lora_file
from orchestrator.kohya.outputs import log
from orchestrator.kohya.outputs.safetensors_header import read_header
from orchestrator.model import LORA, Checkpoint, Failure, Image, Result
from orchestrator.redaction import child_environ
from orchestrator.run import attempt
from orchestrator.run.context import Context
from orchestrator.run.stages import Command, Stage
from orchestrator.scoring import prompt_adherence
from orchestrator.store import layout, process, vram_log
from orchestrator.store.hashes import sha256_json
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome

NAME, SELECT = "generate", "select"


def perform(run: Run, ctx: Context, name: str = NAME) -> Result:
    """Run one attempt to generate the missing images of the stage `name`."""
    images = _wanted(run, ctx, name)
    stage = Stage(
        name=name,
        prepare=lambda attempt: _prepare(run, attempt, images, ctx),
        progress=log.read_images,
        record=lambda attempt, outcome: _record(run, attempt, images, outcome),
    )
    made = False
    try:
        result = attempt.run_attempt(run, stage, ctx)
        made = result.failure is None
    finally:
        if not made and (attempts := run.attempts(name)) and (generator := attempts[-1].generator):
            process.stop(generator, ctx.settings.limits.grace_seconds, ctx.stop.hurry)
    return result


def _wanted(run: Run, ctx: Context, stage: str) -> list[Image]:
    """The images of a run; those of a LoRA file that the settings name have its strength and its trigger."""
    settings, lora = ctx.settings, ctx.settings.loras.get(str(run.point.params.get(LORA)))
    if lora is None:
        return wanted(run, settings.generation, ctx.prompts, ctx.drift_prompts, stage)
    generation = replace(settings.generation, strengths=(lora.strength,))
    images = wanted(run, generation, ctx.prompts, ctx.drift_prompts)
    triggers = [dataset.trigger for dataset in settings.datasets.values()] if lora.trigger else []
    return [replace(one, text=prompt_adherence.replaced(triggers, one.text, lora.trigger)) for one in images]


def wanted(
    run: Run,
    generation: Generation,
    prompts: Sequence[str],
    drift_prompts: Collection[str] = (),
    stage: str = NAME,
) -> list[Image]:
    """All images of a stage, grouped by checkpoint and strength; every run has the same prompts and seeds.

    drift_prompts: those of `prompts` that measure drift only.
    """
    baseline = run.point.is_baseline
    checkpoints = [""] if baseline else [one.file for one in choose(run.checkpoints(), generation.checkpoints)]
    strengths = (0.0,) if baseline else generation.strengths
    cells = {(p, s) for p, text in enumerate(prompts) if text not in drift_prompts for s in generation.seeds}
    few = choice.split(cells, choice.FEW)
    selected = ""
    if stage == NAME and SELECT in run.stages:
        found = choice.choose(scoring.read_scores(run.path / layout.PRODUCTS["rank"]), few)
        selected = found.checkpoint if found else checkpoints[-1]
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
        if selected in ("", checkpoint)
        for strength in strengths
        for prompt, text in enumerate(prompts)
        for seed in generation.seeds
        if stage == NAME or (prompt, seed) in few.selection
    ]


def choose(checkpoints: Sequence[Checkpoint], which: str | tuple[int, ...]) -> list[Checkpoint]:
    """The checkpoints to generate with: `last`, `all`, or those of the given epochs, the last if none matches.

    `best`: all are compared. The averages that the settings ask for are always among them.
    """
    trained, averages = ([item for item in checkpoints if bool(item.average) is wanted] for wanted in (False, True))
    named = [item for item in trained if item.epoch in which] if isinstance(which, tuple) else []
    return [*(trained if which in ("all", "best") else named or trained[-1:]), *averages]


def start_generator(run: Run, name: str, ctx: Context) -> None:
    """Start the resident generator for the missing images of a stage before its attempt, for which it then waits."""
    if ctx.generators and (missing := _missing(run, _wanted(run, ctx, name))):
        key, command = _generator(run, missing, ctx)
        folder = ctx.generators.choose(run.path / name, ctx.gpu, key)
        ctx.generators.start(folder, command(folder, folder))


def _missing(run: Run, images: Sequence[Image]) -> list[Image]:
    return [image for image in images if not _is_complete(run.path / image.file)]


def _prepare(run: Run, attempt: Attempt, images: Sequence[Image], ctx: Context) -> Command:
    """The command of a separate process, or of one that follows the job of a resident generator."""
    run.images.mkdir(exist_ok=True)
    missing = _missing(run, images)
    negative = ctx.settings.generation_of(str(run.point.params["base_model"])).negative_prompt
    plan, file = generate.plan(missing, folder=run.path, negative=negative), attempt.path / "plan.json"
    file.write_text(json.dumps(plan, ensure_ascii=False, indent=1), encoding="utf-8")
    record = {"images": len(missing), "card": ctx.gpu, "colocated": ctx.colocated, **ctx.attempt_record(run, NAME)}
    if ctx.generators is None:
        attempt.open(record)
        return Command(argv=_argv(run, missing, ctx, file), env=_environment(run, ctx), cwd=attempt.path)
    key, command = _generator(run, missing, ctx)
    folder = ctx.generators.choose(attempt.path, ctx.gpu, key)
    attempt.open({**record, "generator": os.path.relpath(folder, attempt.path)})
    job = {"plan": str(file), "outdir": str(run.images)}
    return ctx.generators.give(folder, job, command(folder, attempt.path))


def _generator(run: Run, missing: Sequence[Image], ctx: Context) -> tuple[str, Callable[[Path, Path], Command]]:
    """The key of a resident generator for these images, and its command, by its folder and working directory."""
    env = {**child_environ(ctx.environ), **_environment(run, ctx)}
    changing = {key: value for key, value in env.items() if not key.startswith("CUDA_MPS_")}  # of no effect on images
    same = [_argv(run, missing, ctx, Path(), fixed=True), changing, _shape(_lora(run, missing))]

    def command(folder: Path, cwd: Path) -> Command:
        argv = generate.resident_argv(_argv(run, missing, ctx, folder), folder)
        return Command(argv=argv, env=env, cwd=cwd)

    return sha256_json(same), command


def _environment(run: Run, ctx: Context) -> dict[str, str]:
    env = trainer_argv.environment(ctx.settings.trainer, gpu=ctx.gpu or None)
    return env | generate.environment(run.point.params, {**ctx.environ, **env})


def _lora(run: Run, missing: Sequence[Image]) -> Path | None:
    """The first file of these images; None for the base model alone."""
    return next((run.path / image.checkpoint for image in missing if image.checkpoint), None)


def _argv(run: Run, missing: Sequence[Image], ctx: Context, plan: Path, *, fixed: bool = False) -> list[str]:
    """fixed: without what differs between the runs of one resident generator."""
    settings, base, lora = ctx.settings, str(run.point.params["base_model"]), _lora(run, missing)
    # What an existing LoRA file needs beside the arguments of its point.
    network = lora_file.network_of(read_header(lora)) if lora and LORA in run.point.params else {}
    return generate.generate_argv(
        settings.trainer,
        settings.base_models[base],
        settings.generation_of(base),
        plan=plan,
        outdir=Path() if fixed else run.images,
        lora=lora and (Path() if fixed else lora),
        params={**run.point.params, **network},
    )


def _shape(lora: Path | None) -> list[tuple[str, tuple[int, ...]]]:
    """The names and shapes of a LoRA's tensors: a generator loads only LoRAs of one shape."""
    return [(name, tensor.shape) for name, tensor in sorted(read_header(lora).tensors.items())] if lora else []


def _is_complete(path: Path) -> bool:
    """Whether the image exists and decodes; a truncated one is generated again."""
    try:
        image_files.load(path)
    except image_files.Unreadable:
        return False
    return True


def _record(run: Run, attempt: Attempt, images: Sequence[Image], outcome: Outcome) -> Mapping[str, Any] | FailureReason:
    missing = _missing(run, images)
    if not missing:
        return {"images": [asdict(image) for image in images]}
    full = vram_log.was_full(attempt.path)
    logged = log.classify(outcome.log, outcome.exit.code, gpu_full=full) if outcome.exit else None
    what = f"{len(missing)} of {len(images)} images are missing, the first is {missing[0].file}"
    return FailureReason(*(logged or (Failure.NO_PRODUCT, what)))
