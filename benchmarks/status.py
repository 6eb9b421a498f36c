"""How long `orchestrate status` takes over many runs:  python -m benchmarks.status [--runs 1000]

Makes a sweep of so many runs in a temporary folder: finished ones with all their records, some failed and crashed, the
rest pending, and one that seems to be training in this process. Prints the seconds of the whole command, in a process
of its own, as a table and as JSON.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from orchestrator.config import grid
from orchestrator.model import Checkpoint, Failure, Point, Result
from orchestrator.store import records, shim
from orchestrator.store.layout import Run, Sweep

SETTINGS = Path(__file__).parents[1] / "orchestrate.toml"
_LOG = "steps:  42%|####      | 840/2000 [10:00<13:48,  1.40it/s, avr_loss=0.0934]\r" * 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "orchestrate.toml"
        settings.write_text(SETTINGS.read_text(encoding="utf-8"), encoding="utf-8")
        make(Sweep(Path(folder) / "runs" / "large"), count)
        for words in (["status", "large"], ["status", "large", "--json"]):
            spent = min(_seconds([*words, "--settings", str(settings)]) for _ in range(3))
            print(f"orchestrate {' '.join(words)} over {count} runs: {spent:.2f} s")


def make(sweep: Sweep, count: int) -> None:
    """A sweep whose runs are in every state."""
    points = [_point(seed) for seed in range(1, count + 1)]
    record = {"points": [asdict(point) for point in points], "questions": [], "fingerprint": {}}
    sweep.freeze({"name": sweep.name, **record}, grid="", templates={})
    _running(sweep.run(points[0]))
    finished, failed = sweep.run(points[1]), sweep.run(points[2])
    _finished(finished)
    _failed(failed)
    for number, point in enumerate(points[3:]):
        if number % 10 < 7:  # copied, because records are synced to the disk one by one
            shutil.copytree((finished if number % 10 else failed).path, sweep.run(point).path)


def _point(seed: int) -> Point:
    params = {"base_model": "realvisxl-v5", "dataset": "persona", "network_dim": 16, "seed": seed}
    identity = grid.point_id(params)
    return Point(id=identity, name=grid.point_name(params, ("seed",), identity), params=params, dims=("seed",))


def _attempt(run: Run, stage: str, result: Result) -> None:
    attempt = run.new_attempt(stage)
    attempt.open({"overrides": {}, "fallbacks": [], "degraded": False})
    (attempt.path / "log").write_text(_LOG, encoding="utf-8")
    attempt.close(result)


def _finished(run: Run) -> None:
    run.create()
    good = Result(failure=None, exit_code=0, seconds=3000.0, seconds_per_step=1.4, steps=2000, peak_vram_mib=11000)
    for stage in run.stages:
        _attempt(run, stage, good)
    (run.path / "train" / "1" / "output").mkdir()
    (run.path / "train" / "1" / "output" / "lora.safetensors").touch()
    checkpoint = Checkpoint(file="train/1/output/lora.safetensors", epoch=10, step=2000)
    run.finish("train", {"attempt": 1, "checkpoints": [asdict(checkpoint)]})
    run.finish("generate", {"images": []})
    run.finish("score", {"scores": []})


def _failed(run: Run) -> None:
    run.create()
    _attempt(run, "train", Result(failure=Failure.NAN, reason="the loss became nan"))


def _running(run: Run) -> None:
    """An attempt of which this very process is the shim."""
    run.create()
    attempt = run.new_attempt("train")
    attempt.open({"overrides": {}})
    (attempt.path / "log").write_text(_LOG, encoding="utf-8")
    records.write(attempt.path / "process.json", shim.identity(os.getpid()))


def _seconds(words: Sequence[str]) -> float:
    began = time.perf_counter()
    argv = [sys.executable, "-c", "from orchestrator.cli import main; main()", *words]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
