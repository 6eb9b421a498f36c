"""A sweep from its grid to its end: plan it, freeze it, drive its runs. The only loop over runs."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from orchestrator import faces, grid, ladder, media, provenance, settings, store
from orchestrator.context import Context
from orchestrator.errors import Conflict, InputError, NotReady, NothingSelected, Problem, Severity, errors_of
from orchestrator.kohya import check, generate, keys, prompts, traps
from orchestrator.model import MACHINE_FAILURES, Params, Point, Prepared, Question, Result, Settings, State
from orchestrator.stages import generate as generate_stage
from orchestrator.stages import score as score_stage
from orchestrator.stages import train as train_stage
from orchestrator.store import Run, Sweep

RUNNABLE = frozenset({State.PENDING, State.RUNNING, State.CRASHED, State.KILLED})
_PERFORM: Mapping[str, Callable[[Run, Context], Result]] = {
    module.NAME: module.perform for module in (train_stage, generate_stage, score_stage)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a grid asks for under these settings, checked; `warnings` did not stop it."""

    sweep: Sweep
    settings: Settings
    grid_text: str
    points: tuple[Point, ...]
    questions: tuple[Question, ...]
    prompts: tuple[str, ...]
    warnings: tuple[Problem, ...]

    def runs(self, only: str = "*") -> list[Run]:
        """The asked runs whose name or id matches a glob; floors last."""
        chosen = [point for point in self.points if fnmatchcase(point.name, only) or fnmatchcase(point.id, only)]
        if not chosen:
            raise NothingSelected(Problem(what=f'no run matches "{only}"', remedy="`orchestrate plan` lists their names"))
        return [self.sweep.run(point) for point in chosen]


def plan(settings_file: Path, grid_file: Path, name: str = "") -> Plan:
    """Read and check everything that the user wrote; raises InputError with every mistake in all of it."""
    found, problems = _collect(lambda: settings.load(settings_file), lambda: grid.load(grid_file))
    if problems:
        raise InputError(*problems)
    used, asked = found
    points = grid.expand(asked, used)
    texts, problems = prompts.read_prompts(used.generation.prompts)
    problems += [*_wrong(points, used, str(grid_file)), *generate.check(used.generation, where=str(settings_file))]
    if errors_of(problems):
        raise InputError(*problems)
    return Plan(
        sweep=Sweep(used.runs / _name(name or grid_file.stem)),
        settings=used,
        grid_text=grid_file.read_text(encoding="utf-8"),
        points=(*points, *_floors(points)),
        questions=asked.questions,
        prompts=texts,
        warnings=tuple(problems),
    )


def _collect(*readers: Callable[[], Any]) -> tuple[list[Any], list[Problem]]:
    found, problems = [], []
    for read in readers:
        try:
            found.append(read())
        except InputError as error:
            problems += error.problems
    return found, problems


def _name(name: str) -> str:
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0") or len(name) > 100:
        raise InputError(Problem(what=f'"{name}" cannot name a sweep', key="--name", remedy="use a plain file name"))
    return name


def _floors(points: Iterable[Point]) -> list[Point]:
    """One run without any LoRA for each base model: the same prompts and seeds, made once, shared by all."""
    bases = dict.fromkeys(str(point.params["base_model"]) for point in points)
    return [_floor(base) for base in bases]


def _floor(base: str) -> Point:
    params: Params = {"base_model": base}
    identity = grid.point_id({**params, "floor": True})
    return Point(id=identity, name=f"floor-{grid.point_name(params, params, identity)}", params=params, floor=True)


def _wrong(points: Sequence[Point], used: Settings, where: str) -> list[Problem]:
    """What sd-scripts would refuse, or worse, not refuse, of the points and of what the ladder makes of them."""
    accepted = keys.accepted(used.trainer.sd_scripts)
    conceded = [step for point in points for step in ladder.steps(point.params, used.ladder)]
    lowered = [{**point.params, **step} for point in points for step in ladder.steps(point.params, used.ladder)]
    return [
        *check.check([point.params for point in points], accepted, where=where),
        *check.check(conceded, accepted, where=f"{used.path}: ladder"),
        *traps.traps([point.params for point in points], where=where),
        *traps.traps(lowered, where=f"{used.path}: ladder"),
        *traps.sweep_traps(points, where=where),
    ]


# --- freezing ---------------------------------------------------------------------------------------------------------


