"""Lint rules for the arguments of one training: length, network, precision, noise and loss."""

from collections.abc import Iterator, Mapping

from orchestrator.errors import Problem, error, warning
from orchestrator.kohya import networks
from orchestrator.kohya.arguments.schema import read_snapshot
from orchestrator.model import Params


def lint(params: Params) -> Iterator[Problem]:
    """The problems of this training."""
    for rule in _RULES:
        yield from rule(params)


_ATTENTION = ("mem_eff_attn", "xformers", "sdpa")
"""Backends of attention, in the order in which sd-scripts looks for one."""

_NO_BACKENDS = ("aot_ts_nvfuser", "nvprims_nvfuser", "ofi", "fx2trt", "tensort")
"""What sd-scripts accepts as dynamo_backend and torch, since 2.1, does not know."""


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
    if params.get("cpu_offload_checkpointing"):
        what = "SDXL's U-Net does not support cpu_offload_checkpointing: sd-scripts exits"
        yield error("cpu_offload_checkpointing", what, "remove it")
    if params.get("deepspeed"):
        what = "DeepSpeed distributes a training over GPUs and each run has one: sd-scripts exits without WORLD_SIZE"
        yield error("deepspeed", what, "remove it; gradient_checkpointing = true saves VRAM on one GPU")
    if params.get("persistent_data_loader_workers") and params.get("max_data_loader_n_workers") == 0:
        what = "max_data_loader_n_workers = 0 leaves no workers to persist: sd-scripts exits"
        yield error("persistent_data_loader_workers", what, "remove one of the two")
    if params.get("torch_compile") and params.get("dynamo_backend") in _NO_BACKENDS:
        what = f"torch 2 has no backend {params['dynamo_backend']}: the training fails"
        yield error("dynamo_backend", what, 'set dynamo_backend = "inductor"')
    backends = [key for key in _ATTENTION if params.get(key)]
    for key in backends[1:]:
        yield warning(key, f"sd-scripts ignores {key} beside {backends[0]}", f"remove {key} or {backends[0]}")


# --- length -----------------------------------------------------------------------------------------------------------


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


# --- network and precision --------------------------------------------------------------------------------------------


def _network(params: Params) -> Iterator[Problem]:
    dim, alpha = params.get("network_dim"), params.get("network_alpha")
    if dim is None and not params.get("dim_from_weights"):
        yield error("network_dim", "no network_dim: sd-scripts uses rank 4", "set network_dim")
    if networks.module_of(params) == networks.OFT:
        if not isinstance(alpha, int | float) or alpha >= 1:
            what = "networks.oft uses network_alpha as a constraint of the rotation, and above 1e-2 it has no effect"
            yield warning("network_alpha", what, "set network_alpha = 1e-3")
    elif alpha is None:
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
    if not any(params.get(key) for key in _ATTENTION):
        what = "no attention backend is set: full attention needs far more memory at 1024 px"
        yield warning("sdpa", what, "set sdpa = true")


_ORDERED = (
    ("min_timestep", "max_timestep", 0, 1000),
    ("min_bucket_reso", "max_bucket_reso", 256, 1024),
)
"""Pairs of which the first must not be above the second, and their defaults."""


def _pairs(params: Params) -> Iterator[Problem]:
    for low, high, least, most in _ORDERED:
        below, above = params.get(low, least), params.get(high, most)
        if isinstance(below, int) and isinstance(above, int) and below > above:
            key = low if low in params else high
            yield error(key, f"{low} = {below} is above {high} = {above}", f"set {low} below {high}")
        elif below == above and low == "min_timestep":
            yield warning(low, f"{high} is {above}, too: one timestep is trained", f"set {low} below {high}")


def _noise_and_loss(params: Params) -> Iterator[Problem]:
    if params.get("adaptive_noise_scale") is not None and not params.get("noise_offset"):
        report, what = (error, "exits") if params.get("noise_offset") is None else (warning, "ignores it")
        yield report("adaptive_noise_scale", f"it needs noise_offset: sd-scripts {what}", "set noise_offset")
    if params.get("scale_v_pred_loss_like_noise_pred") and not params.get("v_parameterization"):
        what = "it needs v_parameterization: sd-scripts exits"
        yield error("scale_v_pred_loss_like_noise_pred", what, "remove it")
    if params.get("v_pred_like_loss") and params.get("v_parameterization"):
        what = "sd-scripts rejects it together with v_parameterization, and exits"
        yield error("v_pred_like_loss", what, "remove one of the two")
    for one, other, what in _TWICE:
        if params.get(one) and params.get(other):
            yield warning(one, f"{one} and {other} {what}", "remove one of the two")
    if params.get("zero_terminal_snr") and not params.get("v_parameterization"):
        what = "without v_parameterization the model cannot learn the last noise level"
        yield warning("zero_terminal_snr", what, "remove it")


_TWICE = (
    (
        "debiased_estimation_loss",
        "min_snr_gamma",
        "both weight the loss by the noise level: the weights are multiplied",
    ),
    ("multires_noise_iterations", "noise_offset", "both add low frequencies to the noise"),
)
"""Arguments with the same purpose that sd-scripts applies one after the other."""


