"""`python -m torture.soak [--runs N] [--seed S] [--work FOLDER] [--pause S]`.

A long sweep in which half of the runs have a fault, while processes are killed at random moments.

In the first half the orchestrator is killed, too. Then one orchestrator runs to the end, and its memory and file
descriptors are sampled. Loss: a run that did not end as its fault demands, a training that was repeated although it had
succeeded, a process that is left, growth. The last line is a JSON object with the counts. Exit code 1 after a loss.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from standins.world import World, build_shared

from torture import trial

FALLBACK = """
[[oom_fallback]]
name = "gradient checkpointing"
set = { gradient_checkpointing = true }
keeps_result = true
"""
TRAIN = {
    "oom#1": "finished",
    "segfault#1": "finished",
    "killed#2": "finished",
    "disk_full#1": "finished",
    "grandchild": "finished",
    "not_utf8": "finished",
    "quote": "finished",
    "launcher": "finished",
    "oom": "oom",
    "segfault": "crashed",
    "gpu_lost": "gpu_lost",
    "bad_config": "unknown",
    "nan_loss": "nan",
    "nan_weights": "nan",
    "no_file": "no_product",
    "truncated": "no_product",
    "zeroed": "no_product",
    "scalar": "no_product",
    "other_seed": "no_product",
    "hang": "stalled",
    "deaf hang": "stalled",
}
"""Faults of the trainer, and how the run ends: `finished`, or the failure."""

GENERATE = {
    "segfault#1": "finished",
    "killed#2": "finished",
    "disk_full#1": "finished",
    "torn": "no_product",
    "not_utf8": "finished",
    "short": "no_product",
    "bad_config": "bad_config",
    "oom": "oom",
    "hang": "stalled",
}
CRASHES = 20
"""`limits.crashes`: attempts are also killed by this program, those that hang most often."""


@dataclass(slots=True, kw_only=True)
class Soak:
    """One sweep. wanted: how each run ends, by its seed."""

    world: World
    rng: random.Random
    pause_s: float
    wanted: dict[str, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    lives: list[list[tuple[float, int]]] = field(default_factory=list)
    """Of each orchestrator: its RAM in MiB and its number of descriptors, once a second."""

    def settle(self, count: int) -> None:
        """Write settings and grid of `count` runs."""
        words: dict[str, list[str]] = {"STANDIN_TRAIN": [], "STANDIN_GENERATE": []}
        for seed in range(1, count + 1):
            variable, faults = self.rng.choice([("STANDIN_TRAIN", TRAIN), ("STANDIN_GENERATE", GENERATE)])
            name = self.rng.choice(list(faults)) if self.rng.random() < 0.5 else ""
            if "hang" in name and self.rng.random() < 0.7:  # they take long
                name = ""
            self.wanted[f"seed={seed}"] = faults[name] if name else "finished"
            for fault in name.split():
                plain, number, attempts = fault.partition("#")
                key = "seed" if faults is TRAIN else "run=seed"
                words[variable].append(f"{plain}:{key}={seed}{number}{attempts}")
            if name:
                self.faults[f"{variable.removeprefix('STANDIN_').lower()} {name}"] += 1
        env = {name: " ".join(faults) for name, faults in words.items()}
        limits = f"crashes = {CRASHES}\nstall_minutes = 0.3\n"
        self.world.settle(env=env, limits=limits, sections=FALLBACK, trainer="resume = true")
        self.world.ask(f"[dims]\nseed = {list(range(1, count + 1))}\n")

    def run(self) -> None:
        """Run the sweep to its end; a paused one (exit code 4) continues with the same command."""
        while self._run_once() not in (0, 1):
            pass

    def _run_once(self) -> int | None:
        """The exit code of an orchestrator; None if it was killed."""
        life: list[tuple[float, int]] = []
        self.lives.append(life)
        with (self.world.folder / "output").open("ab") as out:
            child = subprocess.Popen(self.world.command(), cwd=self.world.folder, stdout=out, stderr=out)
        due = time.monotonic() + self.rng.expovariate(1 / self.pause_s)
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=1)
            life += _sample(child.pid)
            if time.monotonic() > due:
                self._kill(child)
                due = time.monotonic() + self.rng.expovariate(1 / self.pause_s)
        return child.returncode if child.returncode >= 0 and child.returncode != 130 else None

    def _kill(self, child: "subprocess.Popen[bytes]") -> None:
        half = sum(line.startswith("ended") for line in self.world.ledger()) > len(self.wanted) / 2
        victim = self.rng.choice(trial.VICTIMS[1:3] if half else (*trial.VICTIMS, "interrupt"))
        if victim == "interrupt":
            child.send_signal(signal.SIGTERM)
            child.wait(timeout=trial.TIMEOUT_S)
            self.kills[victim] += 1
        elif trial.kill(self.world, victim, child):
            self.kills[victim] += 1

    def losses(self) -> list[str]:
        """Everything that is not as it has to be."""
        statuses = self.world.statuses()
        ends = {name: str(status.failure or status.state) for name, status in statuses.items()}
        found = [
            f"{name}: {ends.get(name)}, not {end}: {statuses[name].reason}"
            for name, end in {"baseline-base_model=doll": "finished", **self.wanted}.items()
            if ends.get(name) != end
        ]
        ids = {point.id: self.wanted.get(point.name.rpartition("-")[0]) for point in self.world.plan().points}
        found += [line for line in trial.repeated(self.world.ledger()) if ids[line.split()[-2]] == "finished"]
        found += [f"process {pid} is left" for pid in self.world.living()]
        rows = (self.world.sweep.report / "results.csv").read_text(encoding="utf-8").count("\n") - 1
        found += [f"results.csv has {rows} rows"] if rows < len(self.wanted) else []
        return [*found, *self._growth()]

    def _growth(self) -> list[str]:
        """Of the orchestrator that lived longest: more RAM or descriptors in its last third than in its second.

        The report at the end takes memory of its own, so the last tenth does not count.
        """
        (early_mib, early_fds), (late_mib, late_fds) = self.growth()
        found = [f"RAM grew from {early_mib:.0f} to {late_mib:.0f} MiB"] if late_mib > 1.1 * early_mib + 16 else []
        return found + ([f"descriptors grew from {early_fds} to {late_fds}"] if late_fds > early_fds + 8 else [])

    def growth(self) -> list[tuple[float, int]]:
        """The highest RAM in MiB and number of descriptors in the second and the last third of the longest life."""
        life = max(self.lives, key=len)
        if len(life) < 60:  # too short to tell: the report at the end needs as much
            return [(0.0, 0)] * 2
        parts = [life[len(life) // 3 : len(life) * 2 // 3], life[len(life) * 2 // 3 : len(life) * 9 // 10]]
        return [(max(mib for mib, _ in part), max(fds for _, fds in part)) for part in parts]


def _sample(pid: int) -> list[tuple[float, int]]:
    """RAM in MiB and number of descriptors of a process; [] if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return [(pages * os.sysconf("SC_PAGE_SIZE") / 1024**2, len(os.listdir(f"/proc/{pid}/fd")))]
    except (OSError, IndexError):
        return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="of the faults and kills")
    parser.add_argument("--pause", type=float, default=30.0, help="average seconds between two kills")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="the folder of the sweep")
    options = parser.parse_args()
    began = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=options.work.resolve()))
    world = World.build(folder / "world", build_shared(folder / "shared"))
    soak = Soak(world=world, rng=random.Random(options.seed), pause_s=options.pause)
    soak.settle(options.runs)
    soak.run()
    losses = soak.losses()
    for loss in losses:
        print(f"LOST {loss} (kept in {folder})")
    ends = Counter(soak.wanted.values())
    counts = {
        "runs": options.runs,
        "faults": sum(soak.faults.values()),
        "ends": ends,
        "kills": sum(soak.kills.values()),
        "killed": soak.kills,
        "orchestrators": len(soak.lives),
        "growth": soak.growth(),
        "losses": len(losses),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(counts, sort_keys=True))
    if not losses:
        shutil.rmtree(folder)
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
