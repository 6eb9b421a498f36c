"""The arguments of optimizer and scheduler classes, from the packages that sd-scripts pins (signatures.json).

`vendor/.venv/bin/python tests/vendor/signatures.py > orchestrator/kohya/signatures.json` writes the table.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from orchestrator.text import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The arguments of a class by name, and which of them it requires.

    Types are `bool`, `number`, `numbers N`, `text`, each also with ` or None`; `any`; and `object`: no literal fits.
    """

    args: Mapping[str, str]
    required: tuple[str, ...] = ()


@cache
def table(section: str) -> Mapping[str, Signature]:
    """The signatures of `optimizers` or `schedulers` by path, `bitsandbytes.optim.AdamW8bit`."""
    record = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))[section]
    return {
        path: Signature(args=found["args"], required=tuple(found.get("required", ()))) for path, found in record.items()
    }


@lru_cache
def find(section: str, root: str, name: str) -> Signature | None:
    """The signature of a class by its package and name, whatever the module between them."""
    found = [path for path in table(section) if path.partition(".")[0] == root and path.rpartition(".")[2] == name]
    return table(section)[found[0]] if found else None


def issues(owner: str, signature: Signature, given: Mapping[str, object], section: str) -> Iterator[tuple[str, str]]:
    """What `owner` would reject of these arguments: unknown names, wrong types, and missing ones.

    section: `optimizers` or `schedulers`, which `owner` is one of.
    """
    if objects := [name for name in signature.required if signature.args[name] == "object"]:
        yield f"{owner} needs a Python object as {objects[0]}, which cannot be written here", "use another one"
        return
    for name, value in given.items():
        kind = signature.args.get(name)
        if kind is None:
            near = did_you_mean(name, signature.args)
            elsewhere = "" if near.startswith("did") else _owner(name, section)
            yield f'{owner} has no argument "{name}"', elsewhere or near
        elif not _fits(kind, value):
            yield (
                f"{name} = {value!r}: {owner} takes {_noun(kind)} here",
                f'write it like "{name}={_example(kind)}"',
            )
    for name in signature.required:
        if name not in given:
            yield f"{owner} needs {name}", f'add "{name}=..." with {_noun(signature.args[name])}'


_LISTS = {"optimizers": "optimizer_args", "schedulers": "lr_scheduler_args"}


def _owner(name: str, section: str) -> str:
    """Where an argument belongs that another class has, those that sd-scripts names first; empty if none has it."""
    owners = [
        (path.startswith("pytorch_optimizer."), one != section, path, one)
        for one in _LISTS
        for path, found in table(one).items()
        if name in found.args
    ]
    if not owners:
        return ""
    _, is_elsewhere, path, one = min(owners)
    place = f", or move it to {_LISTS[one]}" if is_elsewhere else ""
    return f"remove it{place}: it belongs to {path.rpartition('.')[2]}"


def _fits(kind: str, value: object) -> bool:
    base, _, optional = kind.partition(" or ")
    if optional and value is None:
        return True
    match base.split():
        case ["bool"]:
            return isinstance(value, bool) or value in (0, 1)
        case ["number"]:
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ["numbers", count]:
            return (
                isinstance(value, tuple | list) and len(value) == int(count) and all(_fits("number", v) for v in value)
            )
        case ["text"]:
            return isinstance(value, str)
    return base == "any"


def _example(kind: str) -> str:
    base, *count = kind.partition(" or ")[0].split()
    if base == "numbers":
        return ",".join(["0.9", "0.99", "0.999", *["0.9"] * 9][: int(count[0])])
    return {"bool": "True", "number": "0.01", "text": "'name'"}.get(base, "1")


def _noun(kind: str) -> str:
    if kind.startswith("numbers"):
        return f"{kind.split()[1]} numbers"
    return {"bool": "True or False", "number": "a number", "text": "a text in quotes"}.get(kind.split()[0], "a value")
