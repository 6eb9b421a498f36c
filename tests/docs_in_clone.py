"""The commands in README.md and docs/ that take minutes, the network or a GPU, run in a clean clone: `make test-docs`.

One after the other in one folder, as a reader would; long ones get less to do. Where sd-scripts cannot be fetched, the
trainer is the one that ORCHESTRATE_SD_SCRIPTS and ORCHESTRATE_TRAINER_PYTHON name, as in tests/vendor.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pages import ROOT

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TENSORBOARD = "make tensorboard-v3"


# --- what a command needs ---------------------------------------------------------------------------------------------


def sd_scripts_at_its_home(clone: Path) -> None:
    """Also by git's own `url.<base>.insteadOf`."""
    url = sh(clone, "git config --file .gitmodules submodule.vendor/sd-scripts.url").stdout.strip()
    if (found := sh(clone, f"git ls-remote {url} HEAD")).returncode:
        pytest.skip(f"{url} cannot be reached: {found.stdout.strip()}")


def cpu_index(clone: Path) -> None:
    try:
        urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=20).close()
    except OSError as error:
        pytest.skip(f"{CPU_INDEX} cannot be reached: {error}")


def trainer(clone: Path) -> None:
    """What `make setup-trainer` made here, or links to what the environment names."""
    named = {
        ".venv": Path(os.environ.get("ORCHESTRATE_TRAINER_PYTHON", "none/bin/python")).parents[1],
        "sd-scripts": Path(os.environ.get("ORCHESTRATE_SD_SCRIPTS", "none")),
    }
    for name, place in named.items():
        here = clone / "vendor" / name
        if here.is_dir() and any(here.iterdir()):
            continue
        if not place.is_dir():
            pytest.skip(f"no vendor/{name}, and none is named by an ORCHESTRATE_... variable")
        if here.is_dir():
            here.rmdir()
        here.symlink_to(place.absolute())


def gpu(clone: Path) -> None:
    if sh(clone, "nvidia-smi -L").returncode:
        pytest.skip("no CUDA GPU in this machine")
    trainer(clone)


# --- the commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`said`: as in docs; `more` is added to make it short or to see what it did; `prints`: a part of its output."""

    said: str
    more: str = ""
    prints: str = ""
    needs: Callable[[Path], None] = lambda _clone: None


FEW_TESTS = "PYTEST_ADDOPTS='-k test_expressions'"

