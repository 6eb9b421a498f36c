"""The types of network that can be trained: their parameters on SDXL, and their tensors in a checkpoint.

Sources: networks/lora.py, loha.py, lokr.py, oft.py and network_base.py of sd-scripts v0.11.1; lycoris-lora 4.1.3.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TypeAlias

from orchestrator.kohya.arguments import key_values
from orchestrator.model import Params, Value

LORA, LOHA, LOKR, OFT, LYCORIS = "networks.lora", "networks.loha", "networks.lokr", "networks.oft", "lycoris.kohya"
MODULES = (LORA, LOHA, LOKR, OFT, LYCORIS)
"""The values of `network_module` whose checkpoints orchestrate verifies and generates with."""

Layer: TypeAlias = tuple[int, int, int, int]
"""Outputs, inputs, side of the kernel (1: a linear layer or 1 x 1 convolution), and the number of such layers."""

_ATTENTION: Sequence[Layer] = ((640, 640, 1, 60), (640, 2048, 1, 20), (1280, 1280, 1, 360), (1280, 2048, 1, 120))
_TRANSFORMER: Sequence[Layer] = (
    *_ATTENTION,
    *((640, 640, 1, 10), (640, 2560, 1, 10), (5120, 640, 1, 10)),
    *((1280, 1280, 1, 12), (1280, 5120, 1, 60), (10240, 1280, 1, 60)),
)
_CONVOLUTIONS: Sequence[Layer] = (
    *((320, 320, 3, 8), (320, 640, 1, 2), (320, 640, 3, 2), (320, 960, 1, 1), (320, 960, 3, 1), (320, 1280, 1, 5)),
    *((640, 320, 1, 1), (640, 320, 3, 1), (640, 640, 3, 8), (640, 960, 1, 1), (640, 960, 3, 1), (640, 1280, 1, 6)),
    *((640, 1280, 3, 1), (640, 1920, 1, 1), (640, 1920, 3, 1), (1280, 640, 1, 1), (1280, 640, 3, 1)),
    *((1280, 1280, 1, 7), (1280, 1280, 3, 11), (1280, 1920, 1, 1), (1280, 1920, 3, 1), (1280, 2560, 1, 2)),
    (1280, 2560, 3, 2),
)
_TEXT_ENCODERS: Sequence[Layer] = (
    *((768, 768, 1, 48), (768, 3072, 1, 12), (3072, 768, 1, 12)),
    *((1280, 1280, 1, 128), (1280, 5120, 1, 32), (5120, 1280, 1, 32)),
)
"""The layers of SDXL by the blocks that networks select: CrossAttention, Transformer2DModel, ResnetBlock2D with
Downsample2D and Upsample2D, and both text encoders."""


def module_of(params: Params) -> str:
    return str(params.get("network_module") or LORA)


def algorithm(params: Params) -> str:
    """`lora`, `loha`, `lokr` or `oft`."""
    module = module_of(params)
    if module != LYCORIS:
        return module.rpartition(".")[2]
    return {"locon": "lora"}.get(found := key_values.pairs(params, "network_args").get("algo", "lora").lower(), found)


def is_dora(params: Params) -> bool:
    """Whether the network also trains the norms of the weights that it changes."""
    return module_of(params) == LYCORIS and _on(key_values.pairs(params, "network_args"), "dora_wd")


def _on(arguments: Mapping[str, str], name: str) -> bool:
    return arguments.get(name, "").lower() == "true"


# --- parameters -------------------------------------------------------------------------------------------------------


def trained_numbers(params: Params) -> int:
    """The number of parameters that the network of these arguments trains on SDXL; 0 for an unknown network."""
    rank = params.get("network_dim", 4)
    arguments = key_values.pairs(params, "network_args")
    count = _COUNTS.get(algorithm(params))
    if count is None or not isinstance(rank, int) or rank < 1:
        return 0
    norms = (
        (0, 0) if not is_dora(params) else (0, 1) if arguments.get("wd_on_output", "").lower() == "false" else (1, 0)
    )
    return sum(
        number * (count((out, into, side), used, arguments) + norms[0] * out + norms[1] * into)
        for (out, into, side, number), used in _layers(params, arguments, rank)
    )


def _layers(params: Params, arguments: Mapping[str, str], rank: int) -> Iterator[tuple[Layer, int]]:
    """The layers that are trained, and the rank of each."""
    module = module_of(params)
    written, preset = arguments.get("conv_dim", ""), arguments.get("preset", "full")
    kernel_rank = int(written) if written.isdecimal() else rank if module == LYCORIS else 0
    blocks, attention_only = "conv_dim" in arguments, preset == "attn-only"
    if module == OFT:
        kernel_rank = rank
        blocks, attention_only = "enable_conv" in arguments, "enable_all_linear" not in arguments
    elif module == LYCORIS:
        kernel_rank = 0 if preset == "full-lin" else kernel_rank
        blocks = preset in ("full", "full-lin", "unet-only", "unet-convblock-only")
    unet = [*(_ATTENTION if attention_only else _TRANSFORMER)] if preset != "unet-convblock-only" else []
    unet += [layer for layer in _CONVOLUTIONS if blocks and (kernel_rank or layer[2] == 1)]
    if not params.get("network_train_text_encoder_only"):
        yield from ((layer, kernel_rank if layer[2] > 1 else rank) for layer in unet)
    if module != OFT and not params.get("network_train_unet_only") and not preset.startswith("unet-"):
        yield from ((layer, rank) for layer in _TEXT_ENCODERS if layer[0] == layer[1] or preset != "attn-only")


def decomposes_both(params: Params) -> bool:
    """Whether LyCORIS' `decompose_both` changes a network of this rank: the smaller matrices are often small enough."""
    kept = key_values.pairs(params, "network_args").items()
    plain = tuple(f"{name}={text}" for name, text in kept if name != "decompose_both")
    return trained_numbers(params) != trained_numbers({**params, "network_args": plain})


