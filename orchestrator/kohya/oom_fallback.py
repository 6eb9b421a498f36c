"""What an attempt that ran out of memory concedes next: the fallbacks of the settings, climbed down in their order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.config.expressions import ExpressionError, Expressions
from orchestrator.config.schema import FallbackStep
from orchestrator.config.toml_reader import did_you_mean
from orchestrator.errors import InputError, Problem
from orchestrator.model import Params, Value
from orchestrator.values import matches, same, toml_repr

_MAX_REPEATS = 16
"""A rung is taken again while it applies, so a rung that never stops changing something needs an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an attempt changes against its point: all fallbacks so far together.

    degraded: whether a rung among them does not keep the result.
    """

    overrides: Params
    fallbacks: tuple[str, ...]
    degraded: bool


def next_overrides(params: Params, tried: Sequence[Params], fallbacks: Sequence[FallbackStep]) -> Step | None:
    """The first step below a point's `params` whose overrides are not among `tried`; None when none is left.

    InputError when a rung's expression cannot be computed for these params.
    """
    for step in steps(params, fallbacks, Expressions()):
        if not any(_alike(step.overrides, overrides) for overrides in tried):
            return step
    return None


def steps(params: Params, fallbacks: Sequence[FallbackStep], expressions: Expressions) -> Iterator[Step]:
    """Every step below a point, in order. A rung applies while its `when` matches and its `set` changes something."""
    overrides: dict[str, Value] = {}
    names: tuple[str, ...] = ()
    degraded = False
    for rung in fallbacks:
        for _ in range(_MAX_REPEATS):
            changes = _changes(rung, {**params, **overrides}, expressions)
            if not changes:
                break
            overrides = overrides | changes
            names += (rung.name,)
            degraded = degraded or not rung.keeps_result
            yield Step(overrides=overrides, fallbacks=names, degraded=degraded)


def _changes(rung: FallbackStep, effective: Params, expressions: Expressions) -> dict[str, Value]:
    """What a rung would change of the effective params; nothing where it does not apply."""
    if not matches(effective, rung.when):
        return {}
    wanted = {key: _evaluated(rung, key, effective, expressions) for key in rung.set}
    return {key: value for key, value in wanted.items() if key not in effective or not same(value, effective[key])}


def _evaluated(rung: FallbackStep, key: str, effective: Params, expressions: Expressions) -> Value:
    try:
        return expressions.evaluate(rung.set[key], effective)
    except ExpressionError as error:
        what = f"rung {toml_repr(rung.name)} cannot compute {key}: {error}"
        remedy = "mend the expression, or give the rung a `when`"
        if error.missing:
            remedy = did_you_mean(error.missing, effective, f"set {error.missing} in [arguments]")
        problem = Problem(what=what, key=f"ladder.set.{key}", value=toml_repr(rung.set[key]), remedy=remedy)
        raise InputError(problem) from None


def _alike(left: Params, right: Params) -> bool:
    return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
