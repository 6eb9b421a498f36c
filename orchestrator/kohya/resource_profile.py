"""What a training takes on disk, and which of its arguments decide what it takes of the card."""

from collections.abc import Sequence

from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.kohya.outputs import files
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import Params

_UNET_PER_RANK, _TEXT_PER_RANK, _CONV_PER_RANK = 2_660_000, 903_000, 412_500
"""Trained numbers of an SDXL LoRA per rank: networks.lora's modules, counted on a model without weights."""

_FULL, _HALF = 4, 2
"""Bytes of a number in float32, and in float16 or bfloat16."""


def trained_numbers(params: Params) -> int:
    """How many numbers the LoRA of these arguments trains on SDXL."""
    rank = params.get("network_dim", 4)
    size = _UNET_PER_RANK
    if params.get("network_train_text_encoder_only"):
        size = _TEXT_PER_RANK
    elif not params.get("network_train_unet_only"):
        size += _TEXT_PER_RANK
    return size * (rank if isinstance(rank, int) else 4) + _CONV_PER_RANK * _conv_rank(params)


def _conv_rank(params: Params) -> int:
    arguments = params.get("network_args", ())
    for item in arguments if isinstance(arguments, tuple) else ():
        name, _, text = str(item).partition("=")
        if name == "conv_dim" and text.isdecimal():
            return int(text)
    return 0


def checkpoint_bytes(params: Params) -> int:
    """The size of one checkpoint; sd-scripts saves float32 unless it is told otherwise."""
    half = params.get("save_precision") in ("fp16", "bf16")
    return trained_numbers(params) * (_HALF if half else _FULL)


def state_bytes(params: Params) -> int:
    """The size of one training state: the weights in float32 and the optimizer's own numbers."""
    return int(trained_numbers(params) * (_FULL + optimizer_of(params).state_bytes))


def training_bytes(params: Params, length: TrainingLength) -> int:
    """What a training of this length leaves: its checkpoints, and its states where it saves them."""
    count = len(files.expected("x", params, length))
    return count * checkpoint_bytes(params) + _states(params, count) * state_bytes(params)


def _states(params: Params, checkpoints: int) -> int:
    if params.get("save_state"):
        return checkpoints
    return 1 if params.get("save_state_on_train_end") else 0


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
        "persistent_data_loader_workers", "network_module",
    }
)  # fmt: skip
"""Arguments that move neither a training's peak of memory nor its seconds per step to speak of."""

_LENGTH = frozenset({"max_train_epochs", "max_train_steps"})
_SAVING = frozenset(key for key in _NOT_MEMORY if key.startswith("save_") and key != "save_precision")


def profile(params: Params) -> Params:
    """The arguments that decide what a training takes of the card; an unknown one counts, to be safe."""
    return {key: params[key] for key in sorted(params) if key not in _NOT_MEMORY}


def shortened(params: Params, steps: int) -> Params:
    """The same training, of so many steps, that saves nothing on its way."""
    kept = {key: value for key, value in params.items() if key not in _LENGTH | _SAVING}
    return {**kept, "max_train_steps": steps}


def differing(profiles: Sequence[Params]) -> list[str]:
    """The arguments in which profiles differ: what to call them by."""
    keys = dict.fromkeys(key for one in profiles for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in profiles}) > 1]
