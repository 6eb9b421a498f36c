"""Lint rules for the arguments of one training: optimizer, rates, length, schedule, network, precision."""

import ast
from collections.abc import Iterator

from orchestrator.errors import Problem, error, warning
from orchestrator.kohya.arguments.values import key_values
from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.model import Params, Value

DEFAULT_RATE = 2e-6
"""sd-scripts' default learning_rate: meant for full fine-tuning, far too low for a LoRA."""


def lint(params: Params) -> Iterator[Problem]:
    """The problems of this training."""
    for rule in _RULES:
        yield from rule(params)


def _number(params: Params, key: str, default: float = 0) -> float:
    value = params.get(key, default)
    return value if isinstance(value, int | float) else default


# --- rates ------------------------------------------------------------------------------------------------------------


def _rates(params: Params) -> dict[str, float]:
    """The learning rates in effect, by the argument that sets each; learning_rate stands for those not set."""
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


def _rate_is_given(params: Params) -> Iterator[Problem]:
    if "learning_rate" not in params and "learning_rate" in _rates(params):
        what = f"no learning_rate: sd-scripts uses {DEFAULT_RATE:g}, which is too low for a LoRA"
        yield error("learning_rate", what, "set learning_rate (1e-4 for AdamW8bit, 1.0 for Prodigy)")


def _rate_suits_optimizer(params: Params) -> Iterator[Problem]:
    if _sets_own_rate(params):
        return
    optimizer = optimizer_of(params)
    for key, rate in _rates(params).items():
        if key not in params:
            continue
        if optimizer.adaptive and 0 < rate <= 0.1:
            what = f"{optimizer.name} estimates its own step size and expects 1.0; at {rate:g} it hardly learns"
            yield error(key, what, f"set {key} = 1.0 where optimizer_type is {optimizer.name}")
        elif not optimizer.adaptive and not optimizer.name.startswith("SGD") and rate >= 0.1:
            what = f"{rate:g} is too high for {optimizer.name}: training diverges"
            yield error(key, what, f"set {key} = 1e-4 where optimizer_type is {optimizer.name}")


def _one_rate(params: Params) -> Iterator[Problem]:
    """prodigyopt raises at the first step; D-Adaptation uses the first rate for all groups."""
    optimizer, rates = optimizer_of(params), _rates(params)
    if not optimizer.one_rate:
        return
    remedy = "remove unet_lr and text_encoder_lr, and set learning_rate = 1.0"
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{key} = {rate:g}" for key, rate in rates.items())
        key = next(key for key in ("unet_lr", "text_encoder_lr", "learning_rate") if key in params)
        yield error(key, f"{optimizer.name} accepts one learning rate, not {listed}", remedy)
    elif "unet_lr" in params:
        what = f"{optimizer.name} accepts one learning rate: unet_lr must equal the others"
        yield warning("unet_lr", what, remedy)
    if any(name.startswith("loraplus_") for name in key_values(params, "network_args")):
        what = f"LoRA+ sets a second learning rate, and {optimizer.name} accepts one"
        yield error("network_args", what, "remove the loraplus ratios, or use AdamW8bit")


def _sets_own_rate(params: Params) -> bool:
    """Whether Adafactor sets the rate itself, which is its default."""
    text = key_values(params, "optimizer_args").get("relative_step", "True")
    try:
        relative = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        relative = True
    return optimizer_of(params).name == "Adafactor" and relative is not False


def _rates_without_effect(params: Params) -> Iterator[Problem]:
    if _sets_own_rate(params):
        for key in ("unet_lr", "text_encoder_lr", "lr_scheduler", "lr_warmup_steps"):
            if params.get(key):
                what = f"Adafactor sets its own rate (relative_step): {key} has no effect, or training fails"
                fixed = '["relative_step=False", "scale_parameter=False", "warmup_init=False"]'
                yield error(key, what, f"remove {key}, or set optimizer_args = {fixed}")
    several = params.get("text_encoder_lr")
    if isinstance(several, tuple) and len(several) > 1:
        what = "networks.lora uses the first text encoder rate for both encoders"
        yield error("text_encoder_lr", what, "give one number")
    if params.get("network_train_unet_only") and "text_encoder_lr" in params:
        what = "network_train_unet_only is set, so text_encoder_lr has no effect"
        yield warning("text_encoder_lr", what, "remove one of the two")
    elif "text_encoder_lr" in params and _first(several) == 0:
        what = "at rate 0 the text encoders' LoRA is still computed, and saved as zeros"
        yield warning("text_encoder_lr", what, "use network_train_unet_only = true")