def _lora(shape: tuple[int, int, int], rank: int, arguments: Mapping[str, str]) -> int:
    out, into, side = shape
    if side > 1 and _on(arguments, "use_tucker"):
        return rank * (out + into + rank * side**2)
    return rank * (out + into * side**2)


def _loha(shape: tuple[int, int, int], rank: int, arguments: Mapping[str, str]) -> int:
    return 2 * _lora(shape, rank, arguments)


def _lokr(shape: tuple[int, int, int], rank: int, arguments: Mapping[str, str]) -> int:
    out, into, side = shape
    written = arguments.get("factor", "")
    factor = int(written) if re.fullmatch(r"[1-9]\d{0,5}", written) else -1
    (into_small, into_large), (small, large) = factorization(into, factor), factorization(out, factor)
    if _on(arguments, "unbalanced_factorization"):
        small, large = large, small
    full = _on(arguments, "full_matrix")
    first = small * into_small
    if "decompose_both" in arguments and rank < max(small, into_small) / 2 and not full:
        first = rank * (small + into_small)
    if rank >= max(large, into_large) / 2 or full:
        return first + large * into_large * side**2
    return first + _lora((large, into_large, side), rank, arguments)


def _oft(shape: tuple[int, int, int], blocks: int, _: Mapping[str, str]) -> int:
    return blocks * (shape[0] // blocks) ** 2


_COUNTS: Mapping[str, Callable[[tuple[int, int, int], int, Mapping[str, str]], int]] = {
    "lora": _lora, "loha": _loha, "lokr": _lokr, "oft": _oft,
}  # fmt: skip


@cache
def factorization(dimension: int, factor: int) -> tuple[int, int]:
    """Two factors of a dimension, the smaller first, as networks.lokr and LyCORIS choose them."""
    if factor > 0 and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    most = dimension if factor < 0 else factor
    small, large = 1, dimension
    while small < large:
        tried = next(number for number in range(small + 1, dimension + 1) if dimension % number == 0)
        if tried + dimension // tried > small + large or tried > most:
            break
        small, large = tried, dimension // tried
    return min(small, large), max(small, large)


# --- equal numbers of parameters --------------------------------------------------------------------------------------

_RANKS = range(1, 1025)


def blocks_allowed(params: Params) -> int:
    """networks.oft splits the outputs of each layer into `network_dim` equal blocks: it must divide this number."""
    return 320 if "enable_conv" in key_values.pairs(params, "network_args") else 640


def matching_rank(params: Params) -> int:
    """The rank at which this network has the number of parameters of networks.lora at `network_dim`, or nearest to it.

    Both train the same parts of the model, except that networks.oft has no text encoders.
    """
    used = {key: params[key] for key in _DECIDING if key in params}
    return _matching_rank(tuple(used.items()))


_DECIDING = (
    "network_module", "network_args", "network_dim", "network_train_unet_only", "network_train_text_encoder_only",
)  # fmt: skip


@cache
def _matching_rank(items: tuple[tuple[str, Value], ...]) -> int:
    params = dict(items)
    plain = {key: value for key, value in items if key not in ("network_module", "network_args")}
    wanted = trained_numbers(plain)
    is_oft = module_of(params) == OFT
    ranks = [rank for rank in _RANKS if blocks_allowed(params) % rank == 0] if is_oft else _RANKS
    return min(ranks, key=lambda rank: (abs(trained_numbers({**params, "network_dim": rank}) - wanted), rank))


# --- checkpoints ------------------------------------------------------------------------------------------------------

ZERO_AT_START = (".lora_up.weight", ".hada_w2_a", ".lokr_w2", ".lokr_w2_b", ".oft_blocks")
"""Ends of the names of tensors that are zero before the first step. Of LoHa with Tucker tensors: `hada_w1_a`."""

_RANK = {".lora_down.weight": 0, ".hada_w1_b": 0, ".lokr_w2_b": 0, ".oft_blocks": 0}


def zero_at_start(names: Sequence[str]) -> tuple[str, ...]:
    """The tensors of a checkpoint that are zero before the first step. names: of all its tensors."""
    tucker = {name.removesuffix(".hada_t1") for name in names if name.endswith(".hada_t1")}
    found = [name for name in names if name.endswith(ZERO_AT_START) and name.rpartition(".")[0] not in tucker]
    return (*found, *(f"{module}.hada_w1_a" for module in sorted(tucker)))


def ranks(shapes: Mapping[str, Sequence[int]]) -> set[int]:
    """The ranks of the modules of a checkpoint, from the shapes of its tensors; a full matrix of LoKr has none."""
    return {shape[0] if shape else 0 for name, shape in shapes.items() for end in _RANK if name.endswith(end)}


def generation_args(params: Params) -> str:
    """`--network_args` of gen_img.py: what cannot be read from the checkpoint's tensors."""
    factor = key_values.pairs(params, "network_args").get("factor")
    return f"factor={factor}" if module_of(params) == LOKR and factor else ""


def can_merge(params: Params) -> bool:
    """Whether gen_img.py can merge the network into the model before each batch (`--network_pre_calc`)."""
    return module_of(params) != LYCORIS
