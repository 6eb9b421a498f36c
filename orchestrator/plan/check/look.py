"""What one part of the inspection found."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.errors import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """facts: by name, for the person at the screen."""

    facts: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