def _contradictions(params: Params) -> Iterator[Problem]:
    if params.get("network_train_unet_only") and params.get("network_train_text_encoder_only"):
        what = "together with network_train_text_encoder_only, nothing is trained"
        yield error("network_train_unet_only", what, "remove one of the two")
    for key in ("use_8bit_adam", "use_lion_optimizer"):
        if params.get(key) and params.get("optimizer_type"):
            yield error(key, f"sd-scripts rejects {key} together with optimizer_type", f"remove {key}")
    if params.get("fused_backward_pass"):
        what = "fused_backward_pass works in full fine-tuning with Adafactor, not for a LoRA"
        yield error("fused_backward_pass", what, "remove it")
    if params.get("cpu_offload_checkpointing") and params.get("gradient_checkpointing"):
        what = "SDXL's U-Net does not support cpu_offload_checkpointing: sd-scripts exits"
        yield error("cpu_offload_checkpointing", what, "remove it")
    if params.get("persistent_data_loader_workers") and params.get("max_data_loader_n_workers") == 0:
        what = "max_data_loader_n_workers = 0 leaves no workers to persist: sd-scripts exits"
        yield error("persistent_data_loader_workers", what, "remove one of the two")
    if params.get("clip_skip") is not None:
        yield warning("clip_skip", "clip_skip has no effect for SDXL", "remove it")


# --- length and schedule ----------------------------------------------------------------------------------------------


def _length(params: Params) -> Iterator[Problem]:
    steps, epochs = params.get("max_train_steps"), params.get("max_train_epochs")
    if steps is None and epochs is None:
        what = "neither max_train_epochs nor max_train_steps is set: sd-scripts trains 1600 steps"
        yield error("max_train_epochs", what, "set one of the two")
    elif steps is not None and epochs is not None:
        what = f"max_train_epochs = {epochs} overrides max_train_steps"
        yield error("max_train_steps", what, "remove one of the two")
    if params.get("seed") is None:
        what = "without a seed, runs cannot be repeated or compared"
        yield error("seed", what, "set seed = 1, or seed = [1, 2, 3] as a dim")


def _schedule(params: Params) -> Iterator[Problem]:
    optimizer, custom = optimizer_of(params), params.get("lr_scheduler_type")
    scheduler, warmup = str(params.get("lr_scheduler", "constant")), _number(params, "lr_warmup_steps")
    if optimizer.schedule_free and (scheduler != "constant" or warmup or custom):
        key = next(key for key in ("lr_scheduler", "lr_warmup_steps", "lr_scheduler_type") if params.get(key))
        yield error(key, f"sd-scripts ignores {key} with {optimizer.name}", f"remove {key}")
    elif warmup and (scheduler == "constant" or custom):
        what = f"sd-scripts rejects a warmup with the scheduler {custom or scheduler}, and exits"
        yield error("lr_warmup_steps", what, 'set lr_scheduler = "constant_with_warmup", or remove the warmup')
    if warmup >= _number(params, "max_train_steps", float("inf")):
        yield error("lr_warmup_steps", "the warmup is as long as the training", "set fewer warmup steps")
    if custom and params.get("lr_scheduler"):
        yield error("lr_scheduler", "lr_scheduler_type overrides lr_scheduler", "remove one of the two")
    if scheduler == "adafactor" and optimizer.name != "Adafactor":
        yield error("lr_scheduler", "this scheduler works with the optimizer Adafactor only", 'set "cosine"')
    if optimizer.name == "Prodigy" and scheduler == "cosine_with_restarts":
        what = "restarts interfere with Prodigy's estimate of the step size"
        yield warning("lr_scheduler", what, 'set lr_scheduler = "cosine" or "constant"')
    if _number(params, "lr_decay_steps") and scheduler != "warmup_stable_decay":
        what = f"the scheduler {scheduler} has no decay phase, so lr_decay_steps has no effect"
        yield warning("lr_decay_steps", what, "remove it")


