"""orchestrate.toml -> Settings, read strictly; what it names need not exist here, that is `orchestrate check`."""

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from orchestrator.config import datasets as dataset_settings
from orchestrator.config import toml_reader
from orchestrator.config.expressions import ExpressionError, Expressions
from orchestrator.config.schema import (
    BaseModel,
    EarlyStop,
    FallbackStep,
    Generation,
    Launcher,
    Limits,
    Scoring,
    Settings,
    Trainer,
    Vram,
)
from orchestrator.config.toml_reader import (
    ConversionError,
    Converter,
    Reader,
    boolean,
    number,
    several,
    text,
    value,
    whole,
)
from orchestrator.errors import InputError, Problem
from orchestrator.model import TREATMENTS, Params

T = TypeVar("T")

EXAMPLE = "orchestrate.example.toml"


def load(path: Path) -> Settings:
    """Read the settings; InputError with every mistake in the file."""
    top = Reader(toml_reader.read(path))
    base_models = {name: _base_model(name, table) for name, table in top.named("base_models").items()}
    datasets = dataset_settings.read(top.named("datasets"))
    settings = Settings(
        path=path.absolute(),
        runs=top.require("runs", top.path),
        templates=top.require("templates", top.path),
        trainer=_trainer(top.section("trainer")),
        base_models=base_models,
        datasets=datasets,
        base_model=_default(top, "base_model", base_models),
        dataset=_default(top, "dataset", datasets),
        arguments=_arguments(top.section("arguments")),
        generation=_generation(top.section("generate")),
        scoring=_scoring(top.section("score")),
        vram=_vram(top.section("vram")),
        limits=_limits(top.section("limits")),
        oom_fallback=_oom_fallback(top.sections("oom_fallback")),
        early_stop=_early_stop(top),
        notify=top.section("notify").given(url=_web).get("url", ""),
    )
    top.finish()
    return settings


def init(path: Path) -> None:
    """Write a commented orchestrate.toml to start from; InputError where a file is already."""
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(importlib.resources.files("orchestrator").joinpath(EXAMPLE).read_text(encoding="utf-8"))
    except FileExistsError:
        remedy = "edit it, or move it away first"
        raise InputError(
            Problem(what="is there already and is not overwritten", where=str(path), remedy=remedy)
        ) from None
    except OSError as error:
        remedy = "name a file in a folder that you can write to"
        raise InputError(Problem(what=f"cannot be written: {error.strerror}", where=str(path), remedy=remedy)) from None


def _trainer(table: Reader) -> Trainer:
    return Trainer(
        python=table.require("python", table.path),
        sd_scripts=table.require("sd_scripts", table.path),
        **table.given(
            train_script=text,
            generate_script=text,
            launcher=_launcher,
            accelerate_args=_texts,
            tokenizer_cache_dir=table.path,
            resume=boolean,
            env=_environment,
        ),
    )


def _base_model(name: str, table: Reader) -> BaseModel:
    return BaseModel(name=name, path=table.require("path", table.path), **table.given(vae=table.path, url=text))


def _default(top: Reader, key: str, known: Mapping[str, Any]) -> str:
    """The name that points take unless their grid says otherwise; the only one there is needs no saying."""
    table = top.section("defaults")
    if not known:
        top.note(f"{key}s", f"no [{key}s.NAME] is there", remedy=f"add a table [{key}s.NAME]")
        table.given(**{key: text})
        return ""
    name = next(iter(known)) if len(known) == 1 else ""
    name = table.given(**{key: text}).get(key, name) or table.require(key, text)
    if name and name not in known:
        table.note(key, f"there is no [{key}s.{name}]", value=name, remedy=toml_reader.did_you_mean(name, known))
    return name


def _arguments(table: Reader) -> Params:
    arguments = table.arguments(value)
    for key in arguments.keys() & set(TREATMENTS):
        table.note(key, f"{key} is not an sd-scripts argument", remedy=f"write it in [defaults] as `{key} = ...`")
    _check_expressions(table, arguments)
    return arguments


def _generation(table: Reader) -> Generation:
    return Generation(
        prompts=table.require("prompts", table.path),
        **table.given(
            negative_prompt=text,
            seeds=_different(whole(0)),
            strengths=_different(number(above=0)),
            checkpoints=_checkpoints,
            steps=whole(1),
            sampler=text,
            scale=number(above=0),
            width=whole(64),
            height=whole(64),
            batch_size=whole(1),
            vae_batch_size=whole(1),
            merge=boolean,
            confirm_prompts=table.path,
        ),
    )


def _scoring(table: Reader) -> Scoring:
    return Scoring(
        pack=table.require("pack", table.path),
        references=table.require("references", table.path),
        **table.given(
            device=_device,
            det_size=whole(32),
            workers=whole(1),
            url=text,
            second_pack=table.path,
            clip=table.path,
        ),
    )


