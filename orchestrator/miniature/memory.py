"""Simulates a GPU with little memory: decides whether a training would fit, from measurements with full-size SDXL.

ORCHESTRATE_VRAM_BUDGET_GIB is the GPU's size; without it everything fits. The formula reproduces torch's peak on real
hardware at 1024 px, with gradient checkpointing and both text encoders trained: AdamW8bit rank 16 8.6 GiB, rank 32 9.2;
Prodigy rank 16 9.4, rank 32 10.2, at batch 2 11.3. What checkpointing and the text encoders save is an estimate.
"""

from collections.abc import Mapping, Sequence

import torch

from orchestrator.miniature.arguments import Arguments
from orchestrator.miniature.photos import Dataset

VARIABLE = "ORCHESTRATE_VRAM_BUDGET_GIB"
_WEIGHTS = 6.98
_PER_PICTURE = 1.02  # an image of 1024 x 1024 in a batch
_PER_PICTURE_KEPT = 8.0  # without gradient checkpointing, on top
_PER_RANK = 0.036
_TEXT_ENCODERS = 1.5
_OPTIMIZER = {"adamw8bit": (0.0, 0.0), "prodigy": (0.55, 0.016)}  # its state: at any rank, and per rank
_OTHER_OPTIMIZER = (0.0, 0.02)


def needed_gib(arguments: Arguments, datasets: Sequence[Dataset]) -> float:
    """The peak memory that SDXL would use."""
    batch = max(dataset.batch_size * dataset.resolution[0] * dataset.resolution[1] for dataset in datasets) / 1024**2
    always, per_rank = _OPTIMIZER.get(str(arguments["optimizer_type"]).casefold(), _OTHER_OPTIMIZER)
    kept = 0.0 if arguments["gradient_checkpointing"] else _PER_PICTURE_KEPT
    spared = _TEXT_ENCODERS if arguments["network_train_unet_only"] else 0.0
    return _WEIGHTS + (_PER_PICTURE + kept) * batch + (_PER_RANK + per_rank) * arguments.rank + always - spared


def claim(needed: float, environment: Mapping[str, str]) -> None:
    """Raises torch's out-of-memory error when `needed` GiB exceed the budget."""
    budget = float(environment.get(VARIABLE) or "inf")
    if needed > budget:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. "
            f"GPU 0 has a total capacity of {budget:.2f} GiB of which 8.00 MiB is free. "
            f"Including non-PyTorch memory, this process has {budget - 0.01:.2f} GiB memory in use. "
            f"Of the allocated memory {budget - 0.4:.2f} GiB is allocated by PyTorch, "
            "and 157.06 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try "
            "setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  "
            "See documentation for Memory Management  "
            "(https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
        )
