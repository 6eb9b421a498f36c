"""Fits the constants of orchestrator/plan/vram_estimate.py to a record of the benchmark and says how far they are off.

    python -m benchmarks.gpu.fit [docs/vram.json]

Cells in `cells.held_out()` are not fitted to; cells that draw images in training are neither fitted nor predicted.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.gpu import cells, watch
from orchestrator.model import Params
from orchestrator.plan import vram_estimate

PUBLISHED = watch.ROOT / "docs" / "vram.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The constants, and measured less predicted by cell, GiB."""

    gib: Mapping[str, float]
    fitted: Mapping[str, float]
    held_out: Mapping[str, float]


def main(record: str = str(PUBLISHED)) -> None:
    """Print the constants and every cell's error."""
    found = fit(Path(record))
    for name, value in found.gib.items():
        print(f"{name:16} {value:7.3f}")
    for kind, errors in (("fitted", found.fitted), ("held out", found.held_out)):
        worst = max(map(abs, errors.values()), default=0.0)
        print(f"\n{len(errors)} cells {kind}, worst {worst:.2f} GiB")
        for key, error in errors.items():
            print(f"  {key:34} {error:+.2f}")


def fit(record: Path) -> Fit:
    """Least squares over the measured cells."""
    measured = json.loads(record.read_text(encoding="utf-8"))["parts"]["train"]
    known = {cell.key: cell for cell in cells.training() if cell.key in measured and not cell.sample}
    rows = {key: _row(cell) for key, cell in known.items()}
    peaks = {key: measured[key]["card_gib"] for key in known}
    apart = {cell.key for cell in cells.held_out()}
    kept = [key for key in known if key not in apart]
    constants = _least_squares([rows[key] for key in kept], [peaks[key] for key in kept])
    errors = {key: round(peaks[key] - float(np.dot(row, constants)), 2) for key, row in rows.items()}
    return Fit(
        gib=dict(zip(vram_estimate.GIB, (round(float(value), 3) for value in constants), strict=True)),
        fitted={key: errors[key] for key in kept},
        held_out={key: errors[key] for key in rows if key in apart},
    )


def _least_squares(rows: Sequence[Sequence[float]], peaks: Sequence[float]) -> Sequence[float]:
    found: Sequence[float] = np.linalg.lstsq(np.array(rows), np.array(peaks), rcond=None)[0].tolist()
    return found


def _row(cell: cells.Cell) -> list[float]:
    terms = vram_estimate.terms(params(cell))
    assert terms is not None, f"{cell.key} is outside the model"
    return [terms.get(name, 0.0) for name in vram_estimate.GIB]


def params(cell: cells.Cell) -> Params:
    """A cell as the arguments of a point."""
    return {
        "network_module": "networks.lora",
        "network_dim": cell.dim,
        "optimizer_type": cell.optimizer,
        "train_batch_size": cell.batch,
        "resolution": f"{cell.resolution},{cell.resolution}",
        "network_train_unet_only": not cell.text_encoders,
        "cache_text_encoder_outputs": not cell.text_encoders,
        "gradient_checkpointing": cell.checkpointing,
        "cache_latents": True,
        "mixed_precision": "bf16",
        "sdpa": True,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
