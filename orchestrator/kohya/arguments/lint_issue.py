"""One trap, before it is known where the argument was written and with which value."""

from dataclasses import dataclass

from orchestrator.errors import Severity


@dataclass(frozen=True, slots=True)
class LintIssue:
    """`key` is the argument to change."""

    key: str
    what: str
    remedy: str
    severity: Severity


def error(key: str, what: str, remedy: str) -> LintIssue:
    """The point would train something else than was asked, or stop."""
    return LintIssue(key, what, remedy, Severity.ERROR)


def warning(key: str, what: str, remedy: str) -> LintIssue:
    """The point would train what was asked, which is seldom what was meant."""
    return LintIssue(key, what, remedy, Severity.WARNING)
