"""The only module that knows the layout of runs/: paths, records, the lock, and the state that follows from them.

    runs/calibration.json  calibration.svg
    runs/.cards/<uuid>.lock  held by the sweep that uses the card
    runs/.probe/<key>/  a run of 20 steps for one memory profile; never counted as a run
    runs/.thumbnails/   small copies of pictures, for the report
    runs/<sweep>/  .lock  sweep.json  grid-1.toml  templates/  report/
        <run>/  point.json  checkpoints.json  images/  images.json  scores.json
            train/1/  attempt.json  config.toml  dataset.toml  command.json  process.json  log  vram.csv  stop.json
                      exit.json  result.json  output/
            confirm/<key>/  on/<base>-<key>/  runs of further pictures, with the records of any run
        on/baseline-.../       the floor of a base model that no run of the sweep was trained on

A record is written whole or not at all, once, and never edited (`sweep.json` alone is replaced, when its grid grows).
State is derived from the records, never stored.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import Conflict, Problem
from orchestrator.model import CROWDED_FAILURES, Checkpoint, Failure, Image, Params, Point, Question, Result
from orchestrator.store import files, locks, process, records

STAGES = ("train", "generate", "score")
PRODUCTS = {"train": "checkpoints.json", "generate": "images.json", "score": "scores.json"}
"""What each stage leaves in the run's folder when it is done."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One launch of a program inside a run: a numbered folder, never reused."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name)

    def open(self, record: Mapping[str, Any]) -> None:
        """Write what this attempt is to do differently from its point, before anything starts."""
        records.write(self.path / "attempt.json", record)

    def request(self) -> dict[str, Any]:
        return records.read(self.path / "attempt.json") if (self.path / "attempt.json").exists() else {}

    @property
    def colocated(self) -> bool:
        """Whether others were, or could come, on the same card."""
        return bool(self.request().get("colocated"))

    def host(self) -> str:
        """The machine that it was started on."""
        return process.host(self.path)

    def crowded_out(self) -> bool:
        """Whether it ran out of memory beside others."""
        result = self.result()
        return result is not None and result.failure in CROWDED_FAILURES and self.colocated

    def close(self, result: Result) -> None:
        """Write how it ended; nothing is added to the folder afterwards."""
        records.write(self.path / "result.json", asdict(result))

    def result(self) -> Result | None:
        if not (self.path / "result.json").exists():
            return None
        record = records.read(self.path / "result.json")
        failure = record.pop("failure")
        return Result(failure=Failure(failure) if failure else None, **record)


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of a point's stages and their results."""

    path: Path
    point: Point

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages to run, in order; a baseline is not trained."""
        return STAGES[1:] if self.point.is_baseline else STAGES

    @property
    def images(self) -> Path:
        return self.path / "images"

    def create(self) -> None:
        """Make the folder; its first record says which point it is."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "point.json").exists():
            records.write(self.path / "point.json", asdict(self.point))

    def beside(self, key: str) -> "Run":
        """Further pictures of the run's chosen checkpoint, to confirm it: a life of their own, never mixed with its."""
        return Run(self.path / "confirm" / key, self.point)

    def on(self, name: str, point: Point) -> "Run":
        """Pictures of the run's chosen checkpoint on the base model of `point`."""
        return Run(self.path / "on" / name, point)

    def transfers(self) -> list["Run"]:
        """All runs `on` another base model that were begun."""
        return [_opened(path) for path in sorted(self.path.glob("on/*/point.json"))]

    def confirmations(self) -> list["Run"]:
        """All of them that were begun."""
        return [self.beside(path.parent.name) for path in sorted(self.path.glob("confirm/*/point.json"))]

    def attempts(self, stage: str) -> list[Attempt]:
        """All attempts of a stage, oldest first."""
        folder = self.path / stage
        names = os.listdir(folder) if folder.is_dir() else []
        return [Attempt(folder / str(number)) for number in sorted(int(name) for name in names if name.isdigit())]

    def new_attempt(self, stage: str) -> Attempt:
        past = self.attempts(stage)
        attempt = Attempt(self.path / stage / str(past[-1].number + 1 if past else 1))
        attempt.path.mkdir(parents=True)
        return attempt

    def done(self, stage: str) -> bool:
        return (self.path / PRODUCTS[stage]).exists()

    def finish(self, stage: str, record: Mapping[str, Any]) -> None:
        """Write the stage's product: from here on it is done, also after a power cut."""
        for made in [*record.get("checkpoints", ()), *record.get("images", ())]:
            files.sync(self.path / made["file"])
        records.write(self.path / PRODUCTS[stage], record)

    def end(self) -> Path | None:
        """The record that ended it: its last product, or what is written of a training stopped early; None before."""
        if self.done(self.stages[-1]):
            return self.path / PRODUCTS[self.stages[-1]]
        past = self.attempts("train")
        result = past[-1].result() if past else None
        stopped = result is not None and result.failure is Failure.STOPPED_EARLY
        return past[-1].path / "result.json" if stopped else None

    def product(self, stage: str) -> dict[str, Any]:
        return records.read(self.path / PRODUCTS[stage])

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return tuple(Checkpoint(**record) for record in self.product("train")["checkpoints"])

    def pictures(self) -> tuple[Image, ...]:
        return tuple(Image(**record) for record in self.product("generate")["images"])


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def templates(self) -> Path:
        """The templates as they were when the sweep was frozen: what it renders with."""
        return self.path / "templates"

    def exists(self) -> bool:
        return (self.path / "sweep.json").exists()

    def record(self) -> dict[str, Any]:
        return records.read(self.path / "sweep.json")

    def freeze(self, record: Mapping[str, Any], *, grid: str, templates: Mapping[str, str]) -> None:
        """Keep what was asked, verbatim, then the record that makes it a sweep."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.templates.mkdir(exist_ok=True)
        for name, text in templates.items():
            files.write_text(self.templates / name, text)
        kept = [path.read_text(encoding="utf-8") for path in self.grids()]
        if grid not in kept:
            files.write_text(self.path / f"grid-{len(kept) + 1}.toml", grid)
        records.write(self.path / "sweep.json", record)

    def grids(self) -> list[Path]:
        """The grids this sweep was asked for, oldest first."""
        return sorted(self.path.glob("grid-*.toml"), key=lambda path: int(path.stem.partition("-")[2]))

    def run(self, point: Point) -> Run:
        return Run(self.path / point.name, point)

    def baseline_run(self, point: Point) -> Run:
        """The floor of a base model: the sweep's own, or one beside its runs where none was trained on it."""
        own = self.run(point)
        return own if point in (run.point for run in self.runs()) else Run(self.path / "on" / point.name, point)

    def runs(self) -> list[Run]:
        """Every run of the frozen sweep, in the order of its grid, whether or not it has a folder yet."""
        return [self.run(point_of(record)) for record in self.record()["points"]]

    def questions(self) -> list[Question]:
        return [
            Question(**{**record, "levels": tuple(_frozen(level) for level in record["levels"])})
            for record in self.record()["questions"]
        ]

    def reported(self) -> list[Path]:
        """The page and the table, where a finished sweep's are younger than all that they were made of; else none."""
        made = [self.report / "report.html", self.report / "results.csv"]
        runs = [one for run in self.runs() for one in (run, *run.confirmations())]
        ends = [run.end() for run in runs]
        read = [path for path in ends if path]
        if not all(path.exists() for path in made) or len(read) < len(runs):
            return []
        read += [path for path in (self.path / "sweep.json", calibration(self.path.parent)) if path.exists()]
        youngest, times = max(map(_changed_ns, read)), [_changed_ns(path) for path in made]
        # A clock may have been put back: what seems to be made later than now says nothing of what is younger.
        return made if youngest < min(times) and max(times) <= time.time_ns() else []

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep. Raises Conflict when another process does."""
        with locks.acquire(self.path / ".lock") as holder:
            if holder:
                remedy = f"watch it with `orchestrate status {self.name} --watch`, or end it first"
                what = f"sweep {self.name} is being driven by {holder}"
                raise Conflict(Problem(what=what, where=str(self.path), remedy=remedy))
            yield

    @contextlib.contextmanager
    def hold_cards(self, cards: Iterable[str]) -> Iterator[list[str]]:
        """Hold those of these cards that no other sweep in `runs` uses; Conflict when none is left."""
        held, holders, left_behind = [], [], _left_behind(self)
        with contextlib.ExitStack() as stack:
            for card in cards:
                lock = self.path.parent / ".cards" / f"{card}.lock"
                holder = stack.enter_context(locks.acquire(lock)) or left_behind.get(card)
                held += [] if holder else [card]
                holders += [f"{card} by {holder}"] if holder else []
            if holders and not held:
                what = f"every card is in use by another sweep: {', '.join(holders)}"
                remedy = "wait for it, name another card, or set `ignore_other_sweeps = true` in [vram]"
                raise Conflict(Problem(what=what, where=str(self.path.parent), key="vram.card", remedy=remedy))
            yield held

    def driven(self) -> bool:
        """Whether another process holds the lock now."""
        return locks.is_locked(self.path / ".lock")


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


def _left_behind(sweep: Sweep) -> dict[str, str]:
    """By card, what another sweep started on it and still runs, even if that sweep's orchestrator has ended."""
    living = [path for path in process.live_attempts() if sweep.path.parent in path.parents]
    others = [path for path in living if sweep.path not in path.parents]
    return {str(Attempt(path).request().get("card", "")): f"what runs in {path}" for path in others}


