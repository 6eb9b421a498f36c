"""LoRA for the image model: low-rank additions to its weights, with networks.lora's names and file layout.

As in `networks.lora`, `network_dim` applies to the attention's linear layers and 1 x 1 convolutions. Here it also
applies to the 3 x 3 convolutions (kohya's `conv_dim`), which draw most of a face this small.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from orchestrator.miniature.image_model import ImageModel

UNTOUCHED = ("conv_in", "conv_out", "time")
"""Layers of the U-Net that networks.lora does not change either."""


class Addition(nn.Module):
    """weight -> weight + multiplier * alpha / rank * up @ down; `up` starts at zero, so at first nothing changes."""

    def __init__(self, shape: torch.Size, rank: int, alpha: float) -> None:
        super().__init__()
        out, into, *kernel = shape
        self.lora_down = nn.Parameter(torch.empty(rank, into, *kernel))
        self.lora_up = nn.Parameter(torch.zeros(out, rank, *(1 for _ in kernel)))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))
        self.alpha = alpha
        self.multiplier = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        added = (self.lora_up.flatten(1) @ self.lora_down.flatten(1)).view_as(weight)
        return weight + self.multiplier * self.alpha / len(self.lora_down) * added


Additions: TypeAlias = dict[str, Addition]
"""By kohya's module name: `lora_te1_*` for the caption's layers, `lora_unet_*` for the rest."""


def attach(model: ImageModel, *, rank: int, alpha: float, text: bool) -> Additions:
    """Adds a LoRA to the model; text: also to the caption's layers."""
    additions: Additions = {}
    for name, layer in list(_layers(model, text=text)):
        additions[name] = Addition(layer.weight.shape, rank, alpha)
        parametrize.register_parametrization(layer, "weight", additions[name])
    return additions


def attach_file(model: ImageModel, weights: Mapping[str, Tensor]) -> Additions:
    """Adds a file's LoRA to the model, with the file's rank and layers."""
    rank = next(len(value) for name, value in weights.items() if name.endswith(".lora_down.weight"))
    additions = attach(model, rank=rank, alpha=rank, text=any(name.startswith("lora_te1_") for name in weights))
    load(additions, weights)
    return additions


def load(additions: Additions, weights: Mapping[str, Tensor]) -> None:
    """Loads a file's weights; raises KeyError or RuntimeError when the shapes differ."""
    for name, addition in additions.items():
        addition.lora_down.data.copy_(weights[f"{name}.lora_down.weight"])
        addition.lora_up.data.copy_(weights[f"{name}.lora_up.weight"])
        addition.alpha = float(weights[f"{name}.alpha"])


def weights(additions: Additions, precision: torch.dtype) -> dict[str, Tensor]:
    """The contents of a LoRA file."""
    state: dict[str, Tensor] = {}
    for name, addition in additions.items():
        state[f"{name}.lora_down.weight"] = addition.lora_down
        state[f"{name}.lora_up.weight"] = addition.lora_up
        state[f"{name}.alpha"] = torch.tensor(float(addition.alpha))
    return {name: value.detach().to(precision).contiguous() for name, value in state.items()}


def _layers(model: ImageModel, *, text: bool) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    parts: dict[str, nn.Module] = {"lora_te1": model.text} if text else {}
    for prefix, part in {**parts, "lora_unet": model.unet}.items():
        for path, layer in part.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and not path.startswith(UNTOUCHED):
                yield f"{prefix}_{path.replace('.', '_')}", layer