def _vram(table: Reader) -> Vram:
    given = table.given(
        card=_cards,
        budget_gib=number(above=0),
        colocate=boolean,
        ignore_other_sweeps=boolean,
        poll_seconds=number(above=0),
    )
    return Vram(**_renamed(given, poll_seconds=("poll_s", 1)))


def _limits(table: Reader) -> Limits:
    positive = number(above=0)
    given = table.given(
        wall_hours=positive,
        stall_minutes=positive,
        grace_seconds=positive,
        crashes=whole(1),
        log_mib=positive,
        free_gib=positive,
    )
    return Limits(
        **_renamed(given, wall_hours=("wall_s", 3600), stall_minutes=("stall_s", 60), grace_seconds=("grace_s", 1))
    )


def _early_stop(top: Reader) -> EarlyStop | None:
    """The table alone turns it on; all of its keys have defaults."""
    table, there = top.section("early_stop"), top.given(early_stop=bool)
    given = table.given(after=_share, p=_share, margin=number(above=0), pictures=whole(5))
    return EarlyStop(**given) if "early_stop" in there else None


def _renamed(given: Mapping[str, Any], **units: tuple[str, int]) -> dict[str, Any]:
    """`wall_hours=("wall_s", 3600)`: what is written in hours is kept in seconds."""
    kept = {key: entry for key, entry in given.items() if key not in units}
    return kept | {name: given[key] * factor for key, (name, factor) in units.items() if key in given}


def _oom_fallback(tables: tuple[Reader, ...]) -> tuple[FallbackStep, ...]:
    names: set[str] = set()
    fallbacks = []
    for table in tables:
        name = table.require("name", text)
        if name in names:
            table.note("name", f"two fallbacks are called {name}", remedy="give each its own name")
        names.add(name)
        fallbacks.append(_rung(name, table))
    return tuple(fallbacks)


def _rung(name: str, table: Reader) -> FallbackStep:
    changes, when = table.section("set").arguments(value), table.section("when").arguments(value)
    if not changes:
        table.note("set", "a rung must set something", remedy="add `set = { gradient_checkpointing = true }`")
    for key in changes.keys() & set(TREATMENTS):
        table.note("set", f"a rung cannot change {key}", remedy="set sd-scripts arguments only")
    _check_expressions(table.section("set"), changes)
    return FallbackStep(name=name, set=changes, when=when, **table.given(keeps_result=boolean))


def _check_expressions(table: Reader, params: Params) -> None:
    expressions = Expressions()
    for key, written in params.items():
        try:
            expressions.names(written)
        except ExpressionError as error:
            table.note(key, f"not an expression: {error}", value=str(written), remedy="see docs/grid.md")


# --- converters -------------------------------------------------------------------------------------------------------


def _texts(raw: Any) -> tuple[str, ...]:
    return several(text)(raw) if raw else ()


def _environment(raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(entry, str) for entry in raw.values()):
        raise ConversionError("must be a table of text", 'write it like { HF_HOME = "/data/hf" }')
    if any("\0" in part or "=" in name or not name for name, entry in raw.items() for part in (name, entry)):
        raise ConversionError("holds a name or value that no environment can hold", "leave out = and NUL")
    return dict(raw)


def _launcher(raw: Any) -> Launcher:
    if raw not in list(Launcher):
        raise ConversionError("is not a launcher", f"write {' or '.join(Launcher)}")
    return Launcher(raw)


def _web(raw: Any) -> str:
    if not isinstance(raw, str) or urlsplit(raw).scheme not in ("http", "https") or not urlsplit(raw).hostname:
        raise ConversionError("is not a web address", 'write it like "https://hooks.example.org/abc"')
    return raw


def _device(raw: Any) -> str:
    if raw not in ("cpu", "cuda"):
        raise ConversionError("is not a device to score on", "write cpu or cuda")
    return str(raw)


def _share(raw: Any) -> float:
    share = number(above=0)(raw)
    if share >= 1:
        raise ConversionError("must be below 1", "write a share, like 0.34")
    return share


def _cards(raw: Any) -> str:
    cards = [raw] if isinstance(raw, str) else list(several(text)(raw))
    return "" if cards == ["all"] else ",".join(cards)


def _checkpoints(raw: Any) -> str | tuple[int, ...]:
    if raw in ("last", "all"):
        return str(raw)
    if isinstance(raw, list) and raw:
        return _different(whole(1))(raw)
    raise ConversionError("must be last, all, or a list of epochs", "write them like [6, 8, 10]")


def _different(convert: Converter[T]) -> Converter[tuple[T, ...]]:
    def convert_all(raw: Any) -> tuple[T, ...]:
        items = several(convert)(raw)
        if len(set(items)) < len(items):
            raise ConversionError("holds a value twice", "take one out")
        return items

    return convert_all
