"""A built dataset as tables: its images, what was dropped and why."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from orchestrator.datasets.triage import Triaged

_NAMED = 12


def page(record: Mapping[str, Any]) -> RenderableType:
    """Render the record of dataset.json."""
    dropped, made = record.get("dropped", []), record.get("made", [])
    head = f"{record['name']}, made from {record['source']}: {len(record['pictures'])} images"
    parts: list[RenderableType] = [escape(head + (f", {len(dropped)} dropped" if dropped else "")), ""]
    if made:
        parts += [_images(made), ""]
    if dropped:
        parts.append(_dropped(dropped))
    return Group(*parts)


def triage(found: Sequence[Triaged], balance: str) -> RenderableType:
    """The recommendation for each image, those to remove first, and the balance of the images."""
    table = _table("image", "pixels", "blur", "similarity", "shows", "recommendation")
    for one in sorted(found, key=lambda one: (not one.remove, not one.check)):
        size = f"{one.size[0]} x {one.size[1]}" if one.size else ""
        numbers = ["" if value is None else f"{value:.2f}" for value in (one.blur, one.similarity)]
        table.add_row(escape(one.path.name), size, *numbers, one.framing, escape(one.recommendation))
    counts = Counter(one.recommendation.partition(":")[0] for one in found)
    verdicts = ", ".join(f"{counts[name]} {name}" for name in ("keep", "check", "remove"))
    return Group(table, "", f"{verdicts}. Nothing is deleted.", escape(balance), "")


def _images(made: list[Mapping[str, Any]]) -> Table:
    table = _table("image", "source", "crop", "notes")
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
    table = _table("dropped because", "number", "images")
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
