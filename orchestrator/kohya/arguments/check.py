"""Checks each argument by itself: its name, type and value. sd-scripts ignores unknown keys and wrong types."""

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.errors import Problem
from orchestrator.kohya import base_model, optimizers, signatures
from orchestrator.kohya.arguments import key_values, ranges, values
from orchestrator.kohya.arguments.schema import Argument, ArgumentSchema, Kind, read_snapshot
from orchestrator.model import LORA, TREATMENTS, Params, Value
from orchestrator.text import did_you_mean
from orchestrator.values import toml_repr


def check(points: Iterable[Params], schema: ArgumentSchema, *, where: str = "") -> list[Problem]:
    """What is wrong with single arguments of these points; each issue of a key is reported once, with its first value.

    `where` is the file that the points come from. `base_model` and `dataset` are not arguments and are skipped.
    """
    distinct = {
        (key, repr(value), str(params.get("network_module", "")) if key == "network_args" else ""): value
        for params in points
        for key, value in params.items()
    }
    found: dict[tuple[str, str], Problem] = {}
    for (key, _, module), value in distinct.items():
        shown = "hidden" if values.SECRET.search(key) else toml_repr(value)
        for what, remedy in _issues(key, value, schema, module) if key not in (*TREATMENTS, LORA) else ():
            found.setdefault((key, what), Problem(what=what, where=where, key=key, value=shown, remedy=remedy))
    return list(found.values())


def _issues(name: str, value: Value, schema: ArgumentSchema, module: str) -> Iterator[tuple[str, str]]:
    """Pairs of what is wrong and the remedy; the first kind of issue hides the later ones."""
    if name in values.RESERVED:
        yield f"orchestrate sets {name} itself", values.RESERVED[name]
    elif name in values.REJECTED and value:
        yield f"{name} {values.REJECTED[name]}", "remove it"
    elif name not in schema.by_name:
        what = f"sdxl_train_network.py has no argument `{name}` and would ignore it"
        if name in read_snapshot().by_name:
            yield what, "remove it, or use sd-scripts v0.11.1 or later, which has it"
            return
        yield what, _intended(name) or did_you_mean(name, schema.by_name, _REMOVE)
    elif value == "" and schema.by_name[name].default != "":
        yield f"{name} is empty, and sd-scripts does not ignore an empty value", "remove it"
    elif issue := _type_issue(schema.by_name[name], value):
        yield issue
    else:
        yield from _value_issues(schema.by_name[name], value, module)


def _intended(name: str) -> str:
    """The remedy for a name of kohya_ss' GUI or another trainer; empty for other names."""
    if name in gui_names()["renamed"]:
        return f"write {gui_names()['renamed'][name]} instead of {name}"
    if any(name in table for table in key_values.NETWORK_ARGS.values()):
        return f'remove it, and add "{name}=..." to network_args'
    for section, key in (("optimizers", "optimizer_args"), ("schedulers", "lr_scheduler_args")):
        if any(name in found.args for found in signatures.table(section).values()) and name not in gui_names()["other"]:
            return f'remove it, and add "{name}=..." to {key}'
    if name.startswith(tuple(gui_names()["other_models"]["names"])):
        return "remove it: it belongs to another model family, and orchestrate trains SDXL"
    return str(gui_names()["other"].get(name, ""))


@cache
def gui_names() -> Mapping[str, Mapping[str, Any]]:
    """Names of GUIs and other trainers: `renamed` to an argument, `other` with its remedy, `other_models`."""
    return tomllib.loads(Path(__file__).with_name("gui_names.toml").read_text(encoding="utf-8"))


_REMOVE = "remove it; `sdxl_train_network.py --help` lists the arguments"


# --- types ------------------------------------------------------------------------------------------------------------


