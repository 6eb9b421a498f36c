"""Traps in the arguments of one training: optimizer, rates, length, schedule, network, precision."""

import ast
from collections.abc import Iterator

from orchestrator.kohya.arguments.lint_issue import LintIssue, error, warning
from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.model import Params, Value

DEFAULT_RATE = 2e-6
"""sd-scripts' learning_rate when none is given: for full fine-tuning, far too low for a LoRA."""


def findings(params: Params) -> Iterator[LintIssue]:
    """The traps of this training."""
    for rule in _RULES:
        yield from rule(params)


def _number(params: Params, key: str, default: float = 0) -> float:
    value = params.get(key, default)
    return value if isinstance(value, int | float) else default


def _arguments(params: Params, key: str) -> dict[str, str]:
    value = params.get(key, ())
    pairs = [str(item).partition("=") for item in (value if isinstance(value, tuple) else ())]
    return {name: text for name, _, text in pairs}


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


# --- rates ------------------------------------------------------------------------------------------------------------


def _rates(params: Params) -> dict[str, float]:
    """The learning rates that come into effect, by the argument that gives each; the rest falls to learning_rate."""
    general = _number(params, "learning_rate", DEFAULT_RATE)
    trained = {"unet_lr": "network_train_text_encoder_only", "text_encoder_lr": "network_train_unet_only"}
    found: dict[str, float] = {}
    for key, without in trained.items():
        given = _first(params.get(key))
        if not params.get(without):
            found[key if given is not None else "learning_rate"] = given if given is not None else general
    return found


def _first(value: Value | None) -> float | None:
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int | float) else None


def _rate_is_given(params: Params) -> Iterator[LintIssue]:
    if "learning_rate" not in params and "learning_rate" in _rates(params):
        what = f"no learning_rate: sd-scripts takes {DEFAULT_RATE:g}, at which a LoRA learns nothing"
        yield error("learning_rate", what, "set learning_rate (1e-4 for AdamW8bit, 1.0 for Prodigy)")


def _rate_suits_optimizer(params: Params) -> Iterator[LintIssue]:
    if _ignores_rates(params):
        return
    optimizer = optimizer_of(params)
    for key, rate in _rates(params).items():
        if key not in params:
            continue
        if optimizer.adaptive and 0 < rate <= 0.1:
            what = f"{params['optimizer_type']} finds its own step size and wants 1.0: at {rate:g} it hardly learns"
            yield error(key, what, f"set {key} = 1.0 where optimizer_type is {params['optimizer_type']}")
        elif not optimizer.adaptive and not optimizer.name.startswith("SGD") and rate >= 0.1:
            name = params.get("optimizer_type", "AdamW")
            what = f"{name} takes the learning rate as it is: {rate:g} destroys the run"
            yield error(key, what, f"set {key} = 1e-4 or so where optimizer_type is {name}")


def _one_rate_for_adaptive(params: Params) -> Iterator[LintIssue]:
    """prodigyopt raises at the first step; D-Adaptation takes the first rate for all."""
    if not optimizer_of(params).one_rate:
        return
    name, found = params.get("optimizer_type"), _rates(params)
    if len(set(found.values())) > 1:
        told = ", ".join(f"{key} = {rate:g}" for key, rate in found.items())
        remedy = "leave unet_lr and text_encoder_lr out and set learning_rate = 1.0"
        key = next(key for key in ("unet_lr", "text_encoder_lr", "learning_rate") if key in params)
        yield error(key, f"{name} works with one learning rate only, not {told}", remedy)
    elif "unet_lr" in params:
        what = f"{name} works with one learning rate only: unet_lr must always equal the others"
        yield warning("unet_lr", what, "leave unet_lr and text_encoder_lr out and set learning_rate = 1.0")
    if any(name.startswith("loraplus_") for name in _arguments(params, "network_args")):
        what = f"LoRA+ gives each half its own rate, and {name} works with one only"
        yield error("network_args", what, "leave the loraplus ratios out, or use AdamW8bit")


def _ignores_rates(params: Params) -> bool:
    """Adafactor sets its own rate unless told otherwise."""
    arguments = _arguments(params, "optimizer_args")
    return optimizer_of(params).name == "Adafactor" and _literal(arguments.get("relative_step", "True")) is not False


