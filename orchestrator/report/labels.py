"""Short names of runs: the dims that vary."""

from collections import Counter
from collections.abc import Sequence

from orchestrator.model import LORA, Point
from orchestrator.values import in_label, varied_dims


def labels(points: Sequence[Point]) -> dict[str, str]:
    """Point id -> its values of the dims that vary, like `network_dim 16, seed 1`; the labels of two points differ.

    A baseline is `baseline` with its base model, an existing LoRA file `lora` with its name.
    """
    varied = varied_dims(points)
    found = {point.id: _label(point, varied) for point in points}
    count = Counter(found.values())
    return {identity: text if count[text] == 1 else f"{text} ({identity})" for identity, text in found.items()}


def _label(point: Point, dims: Sequence[str]) -> str:
    if point.is_baseline:
        return f"baseline {point.params['base_model']}"
    if LORA in point.params:
        return f"{LORA} {point.params[LORA]}"
    return ", ".join(f"{dim} {in_label(point.params[dim])}" for dim in dims if dim in point.params) or "LoRA"
