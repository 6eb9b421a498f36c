"""The command line of `gen_img.py`, and the plan that its prompter reads: one process for all pictures of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.config.schema import BaseModel, Generation, Trainer
from orchestrator.errors import Problem
from orchestrator.kohya import gen_img_plugin, prompts
from orchestrator.kohya.arguments import values as known
from orchestrator.kohya.arguments.check import closest
from orchestrator.model import Image, Params


def generate_argv(
    trainer: Trainer,
    base: BaseModel,
    generation: Generation,
    *,
    plan: Path,
    outdir: Path,
    lora: Path | None,
    params: Params,
) -> list[str]:
    """Make the pictures of one plan (see `prompter`). `lora` is the plan's first LoRA, None for the base alone.

    `params` are the point's: a base model that is trained with v-prediction is also sampled with it.
    """
    return [
        str(trainer.python),
        str(trainer.sd_scripts / trainer.generate_script),
        *("--sdxl", "--bf16", "--sdpa"),
        *_model(trainer, base),
        *_pictures(generation),
        *(f"--{name}" for name in ("v_parameterization", "zero_terminal_snr") if params.get(name)),
        *_lora(lora, generation),
        *("--outdir", str(outdir)),
        *("--from_module", str(Path(gen_img_plugin.__file__).resolve())),
        *("--prompter_module_args", str(plan)),
    ]


def _model(trainer: Trainer, base: BaseModel) -> list[str]:
    vae = ["--vae", str(base.vae)] if base.vae else []
    cache = trainer.tokenizer_cache_dir
    return ["--ckpt", str(base.path), *vae, *(["--tokenizer_cache_dir", str(cache)] if cache else [])]


def _pictures(generation: Generation) -> list[str]:
    options = {
        "W": generation.width,
        "H": generation.height,
        "steps": generation.steps,
        "sampler": generation.sampler,
        "scale": generation.scale,
        "batch_size": generation.batch_size,
        "vae_batch_size": generation.vae_batch_size,
        "images_per_prompt": 1,  # with more, only the first picture of a line gets its name
    }
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def _lora(lora: Path | None, generation: Generation) -> list[str]:
    if lora is None:
        return []
    merge = ["--network_pre_calc"] if generation.merge else []
    return ["--network_module", known.NETWORK_MODULE, "--network_weights", str(lora), "--network_mul", "1.0", *merge]


def plan(images: Sequence[Image], *, folder: Path, negative: str) -> dict[str, object]:
    """The plan for these pictures, ready for JSON. `folder` is the run's, to which `Image.checkpoint` is relative.

    Pictures of one checkpoint and strength should stand together. Raises ValueError when some have a checkpoint and
    some have none: those of the base alone are another process's.
    """
    checkpoints = list(dict.fromkeys(image.checkpoint for image in images))
    if "" in checkpoints and len(checkpoints) > 1:
        raise ValueError("a plan is either of LoRAs or of the base model alone")
    loras = [name for name in checkpoints if name]
    return {
        "schema": gen_img_plugin.SCHEMA,
        "loras": [str(folder / name) for name in loras],
        "images": [_planned(image, loras, negative) for image in images],
    }


def _planned(image: Image, loras: list[str], negative: str) -> Mapping[str, object]:
    return {
        "file": image.file.rpartition("/")[2],
        "text": image.text,
        "negative": negative,
        "seed": image.seed,
        "lora": loras.index(image.checkpoint) if loras else None,
        "strength": image.strength,
    }


def check(generation: Generation, *, where: str) -> list[Problem]:
    """What gen_img.py would refuse or misread of these settings; `where` is the settings' file."""
    key = "generate."
    found = prompts.unusable(generation.negative_prompt, where=where, key=f"{key}negative_prompt")
    if generation.sampler not in known.SAMPLERS:
        remedy = closest(generation.sampler, known.SAMPLERS) or f"one of {', '.join(known.SAMPLERS)}"
        what = f'gen_img.py knows no sampler "{generation.sampler}"'
        found.append(Problem(what=what, where=where, key=f"{key}sampler", remedy=remedy))
    for name, side in (("width", generation.width), ("height", generation.height)):
        if side < 32 or side % 32:
            what = f"{side} pixels: SDXL makes pictures in steps of 32 pixels"
            found.append(
                Problem(what=what, where=where, key=f"{key}{name}", remedy=f"write {max(32, side // 32 * 32)}")
            )
    for name in ("seeds", "strengths"):
        values = getattr(generation, name)
        if not values or len(set(values)) < len(values) or min(values) < 0:
            what = f"{name} must be a list of different numbers, none negative"
            found.append(Problem(what=what, where=where, key=key + name, value=str(list(values)), remedy="mend it"))
    for name in ("steps", "batch_size", "vae_batch_size"):
        if getattr(generation, name) < 1:
            found.append(
                Problem(what=f"{name} must be positive", where=where, key=key + name, remedy="write 1 or more")
            )
    return found
