"""orchestrate.toml -> Settings. The files that it names need not exist: `orchestrate check` looks for them."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from orchestrator.config import datasets, programs, toml_reader
from orchestrator.config.datasets import DerivedDataset, SeveralSubsets
from orchestrator.config.expressions import ExpressionError, Expressions
from orchestrator.config.fields import Arguments, FilePath
from orchestrator.config.schema import (
    BaseModel,
    Comparison,
    Dataset,
    Defaults,
    EarlyStop,
    FallbackStep,
    Generation,
    Limits,
    Lora,
    Margins,
    Notify,
    Scoring,
    Settings,
    Trainer,
    Vram,
)
from orchestrator.config.toml_reader import File, Place
from orchestrator.errors import InputError, Problem
from orchestrator.model import TREATMENTS, Params
from orchestrator.text import did_you_mean


class SettingsFile(TypedDict):
    """The settings of orchestrate. Paths are relative to this file."""

    runs: FilePath
    templates: FilePath
    trainer: Trainer
    base_models: Mapping[str, BaseModel]
    datasets: Mapping[str, Dataset | DerivedDataset | SeveralSubsets]
    loras: NotRequired[Mapping[str, Lora]]
    defaults: NotRequired[Defaults]
    arguments: NotRequired[Arguments]
    optimizers: NotRequired[Mapping[str, Arguments]]
    generate: Generation
    score: Scoring
    vram: NotRequired[Vram]
    limits: NotRequired[Limits]
    oom_fallback: NotRequired[list[FallbackStep]]
    early_stop: NotRequired[EarlyStop]
    comparison: NotRequired[Comparison]
    margins: NotRequired[Margins]
    notify: NotRequired[Notify]


def load(path: Path) -> Settings:
    """Read the settings; InputError with every mistake in the file."""
    settings, problems = read(path)
    if settings is None or problems:
        raise InputError(*problems)
    return settings


def read(path: Path, text: str | None = None) -> tuple[Settings | None, list[Problem]]:
    """The settings and all problems with them; None when something that others depend on is wrong.

    text: TOML to read instead of the file's content. InputError when the file is not TOML or not fit to be recorded.
    """
    file = toml_reader.read(path) if text is None else toml_reader.File(path, text)
    file.reject_unfit()
    if file.has(("dims",)):
        remedy = "name the settings after --settings, and the grid without it"
        raise InputError(Problem(what="this is a grid, not a settings file", where=str(path), remedy=remedy))
    file.note_unknown_keys(SettingsFile.__annotations__)
    defaults = file.parse(("defaults",), Defaults) or Defaults()
    models = {str(place[-1]): file.parse(place, BaseModel) for place in file.tables("base_models")}
    found: dict[str, Any] = {
        "path": path.absolute(),
        "runs": file.parse(("runs",), FilePath),
        "templates": file.parse(("templates",), FilePath),
        "trainer": _trainer(file),
        "base_models": {name: replace(model, name=name) for name, model in models.items() if model},
        "datasets": datasets.read(file),
        "loras": _loras(file, defaults.base_model or next(iter(models), "")),
        "base_model": _default(file, "base_model", defaults.base_model),
        "dataset": _default(file, "dataset", defaults.dataset),
        "arguments": _arguments(file, ("arguments",)),
        "optimizers": _optimizers(file),
        "generation": file.parse(("generate",), Generation),
        "scoring": file.parse(("score",), Scoring),
        "vram": file.parse(("vram",), Vram),
        "limits": file.parse(("limits",), Limits),
        "oom_fallback": _oom_fallback(file),
        "comparison": file.parse(("comparison",), Comparison),
        "margins": file.parse(("margins",), Margins),
        "notify": notify.url if (notify := file.parse(("notify",), Notify)) else "",
    }
    early_stop = file.parse(("early_stop",), EarlyStop) if file.has(("early_stop",)) else None
    complete = None not in found.values() and all(
        len(found[key]) == len(file.tables(key)) for key in ("base_models", "datasets", "loras")
    )
    return Settings(**found, early_stop=early_stop) if complete else None, file.problems


def _trainer(file: File) -> Trainer | None:
    """[trainer]; rejects programs of other model families, and launcher arguments that start several processes."""
    trainer: Trainer | None = file.parse(("trainer",), Trainer)
    for key, default in (("train_script", programs.TRAIN), ("generate_script", programs.GENERATE)):
        if trainer and (what := programs.reason_against(getattr(trainer, key))):
            remedy = f'write {key} = "{default}" (the default), with an SDXL base model'
            file.note(("trainer", key), what, value=getattr(trainer, key), remedy=remedy)
    words = [part for argument in (trainer.accelerate_args if trainer else ()) for part in argument.split("=", 1)]
    for word, value in itertools.pairwise([*words, ""]):
        name = word.lstrip("-").replace("-", "_") if word.startswith("--") else ""
        if name in _SEVERAL or (name in _COUNTS and value != "1"):
            what = f"{word} {value if name in _COUNTS else ''}".rstrip() + ": one run uses one GPU"
            remedy = "remove it; orchestrate runs as many trainings at once as there are GPUs"
            file.note(("trainer", "accelerate_args"), what, value=word, remedy=remedy)
    return trainer


_COUNTS = ("num_processes", "num_machines")
_SEVERAL = ("multi_gpu", "tpu", "gpu_ids")


def _default(file: File, key: str, name: str) -> str | None:
    """The name for points whose grid names none; with a single table, its name."""
    known = [str(place[-1]) for place in file.tables(f"{key}s")]
    if not known:
        file.note((f"{key}s",), f"there is no [{key}s.NAME]", remedy=f"add a table [{key}s.NAME]")
        return None
    place, name = ("defaults", key), name or (known[0] if len(known) == 1 else "")
    if not name:
        file.note(place, f'"{key}" is missing', remedy=f"add `{key} = ...` to [defaults]")
    elif name not in known:
        file.note(place, f"there is no [{key}s.{name}]", value=name, remedy=did_you_mean(name, known))
    return name or None


def _loras(file: File, default: str) -> dict[str, Lora]:
    """[loras.NAME] by name."""
    found, known = {}, [str(place[-1]) for place in file.tables("base_models")]
    for place in file.tables("loras"):
        if table := file.parse(place, Lora):
            base = table.base_model or default
            if known and base not in known:
                what = f"there is no [base_models.{base}]"
                file.note((*place, "base_model"), what, value=base, remedy=did_you_mean(base, known))
            found[str(place[-1])] = replace(table, name=str(place[-1]), base_model=base)
    return found


def _arguments(file: File, place: Place) -> Params:
    arguments: Params = file.parse(place, Arguments) or {}
    for key in arguments.keys() & set(TREATMENTS):
        file.note((*place, key), f"{key} is not an sd-scripts argument", remedy=f"write `{key} = ...` in [defaults]")
    _check_expressions(file, place, arguments)
    return arguments


def _optimizers(file: File) -> dict[str, Params]:
    """[optimizers.NAME] by name. sd-scripts ignores the case of names, so two tables must not differ in it alone."""
    tables = {str(place[-1]): _arguments(file, place) for place in file.tables("optimizers")}
    for name, table in tables.items():
        place = ("optimizers", name)
        if "optimizer_type" in table:
            file.note((*place, "optimizer_type"), "the table's name is the optimizer", remedy="remove the key")
        if same := [other for other in tables if other != name and other.casefold() == name.casefold()]:
            file.note(place, f"[optimizers.{same[0]}] is the same optimizer", remedy="remove one of the two tables")
    return tables


def _oom_fallback(file: File) -> tuple[FallbackStep, ...]:
    parsed = [(place, file.parse(place, FallbackStep)) for place in file.tables("oom_fallback", array=True)]
    steps: dict[str, FallbackStep] = {}
    for place, step in parsed:
        if step is None:
            continue
        if step.name in steps:
            file.note((*place, "name"), f"two fallbacks are called {step.name}", remedy="give each its own name")
        steps[step.name] = step
        for key in step.set.keys() & set(TREATMENTS):
            file.note((*place, "set"), f"a fallback cannot change {key}", remedy="set sd-scripts arguments only")
        _check_expressions(file, (*place, "set"), step.set)
    return tuple(steps.values())


def _check_expressions(file: File, place: Place, params: Params) -> None:
    expressions = Expressions()
    for key, written in params.items():
        try:
            expressions.names(written)
        except ExpressionError as error:
            what, remedy = f"not an expression: {error}", "docs/grid.md explains expressions"
            file.note((*place, key), what, value=str(written), remedy=remedy)
