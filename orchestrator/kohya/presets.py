"""Reads trainings of other tools: presets of the kohya_ss GUI, sd-scripts' config files, and command lines."""

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError, Problem
from orchestrator.files import read_bytes
from orchestrator.kohya import networks
from orchestrator.kohya.arguments import check, key_values, values
from orchestrator.kohya.arguments.schema import ENTRY, Argument, ArgumentSchema, Kind
from orchestrator.model import Params, Value

_MAX_BYTES = 2**20
_NETWORKS = {
    "Standard": (networks.LORA, ""), "Kohya LoCon": (networks.LORA, ""),
    "Kohya LoHa": (networks.LOHA, ""), "Kohya LoKr": (networks.LOKR, ""),
    "LoCon": (networks.LYCORIS, "locon"), "LyCORIS/LoCon": (networks.LYCORIS, "locon"),
    "LyCORIS/LoHa": (networks.LYCORIS, "loha"), "LyCORIS/LoKr": (networks.LYCORIS, "lokr"),
}  # fmt: skip
"""The GUI's LoRA_type -> module, and algorithm of LyCORIS."""
_ALWAYS = (
    "learning_rate", "network_dim", "network_alpha", "max_train_steps", "max_train_epochs", "optimizer_type",
    "lr_scheduler", "train_batch_size", "gradient_accumulation_steps", "resolution", "mixed_precision",
    "save_precision", "max_data_loader_n_workers",
)  # fmt: skip
"""Arguments that are kept at sd-scripts' default, too."""


@dataclass(slots=True)
class Preset:
    """A training of another tool. arguments: sd-scripts' own; base_model, dataset: keys of their settings tables.

    mapped: what was renamed or changed, and dropped: what was left out, each by its old name with an explanation.
    """

    arguments: dict[str, Value] = field(default_factory=dict)
    base_model: dict[str, Value] = field(default_factory=dict)
    dataset: dict[str, Value] = field(default_factory=dict)
    mapped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def read(path: Path, schema: ArgumentSchema) -> Preset:
    """The training that a .json, .toml or a script describes. InputError where it is none of an SDXL LoRA."""
    try:
        text = _text(path)
        if path.suffix.lower() == ".json":
            return _converted(_flat(json.loads(text)), schema, path, gui=True)
        if path.suffix.lower() == ".toml":
            return _converted(_flat(tomllib.loads(text)), schema, path, gui=False)
        return _converted(_command_line(text, schema, path), schema, path, gui=False)
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(
            path,
            f"cannot be read: {getattr(error, 'strerror', None) or error}",
            "name a preset, a config file or a script",
        ) from None


def _text(path: Path) -> str:
    return read_bytes(path, max_bytes=_MAX_BYTES).decode("utf-8-sig").replace("\r\n", "\n")


def _refused(path: Path, what: str, remedy: str) -> InputError:
    return InputError(Problem(what=what, where=str(path), remedy=remedy))


def _flat(table: Any) -> dict[str, Any]:
    """The keys of a table and of the tables in it, as sd-scripts reads them."""
    if not isinstance(table, dict):
        raise ValueError("it is a list, not a table")
    inner = {key: value for one in table.values() if isinstance(one, dict) for key, value in one.items()}
    return {key: value for key, value in table.items() if not isinstance(value, dict)} | inner


# --- command lines ----------------------------------------------------------------------------------------------------


