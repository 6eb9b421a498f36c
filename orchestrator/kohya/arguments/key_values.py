"""Lists of `key=value` strings: optimizer_args and lr_scheduler_args hold Python literals, network_args plain text."""

import ast
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from orchestrator.kohya.arguments import ranges
from orchestrator.kohya.arguments.schema import read_snapshot
from orchestrator.model import Params
from orchestrator.text import did_you_mean
from orchestrator.values import toml_repr

NAMES = ("optimizer_args", "lr_scheduler_args", "network_args")

CURVES = ("cosine", "sine", "linear", "reverse_linear", "zeros")
"""What down_lr_weight and up_lr_weight accept instead of numbers, as in `cosine+0.25`. Source: networks/lora.py."""

_COMMON: Mapping[str, tuple[str, int]] = {
    "conv_dim": ("int", 1),
    **dict.fromkeys(("conv_alpha", "rank_dropout", "module_dropout"), ("float", 1)),
    **dict.fromkeys(("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"), ("float", 1)),
}
LORA_ARGS: Mapping[str, tuple[str, int]] = {
    **_COMMON,
    "block_lr_zero_threshold": ("float", 1),
    **dict.fromkeys(("block_dims", "conv_block_dims"), ("int", 23)),
    **dict.fromkeys(("block_alphas", "conv_block_alphas"), ("float", 23)),
    **dict.fromkeys(("down_lr_weight", "up_lr_weight"), ("float", 9)),
    "mid_lr_weight": ("float", 3),
}
_LOHA_ARGS: Mapping[str, tuple[str, int]] = {
    **_COMMON,
    **dict.fromkeys(("use_tucker", "verbose"), ("bool", 1)),
    **dict.fromkeys(("exclude_patterns", "include_patterns"), ("patterns", 1)),
    "network_reg_lrs": ("numbers by pattern", 1),
    "network_reg_dims": ("integers by pattern", 1),
}
_LYCORIS_ARGS: Mapping[str, tuple[str, int]] = {
    **_COMMON,
    "dropout": ("float", 1),
    **dict.fromkeys(("dora_wd", "wd_on_output", "use_tucker", "rs_lora", "bypass_mode"), ("bool", 1)),
    "algo": ("algo", 1),
    "preset": ("preset", 1),
    "factor": ("int", 1),
    **dict.fromkeys(("full_matrix", "unbalanced_factorization", "decompose_both"), ("bool", 1)),
    **dict.fromkeys(("use_scalar", "train_norm", "rank_dropout_scale", "use_cp"), ("false", 1)),
}
NETWORK_ARGS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "networks.lora": LORA_ARGS,
    "networks.loha": _LOHA_ARGS,
    "networks.lokr": {**_LOHA_ARGS, "factor": ("int", 1)},
    "networks.oft": dict.fromkeys(("enable_all_linear", "enable_conv"), ("true", 1)),
    "lycoris.kohya": _LYCORIS_ARGS,
}
"""What each module reads from `network_args` for SDXL: type and number of values; it ignores other keys.

`bool` is True or False; `true` must be True, because the module takes any text for True; `false` must be False, as
kohya_ss writes it, because checkpoints with it cannot be verified. Sources: sd-scripts v0.11.1 (`create_network` in
networks/), lycoris-lora 4.1.3 (kohya.py) without what belongs to other algorithms.
"""

OF_LOKR = ("factor", "decompose_both", "full_matrix", "unbalanced_factorization")
"""What LyCORIS reads for `algo=lokr` alone."""

PRESETS = (
    "full", "full-lin", "attn-mlp", "attn-only", "unet-only", "unet-transformer-only", "unet-convblock-only",
)  # fmt: skip
"""The parts of the model that LyCORIS trains, by its names, which it reads in exactly this case."""

_CHOICES = {
    "bool": ("True", "False"),
    "true": ("True",),
    "false": ("False",),
    "algo": ("lora", "locon", "loha", "lokr"),
    "preset": PRESETS,
}
_REMEDIES = {"true": "remove it: any text counts as True", "false": "remove it", "use_cp": 'write "use_tucker=True"'}
_NO = ("0", "no", "off", "none", "n", "f")


