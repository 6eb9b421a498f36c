"""Names and ranges that sd-scripts' argument parser does not check: schedulers, network arguments, samplers."""

import re

SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "warmup_stable_decay", "piecewise_constant", "adafactor",
)  # fmt: skip
"""`lr_scheduler`. Source: optimizer.get_scheduler_fix; `lr_scheduler_type` takes any class by its dotted path."""

SAMPLERS = (
    "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++", "dpmsingle",
    "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
)  # fmt: skip
"""`--sampler` of gen_img.py."""

_BASE = 'add the checkpoint as [base_models.NAME] in the settings and set base_model = "NAME"'
_DATASET = 'add the images as [datasets.NAME] in the settings and set dataset = "NAME"'

RESERVED = {
    **dict.fromkeys(("pretrained_model_name_or_path", "vae"), _BASE),
    **dict.fromkeys(
        ("dataset_config", "dataset_class", "train_data_dir", "reg_data_dir", "in_json", "dataset_repeats",
         "caption_extension", "caption_extention", "conditioning_data_dir"), _DATASET,
    ),
    **dict.fromkeys(
        ("config_file", "output_config", "output_dir", "output_name", "logging_dir", "console_log_file"),
        "leave it out: every run has its own folder",
    ),
    "tokenizer_cache_dir": "set it under [trainer] in the settings",
    "training_comment": "leave it out: it holds the point's id, by which checkpoints are verified",
    "no_metadata": "leave it out: checkpoints are verified by their metadata",
    "sample_prompts": "leave it out: previews use the first four prompts of generate.prompts",
    **dict.fromkeys(
        ("resume", "resume_from_huggingface", "initial_epoch", "initial_step", "skip_until_initial_step"),
        "leave it out: with resume = true under [trainer], the same command continues interrupted runs",
    ),
    "wandb_api_key": "set WANDB_API_KEY in the environment: a secret must not be written into run folders",
    "huggingface_token": "set HF_TOKEN in the environment: a secret must not be written into run folders",
}  # fmt: skip
"""Arguments that orchestrate sets itself or that would break its guarantees, and what to do instead."""

REJECTED = {
    "debug_dataset": "shows images instead of training",
    "v2": "selects Stable Diffusion 2, and orchestrate trains SDXL",
    "train_inpainting": "trains a U-Net with 9 input channels, with which gen_img.py cannot make the images to score",
}
"""Arguments that must not be true, and what they do."""

SECRET = re.compile(r"(?i)(key|token|password|secret)$")
"""Names of arguments whose value no message shows, also where they are misspelt."""
