"""Existing LoRA files of a grid: can they be used, and do they suit the base model of their images?"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.config.schema import Settings
from orchestrator.errors import Problem, error, warning
from orchestrator.kohya import lora_file, release
from orchestrator.kohya.arguments import required
from orchestrator.kohya.lora_file import LoraFile
from orchestrator.model import LORA, Point
from orchestrator.store.hashes import HashCache


def problems(points: Iterable[Point], settings: Settings, where: str) -> Iterator[Problem]:
    """Of the LoRA files of these points, under their tables in the settings."""
    names = dict.fromkeys(str(point.params[LORA]) for point in points if LORA in point.params)
    for lora in (settings.loras[name] for name in names if name in settings.loras):
        file, found = lora_file.read(lora.path)
        key = f"loras.{lora.name}"
        yield from (
            replace(one, where=where, key=f"{key}.path", value=ascii(str(lora.path))[1:-1], what=f"{one.what}")
            for one in found
        )
        if file:
            sd_scripts, module = settings.trainer.sd_scripts, str(file.network["network_module"])
            for what in required.missing_module(sd_scripts, module):
                yield error(f"{key}.path", f"needs {module}: {what}", release.remedy(sd_scripts), where=where)
            remedy = f"set base_model in [{key}] to its base model, or compare a few images"
            doubts = choose_base(file, settings, lora.base_model)[1]
            yield from (replace(one, where=where, key=f"{key}.base_model", remedy=remedy) for one in doubts)


def choose_base(file: LoraFile, settings: Settings, base: str) -> tuple[str, list[Problem]]:
    """The base model of a file's images, and a warning if its metadata do not name it.

    `base`, or by the hash in the metadata, then by the file name, then the default of the settings.
    """
    known, hashes = settings.base_models, HashCache(settings.runs)
    by_hash = [one for one, model in known.items() if model.path.is_file() and hashes.of(model.path) == file.base_hash]
    by_name = [one for one, model in known.items() if model.path.name == Path(file.base_name).name]
    default = settings.base_model or next(iter(known))
    own = [*by_hash, *([] if file.base_hash else by_name)]
    chosen = base or next(iter([*own, *by_name]), default)
    if chosen in own:
        return chosen, []
    recorded = f"was trained on {file.base_name or 'an unknown file'!r}" if file.base_name or file.base_hash else ""
    what = f"{recorded or 'its metadata names no base model'}; its images are generated on {chosen}"
    if own:
        what = f"was trained on {own[0]}; its images are generated on {chosen}"
    remedy = "add its base model to the settings as [base_models.NAME], or choose one with --base"
    return chosen, [warning("--lora", what, remedy, where=str(file.path))]
