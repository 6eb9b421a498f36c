"""Answers of a sweep -> changes of orchestrate.toml."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import grid, settings, settings_edit
from orchestrator.config.grid import Grid
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.evidence.summary import SweepSummary
from orchestrator.kohya import inheritance
from orchestrator.kohya.inheritance import Inheritance
from orchestrator.kohya.optimizers import optimizer_of
from orchestrator.model import LORA, TREATMENTS, Params, Question, Value
from orchestrator.plan import plan as planning
from orchestrator.report.answers.answer import Answer
from orchestrator.values import same, toml_repr


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answers to the questions about one dim, and the value that they select.

    levels: all values that the answers compare. reason: why nothing is adopted; empty if `value` is.
    """

    answers: tuple[Answer, ...]
    reason: str = ""
    dim: str = ""
    value: Value = ""
    levels: tuple[Value, ...] = ()

    @property
    def ids(self) -> str:
        return ", ".join(one.id for one in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """The settings with a decision. text: equal to the text before if the settings have the value already. notes: how
    the sweep differs from the settings."""

    text: str
    notes: tuple[str, ...]


def foreign(read: SweepSummary, used: Settings) -> str:
    """A base model or dataset of the sweep that the settings do not have: it belongs to other settings. Else empty."""
    points = [run.run.point.params for run in read.runs if run.run.point.is_trained]
    names = {(key, str(one[key])) for one in points for key in TREATMENTS if key in one}
    known = {"base_model": used.base_models, "dataset": used.datasets}
    return next((f"{key} {name}" for key, name in sorted(names) if name not in known[key]), "")


def decide(questions: Sequence[Question], answers: Sequence[Answer], *, at_a_cost: bool = False) -> list[Decision]:
    """One decision per dim, and one per answer that changes nothing.

    "Yes" rules out the first of two values and "no" the second; the value that is left of all is adopted. at_a_cost:
    whether "yes, at a cost" is a yes.
    """
    decided: dict[str, list[tuple[Question, Answer]]] = {}
    found = []
    for question, answer in zip(questions, answers, strict=True):
        if reason := _reason(question, answer, at_a_cost):
            found.append(Decision(answers=(answer,), reason=reason))
        else:
            decided.setdefault(question.dim, []).append((question, answer))
    return [*found, *(_decision(dim, members) for dim, members in decided.items())]


def _reason(question: Question, answer: Answer, at_a_cost: bool) -> str:
    if question.kind == "memory":
        return "a question about VRAM changes no setting; [[oom_fallback]] helps where a training does not fit"
    if question.dim == LORA:
        return "a comparison of LoRA files changes no setting"
    if question.kind == "threshold":
        return "`orchestrate calibrate` stores the threshold in calibration.json, which all sweeps use"
    if answer.verdict == Verdict.UNDECIDED:
        return f"undecided; it needs {answer.needs}" if answer.needs else "undecided"
    if answer.verdict == Verdict.AT_A_COST and not at_a_cost:
        return "the better value has a cost; --at-a-cost adopts it"
    return ""


def _decision(dim: str, members: Sequence[tuple[Question, Answer]]) -> Decision:
    levels = [level for question, _ in members for level in question.levels]
    ruled_out = [question.levels[answer.verdict == Verdict.NO] for question, answer in members]
    left = {toml_repr(level): level for level in levels if not any(same(level, one) for one in ruled_out)}
    answers = tuple(answer for _, answer in members)
    if len(left) == 1:
        return Decision(answers=answers, dim=dim, value=next(iter(left.values())), levels=tuple(levels))
    reason = "the answers contradict each other"
    if left:
        reason = f"{' and '.join(left)} remain; add a question that compares them"
    return Decision(answers=answers, reason=reason)


def apply(decision: Decision, read: SweepSummary, path: Path, text: str) -> Edit:
    """The text of the settings file with the decision: a point of the settings has the dim's value, and the arguments
    that the sweep changed with it. Raises InputError if that cannot be planned.
    """
    points = [run.run.point.params for run in read.runs if run.run.point.is_trained]
    chosen = [one for one in points if decision.dim in one and same(one[decision.dim], decision.value)]
    known = {key: chosen[0].get(key) for one in (*points, _of(path, text)) for key in one if key != REPLICATE}
    known = {key: value for key, value in known.items() if all(_equal(one.get(key), value) for one in chosen)}
    others = [one for one in points if one not in chosen]
    with_it = {key for key in known if not any(_equal(one.get(key), known[key]) for one in others)}
    replaced = Inheritance(_read(path, text)).of({decision.dim: decision.value}).replaced
    affected, before, edited = {decision.dim, *with_it, *replaced}, _of(path, text), text
    for keys in ({decision.dim, *replaced}, affected, affected):  # expressions and optimizer tables follow the dim
        now = _of(path, edited)
        affected |= {key for key in {*before, *now} - {REPLICATE} if not _equal(before.get(key), now.get(key))}
        wrong = {key: known[key] for key in keys if key in known and not _equal(now.get(key), known[key])}
        edited = settings_edit.edit(edited, _places(wrong, _read(path, edited))) if wrong else edited
    if edited != text:
        planning.read_final(path, text=edited)
    return Edit(text=edited, notes=tuple(_notes(decision, known, before, _of(path, edited))))


def _notes(decision: Decision, known: Mapping[str, Value | None], before: Params, after: Params) -> Iterator[str]:
    if not any(_equal(before.get(decision.dim), level) for level in decision.levels):
        yield f"The questions do not compare {decision.dim} = {shown(before.get(decision.dim))} of the settings."
    differing = [key for key, value in known.items() if not _equal(value, after.get(key))]
    if differing:
        listed = (f"{key} = {shown(known[key])} ({shown(after.get(key))})" for key in differing)
        yield f"The sweep has other arguments than the settings (in parentheses): {', '.join(listed)}."


def shown(value: Value | None) -> str:
    """A value as in TOML, for messages."""
    return "unset" if value is None else toml_repr(value)


def _equal(one: Value | None, other: Value | None) -> bool:
    return one is other if one is None or other is None else same(one, other)


def _read(path: Path, text: str) -> Settings:
    found, problems = settings.read(path, text)
    if found is None or problems:
        raise InputError(*problems)
    return found


def _of(path: Path, text: str) -> Params:
    """The arguments of a point for which no grid sets anything."""
    used = _read(path, text)
    empty = Grid(path=path, files=(), fixed={}, dims={}, zips=(), whens=(), excludes=(), questions=(), places={})
    return grid.expand(empty, used, Inheritance(used).params)[0].params


def _places(changes: Mapping[str, Value | None], used: Settings) -> dict[tuple[str, ...], Value | None]:
    """Where the settings have each argument: in [defaults], in the table of the optimizer, or in [arguments]."""
    optimizer = optimizer_of({**used.arguments, **changes}).name  # type: ignore[dict-item]
    table = next((name for name in used.optimizers if inheritance.table_of(optimizer, {name: {}}) is not None), "")

    def place(key: str) -> tuple[str, ...]:
        if key in TREATMENTS:
            return ("defaults", key)
        if table and (key in used.optimizers[table] or key in inheritance.OF_OPTIMIZER):
            return ("optimizers", table, key)
        return ("arguments", key)

    return {place(key): value for key, value in changes.items()}
