"""Ballots of blind votes: which images a vote page shows under which opaque id, and the votes that were imported."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from orchestrator import files
from orchestrator.errors import InputError, OrchestrateError, Problem, Severity, error
from orchestrator.store import records
from orchestrator.store.layout import Sweep

KEY, PAGE = "ballot.json", "vote.html"
MAX_BYTES = 4 * 1024**2
"""Of a file of votes; 1000 trials need 0.1 MiB."""
MAX_NAME = 60
_SESSION, _BALLOT = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{8}")

Side: TypeAlias = Literal["left", "right", "equal"]
QUESTIONS = {"persona": "Which looks more like the person in the photo?", "image": "Which is the better image?"}
"""The questions about two images. About a single image: would you publish it?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """run: the id of its point. file: as in Image."""

    run: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Two images beside each other, or a single one (`right` is None). repeats: the trial with the sides swapped."""

    id: str
    left: ShownImage
    right: ShownImage | None = None
    repeats: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answers to one trial; None: not answered. publish: of a single image."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    persona: Side | None = None
    image: Side | None = None
    publish: bool | None = None


@dataclass(frozen=True, kw_only=True)
class VoteSheet:
    """What the page exports: the answers of one voter in one session, by the ids of trials.

    revision: number of answers given, also changed ones; a sheet with a higher one replaces that of the same session.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    ballot: str
    session: str
    voter: str
    revision: int
    answers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """The trials of a page, in its order, and the imported sheets."""

    id: str
    trials: tuple[Trial, ...]
    sheets: tuple[VoteSheet, ...] = ()


def write(sweep: Sweep, ballot: Ballot) -> Path:
    """Write the key of a new ballot. Returns its folder."""
    folder = sweep.votes / ballot.id
    folder.mkdir(parents=True, exist_ok=True)
    records.write(folder / KEY, {"trials": [asdict(trial) for trial in ballot.trials]})
    return folder


def read(sweep: Sweep, identity: str) -> Ballot | None:
    """The ballot without its sheets; None if there is none. Raises OrchestrateError if its key is damaged."""
    path = sweep.votes / identity / KEY
    if not _BALLOT.fullmatch(identity) or not path.exists():
        return None
    from pydantic import TypeAdapter, ValidationError  # slow to import

    try:
        trials = TypeAdapter(tuple[Trial, ...]).validate_python(records.read(path).get("trials"))
    except (ValidationError, OrchestrateError) as problem:
        what, remedy = f"is damaged: {_first(problem)}", "restore it; without it the votes cannot be read"
        raise OrchestrateError(error("", what, remedy, where=str(path))) from problem
    return Ballot(id=identity, trials=trials)


def read_all(sweep: Sweep) -> tuple[tuple[Ballot, ...], list[Problem]]:
    """All ballots with their sheets, and a warning for each file that cannot be used."""
    found, problems = list[Ballot](), list[Problem]()
    for key in sorted(sweep.votes.glob(f"*/{KEY}")):
        try:
            ballot = read(sweep, key.parent.name)
        except OrchestrateError as damaged:
            problems += damaged.problems
            continue
        if ballot is None:
            continue
        sheets = list[VoteSheet]()
        for path in sorted(set(key.parent.glob("*.json")) - {key}):
            try:
                sheets.append(_validate(path, {ballot.id: ballot}))
            except InputError as damaged:
                problems += damaged.problems
        found.append(replace(ballot, sheets=tuple(sheets)))
    return tuple(found), [replace(one, severity=Severity.WARNING) for one in problems]


def import_sheet(sweep: Sweep, path: Path) -> tuple[VoteSheet, bool]:
    """Check a file of votes and keep a copy in the sweep's folder. Returns it, and whether it is new.

    A sheet of a session that is known replaces the known one if its revision is higher. Raises InputError for a file
    that is no sheet of this sweep, or of a damaged ballot.
    """
    found, damaged = read_all(sweep)
    ballots = {one.id: one for one in found}
    try:
        sheet = _validate(path, ballots)
    except InputError as wrong:
        raise InputError(*wrong.problems, *damaged) from None
    kept = sweep.votes / sheet.ballot / f"{sheet.session}.json"
    with suppress(InputError):  # none is there, or it is damaged: it is replaced
        if _validate(kept, ballots).revision >= sheet.revision:
            return sheet, False
    files.write_json(kept, asdict(sheet))
    return sheet, True


def _validate(path: Path, ballots: Mapping[str, Ballot]) -> VoteSheet:
    """Raises InputError."""
    from pydantic import TypeAdapter, ValidationError  # slow to import

    remedy = "import the file that the vote page saved"
    try:
        content = files.read_bytes(path, max_bytes=MAX_BYTES)
        sheet = TypeAdapter(VoteSheet).validate_json(content, strict=True)
    except (OSError, ValidationError) as problem:
        raise InputError(
            error("--import", f"is no file of votes: {_first(problem)}", remedy, where=str(path))
        ) from problem
    if reason := _issue(sheet, ballots.get(sheet.ballot)):
        raise InputError(error("--import", f"is not used: {reason}", remedy, where=str(path)))
    return replace(sheet, voter=sheet.voter.strip())


def _issue(sheet: VoteSheet, ballot: Ballot | None) -> str:
    """Why a sheet cannot be used; empty if it can."""
    if ballot is None:
        return f"it belongs to no ballot of this sweep: {sheet.ballot[:20]!a}"
    if not _SESSION.fullmatch(sheet.session):
        return "the session is not 32 hex digits"
    if not sheet.voter.strip() or len(sheet.voter) > MAX_NAME or not sheet.voter.isprintable():
        return f"the voter's name must have 1 to {MAX_NAME} printable letters"
    if not 0 <= sheet.revision <= 10**6:
        return "the revision must be 0 to 1000000"
    pairs = {trial.id: trial.right is not None for trial in ballot.trials}
    for identity, answer in sheet.answers.items():
        if identity not in pairs:
            return f"there is no trial {identity[:20]!a}"
        if answer.publish is not None if pairs[identity] else (answer.persona or answer.image):
            return f"the answers to trial {identity} are those of another kind of trial"
    return ""


def _first(problem: Exception) -> str:
    """The first error as a printable line."""
    from pydantic import ValidationError

    if isinstance(problem, ValidationError):
        first = problem.errors(include_input=False, include_url=False)[0]
        text = f"{'.'.join(map(str, first['loc'][:4]))}: {first['msg']}".removeprefix(": ")
    else:
        text = getattr(problem, "strerror", None) or str(problem)
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


def answers(ballots: Sequence[Ballot]) -> list[tuple[VoteSheet, Trial, Answer]]:
    """All answers, with their sheets and trials."""
    return [
        (sheet, trial, sheet.answers[trial.id])
        for ballot in ballots
        for sheet in ballot.sheets
        for trial in ballot.trials
        if trial.id in sheet.answers
    ]
