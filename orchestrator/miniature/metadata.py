"""The metadata that sd-scripts writes into a LoRA file's header: every value is a string, `None` is "None"."""

import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.miniature.arguments import Arguments
from orchestrator.miniature.photos import Dataset, batches_per_epoch

_REPEATED = (
    "output_name", "learning_rate", "unet_lr", "gradient_checkpointing", "gradient_accumulation_steps",
    "lr_warmup_steps", "lr_scheduler", "network_module", "network_dim", "network_alpha", "network_dropout",
    "mixed_precision", "seed", "training_comment", "max_grad_norm",
)  # fmt: skip
"""Arguments that are recorded unchanged."""


def started(
    arguments: Arguments, datasets: Sequence[Dataset], *, optimizer: str, steps: int, epochs: int
) -> dict[str, str]:
    """The metadata known before the first step."""
    base = Path(arguments["pretrained_model_name_or_path"])
    facts: dict[str, object] = {
        **{f"ss_{name}": arguments[name] for name in _REPEATED},
        "ss_session_id": random.getrandbits(32),
        "ss_training_started_at": time.time(),
        "ss_text_encoder_lr": arguments.text_rate,
        "ss_num_train_images": sum(dataset.count(is_reg=False) for dataset in datasets),
        "ss_num_reg_images": sum(dataset.count(is_reg=True) for dataset in datasets),
        "ss_prior_loss_weight": arguments["prior_loss_weight"],
        "ss_num_batches_per_epoch": batches_per_epoch(datasets),
        "ss_num_epochs": epochs,
        "ss_max_train_steps": steps,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_optimizer": optimizer,
        "ss_sd_model_name": base.name,
        "ss_new_sd_model_hash": hashlib.sha256(base.read_bytes()).hexdigest(),
        **_datasets(datasets),
    }
    return {name: str(value) for name, value in facts.items()}


def saved(known: Mapping[str, str], *, step: int, epoch: int) -> dict[str, str]:
    """The header of a checkpoint at this step; `epoch` counts from 0 in checkpoints saved by step, otherwise from 1."""
    return {
        **known,
        "ss_training_finished_at": str(time.time()),
        "ss_steps": str(step),
        "ss_epoch": str(epoch),
    }


def _datasets(datasets: Sequence[Dataset]) -> dict[str, str]:
    folders = {
        subset.folder.name: {"n_repeats": subset.repeats, "img_count": len(subset.pictures)}
        for dataset in datasets
        for subset in dataset.subsets
    }
    described = [
        {
            "is_dreambooth": True,
            "batch_size_per_device": dataset.batch_size,
            "num_train_images": dataset.count(is_reg=False),
            "num_reg_images": dataset.count(is_reg=True),
            "resolution": dataset.resolution,
            "subsets": [{"image_dir": subset.folder.name, "num_repeats": subset.repeats} for subset in dataset.subsets],
        }
        for dataset in datasets
    ]
    return {"ss_dataset_dirs": json.dumps(folders), "ss_datasets": json.dumps(described)}
