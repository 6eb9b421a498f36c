"""A built dataset as tables: its pictures, what was dropped and why."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

_NAMED = 12


def page(record: Mapping[str, Any]) -> RenderableType:
    """Render the record of dataset.json."""
    dropped, made = record.get("dropped", []), record.get("made", [])
    head = f"{record['name']}, made from {record['source']}: {len(record['pictures'])} pictures"
    parts: list[RenderableType] = [escape(head + (f", {len(dropped)} dropped" if dropped else "")), ""]
    if made:
        parts += [_pictures(made), ""]
    if dropped:
        parts.append(_dropped(dropped))
    return Group(*parts)


def _pictures(made: list[Mapping[str, Any]]) -> Table:
    table = _table("picture", "source", "crop", "notes")
    for one in made:
        crop = one["crop"]
        size = f"{crop[2] - crop[0]} x {crop[3] - crop[1]}" if crop else ""
        table.add_row(escape(one["name"]), escape(_origin(one)), size, escape("; ".join(one["notes"])))
    return table


def _dropped(dropped: list[Mapping[str, Any]]) -> Table:
    """By reason, the most frequent first."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for one in dropped:
        reasons[one["why"]].append(_origin(one))
    table = _table("dropped because", "number", "pictures")
    for why, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        table.add_row(escape(why), str(len(names)), escape(", ".join(names[:_NAMED]) + more))
    return table


def _origin(one: Mapping[str, Any]) -> str:
    at = f" at {one['time_s']:.2f} s" if one.get("time_s") is not None else ""
    return Path(one["origin"]).name + at


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
