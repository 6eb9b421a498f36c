"""`python -m torture [--writes N] [--random N] [--seed S] [--jobs J]`: a kill at each write, and random ones."""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
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
    kills: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def at(self, event: Event, how: str) -> None:
        """One place of the matrix."""
        name = f"{how} {event.what}, number {event.number} of {event.who}"
        world = trial.build(self._fresh(), self.folder / "shared")
        if trial.kill_at(world, event, how):
            self.kills[event.who.partition(" ")[0]] += 1
        else:
            self.lost.append(f"{name}: it was never killed")
        self._judge(world, name)

    def random(self, seed: int) -> None:
        """One random trial; in every second one the trainer is a launcher's child."""
        world = trial.build(self._fresh(), self.folder / "shared", faults="launcher" if seed % 2 else "")
        killed = trial.kill_at_random(world, random.Random(seed), self.wanted.seconds)
        self.kills.update(f"{one.partition(' ')[0]} at random" for one in killed)
        self._judge(world, f"seed {seed}, {', '.join(killed) or 'no process to kill'}")

    def _judge(self, world: trial.World, name: str) -> None:
        losses = trial.losses(world, self.wanted)
        print(f"{'LOST' if losses else 'ok'}\t{name}", flush=True)
        if losses:
            self.lost.append(f"{name}: {'; '.join(losses)} (kept in {world.folder})")
        else:
            shutil.rmtree(world.folder)

    def _fresh(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="trial-", dir=self.folder)) / "world"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, help="of the kills at writes, so many chosen at random; all by default")
    parser.add_argument("--random", type=int, default=300, help="random trials, each of one to three kills")
    parser.add_argument("--seed", type=int, default=1, help="of the first random trial")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    build_shared(folder / "shared")
    wanted = trial.reference(trial.build(folder / "reference", folder / "shared"))
    torture = Torture(folder=folder, wanted=wanted)
    _carry_out(_trials(torture, options), options.jobs)
    _tell(torture, time.monotonic() - began)
    if not torture.lost:
        shutil.rmtree(folder)
    return 1 if torture.lost else 0


def _trials(torture: Torture, options: argparse.Namespace) -> list[Callable[[], None]]:
    """In mixed order: a run that is cut short has seen some of everything."""
    mixed = random.Random(options.seed)
    writes = [partial(torture.at, event, how) for event in torture.wanted.events for how in event.how]
    mixed.shuffle(writes)
    by_chance = [partial(torture.random, options.seed + number) for number in range(options.random)]
    trials: list[Callable[[], None]] = [*writes[: options.writes], *by_chance]
    mixed.shuffle(trials)
    return trials


def _carry_out(trials: list[Callable[[], None]], jobs: int) -> None:
    pool = ThreadPoolExecutor(jobs)
    try:
        for future in [pool.submit(trial) for trial in trials]:
            future.result()
    except KeyboardInterrupt:
        print("cut short")
    finally:
        pool.shutdown(cancel_futures=True)


def _tell(torture: Torture, seconds: float) -> None:
    print(f"\n{sum(torture.kills.values())} kills in {seconds / 60:.0f} min, {len(torture.lost)} losses")
    for who, count in sorted(torture.kills.items()):
        print(f"  {count:4d}  {who}")
    for lost in torture.lost:
        print(f"LOST {lost}")


if __name__ == "__main__":
    sys.exit(main())
