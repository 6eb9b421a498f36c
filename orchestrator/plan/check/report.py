"""The result of a check."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.errors import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Facts by name (`torch sees`: `NVIDIA H100`), and problems."""

    facts: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
