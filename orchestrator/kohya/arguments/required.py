"""What orchestrate relies on in sd-scripts, looked up in its source."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.kohya.arguments import schema
from orchestrator.kohya.outputs import verify

_OPTIONS = {
    schema.ENTRY: (
        "config_file", "dataset_config", "pretrained_model_name_or_path", "vae", "tokenizer_cache_dir", "output_dir",
        "output_name", "logging_dir", "training_comment", "save_model_as", "save_every_n_epochs", "save_last_n_epochs",
        "save_state", "save_last_n_epochs_state", "resume", "initial_epoch", "initial_step", "skip_until_initial_step",
        "sample_prompts", "sample_every_n_steps", "max_train_steps", "max_train_epochs", "seed", "network_module",
        "network_dim", "network_alpha", "network_args", "optimizer_type",
    ),
    "gen_img": (
        "sdxl", "bf16", "sdpa", "ckpt", "vae", "tokenizer_cache_dir", "W", "H", "steps", "sampler", "scale",
        "batch_size", "vae_batch_size", "images_per_prompt", "network_module", "network_weights", "network_mul",
        "network_args", "network_pre_calc", "outdir", "from_module", "prompter_module_args", "v_parameterization",
        "zero_terminal_snr",
    ),
}  # fmt: skip
"""Options by program."""

_TEXTS = {
    "train_network.py": (*verify.ESSENTIAL.values(), *verify.LENGTH, "ss_training_comment", "ss_optimizer", "ss_steps"),
    "gen_img.py": ("get_prompter", "set_multiplier", "restore_weights", "pre_calculation"),
}
"""Metadata that checkpoints are verified by, and the names that `gen_img_plugin` implements."""


def missing(sd_scripts: Path, modules: Iterable[str] = ()) -> Iterator[str]:
    """What this sd-scripts lacks; nothing where it is a stand-in. Raises NotReady if the source is not understood.

    modules: the values of network_module that are used.
    """
    if not (sd_scripts / f"{schema.ENTRY}.py").is_file():
        return
    for program, needed in _OPTIONS.items():
        found = schema.option_names(sd_scripts, program)
        yield from (f"{program}.py has no option --{name}" for name in needed if name not in found)
    for name, texts in _TEXTS.items():
        path = sd_scripts / name
        source = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
        yield from (f"{name} does not mention {text}" for text in dict.fromkeys(texts) if text not in source)
    for module in sorted(modules):
        yield from missing_module(sd_scripts, module)


def missing_module(sd_scripts: Path, module: str) -> Iterator[str]:
    """As `missing`, of one value of network_module."""
    known = sd_scripts.joinpath(*module.split(".")).with_suffix(".py").is_file()
    if module.startswith("networks.") and not known and (sd_scripts / f"{schema.ENTRY}.py").is_file():
        yield f"{module.replace('.', '/')}.py does not exist"
