"""Reads `--config_file` as sd-scripts does: one level of tables is read, unknown keys and wrong types are ignored."""

import argparse
import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toml

from orchestrator.miniature import log

_DEFAULTS: dict[str, Any] = {
    "caption_dropout_rate": 0.0,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 2e-6,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "masked_loss": False,
    "max_grad_norm": 1.0,
    "max_train_steps": 1600,
    "mixed_precision": "no",
    "network_alpha": 1,
    "network_train_unet_only": False,
    "optimizer_type": "AdamW",
    "output_name": "last",
    "prior_loss_weight": 1.0,
    "resolution": "1024,1024",
    "save_state": False,
    "train_batch_size": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """sd-scripts' arguments, as written; `arguments["name"]` is None without a value and without a default."""

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name, _DEFAULTS.get(name))

    @property
    def rank(self) -> int:
        return int(self["network_dim"] or 4)

    @property
    def alpha(self) -> float:
        return float(self["network_alpha"] or self.rank)

    @property
    def text_rate(self) -> Any:
        """The text encoders' learning rate, if it is set; of several, networks.lora uses the first."""
        rate = self["text_encoder_lr"]
        return (rate[0] if rate else None) if isinstance(rate, list) else rate

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """`optimizer_args`: each `name=value`, the value a Python literal."""
        pairs = (item.split("=") for item in self["optimizer_args"] or ())
        return {name: ast.literal_eval(value) for name, value in pairs}

    @property
    def output(self) -> Path:
        """The output folder, and the prefix of checkpoint and state names."""
        return Path(self["output_dir"]) / str(self["output_name"])


def read(argv: Sequence[str]) -> Arguments:
    """Exits with 2 for a wrong command line, with 1 when the file is missing."""
    parser = argparse.ArgumentParser(description="Trains a LoRA on the miniature's image model.")
    parser.add_argument("--config_file", required=True)
    name = parser.parse_args(argv).config_file
    path = Path(name if name.endswith(".toml") else f"{name}.toml")
    if not path.exists():
        log.info(f"{path} not found.")
        raise SystemExit(1)
    log.info(f"Loading settings from {path}...")
    return Arguments(values=_flat(toml.loads(path.read_text(encoding="utf-8"))))


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat
