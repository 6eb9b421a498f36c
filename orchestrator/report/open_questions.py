"""The open questions of a project's grids, what they cost, and what to run next."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from orchestrator import files
from orchestrator.config import settings as settings_module
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, OrchestrateError, Problem
from orchestrator.evidence import summary
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.summary import SweepSummary
from orchestrator.model import RUNNABLE, Question
from orchestrator.plan import plan as planning
from orchestrator.plan.forecast import ASSUMED, Forecast
from orchestrator.plan.plan import Plan
from orchestrator.report import adoption, answers
from orchestrator.report.answers.answer import Answer
from orchestrator.store import layout

Identity: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """An undecided question. state: of its sweep. after: undecided questions that come first.

    needs: the runs that are missing although every run of the grid is finished.
    """

    id: str
    ask: str
    identity: Identity
    state: str
    after: tuple[str, ...] = ()
    needs: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGrid:
    """A grid with open questions, and the remaining cost of all its runs. gpu_hours: None if it is unknown.

    name: of its sweep if it is not that of the grid. assumed: whether the hours depend on an assumed speed. left:
    whether runs are left.
    """

    path: Path
    name: str
    questions: tuple[OpenQuestion, ...]
    gpu_hours: float | None
    assumed: bool
    left: bool

    @property
    def ready(self) -> bool:
        """Whether it can be run now: a question waits for no other one."""
        return self.left and any(not one.after for one in self.questions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agenda:
    """grids: in the order to run them. adoptable: sweep and question ids of answers that the settings lack.

    invalid: grids that cannot be planned, with their problems. asked: whether any grid asks a question.
    """

    grids: tuple[OpenGrid, ...]
    adoptable: tuple[tuple[str, str], ...]
    invalid: tuple[tuple[Path, tuple[Problem, ...]], ...]
    asked: bool


def agenda(settings: Path, grids: Sequence[Path], forecast: Callable[[Plan], Forecast]) -> Agenda:
    """The open questions of the grids. A question is decided if any sweep has decided it.

    Raises InputError if the settings are invalid.
    """
    used = settings_module.load(settings)
    sweeps = list(_read(used))
    decided = {
        _identity(question)
        for read, given in sweeps
        for question, answer in zip(read.questions, given, strict=True)
        if answer.verdict != Verdict.UNDECIDED
    }
    plans, invalid = [], []
    for path in grids:
        try:
            plan = planning.read(settings, path)
            name = "" if plan.sweep.exists() else next((read.sweep.name for read, _ in sweeps if _ran(read, plan)), "")
            plans.append((path, planning.read(settings, path, name) if name else plan))
        except InputError as error:
            invalid.append((path, error.problems))
    by_sweep = {read.sweep: {answer.id: answer for answer in given} for read, given in sweeps}
    found = [
        _open(path, plan, decided, by_sweep.get(plan.sweep), forecast(plan))
        for path, plan in plans
        if any(_identity(one) not in decided for one in plan.questions)
    ]
    return Agenda(
        grids=tuple(_without_repeated(sorted(found, key=_order))),
        adoptable=tuple(_adoptable(settings, sweeps)),
        invalid=tuple(invalid),
        asked=any(plan.questions for _, plan in plans),
    )


def _read(used: Settings) -> Iterator[tuple[SweepSummary, Sequence[Answer]]]:
    """The readable sweeps of these settings and their answers, last run first."""
    for sweep in sorted(layout.sweeps(used.runs), key=lambda one: -one.started_at()):
        try:
            read = summary.read(sweep, used.comparison)
        except OrchestrateError:  # `orchestrate list` shows why
            continue
        if not adoption.foreign(read, used):
            yield read, answers.answer_questions([read])[0]


def _identity(question: Question) -> Identity:
    """Questions of several grids are the same if all of this is equal."""
    return question.id, question.kind, question.dim, question.levels, question.within_gib


def _ran(read: SweepSummary, plan: Plan) -> bool:
    """Whether a sweep has the questions and points of a grid: it was run with `--name`."""
    points, planned = (
        {point.id for point in points if not point.is_baseline}
        for points in ((run.run.point for run in read.runs), plan.points)
    )
    asked = [sorted(map(str, map(_identity, one.questions))) for one in (read, plan)]
    return asked[0] == asked[1] and planned <= points <= planned | {one.id for one in plan.later}


def _open(
    path: Path, plan: Plan, decided: set[Identity], given: Mapping[str, Answer] | None, cost: Forecast
) -> OpenGrid:
    trained = [run for run in cost.runs if run.run.point.is_trained]
    ended = sum(run.status.state not in RUNNABLE for run in cost.runs)
    left, known = ended < len(cost.runs), {str(one[0]) for one in decided}
    state = f"{ended} of {len(cost.runs)} runs" if given is not None else "not run"
    return OpenGrid(
        path=path,
        name=plan.sweep.name if plan.sweep.name != path.stem else "",
        questions=tuple(
            OpenQuestion(
                id=one.id,
                ask=one.ask,
                state=state if left else "undecided",
                identity=_identity(one),
                after=tuple(name for name in one.after if name not in known),
                needs=given[one.id].needs or given[one.id].sentence if given and not left and one.id in given else "",
            )
            for one in plan.questions
            if _identity(one) not in decided
        ),
        gpu_hours=None if any(run.length is None for run in trained) else cost.gpu_seconds / 3600,
        assumed=any(run.train_s and run.origin == ASSUMED for run in trained),
        left=left,
    )


def _order(grid: OpenGrid) -> tuple[str, bool, float]:
    """Questions in their natural order; of grids with one question, those that were started, then the largest."""
    first = grid.questions[0]
    natural = re.sub(r"\d+", lambda digits: digits[0].zfill(9), first.id)
    return natural, first.state == "not run", -(grid.gpu_hours or 0.0)


def _without_repeated(grids: Iterable[OpenGrid]) -> Iterator[OpenGrid]:
    """Without grids whose open questions are all in earlier ones: several grids may include one file."""
    seen: set[Identity] = set()
    for grid in grids:
        own = {one.identity for one in grid.questions}
        if not own <= seen:
            yield grid
        seen |= own


def _adoptable(settings: Path, sweeps: Iterable[tuple[SweepSummary, Sequence[Answer]]]) -> Iterator[tuple[str, str]]:
    """Decided answers that would change the settings; of several about one dim, those of the latest sweep."""
    text, seen = files.read_bytes(settings).decode("utf-8"), set()
    for read, given in sweeps:
        for one in adoption.decide(read.questions, given):
            if one.reason or one.dim in seen:
                continue
            seen.add(one.dim)
            try:
                if adoption.apply(one, read, settings, text).text != text:
                    yield read.sweep.name, one.ids
            except InputError:
                continue