def _type_issue(argument: Argument, value: Value) -> tuple[str, str] | None:
    name, kind = argument.name, argument.kind
    if isinstance(value, tuple):
        return _list_issue(argument, value)
    if argument.many and not (name == "text_encoder_lr" and _is(Kind.FLOAT, value)):
        retyped = f"write {toml_repr(value)}" if _is(kind, value) else _retyped(kind, value)
        item = retyped.removeprefix("write ").removesuffix(" without quotes")
        one = f"write [{item}]" if item != _ARTICLES[kind] else f"write a list in which each item is {item}"
        return f"{name} takes a list, not {_noun(value)}", one
    if not _is(kind, value):
        return f"{name} takes {_ARTICLES[kind]}, not {_noun(value)}", _retyped(kind, value)
    if name == "validation_split" and isinstance(value, int):
        remedy = f"write {value}.0" if value == 0 else "write a fraction below 1, for example 0.1"
        return "validation_split takes a float; sd-scripts rejects integers here", remedy
    return None


def _list_issue(argument: Argument, value: tuple[object, ...]) -> tuple[str, str] | None:
    name, article = argument.name, _ARTICLES[argument.kind]
    if not argument.many:
        pair = name in ("resolution", "face_crop_aug_range") and len(value) == 2
        several = "give one value; to compare several, list them in [dims] of a grid"
        remedy = f'write "{",".join(map(str, value))}"' if pair else several
        return f"{name} takes {article}, not a list", remedy
    if not all(_is(argument.kind, item) for item in value):
        return f"{name} takes a list in which each item is {article}", f"write each item as {article}"
    if len({type(item) for item in value}) > 1:
        return "sd-scripts' TOML parser rejects a list of floats and integers", "write 0.0 instead of 0"
    return None


_ARTICLES = {
    Kind.STR: "a string",
    Kind.INT: "an integer",
    Kind.FLOAT: "a number",
    Kind.FLAG: "true or false",
    Kind.INT_OR_FLOAT: "an integer or a fraction",
}


def _is(kind: Kind, value: object) -> bool:
    match kind:
        case Kind.STR:
            return isinstance(value, str)
        case Kind.FLAG:
            return isinstance(value, bool)
        case Kind.INT:
            return isinstance(value, int) and not isinstance(value, bool)
        case Kind.FLOAT | Kind.INT_OR_FLOAT:
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _noun(value: Value) -> str:
    match value:
        case bool():
            return "true or false"
        case str():
            return "a string"
        case int():
            return "an integer"
        case float():
            return "a float" if math.isfinite(value) else "a float that is not finite"
    return "a list"


_TOML_NUMBER = r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?"


def _retyped(kind: Kind, value: Value) -> str:
    """How to write the value as `kind`, where there is one way to."""
    try:
        match kind, value:
            case Kind.FLAG, str() if value.lower() in ("true", "false"):
                return f"write {value.lower()} without quotes"
            case Kind.STR, (bool() | int() | float()):
                return f'write "{toml_repr(value)}"'
            case Kind.INT, float() if value == int(value):
                return f"write {int(value)}"
            case Kind.INT_OR_FLOAT, str() if re.fullmatch(r"\d\d?(\.\d+)?%", value.strip()):
                return f"write {float(value.strip()[:-1]) / 100:g}, a share of all steps"
            case ((Kind.FLOAT | Kind.INT | Kind.INT_OR_FLOAT), str()) if math.isfinite(float(value)):
                number = value.strip() if re.fullmatch(_TOML_NUMBER, value.strip()) else f"{float(value):g}"
                return f"write {number} without quotes"
    except (ValueError, OverflowError):
        pass
    return f"write {_ARTICLES[kind]}"


# --- values -----------------------------------------------------------------------------------------------------------


def _value_issues(argument: Argument, value: Value, module: str) -> Iterator[tuple[str, str]]:
    name = argument.name
    choices = [str(choice) for choice in (*argument.choices, *_ONLY_IN_FILES.get(name, ()))]
    if argument.choices and str(value) not in choices:
        remedy = did_you_mean(value, choices) if isinstance(value, str) else f"write {' or '.join(choices)}"
        remedy = _GUI_VALUES.get((name, value), remedy)
        yield f"{name} must be one of {', '.join(choices)}", remedy
    elif argument.kind is not Kind.STR:
        yield from _number_issues(argument, value)
    if name in key_values.NAMES and isinstance(value, tuple):
        yield from key_values.issues(name, [str(item) for item in value], module)
    elif name in _RULES and isinstance(value, str):
        yield from _RULES[name](value)


