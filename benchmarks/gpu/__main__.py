"""Measures the real trainer at full size on the first CUDA GPU: peak memory and speed of training and generation.

    python -m benchmarks.gpu --python vendor/.venv/bin/python --sd-scripts vendor/sd-scripts [--part train ...]

Needs a checkout, the trainer's interpreter, the sources of sd-scripts and a GPU; nothing is downloaded. The first run
makes a random-weight SDXL checkpoint and images (about 8 GB) under --work. Every cell is printed and written as soon
as it is measured, to OUT/gpu.json and OUT/gpu.md; cells that are there already are skipped, so a run may be cut short.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.gpu import against, cells, limit, pictures, record, startup, sweeps, watch
from benchmarks.gpu.sweeps import Case

STEPS = 5
CHECK_STEPS = 8


def main() -> None:
    """Run the parts that were asked for."""
    options = _options()
    programs = watch.Programs(
        python=options.python, sd_scripts=options.sd_scripts, work=options.work, card=options.card
    )
    os.environ["CUDA_VISIBLE_DEVICES"] = watch.Card(options.card).uuid()  # for all children
    deadline = time.monotonic() + 60 * options.minutes
    bench = Bench(programs, record.Record(options.out), deadline, options.cell or ["*"])
    bench.prepare()
    for part in options.part or list(PARTS):
        PARTS[part](bench)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=_absolute, default=_absolute("vendor/.venv/bin/python"), help="the trainer's")
    parser.add_argument("--sd-scripts", type=_absolute, default=_absolute("vendor/sd-scripts"))
    parser.add_argument("--card", type=int, default=0, help="number of the GPU; a second GPU takes the next number")
    parser.add_argument("--work", type=_absolute, default=_absolute("runs/.bench-gpu"), help="inputs, logs, images")
    parser.add_argument("--out", type=_absolute, default=_absolute("runs/bench-gpu"), help="gpu.json and gpu.md")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be given several times; default: all")
    parser.add_argument("--cell", action="append", metavar="GLOB", help="only these cells; may be given several times")
    parser.add_argument("--minutes", type=float, default=600, help="start no further cell after so long")
    return parser.parse_args()


def _absolute(path: str) -> Path:
    return Path(path).absolute()  # not resolved: a virtual environment's interpreter is a link


class Bench:
    """The parts, over one GPU and one record."""

    def __init__(
        self, programs: watch.Programs, results: record.Record, deadline: float, wanted: Sequence[str]
    ) -> None:
        self._programs = programs
        self._results = results
        self._deadline = deadline
        self._wanted = wanted
        self._card = watch.Card(programs.card)
        self._inputs = cells.Inputs(folder=programs.work / "inputs")

    def prepare(self) -> None:
        """Make the inputs and note what the figures are of."""
        work = self._programs.work
        work.mkdir(parents=True, exist_ok=True)
        command = watch.module(self._programs, "inputs", self._programs.sd_scripts, self._inputs.folder)
        for line in watch.lines(self._programs, command, work / "inputs.log"):
            print(line, end="", flush=True)
        self._results.machine(self._card.facts() | _versions(self._programs))

    def train(self) -> None:
        """Every cell, in one process that keeps the base model."""
        due = [cell for cell in cells.training() if self._due("train", cell.key)]
        if due:
            self._warm(due)

    def check(self) -> None:
        """The same cells as whole processes: the first alone, for its speed; the others at once, for their memory."""
        first, *others = cells.checking()
        self._whole("check", [first])
        self._whole("check", others)

    def packing(self) -> None:
        """Two trainings on one GPU at once."""
        self._whole("packing", [cells.Cell(dim=32, optimizer=cells.PRODIGY)] * 2)

    def generate(self) -> None:
        for variant in pictures.VARIANTS:
            if self._due("generate", variant.key):
                figures = pictures.measure(self._programs, self._card, self._inputs, variant)
                self._results.add("generate", variant.key, figures | pictures.likeness(self._programs, variant))

    def sweeps(self) -> None:
        """Through `orchestrate run`, with all OOM fallback steps."""
        for case in sweeps.CASES:
            self._sweep("sweeps", case)

    def fallback(self) -> None:
        """The same by genuine errors, under a hard limit of 24 GiB, and images with default settings."""
        self._sweep("fallback", sweeps.FALLBACK)

    def _sweep(self, part: str, case: Case) -> None:
        if time.monotonic() < self._deadline and not self._results.under(part, case.name):
            for run, figures in sweeps.measure(self._programs, self._inputs, case, self._results.folder):
                self._results.add(part, f"{case.name}: {run}", figures)

    def versus(self) -> None:
        """The whole job, against the loop that one would write."""
        for job in against.COLOCATED:
            if self._due("versus", key := f"{job.name}: probe"):
                self._results.add("versus", key, against.probe(self._programs, self._inputs, job))
        for job in (*against.COLOCATED, *against.ALONE):
            self._job("versus", job)
        for jobs in zip(against.ALONE, against.COLOCATED, strict=True):
            for key, job, run in against.loops(self._programs, self._inputs, jobs):
                if self._due("versus", key):
                    self._results.add("versus", key, against.loop(self._programs, self._inputs, job, run))

    def cards(self) -> None:
        """The same job on one GPU and on two."""
        for job in against.CARDS[: self._card.count() - self._programs.card]:
            self._job("cards", job)

    def _job(self, part: str, job: against.Job) -> None:
        if self._due(part, job.name):
            self._results.add(part, job.name, against.run(self._programs, self._inputs, job))

    def limited(self) -> None:
        """Under a hard limit of 24 GiB, three trainings at once."""
        folder = self._programs.work / "limit"
        trials = [trial for trial in limit.memory_trials(self._inputs, folder) if self._due("limit 24 GiB", trial.key)]
        self._limited("limit 24 GiB", trials, folder)

    def networks(self) -> None:
        """Memory and speed of other network types, three at once."""
        folder = self._programs.work / "networks"
        trials = [trial for trial in limit.network_trials(self._inputs, folder) if self._due("networks", trial.key)]
        self._limited("networks", trials, folder)

    def threads(self) -> None:
        """One training at a time with fewer threads."""
        folder = self._programs.work / "threads"
        for trial in limit.thread_trials(self._inputs, folder):
            if self._due("threads", trial.key):
                for key, figures in limit.measure(self._programs, [trial], folder):
                    self._results.add("threads", key, figures)

    def startup(self) -> None:
        """The phases before the first step."""
        folder = self._programs.work / "startup"
        for variant in startup.IMPORTS:
            if self._due("startup: imports", variant.name):
                self._results.add("startup: imports", variant.name, startup.imports(self._programs, variant, folder))
        for training in startup.TRAININGS:
            if self._due("startup", training.name):
                figures = startup.measure(self._programs, self._inputs, training, folder)
                self._results.add("startup", training.name, figures)

    def _limited(self, part: str, trials: Sequence[limit.Trial], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with limit.mps(folder, gib=24) as environment:
            environment["OMP_NUM_THREADS"] = "4"
            for start in range(0, len(trials), limit.AT_ONCE):
                if time.monotonic() > self._deadline:
                    return
                batch = [limit.with_environment(t, environment) for t in trials[start : start + limit.AT_ONCE]]
                with watch.Peak(self._card) as peak:
                    found = list(limit.measure(self._programs, batch, folder / str(start)))
                for key, figures in found:
                    self._results.add(part, key, figures | {"peak_nvml_together_gib": peak.gib})

    def _due(self, part: str, key: str) -> bool:
        wanted = any(fnmatchcase(key, glob) for glob in self._wanted)
        return wanted and not self._results.has(part, key) and time.monotonic() < self._deadline

    def _warm(self, due: list[cells.Cell]) -> None:
        work = self._programs.work
        output = work / "output"
        tasks = [{"key": cell.key, "argv": cells.argv(cell, self._inputs, output, steps=STEPS)} for cell in due]
        file = work / "cells.json"
        file.write_text(json.dumps(tasks), encoding="utf-8")
        seconds = self._deadline - time.monotonic()
        command = watch.module(self._programs, "warm", self._programs.sd_scripts, file, seconds)
        for line in watch.lines(self._programs, command, work / "train.log"):
            if line.startswith("RESULT "):
                figures = json.loads(line.removeprefix("RESULT "))
                self._results.add("train", figures.pop("key"), figures)

    def _whole(self, part: str, wanted: list[cells.Cell]) -> None:
        """Whole processes, all at once. Memory of the GPU is theirs together, so it is kept for one alone only."""
        keys = [f"{cell.key} {number} of {len(wanted)} at once" for number, cell in enumerate(wanted, 1)]
        if not any(self._due(part, key) for key in keys):
            return
        reports = [self._programs.work / f"{part}-{len(wanted)}-{number}.json" for number in range(len(wanted))]
        commands = [
            (self._training(cell, report), report.with_suffix(".log"))
            for cell, report in zip(wanted, reports, strict=True)
        ]
        with watch.Peak(self._card) as peak:
            wall = watch.together(self._programs, commands)
        for key, report in zip(keys, reports, strict=True):
            figures: dict[str, Any] = {"wall_s": wall, "peak_nvml_together_gib": peak.gib}
            self._results.add(part, key, figures | watch.trained(report, report.with_suffix(".log")))

    def _training(self, cell: cells.Cell, report: Path) -> list[str]:
        output = report.with_suffix("")
        arguments = cells.argv(cell, self._inputs, output, steps=CHECK_STEPS)
        script = self._programs.sd_scripts / "sdxl_train_network.py"
        return watch.module(self._programs, "full", report, script, *arguments)


PARTS = {
    "train": Bench.train,
    "check": Bench.check,
    "packing": Bench.packing,
    "generate": Bench.generate,
    "sweeps": Bench.sweeps,
    "fallback": Bench.fallback,
    "versus": Bench.versus,
    "cards": Bench.cards,
    "limit": Bench.limited,
    "networks": Bench.networks,
    "threads": Bench.threads,
    "startup": Bench.startup,
}


def _versions(programs: watch.Programs) -> dict[str, str]:
    """Of the packages that decide speed and memory, in the trainer's interpreter, and of sd-scripts its commit."""
    names = ("torch", "transformers", "diffusers", "accelerate", "bitsandbytes", "prodigyopt")
    code = f"from importlib.metadata import version as v; print({' , '.join(f'v({name!r})' for name in names)})"
    found = subprocess.run([programs.python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {**dict(zip(names, found, strict=True)), "sd-scripts": _commit(programs.sd_scripts)}


def _commit(sources: Path) -> str:
    """The commit of a checkout; of a copy without history git would name the repository around it."""
    if not (sources / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(sources), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
