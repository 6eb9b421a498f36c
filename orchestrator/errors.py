"""Errors that end a command, each with its exit code, and the problems that they report."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

_SHOWN = 200
"""Characters of a value in a message."""


class Severity(StrEnum):
    """An error stops the command before anything starts; a warning is shown and the command continues."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem with the user's input or machine.

    what: one sentence that names the value; where: `file:line` or a path; key: dotted, as the user wrote it;
    value: as the user wrote it; remedy: what to do, a command or link where there is one; is_estimate: it follows from
    an estimated number of tokens, and `check --deep` counts them.
    """

    what: str
    where: str = ""
    key: str = ""
    value: str = ""
    remedy: str = ""
    severity: Severity = Severity.ERROR
    is_estimate: bool = False

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.key) if part)
        head = f"{place}: {self.what}" if place else self.what
        if self.value and self.value not in self.what:
            head += f" (value: {self.value if len(self.value) <= _SHOWN else self.value[:_SHOWN] + '...'})"
        return f"{head}\n    -> {self.remedy}" if self.remedy else head


def error(key: str, what: str, remedy: str, *, where: str = "", value: str = "") -> Problem:
    """An error about a key; where `where` is empty, the caller adds the place."""
    return Problem(what=what, where=where, key=key, value=value, remedy=remedy)


def warning(key: str, what: str, remedy: str, *, where: str = "", value: str = "") -> Problem:
    """A warning about a key; where `where` is empty, the caller adds the place."""
    return Problem(what=what, where=where, key=key, value=value, remedy=remedy, severity=Severity.WARNING)


class OrchestrateError(Exception):
    """Base of all errors that a command reports before it ends, itself of damaged files; `problems` lists all."""

    exit_code = 2

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(p if isinstance(p, Problem) else Problem(what=p) for p in problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class InputError(OrchestrateError):
    """The grid, the settings or a flag is wrong."""


class NothingSelected(OrchestrateError):
    """`--only` or a similar option matched no run."""

    exit_code = 3


class NotReady(OrchestrateError):
    """Something is missing on this machine: submodule, interpreter, GPU, model, images, face pack, disk space."""

    exit_code = 4


class Conflict(OrchestrateError):
    """Another process runs this sweep, or the sweep was made from other inputs."""

    exit_code = 5


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that stop a command."""
    return [p for p in problems if p.severity is Severity.ERROR]