def _opened(record: Path) -> Run:
    """The run of a `point.json`."""
    return Run(record.parent, point_of(records.read(record)))


def point_of(record: Mapping[str, Any]) -> Point:
    """A Point from its record: JSON has no tuples."""
    params: Params = {key: _frozen(value) for key, value in record["params"].items()}
    return Point(
        id=record["id"],
        name=record["name"],
        params=params,
        dims=tuple(record["dims"]),
        is_baseline=record["is_baseline"],
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def calibration(runs: Path) -> Path:
    """Where the persona's yardstick is kept: it serves every sweep beside it."""
    return runs / "calibration.json"


def sweeps(runs: Path) -> Sequence[Sweep]:
    """Every sweep below `runs`, by name."""
    return [Sweep(path.parent) for path in sorted(runs.glob("*/sweep.json"))]


def probe_sweep(runs: Path) -> Sweep:
    """Where probes are kept: never frozen, so that it is no sweep to anybody else, but lockable like one."""
    return Sweep(runs / ".probe")


def probes(runs: Path) -> list[Run]:
    """Every probe that was begun, by its key."""
    return [_opened(path) for path in sorted(probe_sweep(runs).path.glob("*/point.json"))]


def thumbnails(run: Path) -> Path:
    """Where small copies of the pictures in a run's folder are kept, for the report; they can be made again."""
    return run.parent.parent / ".thumbnails" / run.parent.name / run.name
