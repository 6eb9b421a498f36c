"""Short names of runs: the dims that vary."""

from collections import Counter
from collections.abc import Sequence

from orchestrator.model import LORA, Point
from orchestrator.values import canonical_json, toml_repr


def labels(points: Sequence[Point]) -> dict[str, str]:
    """Point id -> its values of the dims that vary, like `network_dim 16, seed 1`; the labels of two points differ.

    A baseline is `baseline` with its base model, an existing LoRA file `lora` with its name.
    """
    trained = [point for point in points if point.is_trained]
    dims = list(dict.fromkeys(dim for point in trained for dim in point.dims))
    values = {dim: {canonical_json(point.params[dim]) for point in trained if dim in point.params} for dim in dims}
    varied = [dim for dim in dims if len(values[dim]) > 1] or dims
    found = {point.id: _label(point, varied) for point in points}
    count = Counter(found.values())
    return {identity: text if count[text] == 1 else f"{text} ({identity})" for identity, text in found.items()}


def _label(point: Point, dims: Sequence[str]) -> str:
    if point.is_baseline:
        return f"baseline {point.params['base_model']}"
    if LORA in point.params:
        return f"{LORA} {point.params[LORA]}"
    values = ((dim, point.params[dim]) for dim in dims if dim in point.params)
    return (
        ", ".join(f"{dim} {value if isinstance(value, str) else toml_repr(value)}" for dim, value in values) or "LoRA"
    )