def _command_line(text: str, schema: ArgumentSchema, path: Path) -> dict[str, Any]:
    """The arguments after the script's name. A --config_file beside the script is read first."""
    joined = re.sub(r"[ \t]*(?:[\\^`][ \t]*\n|\n[ \t]*(?=--\w))", " ", text)
    variables: dict[str, str] = dict(re.findall(_ASSIGNMENT, joined))

    def expanded(text: str, *, with_spaces: bool) -> str:
        def value(match: re.Match[str]) -> str:
            found = variables.get(match[1] or match[3], match[2] or str(match[0]))
            return found if with_spaces or " " not in found or found.startswith("--") else str(match[0])

        return re.sub(r"\$\{?(?:env:)?(\w+)(?::-([^}]*))?\}?|%(\w+)%", value, text)

    lines = [expanded(line, with_spaces=False) for line in joined.splitlines()]
    starts = [line for line in lines if re.search(r"\w+\.py\b.*\s--\w", line) and not re.match(_COMMENT, line)]
    line = next((line for line in starts if ENTRY in line), starts[0] if starts else "")
    script = re.search(r"(\w+)\.py\b[\"']?", line)
    if script is None:
        raise _refused(path, "has no command line of a training", f"name a script that starts {ENTRY}.py")
    if script[1] != ENTRY:
        what = f"starts {script[1]}.py, and orchestrate trains LoRAs of SDXL with {ENTRY}.py"
        raise _refused(path, what, f"import a training of {ENTRY}.py")
    words = [expanded(word, with_spaces=True) for word in _words(line[script.end() :])]
    found = dict(_options(words, schema))
    config = str(found.pop("config_file", ""))
    beside = path.parent / re.split(r"[\\/]", config)[-1]
    if config and beside.is_file():
        return {**_flat(tomllib.loads(_text(beside))), **found}
    if config and "network_module" not in found:
        what = f"reads its arguments from {config}, which is not in the same folder"
        raise _refused(path, what, "import that file, or copy it into the folder of the script")
    return found


_ASSIGNMENT = r"(?mi)^\s*(?:export\s+|set\s+\"?|\$)?(\w+)\s*=\s*[\"']?([^\"'\r\n#]*?)[\"']?\s*(?:#.*)?$"
_COMMENT = r"(?i)\s*(?:#|::|@?rem\s|//)"
_OPERATOR = r"[;&|]+|\d?[<>].*"


def _words(line: str) -> list[str]:
    """The words of a command, up to the next command, without their quotes. Backslashes are kept, for Windows paths."""
    found = re.findall(r"""(?:[^\s"';&|]|"[^"]*"|'[^']*')+|[;&|]+""", line)
    words = itertools.takewhile(lambda word: not re.fullmatch(_OPERATOR, word), found)
    return [re.sub(r"""\"([^\"]*)\"|'([^']*)'""", r"\1\2", word) for word in words]


def _options(words: list[str], schema: ArgumentSchema) -> Iterator[tuple[str, Any]]:
    name, given = "", list[str]()
    for word in [*words, "--"]:
        if not word.startswith("--"):
            given.append(word)
            continue
        if name:
            argument = schema.by_name.get(name)
            yield name, given if argument and argument.many else (given[0] if given else True)
        option, equals, text = word.removeprefix("--").partition("=")
        name, given = option.replace("-", "_"), [text.strip("\"'")] if equals else []


# --- conversion -------------------------------------------------------------------------------------------------------


def _converted(table: dict[str, Any], schema: ArgumentSchema, path: Path, *, gui: bool) -> Preset:
    kind = str(table.get("LoRA_type", "Standard"))
    foreign = [key for key in ("flux1_checkbox", "sd3_checkbox", "anima_checkbox", "lumina_checkbox") if table.get(key)]
    if gui and (table.get("v2") or foreign or not table.get("sdxl")):
        raise _refused(path, "is not a training of SDXL", "import a preset of SDXL: orchestrate trains no other models")
    if gui and not {"LoRA_type", "network_dim"} & table.keys():
        what = "trains no LoRA: it has neither LoRA_type nor network_dim"
        raise _refused(path, what, "import a preset of the GUI's tab LoRA")
    if kind not in _NETWORKS:
        what = f"trains a network of type {kind}, whose preset orchestrate cannot convert"
        raise _refused(path, what, f"import a preset of type {' or '.join(_NETWORKS)}")
    if "datasets" in table or not (gui or "network_module" in table):
        what = "is a dataset config" if "datasets" in table else "has no network_module: it trains no LoRA"
        raise _refused(path, what, "import the config of sdxl_train_network.py")
    preset = Preset()
    if gui:
        table = _from_gui(table, preset, schema)
    for key, value in table.items():
        _take(key, value, preset, schema)
    _reconcile(preset)
    return preset


