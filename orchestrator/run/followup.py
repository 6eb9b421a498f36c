"""Further pictures of runs that are scored already: each set a run of its own, beside the run's pictures."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator import files
from orchestrator.config.schema import Generation, Settings
from orchestrator.errors import InputError, errors_of
from orchestrator.evidence import confirmation
from orchestrator.evidence.summary import RunSummary
from orchestrator.kohya import prompts
from orchestrator.model import Point
from orchestrator.plan.plan import Plan
from orchestrator.run.context import Context
from orchestrator.store.hashes import sha256_json
from orchestrator.store.layout import Run, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowupRun:
    """What is to be made: further pictures, as those of `run`, at a strength."""

    run: Run
    strength: float


def plan(settings: Settings, sweep: Sweep, points: Sequence[Point]) -> Plan:
    """The sweep as it was planned, for some points alone: to see that nothing of what it was made from has changed."""
    texts, problems = prompts.read_prompts(settings.generation.prompts)
    if errors_of(problems):
        raise InputError(*problems)
    return Plan(
        sweep=sweep,
        settings=settings,
        grid_text=sweep.grids()[-1].read_text(encoding="utf-8"),
        points=tuple(points),
        questions=(),
        prompts=texts,
        warnings=tuple(problems),
    )


def key(one: RunSummary, generation: Generation, texts: Sequence[str], *more: str) -> str:
    """Of all that sets these pictures of the chosen checkpoint apart from others of the run."""
    chosen = (one.choice.checkpoint, one.choice.strength) if one.choice else ()
    made = [chosen, texts, {**asdict(generation), "strengths": None}, more]
    return sha256_json(made)[:8]


def prepare(one: RunSummary, run: Run) -> FollowupRun:
    """Begin `run`, two folders below that of `one`: its checkpoint is the chosen one of `one`."""
    assert one.choice, "only scored runs have further pictures"
    run.create()
    if not run.point.is_baseline and not run.done("train"):
        known = next(item for item in one.run.checkpoints() if item.file == one.choice.checkpoint)
        run.finish("train", {"checkpoints": [asdict(replace(known, file=f"{confirmation.UP}{known.file}"))]})
    return FollowupRun(run=run, strength=one.choice.strength)


def run_all(wanted: Sequence[FollowupRun], ctx: Context, by: Callable[[Sequence[Run], Context], None]) -> None:
    """Have the pictures made and scored `by` whatever drives runs, those of one strength together."""
    for strength in dict.fromkeys(one.strength for one in wanted):
        generation = replace(ctx.settings.generation, strengths=(strength,), checkpoints="last")
        runs = [one.run for one in wanted if one.strength == strength]
        by(runs, replace(ctx, settings=replace(ctx.settings, generation=generation)))


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """(Re)write a table of a report; without rows its one heading says that there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["run"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text.getvalue())
