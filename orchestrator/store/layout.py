"""The layout of runs/: which file is where. No other module builds these paths.

    runs/calibration.json  calibration.svg
    runs/.hashes.json   hashes of large files (store/hashes)
    runs/.cards/<uuid>.lock  locked by the sweep that uses the GPU
    runs/.probe/<key>/  a run of 20 steps that measures one memory profile
    runs/.speed/<name>/ a run of 20 to 40 steps that measures one option of `probe --speed`
    runs/.thumbnails/   small copies of images for the report
    runs/<sweep>/  .lock  sweep.json  grid-1.toml  templates/  report/  mps/
        votes/<ballot>/  ballot.json  vote.html  <session>.json  blind votes on the sweep's images
        <run>/  point.json  checkpoints.json  images/  images.json  scores.json  candidate-*.json
            train/1/  attempt.json  config.toml  dataset.toml  command.json  process.json  log  vram.csv  stop.json
                      exit.json  result.json  output/
            confirm/<key>/  on/<base>-<key>/  further images of the run's checkpoint, with the records of a run
        on/baseline-.../       the baseline of a base model that no run of the sweep was trained on

A record is written once, atomically, and never edited. Only `sweep.json` is replaced, when its grid changes: it lists
the points of the current grid. Runs that are no longer in the grid stay on disk until `orchestrate prune --dropped`.
The state of a run is derived from its records (store/state), never stored.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from orchestrator import files
from orchestrator.errors import Conflict, NotReady, Problem
from orchestrator.model import Checkpoint, Failure, Image, Point, Question, Result, SequentialDesign
from orchestrator.store import locks, process, records
from orchestrator.values import from_json

_Made = TypeVar("_Made")

LORA_ORIGIN = "lora.json"
"""In the folder of a run with an existing LoRA file: its path, hash and metadata."""
PRODUCTS = {
    "train": "checkpoints.json",
    "select": "candidate-images.json",
    "rank": "candidate-scores.json",
    "generate": "images.json",
    "score": "scores.json",
}
"""The record that each stage writes into the run's folder when it is done."""
STAGES = tuple(PRODUCTS)
GENERATING, SCORING = ("select", "generate"), ("rank", "score")
"""Stages that generate images, and stages that score those of the stage before. The first of each compares all
checkpoints of a run on a few images; only runs with several and `generate.checkpoints = "best"` have them."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a stage's program: a numbered folder, never reused."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name)

    def open(self, record: Mapping[str, Any]) -> None:
        """Write the request: what this attempt does differently from its point. Nothing has started yet."""
        records.write(self.path / "attempt.json", record, exact=True)

    def request(self) -> dict[str, Any]:
        """What `open` has written; {} before."""
        path = self.path / "attempt.json"
        return records.parse(path, lambda record: records.require_types(record, _REQUEST)) if path.exists() else {}

    @property
    def colocated(self) -> bool:
        """Whether other runs were, or could be started, on the same GPU."""
        return bool(self.request().get("colocated"))

    @property
    def generator(self) -> Path | None:
        """The folder of the resident generator that makes the images of this attempt."""
        name = self.request().get("generator")
        return self.path / name if name else None

    def pids(self) -> list[int]:
        """Its running processes, and those of its generator."""
        return [pid for folder in (self.path, self.generator) if folder for pid in process.pids_of(folder)]

    def close(self, result: Result) -> None:
        """Write the result. Nothing is added to the folder afterwards."""
        records.write(self.path / "result.json", asdict(result))

    def result(self) -> Result | None:
        """What `close` has written; None before."""
        if not (self.path / "result.json").exists():
            return None
        return records.parse(self.path / "result.json", _result_of)


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of a point's stages and their results."""

    path: Path
    point: Point

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages to run, in order; a baseline is not trained."""
        if self.point.is_baseline:
            return STAGES[3:]
        return STAGES if (self.path / "select").is_dir() else (STAGES[0], *STAGES[3:])

    @property
    def images(self) -> Path:
        return self.path / "images"

    def create(self) -> None:
        """Make the folder with `point.json`, if it is not there. Raises NotReady as `check_folder`."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "point.json").exists():
            records.write(self.path / "point.json", asdict(self.point), exact=True)
        self.check_folder()

    def check_folder(self) -> None:
        """Raise NotReady when the folder is the one of another point: renamed, or a link to it."""
        if not (self.path / "point.json").exists():
            return
        found, name = records.parse(self.path / "point.json", lambda record: (record["id"], record["name"]))
        if found != self.point.id:
            what = f"is the folder of the point {found}, not {self.point.id}: it was renamed or is a link"
            remedy = f"rename it to {name} or move it out of the sweep's folder, then run the same command"
            raise NotReady(Problem(what=what, where=str(self.path), remedy=remedy))

    def confirmation(self, key: str) -> "Run":
        """Further images of the run's selected checkpoint, kept apart from the run's own."""
        return Run(self.path / "confirm" / key, self.point)

    def confirmations(self) -> list["Run"]:
        """All confirmations that were started."""
        return [self.confirmation(path.parent.name) for path in sorted(self.path.glob("confirm/*/point.json"))]

    def transfer(self, name: str, point: Point) -> "Run":
        """Images of the run's selected checkpoint on the base model of `point`."""
        return Run(self.path / "on" / name, point)

    def transfers(self) -> list["Run"]:
        """All transfers that were started."""
        return [_open(path) for path in sorted(self.path.glob("on/*/point.json"))]

    def attempts(self, stage: str) -> list[Attempt]:
        """All attempts of a stage, oldest first."""
        folder = self.path / stage
        names = os.listdir(folder) if folder.is_dir() else []
        return [Attempt(folder / str(number)) for number in sorted(int(name) for name in names if name.isdigit())]

    def new_attempt(self, stage: str) -> Attempt:
        """Make the folder of the next attempt."""
        past = self.attempts(stage)
        attempt = Attempt(self.path / stage / str(past[-1].number + 1 if past else 1))
        attempt.path.mkdir(parents=True)
        return attempt

    def done(self, stage: str) -> bool:
        return (self.path / PRODUCTS[stage]).exists()

    def finish(self, stage: str, record: Mapping[str, Any]) -> None:
        """Write the stage's product, after its files are on the disk: the stage is now done."""
        for made in [*record.get("checkpoints", ()), *record.get("images", ())]:
            files.sync(self.path / made["file"])
        records.write(self.path / PRODUCTS[stage], record)

    def compare_checkpoints(self) -> None:
        """Give the run the stages that compare its checkpoints; called before its training is recorded."""
        (self.path / "select").mkdir(exist_ok=True)

    def product(self, stage: str) -> dict[str, Any]:
        return records.read(self.path / PRODUCTS[stage])

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return records.parse(
            self.path / PRODUCTS["train"], lambda product: tuple(Checkpoint(**one) for one in product["checkpoints"])
        )

    def generated_images(self, stage: str = "generate") -> tuple[Image, ...]:
        return records.parse(
            self.path / PRODUCTS[stage], lambda product: tuple(Image(**one) for one in product["images"])
        )


