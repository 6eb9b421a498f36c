"""Checks that this machine has everything that a sweep needs; each problem has a remedy."""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator import datasets, images
from orchestrator.config.schema import NO_GPU, BaseModel, Dataset, Scoring, Settings
from orchestrator.datasets import validate
from orchestrator.errors import NotReady, Problem, error, warning
from orchestrator.files import why_no_file, why_no_folder
from orchestrator.gpu import Gpu, VramProbe
from orchestrator.kohya import argv, base_model, networks, release
from orchestrator.kohya.arguments import required
from orchestrator.model import TREATMENTS, Point, Value
from orchestrator.plan import loras
from orchestrator.scoring import faces, prompt_adherence
from orchestrator.store import mps, process, shim
from orchestrator.store.hashes import sha256


def findings(settings: Settings, points: Iterable[Point], probe: VramProbe) -> list[Problem]:
    """Problems of this machine for these points. Starts and writes nothing."""
    chosen = list(points)
    used = {key: dict.fromkeys(str(p.params[key]) for p in chosen if key in p.params) for key in TREATMENTS}
    where = str(settings.path)
    problems = [*_proc(), *_trainer(settings, chosen, where), *_gpu(settings, probe, where)]
    for name in used["base_model"]:
        problems += _base(settings.base_models[name], where)
        problems += _predictions(settings.base_models[name], chosen, where)
    problems += loras.problems(chosen, settings, where)
    unchanged = {name for dataset in used["dataset"] for name in _captioned_as(settings.datasets[dataset], settings)}
    for one in datasets.with_ancestors(used["dataset"], settings.datasets):
        rewritten = one.name not in unchanged
        problems += validate.validate_dataset(one, where, _common_arguments(chosen), rewritten=rewritten)
    for name in used["dataset"]:
        problems += validate.validate_captions(settings.datasets[name], settings.datasets)
    return [*problems, *_faces(settings, where), *_disk(settings, where)]


def _proc() -> Iterator[Problem]:
    """Programs are identified and found through /proc."""
    try:
        shim.identity(os.getpid())
    except OSError as failed:
        remedy = "mount the whole /proc, without `subset=pid`"
        yield error("", f"cannot be read: {failed.strerror}", remedy, where=str(failed.filename))


def _captioned_as(dataset: Dataset, settings: Settings) -> Iterator[str]:
    """The datasets whose captions are trained on as they are."""
    for part in dataset.parts:
        if part.recipe is None:
            yield part.name
        elif part.recipe.captions is None:
            yield from _captioned_as(settings.datasets[part.recipe.source], settings)


def _common_arguments(points: Iterable[Point]) -> dict[str, Value]:
    """The arguments that have the same value in all trainings."""
    trained = [point.params for point in points if point.is_trained]
    return (
        {key: value for key, value in trained[0].items() if all(o.get(key) == value for o in trained)}
        if trained
        else {}
    )


def _trainer(settings: Settings, points: Iterable[Point], where: str) -> Iterator[Problem]:
    trainer = settings.trainer
    scripts = (trainer.train_script, trainer.generate_script)
    if absent := [name for name in scripts if not (trainer.sd_scripts / name).is_file()]:
        what = f"lacks {' and '.join(absent)}" if trainer.sd_scripts.is_dir() else why_no_folder(trainer.sd_scripts)
        yield _missing(what, where, "trainer.sd_scripts", trainer.sd_scripts, release.remedy(trainer.sd_scripts))
    if not (trainer.python.is_file() and os.access(trainer.python, os.X_OK)):
        remedy = release.setup_remedy(trainer.python, trainer.sd_scripts)
        yield _missing("is not an interpreter", where, "trainer.python", trainer.python, remedy)
    yield from _sd_scripts(trainer.sd_scripts, {networks.module_of(point.params) for point in points}, where)
    cache = trainer.tokenizer_cache_dir
    if cache and (uncached := argv.missing_tokenizers(cache)):
        what = f"lacks {len(uncached)} of 2 tokenizers: the first training downloads them from the Hugging Face Hub"
        yield _doubt(what, where, "trainer.tokenizer_cache_dir", str(cache), "keep this machine online for one run")


def _sd_scripts(folder: Path, modules: Iterable[str], where: str) -> Iterator[Problem]:
    """Errors for what this version lacks; otherwise a warning if it was not tested."""
    key, remedy = "trainer.sd_scripts", release.remedy(folder)
    try:
        missing = list(required.missing(folder, modules))
    except NotReady as error:
        yield from error.problems
        return
    for what in missing:
        yield _missing(f"sd-scripts {release.describe(folder)}: {what}", where, key, folder, remedy)
    if not missing and not release.is_tested(folder):
        tested = " and ".join(f"{name} ({commit[:8]})" for commit, name in release.TESTED.items())
        what = f"is sd-scripts {release.describe(folder)}; tested are {tested}"
        yield _doubt(what, where, key, str(folder), f"{remedy}, or ignore this if the version is intended")