def _captions(params: Params) -> Iterator[Problem]:
    for key in ("caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate"):
        kept = key == "caption_tag_dropout_rate" and (params.get("keep_tokens") or params.get("keep_tokens_separator"))
        if params.get(key) == 1 and not kept:
            what = f"{key} = {params[key]} drops every caption, so no word is trained"
            yield warning(key, what, "set it to 0.1 or less" if key.endswith("rate") else "set it to 2 or more")
        elif params.get(key) and key == "caption_tag_dropout_rate" and not kept:
            what = "without keep_tokens, the trigger is dropped like any other tag"
            yield warning(key, what, "set keep_tokens = 1, and write the trigger first")


# --- without effect ---------------------------------------------------------------------------------------------------

_CAPTION_PARTS = ("shuffle_caption", "caption_tag_dropout_rate", "token_warmup_step")
NEEDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("keep_tokens", "keep_tokens_separator"), _CAPTION_PARTS),
    "token_warmup_min": ("token_warmup_step",),
    "multires_noise_discount": ("multires_noise_iterations",),
    "noise_offset_random_strength": ("noise_offset",),
    "ip_noise_gamma_random_strength": ("ip_noise_gamma",),
    "save_last_n_epochs": ("save_every_n_epochs", "save_n_epoch_ratio"),
    "save_last_n_steps": ("save_every_n_steps",),
    **dict.fromkeys(("save_last_n_epochs_state", "save_last_n_steps_state"), ("save_state",)),
    **dict.fromkeys(
        ("huggingface_path_in_repo", "huggingface_repo_type", "huggingface_repo_visibility", "async_upload",
         "save_state_to_huggingface"), ("huggingface_repo_id",),
    ),
    **dict.fromkeys(
        ("validation_seed", "validate_every_n_steps", "validate_every_n_epochs", "max_validation_steps"),
        ("validation_split",),
    ),
    "bucket_no_upscale": ("enable_bucket",),
    "sample_sampler": ("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first"),
    "skip_cache_check": ("cache_text_encoder_outputs_to_disk",),
    "dynamo_backend": ("torch_compile",),
    **dict.fromkeys(
        ("zero_stage", "offload_optimizer_device", "offload_optimizer_nvme_path", "offload_param_device",
         "offload_param_nvme_path", "zero3_init_flag", "zero3_save_16bit_model", "fp16_master_weights_and_gradients"),
        ("deepspeed",),
    ),
}  # fmt: skip
"""Arguments that sd-scripts reads only beside one of others."""

_NEVER = {
    "clip_skip": "for SDXL",
    **dict.fromkeys(("ddp_timeout", "ddp_gradient_as_bucket_view", "ddp_static_graph"), "on one GPU, as each run uses"),
}
"""Arguments without effect, and where."""

_EVERY = {
    "save_every_n_steps": "max_train_steps",
    "sample_every_n_steps": "max_train_steps",
    "save_every_n_epochs": "max_train_epochs",
    "sample_every_n_epochs": "max_train_epochs",
}


def _is_changed(params: Params, key: str) -> bool:
    """Whether an argument is neither off nor at sd-scripts' default, as GUIs write it."""
    return bool(params.get(key)) and params[key] != read_snapshot().by_name[key].default


def _without_effect(params: Params) -> Iterator[Problem]:
    cached = params.get("cache_text_encoder_outputs") or params.get("cache_text_encoder_outputs_to_disk")
    for key, needed in NEEDS.items():
        if _is_changed(params, key) and not any(params.get(other) for other in needed):
            remedy = "remove it" if cached and needed is _CAPTION_PARTS else f"remove it, or set {needed[0]}"
            what = "leaves the separator in the captions" if key == "keep_tokens_separator" else "has no effect"
            yield warning(key, f"{key} {what} without {' or '.join(needed)}", remedy)
    for key, reason in _NEVER.items():
        if params.get(key):
            yield warning(key, f"{key} has no effect {reason}", "remove it")
    if params.get("loss_type", "l2") not in ("huber", "smooth_l1"):
        for key in ("huber_c", "huber_scale", "huber_schedule"):
            if _is_changed(params, key):
                yield warning(key, f"{key} has no effect without a Huber loss", 'remove it, or set loss_type = "huber"')
    elif _is_changed(params, "huber_scale") and params.get("huber_schedule", "snr") == "snr":
        what = 'huber_scale has no effect with huber_schedule = "snr", which is the default'
        yield warning("huber_scale", what, 'remove it, or set huber_schedule = "exponential"')
    if params.get("wandb_run_name") and params.get("log_with") not in ("wandb", "all"):
        yield warning("wandb_run_name", "it has no effect without wandb", 'remove it, or set log_with = "wandb"')
    if params.get("sample_every_n_epochs") and params.get("sample_every_n_steps"):
        what = "sd-scripts ignores sample_every_n_steps beside sample_every_n_epochs"
        yield warning("sample_every_n_steps", what, "remove one of the two")
    for every, total in _EVERY.items():
        interval, length = params.get(every), params.get(total)
        if isinstance(interval, int) and isinstance(length, int) and interval > length:
            yield warning(every, f"{every} = {interval} is beyond {total} = {length}", f"set {every} below {total}")


_RULES = (
    _contradictions, _length, _network, _precision, _pairs, _noise_and_loss, _captions, _without_effect,
)  # fmt: skip
