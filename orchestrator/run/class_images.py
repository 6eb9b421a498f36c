"""Generates images of a class with the base model, for a folder of regularisation images."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator import files
from orchestrator.config.schema import Settings
from orchestrator.datasets import captions
from orchestrator.errors import InputError, Problem, error, errors_of
from orchestrator.kohya import prompts
from orchestrator.model import RUNNABLE, Image, Point
from orchestrator.plan.plan import Plan
from orchestrator.run.context import Context
from orchestrator.run.stages import generate
from orchestrator.store import state
from orchestrator.store.hashes import HashCache, sha256_json
from orchestrator.store.layout import Run, Sweep

FOLDER = ".class-images"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassImages:
    """What to generate into `folder`: each text with each seed, without those that the folder has."""

    folder: Path
    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    base: str

    def target(self, image: Image) -> Path:
        return self.folder / f"p{image.prompt:02d}_{image.seed}.png"

    def exists(self, seed: int) -> bool:
        """Whether the folder has the images of this seed."""
        return all((self.folder / f"p{index:02d}_{seed}.png").exists() for index in range(len(self.texts)))


def check(asked: ClassImages, settings: Settings) -> None:
    """Raises InputError for a prompt that gen_img.py misreads or that has a trigger, and for other captions there."""
    problems: list[Problem] = []
    if asked.base not in settings.base_models:
        remedy = f"choose one of {', '.join(settings.base_models)}"
        problems.append(error("--base", f"there is no [base_models.{asked.base}]", remedy))
    triggers = {part.trigger for one in settings.datasets.values() for part in one.parts if part.trigger}
    for index, text in enumerate(asked.texts):
        problems += prompts.unusable(text, where="", key="--prompt")
        if named := next((trigger for trigger in triggers if captions.find_trigger(text, trigger)), ""):
            what = f'contains the trigger "{named}": the class would become the persona'
            problems.append(error("--prompt", what, "name the class only, such as photo of a woman", value=text))
        for path in sorted(asked.folder.glob(f"p{index:02d}_*.txt")):
            if path.read_text(encoding="utf-8").strip() != text:
                what = "was generated with another prompt, and is not overwritten"
                problems.append(error("--prompt", what, "use another folder", where=str(path), value=text))
                break
    if errors_of(problems):
        raise InputError(*problems)


def plan(asked: ClassImages, settings: Settings) -> tuple[Plan, Run]:
    """The plan and the run of the missing images."""
    missing = tuple(seed for seed in asked.seeds if not asked.exists(seed))
    base, generation = settings.base_models[asked.base], settings.generation_of(asked.base)
    settings = replace(settings, generation=replace(settings.generation, seeds=missing))
    hashes = HashCache(settings.runs)
    content = [hashes.of(path) for path in (base.path, base.vae) if path and path.is_file()]
    key = sha256_json([content, {**asdict(generation), "prompts": "", "seeds": missing}, asked.texts])[:8]
    point = Point(id=key, name=f"{asked.base}-{key}", params={"base_model": asked.base}, is_baseline=True)
    sweep = Sweep(settings.runs / FOLDER)
    found = Plan(
        sweep=sweep,
        settings=settings,
        grid_text="",
        points=(point,),
        questions=(),
        prompts=asked.texts,
        warnings=(),
        is_followup=True,
    )
    return found, sweep.run(point)


def make(asked: ClassImages, run: Run, ctx: Context) -> bool:
    """Generate the missing images and copy them with their captions into the folder. Whether all are there."""
    if ctx.settings.generation.seeds:
        run.create()
        first = True
        while not ctx.stop and not run.done(generate.NAME) and (first or state.status(run).state in RUNNABLE):
            first = False
            generate.perform(run, ctx)
        if not run.done(generate.NAME):
            return False
        _copy(asked, run.path, run.generated_images())
    return all(map(asked.exists, asked.seeds))


def _copy(asked: ClassImages, folder: Path, images: Sequence[Image]) -> None:
    """The caption first: an image of the folder never lacks it."""
    asked.folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        target = asked.target(image)
        if not target.exists():
            files.write_text(target.with_suffix(".txt"), f"{image.text}\n")
            draft = target.with_name(f".{target.name}")
            shutil.copyfile(folder / image.file, draft)
            draft.rename(target)