def _gpu(settings: Settings, probe: VramProbe, where: str) -> Iterator[Problem]:
    if settings.vram.card == NO_GPU:
        return
    gpus = probe.gpus()
    for wanted in _wanted(settings.vram.card) or [""]:
        if not choose_gpus(gpus, wanted):
            what = "no such NVIDIA GPU" if gpus else "the NVIDIA driver shows no GPU"
            listed = ", ".join(f"{index}: {gpu.uuid} ({gpu.name})" for index, gpu in enumerate(gpus))
            remedy = f"use one of {listed}" if gpus else "install the driver; `nvidia-smi` must list the GPU"
            yield _missing(what, where, "vram.card", wanted or "(all)", remedy)
    own = _own_processes(settings.runs) if any(gpu.processes for gpu in gpus) else ()
    for gpu in choose_gpus(gpus, settings.vram.card):
        if others := {pid: mib for pid, mib in gpu.processes.items() if pid not in own}:
            named = ", ".join(f"process {pid} ({mib or '?'} MiB)" for pid, mib in others.items())
            what, remedy = f"{gpu.name} is also used by {named}", "stop these processes, or use another GPU"
            yield _doubt(what, where, "vram.card", gpu.uuid, remedy)


def _own_processes(runs: Path) -> set[int]:
    """Those of attempts and MPS daemons of sweeps: `run` adopts those of its sweep; other sweeps lock their GPUs."""
    live = [path for path in process.live_attempts() if runs.resolve() in path.parents]
    attempts = {pid for path in live for pid in process.pids_of(path)}
    return attempts | mps.servers(runs)


def choose_gpus(gpus: Iterable[Gpu], wanted: str) -> list[Gpu]:
    """The GPUs with these comma-separated UUIDs or indices; all when `wanted` is empty."""
    listed, names = list(gpus), _wanted(wanted)
    return [gpu for index, gpu in enumerate(listed) if not names or {gpu.uuid, str(index)} & set(names)]


def _wanted(written: str) -> list[str]:
    return [name.strip() for name in written.split(",") if name.strip()]


def _base(base: BaseModel, where: str) -> Iterator[Problem]:
    key = f"base_models.{base.name}"
    for name, path in (("path", base.path), ("vae", base.vae)):
        if path and not path.is_file():
            remedy = f"download it from {base.url} to this path" if base.url else "copy it there, or correct the path"
            if path.is_dir():
                remedy = "name one .safetensors file"
            yield _missing(why_no_file(path), where, f"{key}.{name}", path, remedy)
    if base.path.is_file():
        yield from base_model.problems(base.path, where=where, key=f"{key}.path")
    if base.vae and base.vae.is_file():
        yield from base_model.vae_problems(base.vae, where=where, key=f"{key}.vae")


def _predictions(base: BaseModel, points: Iterable[Point], where: str) -> list[Problem]:
    trained = (p.params for p in points if p.params.get("base_model") == base.name and p.is_trained)
    return base_model.prediction(base.path, trained, where=where, key=f"base_models.{base.name}.path")


def _faces(settings: Settings, where: str) -> Iterator[Problem]:
    scoring = settings.scoring
    try:
        faces.inspect(scoring.pack, det_size=scoring.det_size)
    except NotReady as error:
        yield from error.problems
    yield from _second_pack(scoring, where)
    yield from _references(scoring.references, where)
    yield from _clip(scoring, where)
    yield from faces.runtime_problems()


def _references(folder: Path, where: str) -> Iterator[Problem]:
    listing, key = images.list_images(folder), "score.references"
    if not folder.is_dir() or listing == images.Listing(paths=()):
        remedy = "copy at least 8, better 20 photos of the persona there that are not in a dataset"
        yield _missing("has no images" if folder.is_dir() else why_no_folder(folder), where, key, folder, remedy)
        return
    yield from listing.problems if listing.paths else listing.why_empty(key)
    if 0 < len(listing.paths) < 8:
        what = f"only {len(listing.paths)} reference images: scores are imprecise"
        yield _doubt(what, where, key, str(folder), "use at least 8, better 20")


def _second_pack(scoring: Scoring, where: str) -> Iterator[Problem]:
    """It must be usable, and is no second opinion with the recogniser of the first one."""
    if scoring.second_pack is None:
        return
    key = "score.second_pack"
    try:
        second = faces.inspect(scoring.second_pack, det_size=scoring.det_size)
        first = faces.inspect(scoring.pack, det_size=scoring.det_size)
    except NotReady as error:
        yield from (replace(one, key=key) for one in error.problems if str(scoring.second_pack) in one.where)
        return
    if sha256(second.recogniser) == sha256(first.recogniser):
        what, remedy = "has the recogniser of score.pack", "use one of another family, such as OpenCV's SFace"
        yield _doubt(what, where, key, str(scoring.second_pack), remedy)


def _clip(scoring: Scoring, where: str) -> Iterator[Problem]:
    if scoring.clip and (absent := [name for name in prompt_adherence.FILES if not (scoring.clip / name).is_file()]):
        remedy = "copy a CLIP model there, as transformers saves it, or remove `clip`"
        yield _missing(f"lacks {', '.join(absent)}", where, "score.clip", scoring.clip, remedy)


def _disk(settings: Settings, where: str) -> Iterator[Problem]:
    folder = next(path for path in (settings.runs, *settings.runs.parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1024**3
    if free < settings.limits.free_gib:
        what = f"{free:.1f} GiB are free at {folder}, less than {settings.limits.free_gib:g}"
        yield _missing(what, where, "limits.free_gib", str(settings.limits.free_gib), "free disk space")
    if not os.access(folder, os.W_OK):
        yield _missing("is not writable", where, "runs", settings.runs, "use another folder")


def _missing(what: str, where: str, key: str, value: Path | str, remedy: str) -> Problem:
    return error(key, what, remedy, where=where, value=str(value))


def _doubt(what: str, where: str, key: str, value: str, remedy: str) -> Problem:
    return warning(key, what, remedy, where=where, value=value)