def _rates_that_do_nothing(params: Params) -> Iterator[LintIssue]:
    if _ignores_rates(params):
        for key in ("unet_lr", "text_encoder_lr", "lr_scheduler", "lr_warmup_steps"):
            if params.get(key):
                what = f"Adafactor sets its own rate (relative_step): {key} does nothing, or stops the run"
                fixed = '["relative_step=False", "scale_parameter=False", "warmup_init=False"]'
                yield error(key, what, f"leave it out, or set optimizer_args = {fixed}")
    several = params.get("text_encoder_lr")
    if isinstance(several, tuple) and len(several) > 1:
        what = "networks.lora uses the first text encoder rate for both encoders, in silence"
        yield error("text_encoder_lr", what, "give one number")
    if params.get("network_train_unet_only") and "text_encoder_lr" in params:
        what = "the text encoders are not trained (network_train_unet_only): this does nothing"
        yield warning("text_encoder_lr", what, "leave one of the two out")
    elif "text_encoder_lr" in params and _first(several) == 0:
        what = "at rate 0 the text encoders' LoRA is still computed and saved, as zeros"
        yield warning("text_encoder_lr", what, "use network_train_unet_only = true")


def _contradictions(params: Params) -> Iterator[LintIssue]:
    if params.get("network_train_unet_only") and params.get("network_train_text_encoder_only"):
        what = "with network_train_text_encoder_only beside it, nothing is left to train"
        yield error("network_train_unet_only", what, "leave one of the two out")
    for key in ("use_8bit_adam", "use_lion_optimizer"):
        if params.get(key) and params.get("optimizer_type"):
            yield error(key, f"sd-scripts refuses {key} beside optimizer_type", f"leave {key} out")
    if params.get("fused_backward_pass"):
        what = "fused_backward_pass works in full fine-tuning with Adafactor, not for a LoRA"
        yield error("fused_backward_pass", what, "leave it out")
    if params.get("cpu_offload_checkpointing") and params.get("gradient_checkpointing"):
        what = "SDXL's U-Net does not take cpu_offload_checkpointing: the run stops at its start"
        yield error("cpu_offload_checkpointing", what, "leave it out")
    if params.get("persistent_data_loader_workers") and params.get("max_data_loader_n_workers") == 0:
        what = "there are no workers to keep (max_data_loader_n_workers = 0): the run stops at its start"
        yield error("persistent_data_loader_workers", what, "leave one of the two out")
    if params.get("clip_skip") is not None:
        yield warning("clip_skip", "clip_skip does nothing for SDXL", "leave it out")


# --- length and schedule ----------------------------------------------------------------------------------------------


def _length(params: Params) -> Iterator[LintIssue]:
    steps, epochs = params.get("max_train_steps"), params.get("max_train_epochs")
    if steps is None and epochs is None:
        what = "neither max_train_epochs nor max_train_steps: sd-scripts takes 1600 steps, whatever the dataset"
        yield error("max_train_epochs", what, "set one of the two")
    elif steps is not None and epochs is not None:
        what = f"max_train_epochs = {epochs} wins, and max_train_steps is ignored in silence"
        yield error("max_train_steps", what, "leave one of the two out")
    if params.get("seed") is None:
        yield error(
            "seed", "without a seed no run can be repeated or compared", "set seed = 1, or seed = [1, 2, 3] as a dim"
        )


def _schedule(params: Params) -> Iterator[LintIssue]:
    scheduler, warmup = str(params.get("lr_scheduler", "constant")), _number(params, "lr_warmup_steps")
    if optimizer_of(params).schedule_free and (scheduler != "constant" or warmup or params.get("lr_scheduler_type")):
        key = next(key for key in ("lr_scheduler", "lr_warmup_steps", "lr_scheduler_type") if params.get(key))
        what = f"{params['optimizer_type']} has no schedule: sd-scripts ignores it in silence"
        yield error(key, what, f"leave {key} out")
    elif warmup and (scheduler == "constant" or params.get("lr_scheduler_type")):
        what = (
            f"the scheduler {params.get('lr_scheduler_type') or scheduler} takes no warmup: the run stops at its start"
        )
        yield error("lr_warmup_steps", what, 'set lr_scheduler = "constant_with_warmup", or leave the warmup out')
    if warmup >= _number(params, "max_train_steps", float("inf")):
        yield error("lr_warmup_steps", "the warmup is as long as the training", "shorten it")
    if params.get("lr_scheduler_type") and params.get("lr_scheduler"):
        yield error("lr_scheduler", "lr_scheduler_type wins, and lr_scheduler is ignored in silence", "leave one out")
    if scheduler == "adafactor" and optimizer_of(params).name != "Adafactor":
        yield error("lr_scheduler", "this scheduler works with the optimizer Adafactor only", "pick another one")
    if optimizer_of(params).name == "Prodigy" and scheduler == "cosine_with_restarts":
        what = "Prodigy's estimate of the step size does not fit restarts"
        yield warning("lr_scheduler", what, 'set lr_scheduler = "cosine" or "constant"')
    if _number(params, "lr_decay_steps") and scheduler != "warmup_stable_decay":
        yield warning(
            "lr_decay_steps", f"the scheduler {scheduler} has no decay phase: this does nothing", "leave it out"
        )