def freeze(asked: Plan, prepared: Mapping[str, Prepared], hashes: provenance.Hashes) -> None:
    """Make the sweep, or grow it; raises Conflict when it was made from other inputs. The lock must be held."""
    made_from = _fingerprint(asked, prepared, hashes)
    old = asked.sweep.record() if asked.sweep.exists() else {"fingerprint": {}, "points": [], "questions": []}
    changed = [key for key, value in made_from.items() if old["fingerprint"].get(key, value) != value]
    if changed:
        raise Conflict(*(_changed(key, asked.sweep) for key in changed))
    points = {record["id"]: record for record in [*old["points"], *_json([asdict(point) for point in asked.points])]}
    questions = {record["id"]: record for record in [*old["questions"], *_json([asdict(q) for q in asked.questions])]}
    record = {
        "name": asked.sweep.name,
        "created_at": old.get("created_at", store.now()),
        "fingerprint": {**old["fingerprint"], **made_from},
        "versions": provenance.versions(),
        "points": sorted(points.values(), key=lambda point: bool(point["floor"])),
        "questions": list(questions.values()),
    }
    if not asked.sweep.exists() or _grown(old, record):
        asked.sweep.freeze(record, grid=asked.grid_text, templates=_templates(asked.settings.templates))


def _grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old[key] != new[key] for key in ("fingerprint", "points", "questions"))


def _json(value: Any) -> Any:
    """As it would be read back: lists for tuples."""
    return json.loads(json.dumps(value))


def _fingerprint(asked: Plan, prepared: Mapping[str, Prepared], hashes: provenance.Hashes) -> dict[str, str]:
    """What changes a picture or a number and is not an argument of a point."""
    used = asked.settings
    generation = {**asdict(used.generation), "prompts": asked.prompts}
    pack = faces.inspect(used.scoring.pack, det_size=used.scoring.det_size, decode_rule=media.DECODE_RULE)
    return {
        "templates": _hash(_templates(used.templates)),
        "generation": _hash(generation),
        "trainer": trainer_identity(used),
        "face pack": pack.fingerprint,
        "references": hashes.of_all(media.pictures(used.scoring.references).pictures),
        **{f"base_model {name}": _base(used, name, hashes) for name in _used(asked.points, "base_model")},
        **{f"dataset {name}": prepared[name].key for name in _used(asked.points, "dataset")},
    }


def trainer_identity(used: Settings) -> str:
    """The commit of the trainer's checkout; without one, the hash of its two scripts."""
    folder = used.trainer.sd_scripts
    scripts = (used.trainer.train_script, used.trainer.generate_script)
    return provenance.commit(folder) or _hash([provenance.sha256(folder / script) for script in scripts])


def _base(used: Settings, name: str, hashes: provenance.Hashes) -> str:
    base = used.base_models[name]
    return hashes.of(base.path) + (hashes.of(base.vae) if base.vae else "")


def _used(points: Iterable[Point], treatment: str) -> list[str]:
    return list(dict.fromkeys(str(point.params[treatment]) for point in points if treatment in point.params))


def datasets_of(points: Iterable[Point]) -> list[str]:
    """The datasets that these points train on."""
    return _used(points, "dataset")


def _templates(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.toml.j2"))}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _changed(key: str, sweep: Sweep) -> Problem:
    return Problem(
        what=f"{key} is not what the sweep {sweep.name} was made from; old and new results would not compare",
        where=str(sweep.path / "sweep.json"),
        key=key,
        remedy=f"put it back as it was (templates and grids are kept in {sweep.path}), or start a sweep of another "
        "name with --name",
    )


# --- driving ----------------------------------------------------------------------------------------------------------


def drive(runs: Sequence[Run], ctx: Context, *, retry: bool = False, fail_fast: bool = False) -> None:
    """Bring every run as far as it goes. Raises NotReady when the machine, not the points, makes runs fail.

    retry: give those that failed for good another attempt. fail_fast: stop at the first failed run.
    """
    in_a_row: list[Result] = []
    for run in runs:
        result = advance(run, ctx, retry=retry)
        if ctx.stop:
            return
        if store.status(run).state is not State.FAILED or result is None:
            in_a_row.clear()
            continue
        in_a_row.append(result)
        _pause_if_poisoned(in_a_row, ctx.settings.limits.crashes)
        if fail_fast:
            return


def advance(run: Run, ctx: Context, *, retry: bool = False) -> Result | None:
    """One run through its stages until it is finished, has failed, or the user stops it; its last result."""
    run.create()
    result = None
    while not ctx.stop:
        status = store.status(run)
        if status.state not in RUNNABLE and not (retry and status.state is State.FAILED):
            break
        retry = False
        result = _PERFORM[status.stage](run, ctx)
    return result


def _pause_if_poisoned(in_a_row: Sequence[Result], limit: int) -> None:
    kinds = [result.failure for result in in_a_row[-limit:]]
    if len(kinds) == limit and len(set(kinds)) == 1 and kinds[0] in MACHINE_FAILURES:
        raise NotReady(
            Problem(
                what=f"{limit} runs in a row failed with {kinds[0]}: the sweep is paused, it looks like the machine",
                value=in_a_row[-1].reason,
                remedy="mend it (`orchestrate check`), then the same command with `--retry failed` goes on",
            )
        )


def warn(problems: Iterable[Problem]) -> list[Problem]:
    """Those that are only warnings."""
    return [problem for problem in problems if problem.severity is Severity.WARNING]
