"""Whole sweeps through `orchestrate run` with the shipped arguments and OOM fallback, on a GPU made too small."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import cells, limit, watch
from orchestrator.miniature import pack, world
from orchestrator.store import records

SHIPPED = watch.ROOT / "orchestrate.toml"
PICTURES = 6  # batch 1, one epoch: so many steps
PROMPTS = "photo of ohwx woman, portrait\nohwx woman, smiling\n"
COLUMNS = ("state", "overrides", "degraded", "attempts", "peak_vram_mib", "seconds_per_step", "train_s", "images")
SETTINGS = """
runs = "runs"
templates = {templates}

[trainer]
python = {python}
sd_scripts = {sd_scripts}
tokenizer_cache_dir = {tokenizers}

[base_models.random]
path = {checkpoint}

[datasets.persona]
image_dir = "pictures"
trigger = "ohwx woman"

[generate]
prompts = "prompts.txt"
seeds = [1, 2]
{images}
[score]
pack = "pack"
references = "references"

[vram]
{vram}
"""
SMALL_IMAGES = """steps = 10
width = 768
height = 768
batch_size = 1
merge = false
"""
GRID = """
[fixed]
max_train_epochs = 1
save_every_n_epochs = 1

[dims]
network_dim = [{dim}]
optimizer_type = ["Prodigy"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A Prodigy training that does not fit.

    budget_gib: `vram.budget_gib`. leave_gib: a foreign process takes the rest of the GPU. limit_gib: what a process may
    allocate; with it, images are generated as by default.
    """

    name: str
    dim: int
    budget_gib: float | None = None
    leave_gib: float | None = None
    limit_gib: int | None = None


FALLBACK = Case(name="fallback", dim=256, limit_gib=24)
"""At rank 256 Prodigy needs 28 GiB with gradient checkpointing, AdamW8bit 17 (estimated)."""

CASES = (
    # Prodigy at dim 64 takes 13.3 GiB with gradient checkpointing, AdamW8bit 10.7; the images take 8.2.
    Case(name="budget", dim=64, budget_gib=12.75),
    # Prodigy at dim 16 takes 17 GiB without gradient checkpointing, 10.2 with.
    Case(name="crowded", dim=16, leave_gib=15),
)


def measure(
    programs: watch.Programs, files: cells.Inputs, case: Case, out: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run a case; (run, what results.csv and its attempts say). The CSV and the console's text go to `out`."""
    folder = programs.work / "sweeps"
    furnish(folder, files)
    budget = f"budget_gib = {case.budget_gib}\n" if case.budget_gib else ""
    text = settings(
        programs, files, f'card = "{programs.card}"\n{budget}', images="" if case.limit_gib else SMALL_IMAGES
    )
    (folder / f"{case.name}.toml").write_text(text, encoding="utf-8")
    (folder / f"{case.name}.grid.toml").write_text(GRID.format(dim=case.dim), encoding="utf-8")
    began = time.monotonic()
    with (
        limit.mps(folder, case.limit_gib) as environment,
        _neighbour(programs, case.leave_gib) as neighbour,
        (out / f"{case.name}.txt").open("w") as console,
    ):
        code = _orchestrate(folder, case, console, environment)
    facts = {"exit_code": code, "wall_s": round(time.monotonic() - began, 1), **neighbour}
    report = folder / "runs" / case.name / "report" / "results.csv"
    if not report.exists():
        raise RuntimeError(f"exit code {code}; see {out / case.name}.txt")
    shutil.copyfile(report, out / f"{case.name}.csv")
    for row in csv.DictReader(report.read_text(encoding="utf-8").splitlines()):
        if row["attempts"]:
            shown = {name: row[name] for name in COLUMNS}
            yield row["run"], facts | shown | {"attempts": _attempts(report.parents[1] / row["run"])}


def furnish(folder: Path, files: cells.Inputs) -> None:
    """What a sweep needs beside its settings and grid: images, a face pack, references, prompts."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for picture in sorted(files.pictures(1024).glob("*.jpg"))[:PICTURES]:
        for file in (picture, picture.with_suffix(".txt")):
            shutil.copyfile(file, folder / "pictures" / file.name)
    pack.build(folder / "pack")
    if not (folder / "references").exists():
        world.photos(folder / "references", world.PERSONA, count=8, first=1000, captions=False)
    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf-8")


def settings(programs: watch.Programs, files: cells.Inputs, vram: str, images: str = SMALL_IMAGES) -> str:
    """The shipped arguments and OOM fallback. vram: the lines of [vram]. images: more lines of [generate]."""
    paths = {
        "templates": watch.ROOT / "templates",
        "python": programs.python,
        "sd_scripts": programs.sd_scripts,
        "tokenizers": files.tokenizers,
        "checkpoint": files.checkpoint,
    }
    quoted = {name: json.dumps(str(path)) for name, path in paths.items()}
    return SETTINGS.format(**quoted, vram=vram, images=images) + _shipped()


def _shipped() -> str:
    """The arguments and the OOM fallback of the shipped settings, verbatim."""
    text = SHIPPED.read_text(encoding="utf-8")
    arguments, generate, fallback = (
        text.index(f"\n{table}") for table in ("[arguments]", "[generate]", "[[oom_fallback]]")
    )
    return text[arguments:generate] + text[fallback:]


@contextlib.contextmanager
def _neighbour(programs: watch.Programs, leave_gib: float | None) -> Iterator[Mapping[str, Any]]:
    """A foreign process that leaves so much of the GPU free; what it holds."""
    if leave_gib is None:
        yield {}
        return
    command = watch.module(programs, "ballast", leave_gib)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=watch.ROOT) as child:
        assert child.stdout
        yield {"neighbour_pid": child.pid, "neighbour_mib": int(child.stdout.readline())}
        child.communicate()


def _orchestrate(folder: Path, case: Case, console: Any, environment: Mapping[str, str]) -> int:
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "run"]
    command += ["--settings", f"{case.name}.toml", "--grid", f"{case.name}.grid.toml", "--name", case.name]
    command += ["--only", "network_dim*"]  # not the base model alone: there is nothing to compare with
    environment = {**os.environ, **environment, "COLUMNS": "200"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(watch.ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, cwd=folder, env=environment, stdout=console, stderr=subprocess.STDOUT, check=False)
    return done.returncode


def _attempts(run: Path) -> list[dict[str, Any]]:
    """What each training attempt changed and how it ended."""
    found = []
    for number in sorted(int(folder.name) for folder in (run / "train").iterdir()):
        folder = run / "train" / str(number)
        asked, result = records.read(folder / "attempt.json"), records.read(folder / "result.json")
        kept = {key: result[key] for key in ("failure", "reason", "peak_vram_mib", "seconds", "seconds_per_step")}
        found.append({"fallbacks": asked["fallbacks"], "others": asked["others"], **kept})
    return found