def pairs(params: Params, name: str) -> dict[str, str]:
    """The `key=value` strings of one argument as a dict; empty if it is not a list."""
    value = params.get(name, ())
    split = [str(item).partition("=") for item in (value if isinstance(value, tuple) else ())]
    return {key: text for key, _, text in split}


def literals(params: Params, name: str) -> dict[str, object]:
    """The values of `key=value` strings as Python literals, without malformed ones, which `issues` reports."""
    found = {}
    for key, text in pairs(params, name).items():
        with contextlib.suppress(ValueError):
            found[key] = literal(text)
    return {key: value for key, value in found.items() if key.isidentifier()}


@lru_cache(maxsize=1024)
def literal(text: str) -> object:
    """The Python literal that sd-scripts reads; ValueError if there is none."""
    try:
        found: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(text) from error
    return found


def issues(name: str, items: Sequence[str], module: str = "") -> Iterator[tuple[str, str]]:
    """What is wrong with the form of the items, or with the values of network_args; with the corrected spelling.

    module: the value of network_module; without it, the arguments of all modules are accepted.
    """
    seen: dict[str, str] = {}
    for item in items:
        key, _, text = item.partition("=")
        written = _rewritten(item, python=name != "network_args")
        if written != [item]:
            yield f"{name} has a malformed item {toml_repr(item)}", _remedy(written)
        elif seen.get(key, text) != text:
            yield f"{name} sets {key} twice", "remove one of the two"
        elif name == "network_args" and key not in seen:
            yield from _network_arg_issues(key, text, module)
        seen[key] = text


def _remedy(written: list[str]) -> str:
    return f"write {', '.join(map(toml_repr, written))}" if written else 'write it like "weight_decay=0.01"'


_BY_PATTERN = ("network_reg_lrs", "network_reg_dims")


def _rewritten(item: str, *, python: bool) -> list[str]:
    """The items that were probably intended: the same one if it is valid, none if it cannot be guessed."""
    whole = item.startswith(tuple(f"{key}=" for key in _BY_PATTERN))
    parts = [item] if whole else re.split(r"[\s,;]+(?=[A-Za-z_]\w*\s*=)", item.strip().strip(",; "))
    found = []
    for part in parts:
        key, equals, text = (side.strip() for side in part.strip(" -").partition("="))
        text = text.rstrip(",; ")
        if not (equals and key.isidentifier() and text) or ("=" in text and key not in _BY_PATTERN):
            return []
        if python:
            text = text.capitalize() if text.lower() in ("true", "false", "none") else text
            try:
                literal(text)
            except ValueError:
                text = _as_literal(text)
                if not text:
                    return []
        found.append(f"{key}={text}")
    return found


def _as_literal(text: str) -> str:
    """What was probably intended with a text that is no Python literal; empty if it cannot be guessed."""
    if text in read_snapshot().by_name:
        return f"{{{{ {text} }}}}"
    if percent := re.fullmatch(r"(\d+\.?\d*)%", text):
        return f"{float(percent[1]) / 100:g}"
    if re.fullmatch(r"[\d.]+(\s+[\d.]+)+", text):
        return ",".join(text.split())
    return f"'{text}'" if re.fullmatch(r"[A-Za-z_][\w.-]*", text) else ""


def _network_arg_issues(key: str, text: str, module: str) -> Iterator[tuple[str, str]]:
    known = NETWORK_ARGS.get(module) or {name: kind for table in NETWORK_ARGS.values() for name, kind in table.items()}
    if key not in known:
        others = [name for name, table in NETWORK_ARGS.items() if key in table]
        what = f"{module or 'networks.lora'} has no `{key}` in network_args and would ignore it"
        yield what, f"remove it, or use {' or '.join(others)}, which has it" if others else did_you_mean(key, known)
        return
    kind, count = known[key]
    if count == 9 and "," not in text:
        yield from _curve_issues(key, text)
    elif kind in _CHOICES:
        choices, folded = _CHOICES[kind], text.casefold()
        if text not in choices and (kind == "preset" or folded not in map(str.casefold, choices)):
            meant = choices[-1] if kind == "bool" and folded in _NO else folded if folded in choices else choices[0]
            what = f'"{key}={text}": {key} must be {" or ".join(choices)}'
            yield what, _REMEDIES.get(key) or _REMEDIES.get(kind) or f'write "{key}={meant}"'
    elif kind == "patterns" or key in _BY_PATTERN:
        yield from _pattern_issues(key, text)
    else:
        yield from _number_issues(key, text, kind, count)


