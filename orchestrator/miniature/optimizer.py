"""The optimizers and learning rate schedules that sd-scripts knows by name, as far as the miniature supports them."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from orchestrator.miniature import log, lora
from orchestrator.miniature.arguments import Arguments


def make(arguments: Arguments, additions: lora.Additions) -> tuple[torch.optim.Optimizer, str]:
    """The optimizer, and its name as a checkpoint records it. AdamW8bit computes as AdamW; only its memory differs.

    Raises AttributeError for a name that torch does not know either.
    """
    options = arguments.optimizer_options
    kind, recorded = _kind(str(arguments["optimizer_type"]))
    log.info(f"use {recorded.rpartition('.')[2]} optimizer | {options}")
    optimizer = kind(_groups(arguments, additions), lr=arguments["learning_rate"], **options)
    given = ",".join(f"{name}={value}" for name, value in options.items())
    return optimizer, f"{recorded}({given})" if given else recorded


def _kind(name: str) -> tuple[Callable[..., torch.optim.Optimizer], str]:
    if name.casefold() == "prodigy":
        import prodigyopt  # imported here because AdamW does not need it

        return prodigyopt.Prodigy, "prodigyopt.prodigy.Prodigy"
    if name.casefold() == "adamw8bit":
        return torch.optim.AdamW, "bitsandbytes.optim.adamw.AdamW8bit"
    kind = torch.optim.AdamW if name.casefold() == "adamw" else getattr(torch.optim, name)
    return kind, f"{kind.__module__}.{kind.__name__}"


def _groups(arguments: Arguments, additions: lora.Additions) -> list[dict[str, object]]:
    """The caption's layers and the U-Net's, each with its own rate; a group without a rate is omitted."""
    rates = {"lora_te1": arguments.text_rate, "lora_unet": arguments["unet_lr"]}
    groups: list[dict[str, object]] = []
    for prefix, own in rates.items():
        rate = arguments["learning_rate"] if own is None else own
        parameters = [p for name, addition in additions.items() if name.startswith(prefix) for p in _trained(addition)]
        if parameters and rate:
            groups.append({"params": parameters, "lr": rate})
    return groups


def _trained(addition: lora.Addition) -> list[nn.Parameter]:
    return [addition.lora_down, addition.lora_up]


def schedule(arguments: Arguments, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """`lr_scheduler`, after `lr_warmup_steps` (a float is a share of all steps); ValueError for an unknown name."""
    warmup = arguments["lr_warmup_steps"]
    rising = int(warmup * steps) if isinstance(warmup, float) else warmup
    shapes: dict[str, Callable[[float], float]] = {
        "constant": lambda _: 1.0,
        "constant_with_warmup": lambda _: 1.0,
        "linear": lambda done: 1 - done,
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    }
    name = arguments["lr_scheduler"]
    if name not in shapes:
        raise ValueError(f"'{name}' is not a valid SchedulerType: the miniature has {', '.join(shapes)}")

    def factor(step: int) -> float:
        return step / rising if step < rising else shapes[name]((step - rising) / max(1, steps - rising))

    return LambdaLR(optimizer, factor)
