"""`python -m torture [--mps] [--writes N] [--random N] [--seed S] [--shard I/N] [--jobs J] [--work FOLDER]`.

Kills a sweep at each write, and at random moments. Shards may run at the same time: shard I of N runs every N-th trial.
The last line is a JSON object with the counts, also after SIGTERM. Exit code 1 after a loss; its folder is kept.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from standins.world import build_shared

from torture import trial
from torture.trial import Event, Reference


@dataclass(slots=True, kw_only=True)
class Torture:
    """All trials below one folder."""

    folder: Path
    wanted: Reference
    mps: bool = False
    trials: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    cut_short: bool = False

    def at_write(self, event: Event, how: str) -> None:
        """Kill one process at one write. It is missed if this sweep, for its timing, never came to this write."""
        name = f"{how} {event.what}, number {event.number} of {event.who}"
        world = trial.build(self._new(), self.folder / "shared", mps=self.mps)
        if trial.kill_at(world, event, how):
            self.kills[event.who.partition(" ")[0]] += 1
        else:
            self.missed.append(name)
        self._judge(world, name, "at a write")

    def at_random(self, seed: int) -> None:
        """One to three kills; in every second trial the trainer is a launcher's child."""
        faults = "launcher" if seed % 2 else ""
        world = trial.build(self._new(), self.folder / "shared", faults=faults, mps=self.mps)
        killed = trial.kill_at_random(world, random.Random(seed), self.wanted.seconds)
        self.kills.update(f"{one.partition(' ')[0]} at random" for one in killed)
        self._judge(world, f"seed {seed}, {', '.join(killed) or 'no process to kill'}", "at random")

    def _judge(self, world: trial.World, name: str, kind: str) -> None:
        losses = trial.losses(world, self.wanted)
        if self.cut_short:  # its orchestrator may have received the signal, too
            return
        self.trials[kind] += 1
        print(f"{'LOST' if losses else 'ok'}\t{name}", flush=True)
        if losses:
            self.lost.append(f"{name}: {'; '.join(losses)} (kept in {world.folder})")
        else:
            shutil.rmtree(world.folder.parent)

    def _new(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="trial-", dir=self.folder)) / "world"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mps", action="store_true", help="runs share a GPU through MPS, with stand-ins for both")
    parser.add_argument("--writes", type=int, help="so many kills at writes, chosen at random; all by default")
    parser.add_argument("--random", type=int, default=300, help="random trials, each of one to three kills")
    parser.add_argument("--seed", type=int, default=1, help="of the first random trial")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="I from 0 to N-1")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="the folder of all trials")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=options.work.resolve()))
    build_shared(folder / "shared")
    wanted = trial.reference(trial.build(folder / "reference", folder / "shared", mps=options.mps))
    torture = Torture(folder=folder, wanted=wanted, mps=options.mps)
    _carry_out(list(_trials(torture, options)), options.jobs, torture)
    _report(torture, time.monotonic() - began)
    if not torture.lost:
        shutil.rmtree(folder)
    return 1 if torture.lost else 0


def _interrupt(number: int, _frame: object) -> None:
    """Once: `timeout` sends its signal to the process and to its group."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _trials(torture: Torture, options: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """In mixed order: a run that is cut short has tried some of everything.

    A write belongs to a shard by its name, because two references may differ in their writes.
    """
    shard, shards = map(int, options.shard.split("/"))
    writes = {
        f"{how} {event}": partial(torture.at_write, event, how) for event in torture.wanted.events for how in event.how
    }
    names = sorted(writes, key=lambda name: zlib.crc32(f"{options.seed} {name}".encode()))[: options.writes]
    trials = [writes[name] for name in names if zlib.crc32(name.encode()) % shards == shard]
    trials += [partial(torture.at_random, options.seed + number) for number in range(shard, options.random, shards)]
    random.Random(options.seed).shuffle(trials)
    yield from trials


def _carry_out(trials: list[Callable[[], None]], jobs: int, torture: Torture) -> None:
    pool = ThreadPoolExecutor(jobs)
    try:
        for future in [pool.submit(trial) for trial in trials]:
            if error := future.exception():
                torture.lost.append("".join(traceback.format_exception(error)))
    except KeyboardInterrupt:
        torture.cut_short = True
        print("cut short")
    finally:
        pool.shutdown(cancel_futures=True)


def _report(torture: Torture, seconds: float) -> None:
    for name in torture.missed:
        print(f"MISSED {name}")
    for name in torture.lost:
        print(f"LOST {name}")
    counts = {
        "trials": torture.trials,
        "kills": sum(torture.kills.values()),
        "killed": torture.kills,
        "missed": len(torture.missed),
        "losses": len(torture.lost),
        "seconds": round(seconds),
    }
    print(json.dumps(counts, sort_keys=True))


if __name__ == "__main__":
    sys.exit(main())
