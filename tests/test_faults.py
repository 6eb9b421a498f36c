"""Faults of the machine: each has a defined outcome and a message with a remedy that works."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from standins.world import World

from orchestrator import gpu
from orchestrator.errors import Conflict, NotReady
from orchestrator.model import State

ONE = ("--only", "network_dim=2*")


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """`runs` on a disk of 4 MiB; needs permission to mount one."""
    disk = world.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk here: {mounted.stderr.strip()}")
    shutil.copytree(world.folder / "runs" / ".faces", disk / "runs" / ".faces")
    yield disk
    world.kill_all()
    subprocess.run(["umount", "-l", str(disk)], check=True)


def on(disk: Path, world: World) -> None:
    world.settings.write_text(world.settings.read_text().replace('runs = "runs"', 'runs = "disk/runs"'))


@pytest.mark.parametrize("stage", ["TRAIN", "GENERATE"])
def test_a_full_disk_pauses_and_the_same_command_continues(world: World, small_disk: Path, stage: str) -> None:
    world.settle(env={f"STANDIN_{stage}": "fill#1"})
    on(small_disk, world)
    full = world.call(*ONE)
    assert full.returncode == 4, full.stderr
    assert "Traceback" not in full.stderr
    assert "free disk space, then run the same command again" in full.stderr
    assert world.living() == []
    still = world.call(*ONE)
    assert still.returncode == 4, "it pauses again while the disk is full"
    for filler in small_disk.rglob("filler"):
        filler.unlink()
    done = world.call(*ONE)
    assert done.returncode == 0, done.stderr
    assert len([line for line in world.ledger() if line.startswith("ended")]) == 1


def test_a_read_only_disk_is_reported_before_anything_starts(world: World, small_disk: Path) -> None:
    on(small_disk, world)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = world.call(*ONE)
    assert refused.returncode == 4
    assert "is not writable" in refused.stderr
    assert str(small_disk) in refused.stderr


def test_a_disk_that_becomes_read_only_is_reported_and_the_sweep_resumes(world: World, small_disk: Path) -> None:
    on(small_disk, world)
    assert world.call(*ONE).returncode == 0
    world.ask("[dims]\nnetwork_dim = [2, 8]\n")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert world.call().returncode == 4
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert world.call().returncode == 0


def test_a_missing_image_in_the_copy_is_reported_with_a_remedy(world: World) -> None:
    ctx = world.context()
    copy = ctx.datasets["portraits"].folder
    (copy / "0001.png").unlink()
    with pytest.raises(NotReady, match=r"changed, added or removed\n.*delete this folder: it is built again"):
        world.context()
    shutil.rmtree(copy.parent)
    world.drive(world.context(), only="network_dim=2*")
    assert world.states()["network_dim=2"] is State.FINISHED


def test_a_changed_caption_in_the_copy_is_reported(world: World) -> None:
    copy = world.context().datasets["portraits"].folder
    (copy / "0001.txt").write_text("", encoding="utf-8")
    with pytest.raises(NotReady, match="was changed"):
        world.context()


def test_the_source_dataset_is_needed_only_at_the_start(world: World) -> None:
    ctx = world.context()
    (world.folder / "images" / "0000.png").unlink()
    world.drive(ctx, only="network_dim=2*")
    assert world.states()["network_dim=2"] is State.FINISHED
    with pytest.raises(Conflict):
        world.context()


def test_a_gigabyte_of_log_is_stopped_at_once_and_only_its_end_is_read(world: World) -> None:
    """With the default limits; the orchestrator was suspended while the log was written."""
    world.settle(env={"STANDIN_TRAIN": "gigabyte hang"}, vram='[vram]\ncard = "none"\n')
    log = world.run("network_dim=2*").path / "train" / "1" / "log"
    with quietly(world.command(*ONE)) as child:
        until(log.exists)
        child.send_signal(signal.SIGSTOP)
        until(lambda: log.stat().st_size > 1000**3)
        child.send_signal(signal.SIGCONT)
        seen_at = time.time()
        assert highest_mib(child) < 400
    assert child.returncode == 1
    assert (log.parent / "exit.json").stat().st_mtime - seen_at < 20  # a slow disk may have the gigabyte to write first
    assert world.rows()["network_dim=2"]["failure"] == "log_flood"
    for words in (["status", "grid"], ["report", "grid"]):
        with quietly([*world.command()[:3], *words, "--settings", str(world.settings)]) as child:
            assert highest_mib(child) < 400
        assert child.returncode == 0
    assert log.stat().st_size > 1000**3
    log.unlink()  # pytest keeps what tests leave


@contextmanager
def quietly(argv: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def highest_mib(child: "subprocess.Popen[bytes]") -> int:
    """The peak RAM of the process itself."""
    found = [0]
    while child.poll() is None:
        status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
        found += [int(kib) // 1024 for kib in re.findall(r"VmHWM:\s+(\d+) kB", status)]
        time.sleep(0.05)
    return found[-1]


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_clock_that_runs_backwards_has_no_effect(world: World, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BACKWARDS)
    paths = f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}"
    world.settle(env={"STANDIN_TRAIN": "killed#1"})
    done = world.call(*ONE, env={"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert world.rows()["network_dim=2"]["attempts"] == "2"
    assert float(world.rows()["network_dim=2"]["train_s"]) >= 0


BACKWARDS = """
import itertools, time
back = itertools.count()
real = time.time
time.time = lambda: real() - 3600 * next(back)
"""


@pytest.mark.parametrize(
    ("used", "total", "own", "sane"),
    [
        (100, 1000, 50, True),
        (1000, 1000, 1000, True),
        (1001, 1000, None, False),
        (-1, 1000, None, False),
        (0, 0, None, False),
        (2**44, 1000, None, False),
    ],
)
def test_invalid_samples_of_the_driver_are_ignored(used: int, total: int, own: int | None, sane: bool) -> None:
    assert (gpu.plausible(used, total, own) is not None) is sane


def test_a_process_cannot_use_more_than_the_gpu() -> None:
    sample = gpu.plausible(100, 1000, 101)
    assert sample is not None
    assert sample.own_mib is None


def test_a_machine_without_a_driver_has_no_gpus_and_no_samples() -> None:
    nvml = gpu.Nvml()
    if nvml.gpus():
        pytest.skip("there is a GPU in this machine")
    assert nvml.sample("GPU-none", []) is None
