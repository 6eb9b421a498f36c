"""The disk space of a training, and the arguments that determine its GPU memory and speed."""

from collections.abc import Sequence

from orchestrator.kohya.networks import trained_numbers
from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.kohya.outputs import files
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import Params

_FULL, _HALF = 4, 2
"""Bytes of a parameter in float32, and in float16 or bfloat16."""


def checkpoint_bytes(params: Params) -> int:
    """The size of one checkpoint; sd-scripts saves float32 by default."""
    half = params.get("save_precision") in ("fp16", "bf16")
    return trained_numbers(params) * (_HALF if half else _FULL)


def state_bytes(params: Params) -> int:
    """The size of one training state: the weights in float32 and the state of the optimizer."""
    return int(trained_numbers(params) * (_FULL + optimizer_of(params).state_bytes))


def training_bytes(params: Params, length: TrainingLength) -> int:
    """The size of all checkpoints and states that a training of this length writes."""
    count = len(files.expected("x", params, length))
    states = count if params.get("save_state") else int(bool(params.get("save_state_on_train_end")))
    return count * checkpoint_bytes(params) + states * state_bytes(params)


# --- memory -----------------------------------------------------------------------------------------------------------

_NOT_MEMORY = frozenset(
    {
        "dataset", "seed", "network_alpha", "learning_rate", "unet_lr", "text_encoder_lr", "lr_scheduler",
        "lr_scheduler_args", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_min_lr_ratio",
        "lr_warmup_steps", "lr_decay_steps", "max_train_epochs", "max_train_steps", "max_grad_norm",
        "scale_weight_norms", "network_dropout", "loss_type", "huber_c", "huber_schedule", "huber_scale",
        "min_snr_gamma", "debiased_estimation_loss", "noise_offset", "noise_offset_random_strength",
        "adaptive_noise_scale", "multires_noise_iterations", "multires_noise_discount", "ip_noise_gamma",
        "ip_noise_gamma_random_strength", "min_timestep", "max_timestep", "prior_loss_weight", "shuffle_caption",
        "keep_tokens", "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate",
        "caption_prefix", "caption_suffix", "color_aug", "flip_aug", "save_every_n_epochs", "save_every_n_steps",
        "save_n_epoch_ratio", "save_last_n_epochs", "save_last_n_steps", "save_precision", "save_state",
        "save_state_on_train_end", "training_comment", "max_data_loader_n_workers",
        "persistent_data_loader_workers",
    }
)  # fmt: skip
"""Arguments that affect neither peak memory nor seconds per step noticeably."""

_LENGTH = frozenset({"max_train_epochs", "max_train_steps"})
_SAVING = frozenset(key for key in _NOT_MEMORY if key.startswith("save_") and key != "save_precision")


def profile(params: Params) -> Params:
    """The arguments that determine the GPU memory and speed of a training; unknown ones are included."""
    return {key: params[key] for key in sorted(params) if key not in _NOT_MEMORY}


def shortened(params: Params, steps: int) -> Params:
    """The same training with `steps` steps and without saves before its end."""
    kept = {key: value for key, value in params.items() if key not in _LENGTH | _SAVING}
    return {**kept, "max_train_steps": steps}


def differing(profiles: Sequence[Params]) -> list[str]:
    """The arguments in which profiles differ, used to label them."""
    keys = dict.fromkeys(key for one in profiles for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in profiles}) > 1]
