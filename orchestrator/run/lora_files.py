"""Images of LoRA files of any origin: one run for each file and one for the baseline of each base model."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator import images
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, Problem, error, errors_of, warning
from orchestrator.kohya import lora_file, prompts
from orchestrator.kohya.lora_file import LoraFile
from orchestrator.model import Checkpoint, Point
from orchestrator.plan import freeze
from orchestrator.plan.plan import Plan
from orchestrator.run.followup import FollowupRun
from orchestrator.scoring import faces
from orchestrator.store import records
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
        chosen, doubts = _choose_base(file, settings, base)
        problems += doubts
        found.append((file, chosen))
    if errors_of(problems):
        raise InputError(*problems)
    return found, problems


def _choose_base(file: LoraFile, settings: Settings, base: str) -> tuple[str, list[Problem]]:
    """By the hash in the metadata, then by the file name, then the default of the settings."""
    known, hashes = settings.base_models, HashCache(settings.runs)
    by_hash = [one for one, model in known.items() if model.path.is_file() and hashes.of(model.path) == file.base_hash]
    by_name = [one for one, model in known.items() if model.path.name == Path(file.base_name).name]
    default = settings.base_model or next(iter(known))
    own = next(iter([*by_hash, *([] if file.base_hash else by_name)]), "")
    chosen = base or own or next(iter(by_name), default)
    if chosen == own:
        return chosen, []
    recorded = f"was trained on {file.base_name or 'an unknown file'!r}" if file.base_name or file.base_hash else ""
    what = f"{recorded or 'its metadata names no base model'}; its images are generated on {chosen}"
    if own:
        what = f"was trained on {own}; its images are generated on {chosen}"
    remedy = "add its base model to the settings as [base_models.NAME], or choose one with --base"
    return chosen, [warning("--lora", what, remedy, where=str(file.path))]


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
        point = Point(id=identity, name=f"lora-{stem}-{identity}", params={"base_model": base, "lora": file.sha256})
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
        hashes.of_all(images.pictures(scoring.references).pictures),
        freeze.trainer_identity(settings),
    ]
    return sha256_json(inputs)[:8]


def prepare(runs: Sequence[LoraRun], strength: float) -> list[FollowupRun]:
    """Copy each file into the folder of its run, as its training. Existing images are kept.

    Raises InputError if a file has changed since it was read.
    """
    for one in runs:
        one.run.create()
        one.baseline.create()
        if one.run.done("train"):
            continue
        shutil.copyfile(one.file.path, one.run.path / _COPY)
        if sha256(one.run.path / _COPY) != one.file.sha256:
            raise InputError(error("--lora", "changed while it was read", "try again", where=str(one.file.path)))
        record = {**asdict(one.file), "path": str(one.file.path), "base_model": one.base, "strength": strength}
        records.write(one.run.path / "lora.json", record)
        checkpoint = Checkpoint(file=_COPY, epoch=None, step=0, sha256=one.file.sha256)
        one.run.finish("train", {"checkpoints": [asdict(checkpoint)]})
    baselines = {one.baseline.path: one.baseline for one in runs}.values()
    return [
        *(FollowupRun(run=one, strength=0.0) for one in baselines),
        *(FollowupRun(run=one.run, strength=strength) for one in runs),
    ]
