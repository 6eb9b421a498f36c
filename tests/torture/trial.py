"""One trial: a sweep is killed, run again, and compared with one that was not killed."""

import contextlib
import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file
from standins.world import HERE, World

from orchestrator.model import Failure, State
from orchestrator.store.layout import Run

SITE = Path(__file__).parent / "site"
GRID = """
[dims]
network_dim = [2]
[fixed]
cache_latents = true
resolution = "256,256"
"""
MPS_GRID = GRID.replace("[fixed]", "seed = [1, 2, 3]\n[fixed]")
"""The first training and its images measure the VRAM, then two trainings are colocated, and a generator."""

TIMES = ("train_s", "attempts", "peak_vram_mib")
"""Columns of results.csv that depend on time and on interruptions: only they are not compared."""

TIMEOUT_S = 900
"""Of one sweep that takes some seconds: many shards may share the machine."""

VICTIMS = ("orchestrator", "shim", "program", "all")
MPS_VICTIMS = ("daemon", "clients")
"""The MPS daemon and its server; the server and all its clients, as after a fault of one client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One write of one process: `who` is its role and its attempt's folder, `number` counts its like from 1."""

    who: str
    number: int
    what: str

    @property
    def how(self) -> tuple[str, ...]:
        """A file can also be there and still be empty when the power goes."""
        return ("before", "torn") if self.what.startswith("open ") else ("before",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A sweep without kills: its reports, its writes, and how long it took, seconds."""

    reports: tuple[str, ...]
    events: tuple[Event, ...]
    seconds: float


def build(folder: Path, shared: Path, *, faults: str = "", mps: bool = False) -> World:
    """A world whose steps take long enough to be hit, and whose programs may be killed more often than usual.

    mps: with runs that share a GPU. Driver and MPS daemon are stand-ins.
    """
    world = World.build(folder, shared)
    env = {"STANDIN_STEP_S": "0.1" if mps else "0.03", "STANDIN_PICTURE_S": "0.03", "STANDIN_TRAIN": faults}
    vram = {"vram": "[vram]\ncolocate = true\npoll_seconds = 0.05\n"} if mps else {}
    world.settle(env=env, limits="crashes = 9\n", **vram)
    world.ask(MPS_GRID if mps else GRID)
    return world


def _uses_mps(world: World) -> bool:
    return "colocate = true" in world.settings.read_text(encoding="utf-8")


def reference(world: World) -> Reference:
    """Run it without kills, and read what it wrote."""
    began = time.monotonic()
    with _started(world) as child:
        assert child.wait(timeout=TIMEOUT_S) == 0
    seconds = time.monotonic() - began
    lines = (world.folder / "events").read_text(encoding="utf-8").splitlines()
    events = [line.split("\t") for line in lines]
    if _uses_mps(world):
        assert _used_together(world), "no two trainings were colocated, or no generator was shared"
    found = tuple(Event(who=who, number=int(number), what=what) for who, number, what in events)
    return Reference(reports=reports(world), events=found, seconds=seconds)


def _used_together(world: World) -> bool:
    """Whether the sweep used what it is to test: trainings that share the GPU through MPS, and a resident generator."""
    trainings = [attempt for run in world.plan().runs() for attempt in run.attempts("train")]
    images = [attempt for run in world.plan().runs() for attempt in run.attempts("generate")]
    generators = [one.generator.resolve() for one in images if one.generator]
    started = "-d" in (world.folder / "mps-commands").read_text(encoding="utf-8").split()
    return started and sum(one.colocated for one in trainings) > 1 and len(set(generators)) < len(generators)


# --- killing ----------------------------------------------------------------------------------------------------------


def kill_at(world: World, event: Event, how: str) -> bool:
    """Run until this event, where its process dies; whether there was such an event."""
    with _started(world, {"who": event.who, "what": event.what, "number": event.number, "how": how}) as child:
        child.wait(timeout=TIMEOUT_S)
    return (world.folder / "events.killed").exists()


def kill_at_random(world: World, rng: random.Random, seconds: float) -> list[str]:
    """Run it up to three times, killing a process at a random moment of each; who was killed."""
    killed = []
    mps = _uses_mps(world)
    for _ in range(rng.choice((1, 1, 2, 3))):
        victim, moment = rng.choice((*VICTIMS, *MPS_VICTIMS) if mps else VICTIMS), rng.uniform(0.3, seconds)
        number = rng.randrange(4) if mps else 0
        with _started(world) as child:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=moment)
            while not (hit := kill(world, victim, child, number)) and child.poll() is None:
                time.sleep(0.01)  # no such process at present
            if hit:
                killed.append(f"{victim} after {moment:.2f} s")
            if victim not in ("orchestrator", "all"):
                child.wait(timeout=TIMEOUT_S)
    return killed


def kill(world: World, victim: str, child: "subprocess.Popen[bytes]", number: int = 0) -> bool:
    """Kill the victims, of several shims or programs the one with this number; whether there were any."""
    if child.poll() is not None:
        return False
    shims, programs = _children(world)
    server, daemon = _pids_in(world, "server.pid"), _pids_in(world, "nvidia-cuda-mps-control.pid")
    chosen = {
        "orchestrator": [child.pid],
        "shim": shims[number % len(shims) :][:1] if shims else [],
        "program": programs[number % len(programs) :][:1] if programs else [],
        "all": [child.pid, *shims, *programs],
        "daemon": [*daemon, *server],
        "clients": [*server, *programs] if server else [],
    }
    for pid in chosen[victim]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(chosen[victim])


def _children(world: World) -> tuple[list[int], list[int]]:
    """Shims, and what they watch over. Of a launcher and its child it is the launcher that is killed."""
    shims, programs = [], []
    for pid in sorted(world.living()):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            (shims if b"shim.py" in line else programs).append(pid)
    return shims, programs


def _pids_in(world: World, name: str) -> list[int]:
    """The number of a process that the stand-in for MPS has started."""
    try:
        return [int((world.sweep.path / "mps" / "pipe" / name).read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return []


@contextlib.contextmanager
def _started(world: World, kill: Mapping[str, object] | None = None) -> "Iterator[subprocess.Popen[bytes]]":
    killing = {"TORTURE_KILL": json.dumps(kill)} if kill else {}
    with (world.folder / "said").open("ab") as out:
        child = subprocess.Popen(
            world.command(),
            env={**os.environ, **_environ(world), **killing},
            cwd=world.folder,
            stdout=out,
            stderr=out,
        )
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()


def _environ(world: World) -> dict[str, str]:
    """Of an orchestrator whose writes are counted; with MPS, it finds the stand-ins of driver and daemon."""
    hooked = {"TORTURE_WORLD": str(world.folder), "TORTURE_EVENTS": str(world.folder / "events")}
    modules = [str(SITE), os.environ.get("PYTHONPATH", "")]
    if not _uses_mps(world):
        return {**hooked, "PYTHONPATH": os.pathsep.join(modules)}
    return {
        **hooked,
        "PYTHONPATH": os.pathsep.join([str(SITE.with_name("gpu")), *modules]),
        "PATH": os.pathsep.join([str(HERE), os.environ["PATH"]]),
        "FAKE_MPS": str(world.folder / "mps-commands"),
        "TORTURE_CORES": "8",
    }


# --- what must hold afterwards ----------------------------------------------------------------------------------------


def losses(world: World, wanted: Reference) -> list[str]:
    """Run it again without kills, and list all differences from the reference."""
    done = world.call(env=_environ(world), timeout_s=TIMEOUT_S)
    found = [f"exit code {done.returncode}: {done.stderr[-2000:]}"] if done.returncode else []
    found += [f"{name} is {state}" for name, state in world.states().items() if state is not State.FINISHED]
    found += _doubtful(world.plan().runs())
    found += repeated(world.ledger())
    found += [f"process {pid} is left" for pid in world.living()]
    found += [f"the MPS daemon is left in {pipe}" for pipe in world.sweep.path.glob("mps/pipe")]
    if not found and reports(world) != wanted.reports:
        found.append("the reports differ")
    return found


def _doubtful(runs: Iterable[Run]) -> list[str]:
    """Exactly one finished attempt per stage, and all others interrupted or crashed."""
    found = []
    for run in runs:
        for stage in run.stages:
            results = [attempt.result() for attempt in run.attempts(stage)]
            failures = [result.failure if result else "no result" for result in results]
            if failures.count(None) != 1 or set(failures) - {None, Failure.CRASHED, Failure.KILLED}:
                found.append(f"{run.point.name} {stage}: {failures}")
    return found


def repeated(ledger: list[str]) -> list[str]:
    """Trainings that began again after they had ended, or ended twice, because two ran at the same time."""
    ended: set[str] = set()
    found = []
    for line in ledger:
        word, _, rest = line.partition(" ")
        point = rest.split()[1]
        if point in ended:
            found.append(f"trained again: {line}")
        if word == "ended":
            ended.add(point)
    return found


def reports(world: World) -> tuple[str, ...]:
    """The text of the reports, less times; attempts have the same name in paths.

    A checkpoint's metadata contain its folder and when its training ended, so hashes are those of the weights of all
    checkpoints of a run.
    """
    with (world.sweep.report / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    for row in rows:
        (run,) = (one for one in world.sweep.runs() if one.point.name == row["run"])
        trained = run.checkpoints() if run.done("train") else ()
        row["checkpoint_sha256"] = " ".join(_weights(run.path / one.file) for one in trained)
    images = (world.sweep.report / "images.csv").read_text(encoding="utf-8")
    return json.dumps(rows), re.sub(r"train/\d+/", "train/", images)


def _weights(checkpoint: Path) -> str:
    """The SHA-256 of the names and values of a checkpoint's tensors."""
    tensors = load_file(checkpoint)
    return hashlib.sha256(b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors))).hexdigest()
