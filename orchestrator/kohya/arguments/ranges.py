"""Intervals of allowed numbers (ranges.toml), and how to describe them."""

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Range:
    """An interval; `closed` says for each bound whether it belongs to it."""

    low: float
    high: float
    closed: tuple[bool, bool]

    def __contains__(self, number: float) -> bool:
        above = number > self.low or (self.closed[0] and number == self.low)
        return above and (number < self.high or (self.closed[1] and number == self.high))

    def __str__(self) -> str:
        """`0 or more`, `above 0 and below 1`, `from 0 to 1`."""
        low = f"{self.low:g} or more" if self.closed[0] else f"above {self.low:g}"
        high = f"{self.high:.10g} or less" if self.closed[1] else f"below {self.high:.10g}"
        if math.isinf(self.high):
            return low
        return f"from {self.low:g} to {self.high:.10g}" if all(self.closed) else f"{low} and {high}"


@cache
def ranges(section: str) -> Mapping[str, Range]:
    """The intervals of `arguments`, `network_args`, `optimizer_args` or `lr_scheduler_args` by name."""
    written = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))[section]
    return {name: _parsed(text) for name, text in written.items()}


def _parsed(text: str) -> Range:
    bounds = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", text)
    if bounds is None:
        raise ValueError(f"{text} is not an interval")
    return Range(float(bounds[2]), float(bounds[3]), (bounds[1] == "[", bounds[4] == "]"))


def literal_issues(section: str, name: str, value: object) -> Iterator[tuple[str, str]]:
    """As `issues`, of a Python literal: one number or several; other values have no range."""
    numbers = value if isinstance(value, tuple | list) else (value,)
    plain = [float(one) for one in numbers if isinstance(one, int | float) and not isinstance(one, bool)]
    return issues(section, name, plain)


def issues(section: str, name: str, numbers: Iterator[float] | list[float]) -> Iterator[tuple[str, str]]:
    """An issue and its remedy for the first number that is outside of the interval of `name`."""
    allowed = ranges(section).get(name)
    wrong = next((number for number in numbers if allowed is not None and number not in allowed), None)
    if wrong is None:
        return
    what = f"{name} must be {allowed}, not {wrong:.10g}"
    if allowed is not None and allowed.high == 1 and 1 < wrong <= 100 and wrong / 100 in allowed:
        yield what, f"write {wrong / 100:g} for {wrong:g} percent"
    elif section == "arguments":
        yield what, "write a value in this range, or remove it for sd-scripts' default"
    else:
        yield what, "write a value in this range, or remove it"
