"""Where the seconds before the first step of a training go, and what options and environment variables save.

The trainings have PICTURES images and STEPS steps, so that a second epoch begins: `longest_later_step_s` contains the
start of its data loader.
"""

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import cells, inputs, watch
from orchestrator.kohya.argv import START

PICTURES = 6
STEPS = 9
WITHOUT = {"USE_TF": "AUTO", "USE_FLAX": "AUTO", "TORCH_WARM_POOL": "1"}
"""What libraries assume without START."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imports:
    """`SCRIPT --help` under `python -X importtime`. bytecode: as it lies beside the sources."""

    name: str
    environment: Mapping[str, str] = field(default_factory=lambda: START)
    bytecode: bool = True


IMPORTS = (
    Imports(name="imports"),
    Imports(name="imports, environment as inherited", environment=WITHOUT),
    Imports(name="imports without bytecode", bytecode=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Rank 32, Prodigy, no gradient checkpointing, both text encoders, as the shipped settings.

    words: further arguments. cached: the base model is in the page cache. pictures: number of images.
    """

    name: str
    words: Sequence[str] = ()
    workers: int = 2
    environment: Mapping[str, str] = field(default_factory=lambda: START)
    cached: bool = True
    pictures: int = PICTURES
    text_encoders: bool = True


TRAININGS = (
    Training(name="shipped settings"),
    Training(name="no worker processes", workers=0),
    Training(name="lowram", words=["--lowram"]),
    Training(name="environment as inherited", environment=WITHOUT),
    Training(name="base model not in the page cache", cached=False),
    Training(name="the same without mmap", cached=False, words=["--disable_mmap_load_safetensors"]),
    Training(name="highvram", words=["--highvram"]),
    Training(name="persistent workers", words=["--persistent_data_loader_workers"]),
    Training(name="36 images", pictures=inputs.PICTURES),
    Training(name="U-Net only, texts cached", text_encoders=False),
    Training(name="four threads", environment={**START, "OMP_NUM_THREADS": "4"}),
)


def imports(programs: watch.Programs, variant: Imports, work: Path) -> dict[str, Any]:
    """Seconds of the imports, and of the packages that take most of them, by the modules' own time."""
    work.mkdir(parents=True, exist_ok=True)
    environment = dict(variant.environment)
    if not variant.bytecode:
        empty = work / "bytecode"
        shutil.rmtree(empty, ignore_errors=True)
        environment["PYTHONPYCACHEPREFIX"] = str(empty)
    log = work / f"{_file(variant.name)}.log"
    command = [str(programs.python), "-X", "importtime", str(_script(programs)), "--help"]
    for _ in range(2 if variant.bytecode else 1):  # the first run may write bytecode
        (code,), (wall,) = watch.side_by_side(programs, [(command, log, environment)])
    packages = by_package(log.read_text(encoding="utf-8", errors="replace"))
    shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in packages.most_common(8))
    return {"wall_s": wall, "imports_s": round(sum(packages.values()), 2), "packages": shown, **_failure(code)}


def by_package(log: str) -> Counter[str]:
    """Seconds of the modules' own imports by top-level package, from the output of `-X importtime`."""
    seconds: Counter[str] = Counter()
    for own, module in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\w+)", log, re.MULTILINE):
        seconds[module] += int(own) / 1e6
    return seconds


def measure(programs: watch.Programs, files: cells.Inputs, variant: Training, work: Path) -> dict[str, Any]:
    """Seconds of the phases of one training; `exit_s` from the end of the training to that of the process."""
    work.mkdir(parents=True, exist_ok=True)
    report, log = (work / f"{_file(variant.name)}.{suffix}" for suffix in ("json", "log"))
    report.unlink(missing_ok=True)
    argv = arguments(files, variant, work)
    if not variant.cached:
        forget(files.checkpoint)
    began = time.time()
    command = watch.module(programs, "phases", report, began, _script(programs), *argv)
    (code,), (wall,) = watch.side_by_side(programs, [(command, log, variant.environment)])
    figures: dict[str, Any] = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    if trained := figures.pop("trained_at", None):
        figures["exit_s"] = round(began + wall - trained, 2)
    return figures | {"wall_s": wall} | _failure(code)


def arguments(files: cells.Inputs, variant: Training, work: Path) -> list[str]:
    """The trainer's arguments; makes the dataset of so many images."""
    folder, dataset = work / f"pictures-{variant.pictures}", work / f"dataset-{variant.pictures}.toml"
    folder.mkdir(exist_ok=True)
    for picture in sorted(files.pictures(1024).glob("*.jpg"))[: variant.pictures]:
        for file in (picture, picture.with_suffix(".txt")):
            shutil.copyfile(file, folder / file.name)
    cell = cells.Cell(dim=32, optimizer=cells.PRODIGY, checkpointing=False, text_encoders=variant.text_encoders)
    dataset.write_text(inputs.dataset(cell, folder), encoding="utf-8")
    argv = cells.argv(cell, files, work / "output", steps=STEPS)
    for name, value in (("dataset_config", dataset), ("max_data_loader_n_workers", variant.workers)):
        argv[argv.index(f"--{name}") + 1] = str(value)
    return [*argv, *variant.words]


def forget(file: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _script(programs: watch.Programs) -> Path:
    return programs.sd_scripts / "sdxl_train_network.py"


def _file(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _failure(code: int) -> dict[str, str]:
    return {"failure": f"exit code {code}"} if code else {}
