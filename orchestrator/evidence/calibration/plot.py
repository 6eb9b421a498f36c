"""Plot of a calibration: photos and impostors as dots, the natural band, the threshold and its interval."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.evidence.calibration.record import CalibrationRecord

_OWN, _OUTLIER, _OTHERS, _PASS = "#1f6f8b", "#c2410c", "#6b7280", "#15803d"


def draw(kept: CalibrationRecord, path: Path) -> None:
    """Write an SVG or PNG file, by the suffix of `path`; the same calibration gives the same bytes."""
    found = kept.calibration
    rows = [("own photos", np.array([one.similarity for one in found.references]))]
    rows += [(one.name, np.array(one.similarities)) for one in found.impostors]
    if kept.expected_from_pairs is not None:
        rows.append(("your pairs, as scores", np.array([kept.expected_from_pairs])))
    figure = Figure(figsize=(9, 1.8 + 0.7 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    _bounds(axes, kept)
    _dots(axes, rows, [one.outlier for one in found.references])
    axes.set_xlabel("similarity to the centroid of the persona's (other) photos")
    axes.set_title("; ".join(("Similarity of the persona's own photos", *kept.caveats)), loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    _save(figure, path)


def _bounds(axes: Axes, kept: CalibrationRecord) -> None:
    found = kept.calibration
    ends = found.threshold_interval
    axes.axvspan(found.band.low, found.band.high, color=_OWN, alpha=0.10, label="natural band, 5 % to 95 %")
    axes.axvspan(ends.low, ends.high, color=_PASS, alpha=0.12, label="95 % interval of the threshold")
    axes.axvline(found.threshold, color=_PASS, lw=2, label=f"pass threshold: {found.threshold:.3f}")


def _dots(axes: Axes, rows: Sequence[tuple[str, np.ndarray]], outliers: Sequence[bool]) -> None:
    for height, (_, values) in enumerate(rows):
        jitter = np.random.default_rng(height).uniform(-0.22, 0.22, len(values))
        colours = [_OUTLIER if odd else _OWN for odd in outliers] if height == 0 else _OTHERS
        axes.scatter(values, height + jitter, s=26, c=colours, alpha=0.8, linewidths=0)
    axes.set_yticks(range(len(rows)), [f"{name} ({len(values)})" for name, values in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    kind = path.suffix.removeprefix(".")
    with rc_context({"svg.hashsalt": "orchestrate"}):  # constant element ids
        figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None, dpi=140)
    temporary.replace(path)