def _from_gui(table: Mapping[str, Any], preset: Preset, schema: ArgumentSchema) -> dict[str, Any]:
    """The table with the GUI's choices replaced by sd-scripts' arguments."""
    found = {key: value for key, value in table.items() if value not in ("", None)}
    added = dict(_options(_words(str(found.pop("additional_parameters", ""))), schema))
    backend = found.pop("xformers", None)
    if backend in ("sdpa", "xformers", True):
        found["xformers" if backend is True else str(backend)] = True
    rates: dict[str, float] = {
        key: float(found.get(key, 0) or 0) for key in ("text_encoder_lr", "unet_lr") if key in found
    }
    for key, other, flag in (
        ("text_encoder_lr", "unet_lr", "network_train_unet_only"),
        ("unet_lr", "text_encoder_lr", "network_train_text_encoder_only"),
    ):
        if rates.get(key) == 0 and rates.get(other):
            found[flag] = True
            preset.mapped[key] = f"{flag} = true"
            del found[key]
    if (share := float(found.pop("lr_warmup", 0) or 0)) > 0:
        found["lr_warmup_steps"] = share / 100
        preset.mapped["lr_warmup"] = f"lr_warmup_steps = {share / 100:g}: a share of all steps"
    unused = "multires" if found.get("noise_offset_type", "Original") == "Original" else "noise_offset"
    found = {key: value for key, value in found.items() if not key.startswith(unused) or key == "noise_offset_type"}
    for name in ("optimizer_args", "lr_scheduler_args", "network_args"):
        if isinstance(text := found.get(name), str):
            found[name] = text.replace('"', "").split()
    return _with_network(found, preset) | added


