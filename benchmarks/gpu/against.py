"""The whole job with the real trainer against a loop over the same programs: time to the finished CSV."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import versus
from benchmarks.gpu import cells, sweeps, watch

LORAS = 3
ONE = 'card = "0"\n'
GRID = f"""
[fixed]
max_train_epochs = 2
save_every_n_epochs = 1

[dims]
network_dim = [32]
seed = {list(range(1, LORAS + 1))}
"""


def measure(programs: watch.Programs, files: cells.Inputs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Seconds of the same sweep: one run after another, as many at once as fit on the card, and the loop.

    The runs that are packed know what they take from the sweep before, as from `orchestrate probe`.
    """
    folder = programs.work / "against"
    sweeps.furnish(folder, files)
    alone = _asked(folder, "alone", sweeps.settings(programs, files, ONE))
    packed = _asked(folder, "packed", sweeps.settings(programs, files, f"{ONE}colocate = true\n"))
    yield "orchestrate run", {"total_s": round(versus.ours(*alone), 1)}
    yield "orchestrate run, colocate = true", {"total_s": round(versus.ours(*packed), 1)}
    parts = {name: round(seconds, 1) for name, seconds in versus.loop(*alone).items()}
    yield "the loop", {"total_s": round(sum(parts.values()), 1), **parts}


def _asked(folder: Path, name: str, text: str) -> tuple[Path, Path]:
    """The files of settings and grid of a sweep of this name; all share `runs`."""
    settings, grid = folder / f"{name}.settings.toml", folder / f"{name}.toml"
    settings.write_text(text.replace("[generate]\n", '[generate]\ncheckpoints = "all"\n'), encoding="utf-8")
    grid.write_text(GRID, encoding="utf-8")
    return settings, grid
