"""The command line and environment of sd-scripts' trainer."""

from pathlib import Path

from orchestrator.config.schema import Launcher, Trainer
from orchestrator.kohya import train_plugin

TOKENIZERS = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")
"""The folders that sd-scripts expects in --tokenizer_cache_dir. Without them it downloads from the Hub."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

START = {
    "USE_TF": "0",  # transformers imports TensorFlow and Flax where they are installed; sd-scripts never uses them
    "USE_FLAX": "0",
    "TORCH_WARM_POOL": "0",  # bitsandbytes' import starts torch's compiler processes, one per core, in every training
    "PYTHONDONTWRITEBYTECODE": "",  # as some container images set it: each start would compile each module again
}
"""Variables that shorten the start of the trainer and the generator, and change nothing else."""


def train_argv(trainer: Trainer, config_file: Path, hashes: Path) -> list[str]:
    """Start the trainer on one rendered config; `config_file` must end in `.toml`, or sd-scripts appends it.

    hashes: the file of known hashes, see `train_plugin`.
    """
    plugin = [str(Path(train_plugin.__file__).resolve()), str(hashes)]
    script = [*plugin, str(trainer.sd_scripts / trainer.train_script), "--config_file", str(config_file)]
    if trainer.launcher is Launcher.PYTHON:
        return [str(trainer.python), *script]
    # All explicit, so that the user's default_config.yaml has no effect. The precision is only accelerate's default:
    # sd-scripts passes its `mixed_precision` to the Accelerator, which overrides it.
    explicit = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [str(trainer.python), "-m", "accelerate.commands.launch", *explicit, *trainer.accelerate_args, *script]


def environment(trainer: Trainer, *, gpu: str | None) -> dict[str, str]:
    """The environment variables to add for a trainer or generator; `env` in the settings overrides them.

    `gpu` is the UUID or index of the one GPU to use; None keeps the inherited choice.
    """
    needed = {
        "PYTHONUNBUFFERED": "1",  # piped stdout is written in blocks: "saving checkpoint" would arrive late
        "PYTHONIOENCODING": "utf-8:replace",  # its messages are bilingual
        **START,
        "COLUMNS": "400",  # rich wraps log lines at 80 columns when there is no terminal, in the middle of paths
    }
    if trainer.threads is not None:
        needed |= dict.fromkeys(_THREADS, str(trainer.threads))
    if gpu is not None:
        needed |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu}
    if trainer.tokenizer_cache_dir is not None and not missing_tokenizers(trainer.tokenizer_cache_dir):
        needed["HF_HUB_OFFLINE"] = "1"  # all files are cached: do not wait for a network
    return {**needed, **trainer.env}


def missing_tokenizers(cache_dir: Path) -> list[Path]:
    """The tokenizers that are not in the cache; without a network, a training then fails at its start."""
    folders = [cache_dir / name for name in TOKENIZERS]
    return [folder for folder in folders if not (folder / "vocab.json").is_file()]
