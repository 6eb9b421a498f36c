"""The command line of `gen_img.py` and the plan that its plugin reads: one process makes all images of a run."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.config.schema import BaseModel, Generation, Trainer
from orchestrator.errors import Problem
from orchestrator.kohya import gen_img_plugin, networks, prompts
from orchestrator.kohya.arguments import values
from orchestrator.model import Image, Params
from orchestrator.text import did_you_mean
from orchestrator.values import toml_repr


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
    """Generate the images of one plan (see `gen_img_plugin`). `lora`: the plan's first LoRA, None for the base alone.

    `params` are the point's: a base model that is trained with v-prediction is also sampled with it.
    """
    options = {
        "ckpt": base.path,
        "vae": base.vae,
        "tokenizer_cache_dir": trainer.tokenizer_cache_dir,
        "W": generation.width,
        "H": generation.height,
        "steps": generation.steps,
        "sampler": generation.sampler,
        "scale": generation.scale,
        "batch_size": generation.batch_size,
        "vae_batch_size": generation.vae_batch_size,
        "images_per_prompt": 1,  # with more, only the first image of a line gets its name
        **(_network(lora, params) if lora else {}),
        "outdir": outdir,
        "from_module": Path(gen_img_plugin.__file__).resolve(),
        "prompter_module_args": plan,
    }
    flags = [name for name in ("v_parameterization", "zero_terminal_snr") if params.get(name)]
    flags += ["network_pre_calc"] if lora and generation.merge and networks.can_merge(params) else []
    return [
        *(str(trainer.python), str(trainer.sd_scripts / trainer.generate_script), "--sdxl", "--bf16", "--sdpa"),
        *(text for name, value in options.items() if value is not None for text in (f"--{name}", str(value))),
        *(f"--{name}" for name in flags),
    ]


def resident_argv(argv: Sequence[str], folder: Path) -> list[str]:
    """The same as a resident process with its jobs in `folder`, see `gen_img_plugin`."""
    python, *rest = argv
    return [python, str(Path(gen_img_plugin.__file__).resolve()), str(folder), *rest]


def _network(lora: Path, params: Params) -> dict[str, object]:
    arguments = networks.generation_args(params)
    module = _LYCORIS if networks.module_of(params) == networks.LYCORIS else networks.module_of(params)
    options = {"network_module": module, "network_weights": lora, "network_mul": 1.0}
    return {**options, **({"network_args": arguments} if arguments else {})}


_LYCORIS = "lycoris_network"
_MODULES = Path(gen_img_plugin.__file__).resolve().parent / "generator_modules"


def environment(params: Params, inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables that a generator of this network needs besides `inherited`."""
    if networks.module_of(params) != networks.LYCORIS:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(_MODULES), inherited.get("PYTHONPATH"))))}


def plan(images: Sequence[Image], *, folder: Path, negative: str) -> dict[str, object]:
    """The plan for these images, ready for JSON. `folder` is the run's, to which `Image.checkpoint` is relative.

    Images of one checkpoint and strength should be adjacent. Raises ValueError when some have a checkpoint and some
    have none: another process generates those of the base model.
    """
    checkpoints = list(dict.fromkeys(image.checkpoint for image in images))
    if "" in checkpoints and len(checkpoints) > 1:
        raise ValueError("a plan contains images of LoRAs or of the base model, not both")
    loras = [name for name in checkpoints if name]
    return {
        "schema": gen_img_plugin.SCHEMA,
        "loras": [str(folder / name) for name in loras],
        "images": [
            {
                "file": image.file.rpartition("/")[2],
                "text": image.text,
                "negative": negative,
                "seed": image.seed,
                "lora": loras.index(image.checkpoint) if loras else None,
                "strength": image.strength,
            }
            for image in images
        ],
    }


def check(
    generation: Generation, *, where: str, key: str = "generate", only: Collection[str] | None = None
) -> list[Problem]:
    """What gen_img.py would reject or misread of these settings. `where`: the settings' file; `key`: the table in it.

    only: the settings to check, by default all.
    """
    found = []
    if only is None or "negative_prompt" in only:
        found = prompts.unusable(generation.negative_prompt, where=where, key=f"{key}.negative_prompt")
    return found + [
        Problem(what=what, where=where, key=f"{key}.{name}", value=toml_repr(getattr(generation, name)), remedy=remedy)
        for name, what, remedy in _issues(generation)
        if only is None or name in only
    ]


def _issues(generation: Generation) -> Iterator[tuple[str, str, str]]:
    if generation.sampler not in values.SAMPLERS:
        remedy = did_you_mean(generation.sampler, values.SAMPLERS)
        yield "sampler", f'gen_img.py has no sampler "{generation.sampler}"', remedy
    for name, side in (("width", generation.width), ("height", generation.height)):
        if side < 32 or side % 32:
            yield name, f"{side} px: SDXL needs multiples of 32", f"write {max(32, side // 32 * 32)}"
    numbers: tuple[int | float, ...]
    for name, numbers in (("seeds", generation.seeds), ("strengths", generation.strengths)):
        if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
            yield name, f"{name} must be a list of different numbers, none negative", "write a list like [1, 2]"
    for name in ("steps", "batch_size", "vae_batch_size"):
        if getattr(generation, name) < 1:
            yield name, f"{name} must be positive", "write 1 or more"
