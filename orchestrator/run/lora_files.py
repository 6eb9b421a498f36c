"""Images of LoRA files of any origin: one run for each file and one for the baseline of each base model."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator import images
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, Problem, error, errors_of
from orchestrator.kohya import lora_file, prompts
from orchestrator.kohya.lora_file import LoraFile
from orchestrator.model import LORA, Checkpoint, Point
from orchestrator.plan import freeze, loras
from orchestrator.plan.plan import Plan
from orchestrator.run.followup import FollowupRun
from orchestrator.scoring import faces
from orchestrator.store import layout, records
from orchestrator.store.hashes import HashCache, sha256, sha256_json
from orchestrator.store.layout import Run, Sweep

FOLDER = ".scores"
_COPY = "lora.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRun:
    """A LoRA file, its base model's name in the settings, its run and the run of its baseline."""

    file: LoraFile
    base: str
    run: Run
    baseline: Run


def read(paths: Sequence[Path], settings: Settings, base: str) -> tuple[list[tuple[LoraFile, str]], list[Problem]]:
    """The files with the names of their base models, and warnings. base: for all files; empty: by their metadata.

    Raises InputError with the errors of all files.
    """
    if base and base not in settings.base_models:
        remedy = f"choose one of {', '.join(settings.base_models)}"
        raise InputError(error("--base", f"there is no [base_models.{base}]", remedy))
    found, problems = list[tuple[LoraFile, str]](), list[Problem]()
    for path in paths:
        file, issues = lora_file.read(path.resolve())
        problems += issues
        if file is None:
            continue
        if twin := next((one for one, _ in found if one.sha256 == file.sha256), None):
            problems.append(error("--lora", f"has the same content as {twin.path}", "name it once", where=str(path)))
        chosen, doubts = loras.choose_base(file, settings, base)
        problems += doubts
        found.append((file, chosen))
    if errors_of(problems):
        raise InputError(*problems)
    return found, problems


def plan(files: Sequence[tuple[LoraFile, str]], settings: Settings, strength: float) -> tuple[Plan, list[LoraRun]]:
    """The plan of the images, and the runs. Raises InputError for unusable prompts."""
    texts, problems = prompts.read_prompts(settings.generation.prompts)
    if errors_of(problems):
        raise InputError(*problems)
    sweep = Sweep(settings.runs / FOLDER)
    runs = []
    for file, base in files:
        key = _key(base, settings, texts)
        identity = sha256_json([key, file.sha256, strength])[:8]
        stem = "".join(letter if letter.isalnum() or letter in "-_.=" else "-" for letter in file.path.stem)[:60]
        point = Point(id=identity, name=f"lora-{stem}-{identity}", params={"base_model": base, LORA: file.sha256})
        floor = Point(id=key, name=f"baseline-{key}", params={"base_model": base}, is_baseline=True)
        runs.append(LoraRun(file=file, base=base, run=sweep.run(point), baseline=sweep.run(floor)))
    points = dict.fromkeys(run.point.name for one in runs for run in (one.run, one.baseline))
    by_name = {run.point.name: run.point for one in runs for run in (one.run, one.baseline)}
    found = Plan(
        sweep=sweep,
        settings=settings,
        grid_text="",
        points=tuple(by_name[name] for name in points),
        questions=(),
        prompts=texts,
        warnings=tuple(problems),
        is_followup=True,
    )
    return found, runs


def _key(base: str, settings: Settings, texts: Sequence[str]) -> str:
    """A hash of everything besides the LoRA that images and scores depend on."""
    hashes, scoring, model = HashCache(settings.runs), settings.scoring, settings.base_models[base]
    packs = [one for one in (scoring.pack, scoring.second_pack) if one]
    inputs = [
        [hashes.of(path) for path in (model.path, model.vae) if path],
        {**asdict(settings.generation_of(base)), "strengths": None, "checkpoints": None},
        texts,
        [faces.inspect(one, det_size=scoring.det_size).fingerprint for one in packs],
        str(scoring.clip),
        hashes.of_all(images.list_images(scoring.references).paths),
        freeze.trainer_identity(settings),
    ]
    return sha256_json(inputs)[:8]


def prepare(runs: Sequence[LoraRun], strength: float) -> list[FollowupRun]:
    """Copy each file into the folder of its run, as its training. Existing images are kept.

    Raises InputError if a file has changed since it was read.
    """
    for one in runs:
        one.baseline.create()
        _store(one.run, one.file, {"base_model": one.base, "strength": strength})
    baselines = {one.baseline.path: one.baseline for one in runs}.values()
    return [
        *(FollowupRun(run=one, strength=0.0) for one in baselines),
        *(FollowupRun(run=one.run, strength=strength) for one in runs),
    ]


def store_points(points: Sequence[Point], sweep: Sweep, settings: Settings) -> None:
    """Copy the LoRA files of a grid into the folders of their runs. Raises InputError if one cannot be used."""
    for point in points:
        run = sweep.run(point)
        if LORA not in point.params or run.done("train"):
            continue
        lora = settings.loras[str(point.params[LORA])]
        file, problems = lora_file.read(lora.path)
        if file is None:
            raise InputError(*problems)
        _store(run, file, {"base_model": lora.base_model, "strength": lora.strength, "trigger": lora.trigger})


def _store(run: Run, file: LoraFile, used: Mapping[str, object]) -> None:
    """Copy a file into the folder of its run, as its training, with its origin. Raises InputError if it has changed."""
    run.create()
    if run.done("train"):
        return
    shutil.copyfile(file.path, run.path / _COPY)
    if sha256(run.path / _COPY) != file.sha256:
        raise InputError(error("--lora", "changed while it was read", "try again", where=str(file.path)))
    records.write(run.path / layout.LORA_ORIGIN, {**asdict(file), "path": str(file.path), **used})
    checkpoint = Checkpoint(file=_COPY, epoch=None, step=0, sha256=file.sha256)
    run.finish("train", {"checkpoints": [asdict(checkpoint)]})
