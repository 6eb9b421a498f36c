"""The whole job against what one would write instead:  python -m benchmarks.versus [--steps 40]

On the miniature, on the CPU: `orchestrate run` on a grid of two ranks with all checkpoints of each, and then a shell
loop over the same work: each config to the trainer, one generator for each LoRA, and a loop over pictures with
InsightFace, once for each run. Both make the same weights, the same pictures and the same similarities.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
pack, references, pictures, out = map(Path, sys.argv[1:])
app = FaceAnalysis(name=pack.name, root=str(pack.parent.parent), providers=["CPUExecutionProvider"])
app.prepare(ctx_id=-1, det_size=(256, 256))
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
        world = Path(folder) / "world"
        _call([sys.executable, "-m", "orchestrator.miniature", str(world)])
        ours = _ours(world, steps)
        naive = _naive(world)
    print(f"{'orchestrate run':<24} {ours:7.1f} s")
    for name, seconds in naive.items():
        print(f"{'the loop: ' + name:<24} {seconds:7.1f} s")
    total = sum(naive.values())
    print(f"{'the loop':<24} {total:7.1f} s, {total / ours:.2f} times as long")


def _ours(world: Path, steps: int) -> float:
    settings = world / "orchestrate.toml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("[generate]\n", '[generate]\ncheckpoints = "all"\n'), encoding="utf-8")
    grid = world / "versus.toml"
    every = max(1, steps // STEPS_PER_EPOCH // 4)
    grid.write_text(GRID.format(steps=steps, every=every), encoding="utf-8")
    began = time.monotonic()
    run = "from orchestrator.cli import main; main()"
    _call([sys.executable, "-c", run, "run", "--settings", str(settings), "--grid", str(grid)])
    return time.monotonic() - began


def _naive(world: Path) -> dict[str, float]:
    """Seconds of each part. The configs are those that `orchestrate` rendered; the outputs are the loop's own."""
    pack = world / "insightface" / "models" / "pack"  # where InsightFace looks for one
    pack.parent.mkdir(parents=True)
    pack.symlink_to(world / "pack")
    spent = {"trainings": 0.0, "pictures": 0.0, "scores": 0.0}
    for record in sorted(_runs(world).glob("versus/*/point.json")):
        run, out = record.parent, world / "loop" / record.parent.name
        (out / "images").mkdir(parents=True)
        with _clock(spent, "trainings"):
            _train(run, out)
        with _clock(spent, "pictures"):
            _generate(run, out)
        with _clock(spent, "scores"):
            paths = (pack, world / "references", out / "images", out / "scores.csv")
            _call([sys.executable, "-c", SCORE, *map(str, paths)])
        _same(run, out)
    return spent


def _runs(world: Path) -> Path:
    text = (world / "orchestrate.toml").read_text(encoding="utf-8")
    return world / str(tomllib.loads(text)["runs"])


def _train(run: Path, out: Path) -> None:
    attempt = run / "train" / "1"
    if not attempt.exists():
        return  # the floor
    text = (attempt / "config.toml").read_text(encoding="utf-8")
    text = text.replace(str(attempt / "output"), str(out / "output")).replace(str(attempt / "logs"), str(out / "logs"))
    (out / "config.toml").write_text(text, encoding="utf-8")
    command = json.loads((attempt / "command.json").read_text(encoding="utf-8"))
    _call([word.replace(str(attempt / "config.toml"), str(out / "config.toml")) for word in command["argv"]], out)


def _generate(run: Path, out: Path) -> None:
    """One process for each LoRA, as with `--network_weights` on the command line."""
    attempt = run / "generate" / "1"
    plan = json.loads((attempt / "plan.json").read_text(encoding="utf-8"))
    argv = json.loads((attempt / "command.json").read_text(encoding="utf-8"))["argv"]
    for number, lora in enumerate(plan["loras"] or [None]):
        images = [image for image in plan["images"] if not plan["loras"] or image["lora"] == number]
        alone = {**plan, "loras": [lora] if lora else [], "images": [_first(image) for image in images]}
        path = out / f"plan-{number}.json"
        path.write_text(json.dumps(alone), encoding="utf-8")
        changed = {str(attempt / "plan.json"): str(path), str(run / "images"): str(out / "images")}
        changed |= {str(plan["loras"][0]): str(lora)} if lora else {}
        _call([changed.get(word, word) for word in argv], out)


def _first(image: dict[str, Any]) -> dict[str, Any]:
    return {**image, "lora": None if image["lora"] is None else 0}


def _same(run: Path, out: Path) -> None:
    """What was compared is the same work."""
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))["scores"]
    told = {Path(score["image"]["file"]).name: score["similarity"] for score in scores}
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        ours = {name: float(value) if value else None for name, value in csv.reader(file)}
    assert ours.keys() == told.keys(), (sorted(ours), sorted(told))
    far = [name for name, value in ours.items() if abs((value or 0.0) - (told[name] or 0.0)) > 0.02]
    if far:
        print(f"{run.name}: {len(far)} of {len(ours)} similarities differ by more than 0.02", file=sys.stderr)


@contextmanager
def _clock(spent: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    spent[name] += time.monotonic() - began


def _call(argv: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    main()
