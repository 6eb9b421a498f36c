"""The OOM fallback: which arguments a training changes after it ran out of memory, step by step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.config.expressions import ExpressionError, Expressions
from orchestrator.config.schema import FallbackStep
from orchestrator.errors import InputError, Problem
from orchestrator.kohya import inheritance
from orchestrator.model import Params, Value
from orchestrator.text import did_you_mean
from orchestrator.values import matches, same, toml_repr

_MAX_REPEATS = 16
"""A step is repeated while it changes something, so a step that always does needs a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """The changes of an attempt against its point: those of all fallback steps so far, by name.

    degraded: whether one of them changes the result of the training.
    """

    overrides: Params
    fallbacks: tuple[str, ...]
    degraded: bool


NO_FALLBACK = Fallback(overrides={}, fallbacks=(), degraded=False)


_NO_TABLES: Mapping[str, Params] = {}


def next_fallback(
    params: Params,
    tried: Sequence[Params],
    steps: Sequence[FallbackStep],
    optimizers: Mapping[str, Params] = _NO_TABLES,
) -> Fallback | None:
    """The first fallback of a point whose overrides are not among `tried`; None when none is left.

    optimizers: the tables of the settings, for steps that change the optimizer.
    Raises InputError when the expression of a step cannot be evaluated for `params`.
    """
    for fallback in fallbacks(params, steps, optimizers):
        if not any(_equal(fallback.overrides, overrides) for overrides in tried):
            return fallback
    return None


def fallbacks(
    params: Params,
    steps: Sequence[FallbackStep],
    optimizers: Mapping[str, Params] = _NO_TABLES,
    expressions: Expressions | None = None,
) -> Iterator[Fallback]:
    """All fallbacks of a point in order. A step applies while its `when` matches and its `set` changes something."""
    expressions = expressions or Expressions()
    overrides: dict[str, Value] = {}
    names: tuple[str, ...] = ()
    degraded = False
    for step in steps:
        for _ in range(_MAX_REPEATS):
            changes = _changes(step, {**params, **overrides}, optimizers, expressions)
            if not changes:
                break
            overrides = overrides | changes
            names += (step.name,)
            degraded = degraded or not step.keeps_result
            yield Fallback(overrides=overrides, fallbacks=names, degraded=degraded)


def _changes(
    step: FallbackStep, effective: Params, optimizers: Mapping[str, Params], expressions: Expressions
) -> dict[str, Value]:
    """What a step changes in the effective arguments; empty where it does not apply."""
    if not matches(effective, step.when):
        return {}
    chosen = str(_evaluate(step, "optimizer_type", effective, expressions)) if "optimizer_type" in step.set else ""
    if chosen and chosen.casefold() != str(effective.get("optimizer_type", "")).casefold():
        step = replace(step, set={**inheritance.for_optimizer(chosen, optimizers, effective), **step.set})
    wanted = {key: _evaluate(step, key, effective, expressions) for key in step.set}
    return {key: value for key, value in wanted.items() if key not in effective or not same(value, effective[key])}


def _evaluate(step: FallbackStep, key: str, effective: Params, expressions: Expressions) -> Value:
    try:
        return expressions.evaluate(step.set[key], effective)
    except ExpressionError as error:
        what = f"fallback step {toml_repr(step.name)} cannot compute {key}: {error}"
        remedy = "correct the expression, or give the step a `when`"
        if error.missing:
            remedy = did_you_mean(error.missing, effective, f"set {error.missing} in [arguments]")
        value = toml_repr(step.set[key])
        raise InputError(Problem(what=what, key=f"oom_fallback.set.{key}", value=value, remedy=remedy)) from None


def _equal(left: Params, right: Params) -> bool:
    return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
