"""The expressions of a point, computed in the order of what they look at."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from orchestrator.config.expressions import ExpressionError, Expressions, is_expression
from orchestrator.model import Value

_Failures: TypeAlias = dict[str, ExpressionError | None]
"""Why an argument could not be computed; None where the cause is another argument's failure."""


class Evaluation:
    """Computes the expressions of many points; `keys` are the arguments that can hold one."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)
        self._expressions = Expressions()

    def evaluate(self, params: dict[str, Value]) -> dict[str, ExpressionError]:
        """Replace every expression in `params` by what it yields. Returns what went wrong, by argument."""
        waiting = {key: params[key] for key in self._keys if key in params and is_expression(params[key])}
        failures: _Failures = {}
        while waiting:
            key = self._ready(waiting, failures)
            value = waiting.pop(key)
            if key not in failures:
                self._evaluate(key, value, params, failures)
        return {key: error for key, error in failures.items() if error}

    def _evaluate(self, key: str, value: Value, params: dict[str, Value], failures: _Failures) -> None:
        try:
            if failures and not failures.keys().isdisjoint(self._expressions.names(value)):
                failures[key] = None
            else:
                params[key] = self._expressions.evaluate(value, params)
        except ExpressionError as error:
            failures[key] = error

    def _ready(self, waiting: Mapping[str, Value], failures: _Failures) -> str:
        """A waiting argument that looks at no other waiting one; in a cycle there is none, and all of it fails."""
        trail = [next(iter(waiting))]
        while following := self._looks_at(waiting[trail[-1]], waiting):
            if following in trail:
                cycle = trail[trail.index(following) :]
                failures |= dict.fromkeys(cycle)
                failures[following] = ExpressionError(" -> ".join([*cycle, following]) + " goes round in a circle")
                return following
            trail.append(following)
        return trail[-1]

    def _looks_at(self, value: Value, waiting: Mapping[str, Value]) -> str | None:
        try:
            return next((name for name in sorted(self._expressions.names(value)) if name in waiting), None)
        except ExpressionError:
            return None  # told when it is evaluated