COMMANDS = (
    Command(said="make setup", more="&& orchestrate --help", prints="Usage"),
    Command(said="make demo", prints="runs/demo/report/results.csv"),
    Command(said="make demo-oom", prints="with gradient checkpointing, AdamW8bit"),
    Command(said="make test", more=FEW_TESTS, prints=" passed"),
    Command(said="make check", more=FEW_TESTS, prints=" passed"),
    Command(said="make torture", more="TORTURE='--writes 3 --random 2'", prints='"losses": 0'),
    Command(said="make torture TORTURE=--mps", more="TORTURE='--mps --writes 1 --random 1'", prints='"losses": 0'),
    Command(said="make soak", more="SOAK='--runs 6'", prints='"losses": 0'),
    Command(said="python -m benchmarks.early_stop --simulate 1000", more="--simulate 2", prints="| left out |"),
    Command(said="python -m benchmarks.early_stop FOLDER", more="--rates 2 --seeds 1 --steps 6", prints="| complete |"),
    Command(said="python -m benchmarks.evidence_simulation", more="--sweeps 10", prints="| covered |"),
    Command(said="python -m benchmarks.page", more="--runs 4 --px 64", prints=" MiB"),
    Command(said="python -m benchmarks.planning", more="--points 200", prints="200 points planned"),
    Command(said="python -m benchmarks.planning --last max_timestep", more="--points 200", prints="200 points planned"),
    Command(
        said="python -m benchmarks.planted FOLDER", more="--seeds 2 --steps 10", prints="Is network_dim 1 too low?"
    ),
    Command(said="python -m benchmarks.real_faces", more="--help", prints="EMBEDDINGS.npz"),
    Command(said="python -m benchmarks.scale", more="--runs 4", prints="3, 9 attempts"),
    Command(said="python -m benchmarks.score", more="--rounds 2 || true", prints="embeddings differ by 0.0e+00"),
    Command(said="python -m benchmarks.status", more="--runs 20", prints="over 20 runs"),
    Command(said="python -m benchmarks.treatments", more="--seeds 2 --steps 5", prints="|"),
    Command(said="python -m benchmarks.versus --steps 12", more="--steps 2", prints="times as long"),
    Command(said="make setup-trainer", needs=sd_scripts_at_its_home),
    Command(said="make test-vendor", more="PYTEST_ADDOPTS='-k arguments'", prints=" passed", needs=trainer),
    Command(said="make bench-gpu", more="BENCH='--part train --minutes 1'", needs=gpu),
    Command(said="python -m benchmarks.gpu --part generate", more="--minutes 1", needs=gpu),
    Command(said="python -m benchmarks.gpu --part limit --part networks --part threads", needs=gpu),
    Command(said="python -m benchmarks.gpu --part sweeps", more="--minutes 1", needs=gpu),
    Command(said="python -m benchmarks.gpu --part versus --part cards --part fallback", more="--minutes 9", needs=gpu),
    Command(said="python -m benchmarks.gpu --part startup", more="--minutes 1", needs=gpu),
    Command(said="python -m benchmarks.gpu --part fallback", more="--minutes 9", needs=gpu),
    Command(said="python -m benchmarks.gpu.fit runs/bench-gpu/gpu.json", prints="cells "),
    Command(said="make test-docs", more="PYTEST_ADDOPTS='-k gpu.fit'", prints=" passed"),
    Command(
        said="make gpu-scoring",
        more="&& python -c 'import onnxruntime; print(onnxruntime.get_available_providers())'",
        prints="CUDAExecutionProvider",
    ),
    Command(
        said="pip install '.[cluster]' -c constraints.txt",
        more="&& python -m pytest tests/test_cluster.py -k page",
        prints=" passed",
    ),
    Command(said=f"PIP_EXTRA_INDEX_URL={CPU_INDEX} make demo", prints="runs/demo/report/results.csv", needs=cpu_index),
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed here, and nothing else; with the record of a GPU at the place where a benchmark leaves it."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / "runs" / "bench-gpu").mkdir()
    shutil.copy(folder / "docs" / "vram.json", folder / "runs" / "bench-gpu" / "gpu.json")
    return folder


def environ(clone: Path) -> dict[str, str]:
    """`orchestrate` and `python` are those of the clone."""
    return {**os.environ, "PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable}


def sh(clone: Path, line: str) -> "subprocess.CompletedProcess[str]":
    argv = ["sh", "-c", line]
    return subprocess.run(
        argv, cwd=clone, env=environ(clone), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.said)
def test_a_fallback_prevents_the_failure(clone: Path, command: Command) -> None:
    command.needs(clone)
    done = sh(clone, f"{command.said} {command.more}")
    assert done.returncode == 0, done.stdout
    assert command.prints in done.stdout


def test_tensorboard_finds_the_curves(clone: Path) -> None:
    trainer(clone)
    curve = "w = SummaryWriter('runs/sweep-v3/run/train/1/logs'); w.add_scalar('loss', 1, 0); w.close()"
    sh(clone, f'vendor/.venv/bin/python -c "from torch.utils.tensorboard import SummaryWriter; {curve}"')
    with serving(clone) as url:
        assert b"<title>TensorBoard" in urllib.request.urlopen(url, timeout=20).read()
        until(lambda: json.load(urllib.request.urlopen(f"{url}data/runs", timeout=20)) == ["run/train/1/logs"])


@contextmanager
def serving(clone: Path) -> Iterator[str]:
    """The address at which the command serves, until it is ended."""
    words = shlex.split(TENSORBOARD)
    child = subprocess.Popen(words, cwd=clone, env=environ(clone), stderr=subprocess.PIPE, text=True, process_group=0)
    try:
        assert child.stderr
        yield next(found[0] for line in child.stderr if (found := re.search(r"http://\S+", line)))
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=20)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)
