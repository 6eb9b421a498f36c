"""The whole job against what one would write instead:  python -m benchmarks.versus [--steps 40]

On the miniature, on the CPU: `orchestrate run` on a grid of two ranks with all checkpoints of each, and then a shell
loop over the same work: each config to the trainer, one generator for each LoRA, and a loop over pictures with
InsightFace, once for each run. Both make the same weights, the same pictures and the same similarities.
`python -m benchmarks.gpu --part versus` does the same with the real trainer.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.config import settings as settings_file
from orchestrator.config.schema import Settings
from orchestrator.kohya import argv as command
from orchestrator.kohya import generate
from orchestrator.store.layout import Run, Sweep

GRID = """
[dims]
network_dim = [2, 4]
[fixed]
max_train_steps = {steps}
save_every_n_epochs = {every}
"""
STEPS_PER_EPOCH = 3

SCORE = """
import csv, sys
from pathlib import Path
import cv2, numpy as np
from insightface.app import FaceAnalysis
pack, references, pictures, out, size = *map(Path, sys.argv[1:5]), int(sys.argv[5])
app = FaceAnalysis(name=pack.name, root=str(pack.parent.parent), providers=["CPUExecutionProvider"])
app.prepare(ctx_id=-1, det_size=(size, size))
def embedding(path):
    faces = app.get(cv2.imread(str(path)))
    return max(faces, key=lambda face: face.det_score).normed_embedding if faces else None
known = [found for path in sorted(references.glob("*.png")) if (found := embedding(path)) is not None]
centre = np.mean(known, axis=0)
centre /= np.linalg.norm(centre)
with out.open("w", newline="") as file:
    for path in sorted(pictures.rglob("*.png")):
        found = embedding(path)
        csv.writer(file).writerow([path.name, "" if found is None else float(found @ centre)])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        settings, grid = _world(Path(folder) / "world", steps)
        seconds = ours(settings, grid)
        figures = {
            "orchestrate run": seconds,
            "the loop: trainings": 0.0,
            "the loop: pictures": 0.0,
            "the loop: scores": 0.0,
        }
        for run in Sweep(settings_file.load(settings).runs / grid.stem).runs():
            for name, spent in loop(settings, grid, run).items():
                figures[f"the loop: {name}"] += spent
    total = sum(figures.values()) - seconds
    for name, spent in figures.items():
        print(f"{name:<24} {spent:7.1f} s")
    print(f"{'the loop':<24} {total:7.1f} s, {total / seconds:.2f} times as long")


