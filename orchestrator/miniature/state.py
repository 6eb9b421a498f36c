"""Training states, as `save_state` writes and `resume` reads them, with accelerate's file names."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from orchestrator.miniature import lora


def save(
    folder: Path, additions: lora.Additions, optimizer: Optimizer, rates: LambdaLR, *, epoch: int, step: int
) -> None:
    """`epoch` counts from 1; `step` is this process's, as in sd-scripts: a second resume trains too long."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora.weights(additions, torch.float32), folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / "optimizer.bin")
    torch.save(rates.state_dict(), folder / "scheduler.bin")
    torch.save(torch.get_rng_state(), folder / "random_states_0.pkl")
    reached = {"current_epoch": epoch, "current_step": step}
    (folder / "train_state.json").write_text(json.dumps(reached), encoding="utf-8")


def load(folder: Path, additions: lora.Additions, optimizer: Optimizer, rates: LambdaLR) -> int:
    """Load a saved state; returns its step."""
    lora.load(additions, load_file(folder / "model.safetensors"))
    optimizer.load_state_dict(torch.load(folder / "optimizer.bin"))
    rates.load_state_dict(torch.load(folder / "scheduler.bin"))
    torch.set_rng_state(torch.load(folder / "random_states_0.pkl"))
    return int(json.loads((folder / "train_state.json").read_text(encoding="utf-8"))["current_step"])
