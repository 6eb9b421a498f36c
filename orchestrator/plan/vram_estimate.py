"""Estimate of a training's peak VRAM: a linear model of measurements (docs/vram.md).

`python -m benchmarks.gpu.fit` fits the constants again to docs/vram.json and prints their errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import Problem, warning
from orchestrator.kohya import networks
from orchestrator.kohya.arguments import key_values
from orchestrator.model import Params, Value

GIB = {
    "base": 5.849,  # the U-Net in bf16 and the driver's context
    "text_encoders": 1.966,
    "AdamW8bit": 9.113,  # per 1024^3 trained weights: the weight, its gradient, the optimizer's state
    "Prodigy": 20.904,
    "kept": 8.258,  # activations of a square of 1024 x 1024 pixels
    "recomputed": 1.009,  # the same with gradient checkpointing
}
ERROR_GIB = 0.6
"""The largest error on measurements that the constants were not fitted to was 0.54, at 43 GiB; below 30 GiB 0.22."""
HEADROOM_GIB = 1.0
"""VRAM of a desktop, and unused memory between allocations."""

DIMS, BATCHES = range(8, 129), range(1, 5)
SQUARES = {True: (0.5, 1.05), False: (0.95, 1.05)}
"""Measured areas in units of 1024 x 1024 pixels, with gradient checkpointing and without."""
_OTHER_NETWORKS = (10e6, 230e6)
"""Trained weights of the networks that were measured besides networks.lora, with gradient checkpointing."""
_AS_MEASURED: Params = {"mixed_precision": "bf16", "sdpa": True}
_NOT_MEASURED = (
    *("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first", "validation_split"),
    *("full_bf16", "full_fp16", "fp8_base", "fp8_base_unet", "network_train_text_encoder_only", "torch_compile"),
    *("xformers", "mem_eff_attn"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Peak VRAM of one training with its CUDA context, and the error of the estimate; GiB."""

    gib: float
    error_gib: float


def estimate(params: Params) -> Estimate | None:
    """Peak VRAM for a point's effective arguments; None outside the measured range."""
    if (found := terms(params)) is None:
        return None
    return Estimate(gib=sum(GIB[name] * amount for name, amount in found.items()), error_gib=ERROR_GIB)


def verdict(expected: Estimate, gpu_gib: float) -> Problem | None:
    """A warning when it does not fit into `card_gib` GiB, or only just: the GPU's size, or the budget if smaller."""
    most = expected.gib + expected.error_gib
    if most + HEADROOM_GIB <= gpu_gib:
        return None
    result = "does not fit" if expected.gib - expected.error_gib > gpu_gib else "tight"
    remedy = "set gradient_checkpointing = true or a smaller train_batch_size; otherwise the OOM fallbacks do"
    return warning("vram", f"about {expected.gib:.0f} GiB of {gpu_gib:.0f}: {result}", remedy)


def terms(params: Params) -> Mapping[str, float] | None:
    """The factor of each constant; None outside the measured range."""
    optimizer, area = _optimizer(params), _squares(params.get("resolution"))
    dim, batch = params.get("network_dim"), params.get("train_batch_size", 1)
    recomputed, encoders = bool(params.get("gradient_checkpointing")), not params.get("network_train_unet_only")
    least, most = SQUARES[recomputed]
    if optimizer is None or area is None or not least <= area <= most or not _as_measured(params, encoders):
        return None
    if not (isinstance(dim, int) and isinstance(batch, int) and batch in BATCHES):
        return None
    weights = networks.trained_numbers(params)
    if not _network_measured(params, weights, recomputed=recomputed):
        return None
    return {
        "base": 1,
        "text_encoders": encoders,
        optimizer: weights / 2**30,
        "recomputed" if recomputed else "kept": batch * area,
    }


def _network_measured(params: Params, weights: float, *, recomputed: bool) -> bool:
    names = key_values.pairs(params, "network_args").keys()
    if networks.module_of(params) == networks.LORA:
        return not names and params["network_dim"] in DIMS
    least, most = _OTHER_NETWORKS
    return recomputed and least <= weights <= most and names <= {"factor", "algo", "dora_wd", "wd_on_output", "preset"}


def _optimizer(params: Params) -> str | None:
    name = str(params.get("optimizer_type", "")).casefold()
    return next((known for known in ("AdamW8bit", "Prodigy") if known.casefold() == name), None)


def _squares(resolution: Value | None) -> float | None:
    sides = str(resolution).split(",")
    if not all(side.strip().isdecimal() for side in sides) or len(sides) > 2:
        return None
    return int(sides[0]) * int(sides[-1]) / 1024**2


def _as_measured(params: Params, encoders: bool) -> bool:
    """Whether latents are cached, and also the text encoders' outputs where these are not trained."""
    cached = bool(params.get("cache_latents")) and (encoders or bool(params.get("cache_text_encoder_outputs")))
    same = all(params.get(key) == value for key, value in _AS_MEASURED.items())
    return cached and same and not any(params.get(key) for key in _NOT_MEASURED)
