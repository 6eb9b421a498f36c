"""Writes an imported preset as settings and a grid of one point."""

import re
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from orchestrator.config import project
from orchestrator.errors import InputError, Problem
from orchestrator.kohya.presets import Preset


def write(preset: Preset, name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.settings.toml, made from the folder's orchestrate.toml, and NAME.toml; returns both.

    Without an orchestrate.toml a project is created first. Raises InputError where a file exists or cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:50] or "imported"
    paths = folder / f"{name}.settings.toml", folder / f"{name}.toml"
    for path in paths:
        if path.exists():
            remedy = "move it away, or name another folder"
            raise InputError(Problem(what="exists and is not overwritten", where=str(path), remedy=remedy))
    base = folder / "orchestrate.toml"
    if not base.exists():
        project.create(folder, project.defaults())
    settings = tomllib.loads(base.read_text(encoding="utf-8-sig"))
    seed = preset.arguments.get("seed", 1)
    grid = {"fixed": {"base_model": name, "dataset": name, "seed": seed}}
    try:
        for path, table in zip(paths, (_settings(settings, preset, name), grid), strict=True):
            path.write_text(tomli_w.dumps(table), encoding="utf-8", newline="\n")
    except OSError as error:
        remedy = "name a folder that you can write to"
        raise InputError(Problem(what=f"cannot be written: {error}", where=str(folder), remedy=remedy)) from None
    return paths


def _settings(settings: dict[str, Any], preset: Preset, name: str) -> dict[str, Any]:
    """The settings with the preset's base model, dataset and arguments in place of their own."""
    model = dict(preset.base_model)
    path = str(model.get("path", ""))
    if not path.lower().endswith(".safetensors"):
        model["path"] = f"models/{name}.safetensors"
        if re.fullmatch(r"[\w.-]+/[\w.-]+", path):
            model["url"] = f"https://huggingface.co/{path}"
    dataset: dict[str, Any] = {"image_dir": "persona/pictures", "trigger": _trigger(settings), **preset.dataset}
    tables = {
        "base_models": {name: model},
        "datasets": {name: dataset},
        "defaults": {"base_model": name, "dataset": name},
        "arguments": {key: list(one) if isinstance(one, tuple) else one for key, one in preset.arguments.items()},
    }
    return {key: value for key, value in settings.items() if key != "optimizers"} | tables


def _trigger(settings: dict[str, Any]) -> str:
    """The trigger of the first dataset."""
    return next((str(one["trigger"]) for one in settings.get("datasets", {}).values() if "trigger" in one), "")
