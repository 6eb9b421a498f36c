"""The command line and the environment under which sd-scripts' trainer runs."""

from pathlib import Path

from orchestrator.config.schema import Launcher, Trainer

TOKENIZERS = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")
"""The folders that sd-scripts looks for in --tokenizer_cache_dir. Without them it downloads from the Hub."""


def train_argv(trainer: Trainer, config_file: Path) -> list[str]:
    """Start the trainer on one rendered config; `config_file` must end in `.toml`, or sd-scripts appends it."""
    script = [str(trainer.sd_scripts / trainer.train_script), "--config_file", str(config_file)]
    return [*_launcher(trainer), *script]


def _launcher(trainer: Trainer) -> list[str]:
    if trainer.launcher is Launcher.PYTHON:
        return [str(trainer.python)]
    # Said in full, so that no default_config.yaml of this user's decides. The precision is accelerate's own default
    # only: sd-scripts hands its `mixed_precision` to the Accelerator itself, which wins.
    explicit = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [str(trainer.python), "-m", "accelerate.commands.launch", *explicit, *trainer.accelerate_args]


def environment(trainer: Trainer, *, card: str | None) -> dict[str, str]:
    """What a trainer or generator needs added to the environment; the settings' own `env` has the last word.

    `card` is the UUID or index of the one GPU it may use; None leaves the choice to what is inherited.
    """
    needed = {
        "PYTHONUNBUFFERED": "1",  # piped stdout is held back in blocks, and "saving checkpoint" would come late
        "PYTHONIOENCODING": "utf-8:replace",  # its messages are bilingual, whatever this terminal's encoding is
        "COLUMNS": "400",  # rich wraps log lines at 80 columns when there is no terminal, in the middle of paths
    }
    if card is not None:
        needed |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": card}
    if trainer.tokenizer_cache_dir is not None and not missing_tokenizers(trainer.tokenizer_cache_dir):
        needed["HF_HUB_OFFLINE"] = "1"  # nothing is left to fetch: a night must not wait for a network
    return {**needed, **trainer.env}


def missing_tokenizers(cache_dir: Path) -> list[Path]:
    """The tokenizers that are not in the cache; without network a training then ends at its start."""
    folders = [cache_dir / name for name in TOKENIZERS]
    return [folder for folder in folders if not (folder / "vocab.json").is_file()]