_ONLY_IN_FILES = {"resize_interpolation": ("box",)}
"""Values that work in a config file, and that only the command line rejects."""

_GUI_VALUES = {
    ("max_token_length", 75): "remove it: 75 is the default",
    ("dynamo_backend", "no"): "remove it: it has no effect without torch_compile",
    ("save_precision", "fp32"): 'write save_precision = "float"',
    ("save_precision", "float32"): 'write save_precision = "float"',
    ("mixed_precision", "fp32"): 'write mixed_precision = "no"',
    ("mixed_precision", "none"): 'write mixed_precision = "no"',
}
"""Values that GUIs write, and what sd-scripts accepts instead."""


def _number_issues(argument: Argument, value: Value) -> Iterator[tuple[str, str]]:
    name = argument.name
    numbers = [float(item) for item in (value if isinstance(value, tuple) else (value,)) if not isinstance(item, str)]
    yield from ranges.issues("arguments", name, numbers)
    if argument.kind is Kind.INT_OR_FLOAT and isinstance(value, float) and value >= 1:
        what = f"{name} = {value} means {value:g} times all steps: a float is a share of the training"
        yield what, f"write {int(value)} for steps, or a fraction below 1"
    if name == "bucket_reso_steps" and any(number > 0 and number % 32 for number in numbers):
        yield "bucket_reso_steps must be a multiple of 32 for SDXL", "write 64"


_FULL_PATH = "name a class by its full path, package.module.Class"


def _scheduler_issues(value: str) -> Iterator[tuple[str, str]]:
    if value not in values.SCHEDULERS:
        remedy = did_you_mean(value, values.SCHEDULERS, f"{_FULL_PATH}, in lr_scheduler_type")
        if value.startswith("adafactor:"):
            remedy = "remove it: sd-scripts sets it itself for Adafactor with relative_step=True"
        if signatures.find("schedulers", "torch", value):
            remedy = f'remove it, and set lr_scheduler_type = "{value}"'
        yield f'sd-scripts has no scheduler "{value}"', remedy


def _resolution_issues(value: str, name: str = "resolution") -> Iterator[tuple[str, str]]:
    if not re.fullmatch(r" ?[1-9]\d{0,4}(, ?[1-9]\d{0,4})?", value):
        yield f'{name} "{value}" is not of the form "width,height"', 'write "1024,1024"'


def _face_crop_issues(value: str) -> Iterator[tuple[str, str]]:
    ends = re.fullmatch(r"(\d+\.?\d*),(\d+\.?\d*)", value)
    if not ends or float(ends[1]) > float(ends[2]):
        yield f'face_crop_aug_range "{value}" is not of the form "from,to"', 'write "2.0,4.0"'


def _network_issues(value: str) -> Iterator[tuple[str, str]]:
    if value not in key_values.NETWORK_ARGS:
        what = f"orchestrate cannot verify checkpoints of {value}; it supports {', '.join(key_values.NETWORK_ARGS)}"
        yield what, did_you_mean(value, key_values.NETWORK_ARGS, 'write "networks.lora"')


def _format_issues(value: str) -> Iterator[tuple[str, str]]:
    if value != "safetensors":
        yield f"save_model_as {value} writes a pickle, which orchestrate does not open", 'write "safetensors"'


_RULES: Mapping[str, Callable[[str], Iterable[tuple[str, str]]]] = {
    "optimizer_type": optimizers.name_issues,
    "lr_scheduler": _scheduler_issues,
    "resolution": _resolution_issues,
    "skip_image_resolution": lambda value: _resolution_issues(value, "skip_image_resolution"),
    "face_crop_aug_range": _face_crop_issues,
    "network_module": _network_issues,
    "save_model_as": _format_issues,
    "network_weights": lambda value: base_model.is_pickle(Path(value)),
}
