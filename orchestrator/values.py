"""Comparing values of arguments: 16.0 is 16, true is not 1, and lists are compared in order."""

import json
import math
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

from orchestrator.model import Params, Point, Scalar, Value


def canonical_json(value: Value) -> str:
    """The value as canonical JSON: equal tokens are the same value. ValueError on NaN and infinity."""
    if isinstance(value, tuple):
        return "[" + ",".join(map(_scalar_token, value)) + "]"
    return _scalar_token(value)


def same(left: Value, right: Value) -> bool:
    """Whether both mean the same to a grid."""
    if type(left) is type(right) and not isinstance(left, tuple):
        return left == right
    return canonical_json(left) == canonical_json(right)


def matches(params: Params, pattern: Params) -> bool:
    """Whether every key of `pattern` is in `params` with that value; a list matches any one of its values too."""
    return all(key in params and _accepts(wanted, params[key]) for key, wanted in pattern.items())


def from_json(value: Any) -> Any:
    """A value as read from JSON: lists become tuples."""
    return tuple(value) if isinstance(value, list) else value


def toml_repr(value: Value) -> str:
    """The value as a person would write it in TOML, for messages."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(toml_repr, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())
    return str(value).lower() if isinstance(value, bool) else repr(value)


def in_label(value: Value) -> str:
    """The value for a label: as `toml_repr`, but text without quotes."""
    return value if isinstance(value, str) else toml_repr(value)


def varied_dims(points: Iterable[Point], without: Collection[str] = ()) -> list[str]:
    """The dims of trained points with several values; all of them if none has. without: dims that do not count."""
    trained = [point for point in points if point.is_trained]
    dims = [dim for dim in dict.fromkeys(dim for point in trained for dim in point.dims) if dim not in without]
    values = {dim: {canonical_json(point.params[dim]) for point in trained if dim in point.params} for dim in dims}
    return [dim for dim in dims if len(values[dim]) > 1] or dims


def _accepts(wanted: Value, actual: Value) -> bool:
    return same(wanted, actual) or (
        isinstance(wanted, tuple) and not isinstance(actual, tuple) and any(same(one, actual) for one in wanted)
    )


@lru_cache(maxsize=4096, typed=True)  # a sweep repeats few values many times
def _scalar_token(value: Scalar) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        if value.is_integer():
            return str(int(value))
    return json.dumps(value)
