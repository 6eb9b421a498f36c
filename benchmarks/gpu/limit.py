"""Trainings under a hard memory limit on a larger GPU: sd-scripts itself runs out of memory at the limit of NVIDIA MPS.

`CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=24G` limits what one client of MPS may allocate on the first GPU. Under it torch
raises its ordinary out-of-memory error at 24 GiB, so a large GPU answers questions about a smaller one.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import cells, watch

STEPS = 8
AT_ONCE = 3  # three clients of 24 GiB fit on one 80 GB GPU
THREADS = ("1", "2", "4", "8", "")
"""Values of OMP_NUM_THREADS; empty: not set."""


@contextlib.contextmanager
def mps(folder: Path, gib: int | None) -> Iterator[dict[str, str]]:
    """An MPS daemon of this process's own; yields the variables for its clients. Without a limit: none, and {}."""
    if gib is None:
        yield {}
        return
    pipe = Path(tempfile.mkdtemp(prefix="mps-"))  # a socket's path has at most 107 characters
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    everything = {**os.environ, **environment}
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=everything, check=True)
    try:
        yield environment | {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={gib}G"}
    finally:
        subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, env=everything, check=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One whole training process: `argv` of sdxl_train_network.py and the environment it gets in addition."""

    key: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def memory_trials(inputs: cells.Inputs, work: Path) -> Iterator[Trial]:
    """Ranks 16 to 128, Prodigy and AdamW8bit, with and without gradient checkpointing."""
    for checkpointing in (False, True):
        for optimizer in (cells.PRODIGY, cells.ADAMW):
            for dim in (16, 32, 64, 128):
                cell = cells.Cell(dim=dim, optimizer=optimizer, checkpointing=checkpointing)
                yield Trial(key=cell.key, argv=cells.argv(cell, inputs, work / cell.key, steps=STEPS))


def network_trials(inputs: cells.Inputs, work: Path) -> Iterator[Trial]:
    """Other network types at ranks 16 and 32 with AdamW8bit and gradient checkpointing."""
    kinds = {
        "lora": ("networks.lora", []),
        "loha": ("networks.loha", []),
        "lokr": ("networks.lokr", ["factor=4"]),
        "oft": ("networks.oft", []),
        "dora": ("lycoris.kohya", ["algo=lora", "dora_wd=True"]),
    }
    for name, (module, arguments) in kinds.items():
        for dim in (16, 32):
            cell = cells.Cell(dim=dim, optimizer=cells.ADAMW)
            argv = list(cells.argv(cell, inputs, work / f"{name}-{dim}", steps=STEPS))
            argv[argv.index("--network_module") + 1] = module
            if arguments:
                argv += ["--network_args", *arguments]
            yield Trial(key=f"{name} {cell.key}", argv=argv)


def thread_trials(inputs: cells.Inputs, work: Path) -> Iterator[Trial]:
    """One training at a time under several thread counts."""
    cell = cells.Cell(dim=32, optimizer=cells.PRODIGY, checkpointing=False)
    for threads in THREADS:
        argv = cells.argv(cell, inputs, work / f"threads-{threads}", steps=12)
        yield Trial(
            key=f"threads {threads or 'default'} {cell.key}",
            argv=argv,
            environment={"OMP_NUM_THREADS": threads} if threads else {},
        )


def with_environment(trial: Trial, environment: Mapping[str, str]) -> Trial:
    return replace(trial, environment={**trial.environment, **environment})


def measure(programs: watch.Programs, trials: Sequence[Trial], work: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run the trials side by side; yields each one's figures, `failure` where it ran out of memory or broke."""
    work.mkdir(parents=True, exist_ok=True)
    script = programs.sd_scripts / "sdxl_train_network.py"
    commands = []
    for number, trial in enumerate(trials):
        command = watch.module(programs, "full", work / f"{number}.json", script, *trial.argv)
        commands.append((command, work / f"{number}.log", trial.environment))
    codes, seconds = watch.side_by_side(programs, commands)
    for number, (trial, code) in enumerate(zip(trials, codes, strict=True)):
        report, log = work / f"{number}.json", work / f"{number}.log"
        figures: dict[str, Any] = {"wall_s": seconds[number]}
        if report.exists():
            figures |= watch.trained(report, log)
        yield trial.key, figures | _failure(code, log)


def _failure(code: int, log: Path) -> dict[str, str]:
    if code == 0:
        return {}
    text = log.read_text(encoding="utf-8", errors="replace")
    if "out of memory" in text:
        return {"failure": "oom"}
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {"failure": lines[-1][:160] if lines else f"exit code {code}"}
