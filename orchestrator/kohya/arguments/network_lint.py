"""Lint rules for the network: network_args that have no effect, and files of weights that do not fit."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.errors import Problem, error, warning
from orchestrator.kohya import base_model, networks
from orchestrator.kohya.arguments import key_values
from orchestrator.kohya.outputs import safetensors_header
from orchestrator.kohya.outputs.safetensors_header import Header
from orchestrator.model import Params, Value

WEIGHTS = ("network_weights", "base_weights")
FILES = (*WEIGHTS, "log_tracker_config", "metadata_thumbnail")
"""Arguments that name files, one or a list of them."""

_OTHER_MODELS = r"lora_te_|lora_unet_(down|up|mid)_block|lora_unet_(single|double|joint)_blocks|lora_te[13]_.*t5"


def lint(params: Params) -> Iterator[Problem]:
    """The problems of the network of this training."""
    yield from _ignored_arguments(params)
    yield from _of_module(params)
    for key in FILES:
        for path in named_files(params, key):
            yield from _file_problems(key, path, params)
    if params.get("dim_from_weights") and not params.get("network_weights"):
        what = "dim_from_weights reads the rank from network_weights, which is not set: sd-scripts exits"
        yield error("dim_from_weights", what, "set network_weights, or remove dim_from_weights")
    weights, factors = params.get("base_weights", ()), params.get("base_weights_multiplier", ())
    if isinstance(factors, tuple) and isinstance(weights, tuple) and len(factors) > len(weights):
        what = f"{len(factors)} factors for {len(weights)} files: the last ones have no effect"
        yield error("base_weights_multiplier", what, "give one factor for each file of base_weights")


def named_files(params: Params, key: str) -> list[Path]:
    """The files that an argument names."""
    value = params.get(key, ())
    return [
        Path(str(name)) for name in (value if isinstance(value, tuple) else (value,)) if name and not _is_data(name)
    ]


def _is_data(name: Value) -> bool:
    """Whether it is the content itself, as metadata_thumbnail may be."""
    return str(name).startswith("data:")


def _ignored_arguments(params: Params) -> Iterator[Problem]:
    given = key_values.pairs(params, "network_args")
    weights = [name for name in given if name.endswith("_lr_weight")]
    needs = {
        "block_alphas": ("block_dims",),
        "conv_block_dims": ("block_dims",),
        "conv_block_alphas": ("conv_block_dims",),
        "conv_alpha": ("conv_dim", "conv_block_dims"),
        "block_lr_zero_threshold": (),
    }
    for name, needed in needs.items():
        accepted = (*needed, *([] if name in ("conv_alpha", "conv_block_alphas") else weights))
        by_default = name == "conv_alpha" and networks.module_of(params) == networks.LYCORIS
        if name in given and not by_default and not any(other in given for other in accepted):
            what = f"{networks.module_of(params)} ignores {name} without {' or '.join(needed or ('block weights',))}"
            yield error("network_args", what, f"remove {name}")
    module = networks.module_of(params)
    if given.get("conv_dim", "0") != "0" and "conv_alpha" not in given and module != networks.LYCORIS:
        what = f"no conv_alpha: {module} uses 1, which scales the convolutions by 1/{given['conv_dim']}"
        yield warning("network_args", what, 'add "conv_alpha=..." with half of conv_dim')
    unet_only, text_only = params.get("network_train_unet_only"), params.get("network_train_text_encoder_only")
    if unet_only and "loraplus_text_encoder_lr_ratio" in given:
        what = "network_train_unet_only is set, so loraplus_text_encoder_lr_ratio has no effect"
        yield error("network_args", what, "remove loraplus_text_encoder_lr_ratio")
    if text_only and (unused := [*weights, *(name for name in given if name == "loraplus_unet_lr_ratio")]):
        what = f"network_train_text_encoder_only is set, so {unused[0]} has no effect"
        yield error("network_args", what, f"remove {unused[0]}")
    blocks = key_values.block_weights(params)
    ranks = [key for key in ("block_dims", "conv_block_dims") if key in given]
    no_ranks = "block_dims" in ranks and all(not given[key].strip("0, ") for key in ranks)
    least = key_values.literals(params, "network_args").get("block_lr_zero_threshold", 0)
    no_weights = blocks is not None and isinstance(least, int | float) and max(blocks) <= least
    if unet_only and (no_weights or no_ranks):
        what = "the rank of every block is 0" if no_ranks else f"the weight of every block is {least} or less"
        yield error("network_args", f"{what}: nothing is trained", "raise one of them")
    kept = (*weights, "factor")  # networks.lokr cannot read it from the file
    if params.get("dim_from_weights") and (unused := [name for name in given if name not in kept]):
        what = f"with dim_from_weights, {networks.module_of(params)} ignores {', '.join(unused)}"
        yield error("network_args", what, "remove them, or remove dim_from_weights and set network_dim")


def _of_module(params: Params) -> Iterator[Problem]:
    """What networks other than networks.lora ignore or fail at."""
    module, given = networks.module_of(params), key_values.pairs(params, "network_args")
    if module in (networks.LOHA, networks.LOKR, networks.OFT):
        for key in ("network_dropout", "scale_weight_norms"):
            if params.get(key):
                yield error(key, f"{module} ignores {key}", f"remove {key}")
    no_kernels = module in (networks.LOHA, networks.LOKR) and given.get("conv_dim", "0") == "0"
    if no_kernels and given.get("use_tucker", "").lower() == "true":
        yield error("network_args", f"{module} ignores use_tucker without conv_dim", "remove use_tucker")
    if module == networks.LYCORIS:
        yield from _lycoris(params, given)
    if networks.is_dora(params) and given.get("wd_on_output", "").lower() != "false":
        what = "the norms of this DoRA are those of the outputs: A1111 applies it wrongly and ComfyUI approximately"
        yield warning("network_args", what, 'add "wd_on_output=False"')
    if module == networks.OFT:
        yield from _oft(params)


_DEFAULTS = ("false", "-1")
"""Values of arguments of LoKr that change nothing; kohya_ss writes them for every algorithm."""


def _lycoris(params: Params, given: Mapping[str, str]) -> Iterator[Problem]:
    algorithm = networks.algorithm(params)
    changed = {name for name in key_values.OF_LOKR if given.get(name, "-1").lower() not in _DEFAULTS}
    if algorithm != "lokr":
        for name in [name for name in given if name in changed]:
            what = f"algo={given.get('algo', 'lora')} ignores {name}, which belongs to lokr"
            yield error("network_args", what, f"remove {name}")
    elif "decompose_both" in given.keys() - changed and networks.decomposes_both(params):
        what = f"LyCORIS takes decompose_both={given['decompose_both']} for True, like any text"
        yield warning("network_args", what, "remove decompose_both")
    if networks.is_dora(params) and given.get("bypass_mode", "").lower() == "true":
        what = "LyCORIS ignores dora_wd with bypass_mode, which leaves the model's weights as they are"
        yield error("network_args", what, "remove bypass_mode")
    if algorithm != "lora":
        if params.get("network_dropout") or given.get("dropout", "0") != "0":
            key = "network_dropout" if params.get("network_dropout") else "network_args"
            yield error(key, f"algo={algorithm} has no dropout of neurons", "remove it, or use rank_dropout")
        if plus := [name for name in given if name.startswith("loraplus_")]:
            yield error("network_args", f"algo={algorithm} ignores {plus[0]}", f"remove {plus[0]}")


def _oft(params: Params) -> Iterator[Problem]:
    blocks, most = params.get("network_dim"), networks.blocks_allowed(params)
    if isinstance(blocks, int) and blocks > 0 and most % blocks:
        nearest = min((n for n in range(1, most + 1) if most % n == 0), key=lambda n: abs(n - blocks))
        what = f"networks.oft splits layers into network_dim blocks, and {blocks} does not divide {most}: it fails"
        yield error("network_dim", what, f"set network_dim = {nearest}")
    if params.get("network_train_text_encoder_only"):
        what = "networks.oft has no text encoders: the training fails"
        yield error("network_train_text_encoder_only", what, "remove it")
    elif not params.get("network_train_unet_only"):
        what = "networks.oft trains the U-Net alone, and the text encoders only take memory"
        yield warning("network_module", what, "set network_train_unet_only = true")


# --- files ------------------------------------------------------------------------------------------------------------


def _file_problems(key: str, path: Path, params: Params) -> Iterator[Problem]:
    full = path.expanduser()
    if not full.is_file():
        yield error(key, f"{path} does not exist", "correct the path, or put the file there")
    elif not path.is_absolute():
        what = f"{path} is not an absolute path, and the trainer runs in another folder"
        yield error(key, what, f'write "{full.resolve()}"')
    elif key in WEIGHTS:
        yield from _weights_problems(key, path, params)
    elif key == "log_tracker_config":
        try:
            tomllib.loads(full.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            yield error(key, f"{path} cannot be read as TOML: {problem}", "correct the file, or remove the argument")


def _weights_problems(key: str, path: Path, params: Params) -> Iterator[Problem]:
    if any(base_model.is_pickle(path)):
        if key != "network_weights":  # checked with the argument itself
            yield from (error(key, what, remedy) for what, remedy in base_model.is_pickle(path))
        return
    try:
        header = safetensors_header.read_header(path)
    except (OSError, ValueError) as problem:
        yield error(key, f"{path} cannot be read: {problem}", "get the file again")
        return
    ranks = networks.ranks({name: tensor.shape for name, tensor in header.tensors.items()})
    wanted = networks.module_of(params)
    module = header.metadata.get("ss_network_module", "networks.lora")
    if not ranks or module != wanted:
        what = f"{path.name} is not a LoRA of {wanted}" + (f" but of {module}" if ranks else "")
        yield error(key, what, f"use a LoRA that {wanted} trained")
    elif _is_other_model(header):
        yield error(key, f"{path.name} is a LoRA of another model family", "use a LoRA that was trained on SDXL")
    elif key == "network_weights" and not params.get("dim_from_weights"):
        yield from _rank_problems(path, ranks, header, params)


def _is_other_model(header: Header) -> bool:
    return header.metadata.get("ss_base_model_version", "sdxl")[:4] != "sdxl" or any(
        re.match(_OTHER_MODELS, name) for name in header.tensors
    )


def _rank_problems(path: Path, ranks: set[int], header: Header, params: Params) -> Iterator[Problem]:
    rank, alpha = params.get("network_dim", 4), params.get("network_alpha", 1)
    if rank not in ranks:
        listed = ", ".join(map(str, sorted(ranks)))
        what = f"{path.name} has rank {listed}, not network_dim = {rank}: sd-scripts exits"
        remedy = f"set network_dim = {max(ranks)}" if len(ranks) == 1 else "set dim_from_weights = true"
        yield error("network_weights", what, remedy)
    recorded = header.metadata.get("ss_network_alpha", "")
    if re.fullmatch(r"\d+(\.\d+)?", recorded) and isinstance(alpha, int | float) and float(recorded) != alpha:
        what = f"{path.name} was trained with network_alpha = {float(recorded):g}, so its scale changes"
        yield warning("network_weights", what, f"set network_alpha = {float(recorded):g}")
