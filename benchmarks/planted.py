"""Are planted effects found, and is a planted nothing not taken for something:  python -m benchmarks.planted FOLDER

Trains 20 LoRAs on the miniature (a few minutes on two cores) in one sweep: too low a rank, too low a learning rate, too
few images, and the same images under other names, which is nothing. Prints the answers, as `orchestrate answer`.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from orchestrator.miniature import world

GRID = """
[dims]
network_dim = [16, 1]
learning_rate = [1e-3, 1e-4]
dataset = ["portraits", "few", "again"]
seed = {seeds}

[[exclude]]
network_dim = 1
learning_rate = 1e-4

[[exclude]]
network_dim = 1
dataset = ["few", "again"]

[[exclude]]
learning_rate = 1e-4
dataset = ["few", "again"]

[fixed]
optimizer_type = "AdamW"
optimizer_args = []
max_train_steps = {steps}

[[question]]
id = "rank"
ask = "Is network_dim 1 too low?"
contrast = {{ network_dim = [1, 16] }}

[[question]]
id = "rate"
ask = "Is a learning rate of 1e-4 too low?"
contrast = {{ learning_rate = [1e-4, 1e-3] }}

[[question]]
id = "few"
ask = "Do 4 images do better than 36, and by copying them?"
contrast = {{ dataset = ["portraits", "few"] }}

[[question]]
id = "null"
ask = "Do the same images do better under other names?"
contrast = {{ dataset = ["portraits", "again"] }}
"""
FEW = 4


def build(folder: Path, *, seeds: int, steps: int) -> tuple[Path, Path]:
    """A miniature world with three datasets, and the grid. Returns the paths of settings and grid."""
    world.write(folder, folder / "runs")
    images = sorted((folder / "images").glob("*.png"))
    _copy(images[:FEW], folder / "few", lambda number: f"{number}")
    _copy(images, folder / "again", lambda number: f"{7 * number % len(images):04d}")
    settings, grid = folder / "orchestrate.toml", folder / "planted.toml"
    named = "".join(
        f'\n[datasets.{name}]\nimage_dir = "{name}"\ntrigger = "{world.SUBJECT}"\n' for name in ("few", "again")
    )
    default = '\n[defaults]\ndataset = "portraits"\n'
    settings.write_text(settings.read_text(encoding="utf-8") + named + default, encoding="utf-8")
    grid.write_text(GRID.format(seeds=list(range(1, seeds + 1)), steps=steps), encoding="utf-8")
    return settings, grid


def _copy(images: list[Path], folder: Path, name: Callable[[int], str]) -> None:
    """Another name is another place in the order of the images, so another shuffle with the same seed."""
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        for path in (image, image.with_suffix(".txt")):
            shutil.copyfile(path, folder / f"{name(number)}{path.suffix}")


def orchestrate(*arguments: str) -> None:
    """One command of the program, in a process of its own."""
    subprocess.run([sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=120)
    options = parser.parse_args()
    settings, grid = build(options.folder, seeds=options.seeds, steps=options.steps)
    orchestrate("run", "--settings", str(settings), "--grid", str(grid))
    orchestrate("calibrate", "--settings", str(settings), "--against", grid.stem)
    orchestrate("answer", "--settings", str(settings), grid.stem)


if __name__ == "__main__":
    main()