# --- network and precision --------------------------------------------------------------------------------------------


def _network(params: Params) -> Iterator[LintIssue]:
    dim, alpha = params.get("network_dim"), params.get("network_alpha")
    if dim is None and not params.get("dim_from_weights"):
        yield error("network_dim", "no network_dim: sd-scripts takes rank 4", "set network_dim")
    if alpha is None:
        what = f"no network_alpha: sd-scripts takes 1, which scales the LoRA by 1/{dim or 4}"
        yield warning("network_alpha", what, 'set network_alpha = "{{ network_dim // 2 }}", or 1 if that is meant')
    elif alpha == 0:
        yield warning("network_alpha", "0 means alpha = network_dim, not a scale of 0", "write network_dim's value")
    elif isinstance(dim, int) and isinstance(alpha, int | float) and alpha > dim:
        what = f"alpha above the rank ({dim}) multiplies the LoRA by {alpha / dim:g}"
        yield warning("network_alpha", what, "set it to network_dim or less")


def _precision(params: Params) -> Iterator[LintIssue]:
    mixed = params.get("mixed_precision", "no")
    if "mixed_precision" not in params:
        what = "no mixed_precision: sd-scripts trains in float32, with 10 GB for the U-Net alone"
        yield warning("mixed_precision", what, 'set mixed_precision = "bf16"')
    if mixed == "fp16" and not params.get("no_half_vae"):
        what = "SDXL's VAE overflows in fp16: latents become NaN and are cached so, in silence"
        yield error("mixed_precision", what, 'set mixed_precision = "bf16", or no_half_vae = true beside it')
    for key, needed in (("full_bf16", "bf16"), ("full_fp16", "fp16")):
        if params.get(key) and mixed != needed:
            yield error(key, f'{key} needs mixed_precision = "{needed}"', "set it, or leave this out")
    for key in ("fp8_base", "fp8_base_unet"):
        if params.get(key) and mixed == "no":
            yield error(key, f"{key} needs mixed_precision bf16 or fp16", 'set mixed_precision = "bf16"')
    if "save_precision" not in params:
        what = "no save_precision: checkpoints are written in float32, at twice the size"
        yield warning("save_precision", what, 'set save_precision = "fp16"')
    if not any(params.get(key) for key in ("sdpa", "xformers", "mem_eff_attn")):
        what = "no attention backend: sd-scripts computes attention in full, which at 1024 px needs far more memory"
        yield warning("sdpa", what, "set sdpa = true")


def _noise_and_loss(params: Params) -> Iterator[LintIssue]:
    if params.get("adaptive_noise_scale") is not None and params.get("noise_offset") is None:
        yield error("adaptive_noise_scale", "it needs noise_offset: the run stops at its start", "set noise_offset")
    if params.get("scale_v_pred_loss_like_noise_pred") and not params.get("v_parameterization"):
        what = "it needs v_parameterization: the run stops at its start"
        yield error("scale_v_pred_loss_like_noise_pred", what, "leave it out")
    if params.get("v_pred_like_loss") and params.get("v_parameterization"):
        what = "it does not go with v_parameterization: the run stops at its start"
        yield error("v_pred_like_loss", what, "leave one of the two out")
    if params.get("zero_terminal_snr") and not params.get("v_parameterization"):
        what = "without v_parameterization the last noise level cannot be learned"
        yield warning("zero_terminal_snr", what, "leave it out")


_RULES = (
    _rate_is_given,
    _rate_suits_optimizer,
    _one_rate_for_adaptive,
    _rates_that_do_nothing,
    _contradictions,
    _length,
    _schedule,
    _network,
    _precision,
    _noise_and_loss,
)