# --- network and precision --------------------------------------------------------------------------------------------


def _network(params: Params) -> Iterator[Problem]:
    dim, alpha = params.get("network_dim"), params.get("network_alpha")
    if dim is None and not params.get("dim_from_weights"):
        yield error("network_dim", "no network_dim: sd-scripts uses rank 4", "set network_dim")
    if alpha is None:
        what = f"no network_alpha: sd-scripts uses 1, which scales the LoRA by 1/{dim or 4}"
        yield warning("network_alpha", what, 'set network_alpha = "{{ network_dim // 2 }}", or 1 if this is intended')
    elif alpha == 0:
        yield warning("network_alpha", "0 means alpha = network_dim, not a scale of 0", "write network_dim's value")
    elif isinstance(dim, int) and isinstance(alpha, int | float) and alpha > dim:
        what = f"an alpha above the rank ({dim}) multiplies the LoRA by {alpha / dim:g}"
        yield warning("network_alpha", what, "set it to network_dim or less")


def _precision(params: Params) -> Iterator[Problem]:
    mixed = params.get("mixed_precision", "no")
    if "mixed_precision" not in params:
        what = "no mixed_precision: sd-scripts trains in float32, with 10 GB for the U-Net alone"
        yield warning("mixed_precision", what, 'set mixed_precision = "bf16"')
    if mixed == "fp16" and not params.get("no_half_vae"):
        what = "SDXL's VAE overflows in fp16: sd-scripts caches NaN latents without an error"
        yield error("mixed_precision", what, 'set mixed_precision = "bf16", or add no_half_vae = true')
    for key, needed in (("full_bf16", "bf16"), ("full_fp16", "fp16")):
        if params.get(key) and mixed != needed:
            yield error(key, f'{key} needs mixed_precision = "{needed}"', f"set it, or remove {key}")
    for key in ("fp8_base", "fp8_base_unet"):
        if params.get(key) and mixed == "no":
            yield error(key, f"{key} needs mixed_precision bf16 or fp16", 'set mixed_precision = "bf16"')
    if "save_precision" not in params:
        what = "no save_precision: checkpoints are written in float32, at twice the size"
        yield warning("save_precision", what, 'set save_precision = "fp16"')
    if not any(params.get(key) for key in ("sdpa", "xformers", "mem_eff_attn")):
        what = "no attention backend is set: full attention needs far more memory at 1024 px"
        yield warning("sdpa", what, "set sdpa = true")


def _noise_and_loss(params: Params) -> Iterator[Problem]:
    if params.get("adaptive_noise_scale") is not None and params.get("noise_offset") is None:
        yield error("adaptive_noise_scale", "it needs noise_offset: sd-scripts exits", "set noise_offset")
    if params.get("scale_v_pred_loss_like_noise_pred") and not params.get("v_parameterization"):
        what = "it needs v_parameterization: sd-scripts exits"
        yield error("scale_v_pred_loss_like_noise_pred", what, "remove it")
    if params.get("v_pred_like_loss") and params.get("v_parameterization"):
        what = "sd-scripts rejects it together with v_parameterization, and exits"
        yield error("v_pred_like_loss", what, "remove one of the two")
    if params.get("zero_terminal_snr") and not params.get("v_parameterization"):
        what = "without v_parameterization the model cannot learn the last noise level"
        yield warning("zero_terminal_snr", what, "remove it")


_RULES = (
    _rate_is_given, _rate_suits_optimizer, _one_rate, _rates_without_effect, _contradictions, _length, _schedule,
    _network, _precision, _noise_and_loss,
)  # fmt: skip