def _pattern_issues(key: str, text: str) -> Iterator[tuple[str, str]]:
    """Regular expressions over module names: a Python list of them, or `pattern=number,pattern=number`."""
    try:
        if key in _BY_PATTERN:
            pairs = [part.rpartition("=") for part in text.split(",")]
            patterns = [pattern for pattern, _, number in pairs if float(number) >= 0]
            wrong = len(patterns) < len(pairs) or (key == "network_reg_dims" and any("." in one[2] for one in pairs))
        else:
            found = literal(text)
            patterns = [found] if isinstance(found, str) else found if isinstance(found, list) else []
            wrong = not patterns
        for pattern in patterns:
            re.compile(pattern)
    except (ValueError, TypeError, re.error):
        wrong = True
    if wrong:
        example = f"{key}=.*attn1.*=4" if key in _BY_PATTERN else f"{key}=['.*attn1.*']"
        yield f'"{key}={text}": {key} takes regular expressions', f'write it like "{example}"'


def _number_issues(key: str, text: str, kind: str, count: int) -> Iterator[tuple[str, str]]:
    parts = [part.strip() for part in text.split(",")]
    noun = {"int": "integer", "float": "number"}[kind] + "s" * (count > 1)
    try:
        numbers = [float(int(part) if kind == "int" else float(part)) for part in parts]
    except ValueError:
        example = ",".join(["1"] * count)
        yield f'"{key}={text}": {key} takes {count} {noun}', f'write it like "{key}={example}"'
        return
    if len(parts) != count:
        what = f"{key} takes {count} {noun} for SDXL, not {len(parts)}"
        all_same = len(set(parts)) == 1
        yield what, f'write "{key}={",".join(parts[:1] * count)}"' if all_same else f"write {count} {noun}"
    yield from ranges.issues("network_args", key, numbers)


def _curve_issues(key: str, text: str) -> Iterator[tuple[str, str]]:
    """A single word is the name of a curve; networks.lora fails at a single number."""
    name, plus, base = text.partition("+")
    if re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text.strip(), re.IGNORECASE):
        what = f"{key} takes 9 numbers for SDXL, or the name of a curve"
        yield what, f'write "{key}={",".join([text.strip()] * 9)}"'
    elif name not in CURVES:
        yield f'{key} has no curve "{name}"', did_you_mean(name, CURVES)
    elif plus and not re.fullmatch(r"\d+\.?\d*|\.\d+", base):
        yield f'"{base}" after + is not a number', f'write "{key}={name}+0.25"'


def block_weights(params: Params) -> list[float] | None:
    """The factors of the U-Net's learning rate by block, down, mid and up; None without block weights.

    Malformed weights count as 1: `issues` reports them.
    """
    arguments = pairs(params, "network_args")
    names = [name for name in ("down_lr_weight", "mid_lr_weight", "up_lr_weight") if name in arguments]
    if not names:
        return None
    found: list[float] = []
    for name in ("down_lr_weight", "mid_lr_weight", "up_lr_weight"):
        text, count = arguments.get(name, ""), LORA_ARGS[name][1]
        curve, _, base = text.partition("+")
        parts = [part.strip() for part in text.split(",")]
        if len(parts) == count and all(re.fullmatch(r"\d*\.?\d+", part) for part in parts):
            found += map(float, parts)
        elif curve == "zeros":
            found += [float(base or 0)] * count if re.fullmatch(r"(\d*\.?\d+)?", base) else [1.0]
        else:
            found += [0.5, 1.0] if curve in CURVES else [1.0]
    return found