@dataclass(frozen=True, slots=True)
class Sweep:
    """The folder of a sweep."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def votes(self) -> Path:
        """A folder per ballot: its key, its page and the imported votes."""
        return self.path / "votes"

    @property
    def templates(self) -> Path:
        """Copies of the templates, which the sweep renders with, from the time when it was frozen."""
        return self.path / "templates"

    def exists(self) -> bool:
        return (self.path / "sweep.json").exists()

    def record(self) -> dict[str, Any]:
        self.runs()  # raises an error where its points are damaged
        return self._parse(lambda record: records.require_types(record, _SWEEP))

    def fingerprint(self) -> dict[str, str]:
        """The hash of each input that the sweep was frozen with."""
        return self._parse(lambda record: dict(record["fingerprint"].items()))

    def _parse(self, make: Callable[[dict[str, Any]], _Made]) -> _Made:
        return records.parse(self.path / "sweep.json", make)

    def freeze(self, record: Mapping[str, Any], *, grid: str, templates: Mapping[str, str]) -> None:
        """Write copies of the grid and the templates, then the record, which makes the folder a sweep."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.templates.mkdir(exist_ok=True)
        for name, text in templates.items():
            files.write_text(self.templates / name, text)
        grids = [files.read_text(path) for path in self.grids()]
        if grid not in grids:
            files.write_text(self.path / f"grid-{len(grids) + 1}.toml", grid)
        records.write(self.path / "sweep.json", record, exact=True)

    def grids(self) -> list[Path]:
        """Copies of the grids that the sweep was run with, oldest first."""
        numbers = {path: path.stem.partition("-")[2] for path in self.path.glob("grid-*.toml")}
        return sorted((path for path in numbers if numbers[path].isdecimal()), key=lambda path: int(numbers[path]))

    def run(self, point: Point) -> Run:
        return Run(self.path / point.name, point)

    def baseline_run(self, point: Point) -> Run:
        """The baseline of a base model: a run of the sweep, or one in `on/` where no run was trained on that model."""
        own = self.run(point)
        return own if point in (run.point for run in self.runs()) else Run(self.path / "on" / point.name, point)

    def runs(self) -> list[Run]:
        """Every run of the current grid in its order; some may have no folder yet."""
        return self._parse(lambda record: [self.run(point_of(point)) for point in record["points"]])

    def dropped(self, points: Iterable[Point] | None = None) -> list[Path]:
        """The folders of runs that are not among `points` (default: the current grid), by name."""
        names = {point.name for point in points} if points is not None else {run.path.name for run in self.runs()}
        return [path.parent for path in sorted(self.path.glob("*/point.json")) if path.parent.name not in names]

    def all_runs(self) -> list[Run]:
        """The runs of the current grid, then those that left it."""
        runs = self.runs()
        return [*runs, *(_open(folder / "point.json") for folder in self.dropped(run.point for run in runs))]

    def questions(self) -> list[Question]:
        """The questions of the current grid."""
        return self._parse(lambda record: [_question_of(question) for question in record["questions"]])

    def design(self) -> SequentialDesign | None:
        """The rounds of training seeds, if the sweep is sequential."""
        return self._parse(lambda record: SequentialDesign(**found) if (found := record.get("design")) else None)

    def margins(self) -> dict[str, float]:
        """Side effect -> the margin that settings or grid declare; without an entry it is the default."""
        declared = self._parse(lambda record: dict((record.get("margins") or {}).items()))
        return {name: value for name, value in declared.items() if value is not None}

    def grid_file(self) -> Path | None:
        """The file of the current grid, which may have changed or moved since; None for `--final`, or if unknown."""
        path = self._parse(lambda record: record.get("grid"))
        return Path(path) if path and isinstance(path, str) else None

    def seeds_extended(self) -> bool:
        """Whether seeds were added after results were known, without a declared maximum."""
        return self._parse(lambda record: bool(record.get("seeds_extended")))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the sweep until the block ends. Raises Conflict when another process has the lock."""
        with locks.acquire(self.path / ".lock") as holder:
            if holder:
                remedy = f"watch it with `orchestrate status {self.name} --watch`, or stop that process first"
                what = f"sweep {self.name} is already running in {holder}"
                raise Conflict(Problem(what=what, where=str(self.path), remedy=remedy))
            yield

    def started_at(self) -> float:
        """When its lock was last acquired, in seconds since the epoch; now if it never was."""
        lock = self.path / ".lock"
        return lock.stat().st_mtime if lock.exists() else time.time()

    def is_locked(self) -> bool:
        """Whether a process has the lock now."""
        return locks.is_locked(self.path / ".lock")


def _open(record: Path) -> Run:
    """The run of a `point.json`."""
    return Run(record.parent, records.parse(record, point_of))


def point_of(record: Mapping[str, Any]) -> Point:
    """The Point of its record."""
    params, written = (
        {key: from_json(value) for key, value in record.get(name, {}).items()} for name in ("params", "written")
    )
    return Point(**{**record, "params": params, "dims": tuple(record["dims"]), "written": written})


def _question_of(record: Mapping[str, Any]) -> Question:
    return Question(**{key: from_json(value) for key, value in record.items()})


def _result_of(record: dict[str, Any]) -> Result:
    records.require_types(record, _RESULT)
    failure = record.pop("failure")
    return Result(failure=Failure(failure) if failure else None, **record)


_SWEEP = {"fingerprint": dict, "points": list, "questions": list}
_REQUEST: dict[str, type | tuple[type, ...]] = {
    **{"overrides": dict, "fallbacks": list, "degraded": bool, "colocated": bool, "card": str, "generator": str},
    **{"resumed": (dict, NoneType), "others": (dict, NoneType), "environment": dict},
}
_RESULT: dict[str, type | tuple[type, ...]] = {
    **{"reason": str, "retry": bool, "seconds": (int, float), "seconds_per_step": (int, float, NoneType)},
    **{"exit_code": (int, NoneType), "peak_vram_mib": (int, NoneType), "steps": (int, NoneType)},
}
"""The types of values in records; what a record of an earlier version lacks has a default."""


def calibration(runs: Path) -> Path:
    """The calibration that all sweeps in `runs` share."""
    return runs / "calibration.json"


def sweeps(runs: Path) -> Sequence[Sweep]:
    """Every sweep in `runs`, by name."""
    return [Sweep(path.parent) for path in sorted(runs.glob("*/sweep.json"))]


def probe_sweep(runs: Path) -> Sweep:
    """The folder of the probes: never frozen, so it is not listed as a sweep, but it is locked like one."""
    return Sweep(runs / ".probe")


def speed_sweep(runs: Path) -> Sweep:
    """The folder of `probe --speed`, like that of the probes."""
    return Sweep(runs / ".speed")


def probes(runs: Path) -> list[Run]:
    """Every probe that was started, by its key."""
    return [_open(path) for path in sorted(probe_sweep(runs).path.glob("*/point.json"))]


def mps(runs: Path, run: Run) -> Path:
    """The folder of the MPS daemon of the sweep that a run belongs to: logs and sockets."""
    return runs / run.path.relative_to(runs).parts[0] / "mps"


def thumbnails(run: Path) -> Path:
    """The folder of the small copies of a run's images; they can be made again."""
    return run.parent.parent / ".thumbnails" / run.parent.name / run.name
