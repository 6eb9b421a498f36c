"""Writes CSV tables: unknown values are empty, floats have six digits, and text is safe in spreadsheets."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from orchestrator import files
from orchestrator.text import escape_formula


def write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """(Re)write a table atomically; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, table(columns, rows))


def table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """The table as text. Columns that a row lacks are empty; keys that are no columns are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape_formula(value) if isinstance(value, str) else value
