"""Would sdxl_train_network.py take these arguments as meant? It swallows unknown keys and wrong types itself."""

import ast
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from orchestrator.errors import Problem
from orchestrator.kohya import base_model, optimizers
from orchestrator.kohya.arguments import values
from orchestrator.kohya.arguments.schema import Argument, ArgumentSchema, Kind
from orchestrator.model import TREATMENTS, Params, Value

_ADVICE = "see the arguments of sdxl_train_network.py (`orchestrate plan` shows what is rendered)"


def check(points: Iterable[Params], keys: ArgumentSchema, *, where: str = "") -> list[Problem]:
    """What is wrong with any single argument of these points. Each distinct (key, value) is looked at and told once.

    `where` is the file that the points come from. Treatments are not arguments and are skipped.
    """
    distinct = {(key, repr(value)): value for params in points for key, value in params.items()}
    return [
        problem
        for (key, _), value in distinct.items()
        if key not in TREATMENTS
        for problem in _problems(key, value, keys, where)
    ]


def closest(word: str, known_words: Iterable[str]) -> str:
    """`did you mean "x"?`, or nothing when no known word is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known_words}
    found = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return f'did you mean "{by_folded[found[0]]}"?' if found else ""


def _problems(name: str, value: Value, keys: ArgumentSchema, where: str) -> Iterator[Problem]:
    for what, remedy in _findings(name, value, keys):
        told = "hidden" if name in values.SECRETS else shown(value)
        yield Problem(what=what, where=where, key=name, value=told, remedy=remedy)


def _findings(name: str, value: Value, keys: ArgumentSchema) -> Iterator[tuple[str, str]]:
    """Pairs of what is wrong and the remedy; the first kind of finding hides the later ones."""
    if name in values.OURS:
        yield "orchestrate decides this argument", values.OURS[name]
    elif name not in keys.by_name:
        yield _unknown(name, keys.by_name)
    elif wrong := _wrong_type(keys.by_name[name], value):
        yield wrong
    else:
        yield from _wrong_value(keys.by_name[name], value)


def _unknown(name: str, by_name: Mapping[str, Argument]) -> tuple[str, str]:
    what = f"sdxl_train_network.py has no argument `{name}`, and would ignore it in silence"
    if name in values.MISNAMED:
        return what, f'did you mean "{values.MISNAMED[name]}"?'
    return what, closest(name, by_name) or _ADVICE


# --- types ------------------------------------------------------------------------------------------------------------


def _wrong_type(key: Argument, value: Value) -> tuple[str, str] | None:
    if isinstance(value, tuple):
        return _wrong_list(key, value)
    if key.many and not (key.name == "text_encoder_lr" and _is(Kind.FLOAT, value)):
        return f"{key.name} takes a list, not {_noun(value)}", f"write [{shown(value)}]"
    if not _is(key.kind, value):
        return f"{key.name} takes {_ARTICLES[key.kind]}, not {_noun(value)}", _retyped(key.kind, value)
    if key.name == "validation_split" and isinstance(value, int):
        return "validation_split takes a float, and sd-scripts refuses whole numbers here", f"write {value}.0"
    return None


def _wrong_list(key: Argument, value: tuple[object, ...]) -> tuple[str, str] | None:
    if not key.many:
        return f"{key.name} takes {_ARTICLES[key.kind]}, not a list", "give one value"
    if not all(_is(key.kind, item) for item in value):
        return f"{key.name} takes a list of which each item is {_ARTICLES[key.kind]}", "write each item so"
    if len({type(item) for item in value}) > 1:
        return "a list of floats and integers is refused by sd-scripts' TOML parser", "write 0.0 instead of 0"
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


def _retyped(kind: Kind, value: Value) -> str:
    """How to write the value as `kind`, where that is plain."""
    try:
        match kind, value:
            case Kind.FLAG, str() if value.lower() in ("true", "false"):
                return f"write {value.lower()} without quotes"
            case Kind.STR, (bool() | int() | float()):
                return f'write "{shown(value)}"'
            case Kind.INT, float() if value == int(value):
                return f"write {int(value)}"
            case ((Kind.FLOAT | Kind.INT | Kind.INT_OR_FLOAT), str()) if math.isfinite(float(value)):
                return f"write {value.strip()} without quotes"
    except (ValueError, OverflowError):
        pass
    return f"write {_ARTICLES[kind]}"


def shown(value: Value) -> str:
    """The value as TOML would have it, near enough to be recognised."""
    match value:
        case bool():
            return "true" if value else "false"
        case tuple():
            return "[" + ", ".join(shown(item) for item in value) + "]"
        case str():
            return f'"{value}"'
    return repr(value)


# --- values -----------------------------------------------------------------------------------------------------------


def _wrong_value(key: Argument, value: Value) -> Iterator[tuple[str, str]]:
    if key.choices and value not in key.choices:
        allowed = ", ".join(str(choice) for choice in key.choices)
        hint = closest(value, map(str, key.choices)) if isinstance(value, str) else ""
        yield f"{key.name} must be one of {allowed}", hint or "pick one of them"
    if key.kind is not Kind.STR:
        yield from _wrong_number(key, value)
    if key.name in values.PAIRS and isinstance(value, tuple):
        yield from _wrong_pairs(key.name, [str(item) for item in value])
    elif key.name in _RULES and isinstance(value, str):
        yield from _RULES[key.name](value)


def _wrong_number(key: Argument, value: Value) -> Iterator[tuple[str, str]]:
    numbers = [item for item in (value if isinstance(value, tuple) else (value,)) if not isinstance(item, str)]
    if key.name in values.POSITIVE and any(number <= 0 for number in numbers):
        yield f"{key.name} must be positive", "leave it out for sd-scripts' default"
    if key.name in values.NOT_NEGATIVE and any(number < 0 for number in numbers):
        yield f"{key.name} must not be negative", "leave it out for sd-scripts' default"
    if key.kind is Kind.INT_OR_FLOAT and isinstance(value, float) and value >= 1:
        what = f"{key.name} = {value} means {value:g} times all steps: a float is a share of the training"
        yield what, f"write {int(value)} for steps, or a fraction below 1"
    if key.name == "bucket_reso_steps" and any(number % 32 for number in numbers):
        yield "bucket_reso_steps must be a multiple of 32 for SDXL", "write 64"


def _wrong_pairs(name: str, items: list[str]) -> Iterator[tuple[str, str]]:
    """`k=v`: optimizer_args and lr_scheduler_args hold Python literals, network_args what networks.lora reads."""
    for item in items:
        argument, equals, text = item.partition("=")
        if not (equals and argument.isidentifier() and text):
            yield f'"{item}" is not of the form key=value', 'write it like "weight_decay=0.01", without spaces'
        elif name == "network_args":
            yield from _wrong_network_arg(argument, text)
        elif not _is_literal(text) or "=" in text:
            what = f'the value in "{item}" is not a Python literal'
            yield what, "write True, 0.01, 0.9,0.99 or a quoted 'text'"


def _wrong_network_arg(argument: str, text: str) -> Iterator[tuple[str, str]]:
    if argument not in values.NETWORK_ARGS:
        what = f"{values.NETWORK_MODULE} reads no `{argument}` from network_args, and would ignore it in silence"
        yield what, closest(argument, values.NETWORK_ARGS) or f"one of {', '.join(values.NETWORK_ARGS)}"
        return
    read_as = values.NETWORK_ARGS[argument]
    try:
        read_as(text)
    except ValueError:
        yield f'"{argument}={text}": {argument} takes {read_as.__name__}', f"write {argument} as {read_as.__name__}"


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _wrong_optimizer(value: str) -> Iterator[tuple[str, str]]:
    short = {name.casefold() for name in optimizers.SHORT_NAMES}
    dotted = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value)
    if not dotted and value.casefold() not in short and value not in optimizers.TORCH_CLASSES:
        hint = closest(value, optimizers.SHORT_NAMES + optimizers.TORCH_CLASSES)
        yield f'sd-scripts knows no optimizer "{value}"', hint or "name a class by its full path, package.module.Class"


def _wrong_scheduler(value: str) -> Iterator[tuple[str, str]]:
    if value not in values.SCHEDULERS:
        hint = closest(value, values.SCHEDULERS)
        yield f'sd-scripts knows no scheduler "{value}"', hint or "name a class by its full path in lr_scheduler_type"


def _wrong_resolution(value: str) -> Iterator[tuple[str, str]]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)?", value):
        yield f'resolution "{value}" is not of the form "width,height"', 'write "1024,1024"'


def _wrong_face_crop(value: str) -> Iterator[tuple[str, str]]:
    ends = re.fullmatch(r"(\d+\.?\d*),(\d+\.?\d*)", value)
    if not ends or float(ends[1]) > float(ends[2]):
        yield f'face_crop_aug_range "{value}" is not of the form "from,to"', 'write "2.0,4.0"'


def _wrong_network(value: str) -> Iterator[tuple[str, str]]:
    if value != values.NETWORK_MODULE:
        yield f"checkpoints of {value} cannot be proven or used here", f'write "{values.NETWORK_MODULE}"'


def _wrong_format(value: str) -> Iterator[tuple[str, str]]:
    if value != "safetensors":
        yield f"save_model_as {value} writes a pickle, which is never opened here", 'write "safetensors"'


def _wrong_weights(value: str) -> Iterator[tuple[str, str]]:
    return base_model.is_pickle(Path(value))


_RULES: Mapping[str, Callable[[str], Iterator[tuple[str, str]]]] = {
    "optimizer_type": _wrong_optimizer,
    "lr_scheduler": _wrong_scheduler,
    "resolution": _wrong_resolution,
    "face_crop_aug_range": _wrong_face_crop,
    "network_module": _wrong_network,
    "save_model_as": _wrong_format,
    "network_weights": _wrong_weights,
}
