"""Averages of the checkpoints of one training: the mean, or an exponential moving average (EMA).

Each tensor is averaged by itself, as in training with EMA: of factors such as lora_up and lora_down, not of the weights
that they change.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.kohya.outputs import safetensors_header
from orchestrator.kohya.outputs.safetensors_header import Header
from orchestrator.model import Checkpoint

METADATA = "orchestrate_average"


def shares(kind: str, count: int) -> list[float]:
    """The share of each of `count` checkpoints, oldest first; their sum is 1.

    kind: `mean`, `mean-3` (of the last three), or `ema-0.8` (each checkpoint counts 0.2, the average before it 0.8).
    """
    name, _, number = kind.partition("-")
    if name == "mean":
        used = min(int(number or count), count)
        return [0.0] * (count - used) + [1 / used] * used
    decay = float(number)
    return [decay ** (count - 1), *((1 - decay) * decay ** (count - 1 - at) for at in range(1, count))]


def write(kind: str, sources: Sequence[tuple[Path, Checkpoint]], target: Path) -> None:
    """Write the average of these checkpoints, oldest first, with the metadata of the last one and its provenance.

    Raises ValueError if their tensors differ in name or shape, OSError.
    """
    parts = [(path, safetensors_header.read_header(path)) for path, _ in sources]
    shapes = [{name: tensor.shape for name, tensor in header.tensors.items()} for _, header in parts]
    if other := next((path for (path, _), one in zip(parts, shapes, strict=True) if one != shapes[0]), None):
        raise ValueError(f"{other} has other tensors than {parts[0][0]}: they cannot be averaged")
    used = shares(kind, len(parts))
    tensors = {name: _averaged(name, parts, used) for name in parts[0][1].tensors}
    of = [{**asdict(one), "share": share} for (_, one), share in zip(sources, used, strict=True) if share]
    described = {METADATA: json.dumps({"kind": kind, "of": of})}
    safetensors_header.write(target, tensors, {**parts[-1][1].metadata, **described})


def _averaged(name: str, parts: Sequence[tuple[Path, Header]], used: Sequence[float]) -> NDArray[np.floating]:
    """In float16 where the checkpoints are, otherwise in float32."""
    values = [safetensors_header.values(path, header.tensors[name]) for path, header in parts]
    kind = np.float16 if parts[-1][1].tensors[name].dtype == "F16" else np.float32
    if all(np.array_equal(value, values[-1]) for value in values):
        return values[-1].astype(kind)
    return np.asarray(np.tensordot(used, np.stack(values).astype(np.float64), axes=1), kind)