def _with_network(found: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """The table with network_module and network_args in place of the GUI's keys of the network."""
    kind = str(found.get("LoRA_type", "Standard"))
    module, algorithm = _NETWORKS[kind]
    given = {**found, "algo": algorithm, "preset": found.get("LyCORIS_preset")}
    given["use_tucker"] = found.get("use_tucker") or found.get("use_cp")
    used = {
        name: given[name]
        for name, (accepted, _) in key_values.NETWORK_ARGS[module].items()
        if accepted != "false"
        and given.get(name) not in (None, "", 0, "0")
        and not (name in key_values.OF_LOKR and "LoKr" not in kind)
    }
    if used.get("factor") == -1:
        del used["factor"]
    if kind == "Standard":
        used = {name: value for name, value in used.items() if not name.startswith("conv_")}
    elif module == networks.LYCORIS:
        used.setdefault("conv_dim", found.get("conv_dim", 1))  # 0 disables them; without it, they have the rank
    elif module != networks.LORA and "conv_dim" not in used:
        used = {name: value for name, value in used.items() if name not in ("conv_alpha", "use_tucker")}
    preset.mapped["LoRA_type"] = f"network_module = {module}" + f", algo={algorithm}" * bool(algorithm)
    for name in _UNVERIFIED if algorithm else ():
        if found.get(name):
            preset.dropped[name] = "orchestrate cannot verify a LyCORIS network that uses it"
    removed = {*key_values.LORA_ARGS, *used, "LoRA_type", *(("use_cp", "LyCORIS_preset") if algorithm else ())}
    table = {key: value for key, value in found.items() if key not in removed | preset.dropped.keys()}
    listed = [*found.get("network_args", []), *(f"{name}={value}" for name, value in used.items())]
    return {**table, "network_module": module, **({"network_args": listed} if listed else {})}


_UNVERIFIED = ("train_norm", "use_scalar", "rank_dropout_scale")


def _take(key: str, value: Any, preset: Preset, schema: ArgumentSchema) -> None:
    """Put one key where it belongs, or note why it is dropped."""
    names = check.gui_names()
    name = names["renamed"].get(key, key)
    if name != key:
        preset.mapped[key] = name
        if name in preset.arguments:
            return
    if name in _ELSEWHERE:
        table, target = _ELSEWHERE[name]
        getattr(preset, table)[target] = _local_path(str(value)) if target in ("path", "vae", "image_dir") else value
        preset.mapped[key] = f"{target} of the {table.replace('_', ' ')}"
    elif name in values.RESERVED:
        preset.dropped[key] = values.RESERVED[name]
    elif name in values.REJECTED:
        preset.dropped[key] = f"it {values.REJECTED[name]}"
    elif name not in schema.by_name:
        preset.dropped[key] = str(names["other"].get(key, "sdxl_train_network.py has no such argument"))
    elif (converted := _typed(schema.by_name[name], value)) is None:
        preset.dropped[key] = "it is empty or 0, which means that it is not used"
    elif name not in _ALWAYS and converted == schema.by_name[name].default:
        preset.dropped[key] = "it is sd-scripts' default"
    else:
        preset.arguments[name] = converted


_ELSEWHERE = {
    "pretrained_model_name_or_path": ("base_model", "path"),
    "vae": ("base_model", "vae"),
    "train_data_dir": ("dataset", "image_dir"),
    "caption_extension": ("dataset", "caption_extension"),
    "class_tokens": ("dataset", "trigger"),
    "num_repeats": ("dataset", "num_repeats"),
}


def _local_path(written: str) -> str:
    """A Windows path as WSL has it; others unchanged."""
    drive = re.match(r"([A-Za-z]):[\\/]", written)
    return f"/mnt/{drive[1].lower()}/{written[3:]}".replace("\\", "/") if drive else written


def _typed(argument: Argument, value: Any) -> Value | None:
    """The value in the type of its argument; None if it means that the argument is not used."""
    if isinstance(value, list):
        items = tuple(one for one in (_scalar(argument.kind, one) for one in value) if one is not None)
        return items or None
    found = _scalar(argument.kind, value)
    if found is None or (found == 0 and argument.name not in _ZERO):
        return None
    return (found,) if argument.many else found


_ZERO = ("max_data_loader_n_workers", "network_alpha")


def _scalar(kind: Kind, value: Any) -> Any:
    text = str(value).strip()
    if kind is Kind.FLAG:
        return True if text.lower() in ("true", "1") else None
    if text == "" or value is None or value is False:
        return None
    try:
        if kind is Kind.INT:
            return int(float(text))
        return text if kind is Kind.STR else (int(text) if re.fullmatch(r"-?\d+", text) else float(text))
    except ValueError:
        return text


def _reconcile(preset: Preset) -> None:
    """Remove what sd-scripts rejects or ignores beside other arguments, with the reason."""

    def drop(key: str, why: str) -> None:
        if preset.arguments.pop(key, None) is not None:
            preset.dropped[key] = why

    given: Params = preset.arguments
    if "max_train_epochs" in given:
        drop("max_train_steps", "max_train_epochs overrides it")
    if given.get("cache_latents_to_disk"):
        preset.arguments["cache_latents"] = True
        drop("cache_latents_to_disk", "orchestrate caches latents in memory: cache_latents = true")
    if "lr_scheduler_type" in given:
        drop("lr_scheduler", "lr_scheduler_type overrides it")
    if given.get("max_data_loader_n_workers") == 0:
        drop("persistent_data_loader_workers", "there are no workers to persist")
    if not any(key.startswith("sample_every") for key in given):
        drop("sample_sampler", "no samples are drawn")
    drop("clip_skip", "it has no effect for SDXL")
    if given.get("max_token_length") == 75 or given.get("max_token_length") == "75":
        drop("max_token_length", "75 is sd-scripts' default")
    if not given.get("torch_compile"):
        drop("dynamo_backend", "torch_compile is not set")
    preset.arguments.setdefault("network_module", "networks.lora")
    preset.arguments.setdefault("gradient_accumulation_steps", 1)
    if "seed" not in given:
        preset.arguments["seed"] = 1
        preset.mapped["seed"] = "1: without a seed, runs cannot be repeated"