def _world(folder: Path, steps: int) -> tuple[Path, Path]:
    _call([sys.executable, "-m", "orchestrator.miniature", str(folder)])
    settings, grid = folder / "orchestrate.toml", folder / "versus.toml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("[generate]\n", '[generate]\ncheckpoints = "all"\n'), encoding="utf-8")
    every = max(1, steps // STEPS_PER_EPOCH // 4)
    grid.write_text(GRID.format(steps=steps, every=every), encoding="utf-8")
    return settings, grid


def ours(
    settings: Path, grid: Path, only: str = "*", environ: Mapping[str, str] = os.environ, command: str = "run"
) -> float:
    """Seconds of `orchestrate run`, from reading the grid to the report; what it prints goes beside the grid."""
    began = time.monotonic()
    main = "from orchestrator.cli import main; main()"
    words = [command, "--settings", str(settings), "--grid", str(grid), "--only", only]
    printed = _call([sys.executable, "-c", main, *words], environ=environ)
    grid.with_suffix(f".{command}.txt").write_text(printed, encoding="utf-8")
    return time.monotonic() - began


def loop(settings: Path, grid: Path, run: Run) -> dict[str, float]:
    """Seconds of each part of the loop's work on one run of a finished sweep, one program after the other.

    The configs are those that `orchestrate` rendered; the outputs are the loop's own, beside the grid.
    """
    used, out = settings_file.load(settings), grid.parent / "loop" / grid.stem
    pack = out / "insightface" / "models" / "pack"  # where InsightFace looks for one
    pack.parent.mkdir(parents=True, exist_ok=True)
    if not pack.exists():
        pack.symlink_to(used.scoring.pack)
    made = out / run.path.name
    shutil.rmtree(made, ignore_errors=True)  # of an earlier benchmark that was cut off
    (made / "images").mkdir(parents=True)
    spent = {"trainings": 0.0, "pictures": 0.0, "scores": 0.0}
    with _clock(spent, "trainings"):
        _train(run, made, used)
    with _clock(spent, "pictures"):
        _generate(run, made, used)
    with _clock(spent, "scores"):
        paths = (pack, used.scoring.references, made / "images", made / "scores.csv", used.scoring.det_size)
        _call([sys.executable, "-c", SCORE, *map(str, paths)])
    _same(run.path, made)
    return spent


def _train(run: Run, out: Path, used: Settings) -> None:
    """Train on the user's own pictures, with the files of the run's first attempt."""
    if run.point.is_baseline:
        return
    attempt = run.attempts("train")[0].path
    changed = {str(attempt / name): str(out / name) for name in ("output", "logs", "dataset.toml", "config.toml")}
    for name in ("config.toml", "dataset.toml"):
        (out / name).write_text(_replaced((attempt / name).read_text(encoding="utf-8"), changed), encoding="utf-8")
    script = used.trainer.sd_scripts / used.trainer.train_script
    _call([str(used.trainer.python), str(script), "--config_file", str(out / "config.toml")], out, used)


def _replaced(text: str, changed: Mapping[str, str]) -> str:
    for old, new in changed.items():
        text = text.replace(old, new)
    return text


def _generate(run: Run, out: Path, used: Settings) -> None:
    """One process for each LoRA, as with `--network_weights` on the command line."""
    plan = json.loads((run.attempts("generate")[0].path / "plan.json").read_text(encoding="utf-8"))
    base = str(run.point.params["base_model"])
    for number, lora in enumerate(plan["loras"] or [None]):
        images = [image for image in plan["images"] if not plan["loras"] or image["lora"] == number]
        alone = {**plan, "loras": [lora] if lora else [], "images": [_first(image) for image in images]}
        path = out / f"plan-{number}.json"
        path.write_text(json.dumps(alone), encoding="utf-8")
        argv = generate.generate_argv(
            used.trainer,
            used.base_models[base],
            used.generation_of(base),
            plan=path,
            outdir=out / "images",
            lora=Path(lora) if lora else None,
            params=run.point.params,
        )
        _call(argv, out, used)


def _first(image: dict[str, Any]) -> dict[str, Any]:
    return {**image, "lora": None if image["lora"] is None else 0}


def _same(run: Path, out: Path) -> None:
    """What was compared is the same work."""
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))["scores"]
    theirs = {Path(score["image"]["file"]).name: score["similarity"] for score in scores}
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        ours = {name: float(value) if value else None for name, value in csv.reader(file)}
    assert ours.keys() == theirs.keys(), (sorted(ours), sorted(theirs))
    far = [name for name, value in ours.items() if abs((value or 0.0) - (theirs[name] or 0.0)) > 0.02]
    if far:
        print(f"{run.name}: {len(far)} of {len(ours)} similarities differ by more than 0.02", file=sys.stderr)


@contextmanager
def _clock(spent: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    spent[name] += time.monotonic() - began


def _call(
    argv: list[str], cwd: Path | None = None, used: Settings | None = None, environ: Mapping[str, str] = os.environ
) -> str:
    """With `used`, a program of the loop: in a shell's environment, without the variables of `START`."""
    added = command.environment(used.trainer, gpu=None).items() if used else ()
    environment = {**environ, **{name: value for name, value in added if name not in command.START}}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
