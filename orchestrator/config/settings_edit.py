"""Changes single values in the text of orchestrate.toml. Comments, order and formatting of the rest stay."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Table

from orchestrator import files
from orchestrator.errors import Conflict, Problem
from orchestrator.model import Value


def edit(text: str, changes: Mapping[tuple[str, ...], Value | None]) -> str:
    """The TOML text with these keys set, or removed where the value is None. Missing tables are added."""
    document: Any = tomlkit.parse(text.removeprefix("\ufeff"))
    for (*tables, key), value in changes.items():
        table = document
        for name in tables:
            table = table.setdefault(name, tomlkit.table())
        if value is None:
            table.pop(key, None)
        elif key in table or not isinstance(table, Table):
            table[key] = list(value) if isinstance(value, tuple) else value
        else:
            _append(table, key, list(value) if isinstance(value, tuple) else value)
    edited: str = tomlkit.dumps(document)
    if text.count("\r\n") == text.count("\n"):  # new lines end like the others
        edited = edited.replace("\r\n", "\n").replace("\n", "\r\n")
    return ("\ufeff" if text.startswith("\ufeff") else "") + edited


def _append(table: Table, key: str, value: Any) -> None:
    """Add a key after the last one: blank lines and comments at the end belong to the next table."""
    after: list[Any] = []
    while table.value.body and table.value.body[-1][0] is None:
        after.append(table.value.body.pop()[1])
    table.add(key, value)
    for item in reversed(after):
        table.add(item)


def save(path: Path, before: str, after: str) -> Path:
    """Replace the text of a file atomically; returns a copy of the old file. Raises Conflict if it had another text."""
    target = path.resolve()  # a link stays a link
    if files.read_bytes(target) != before.encode():
        raise Conflict(Problem(what="has changed meanwhile; nothing was written", where=str(path), remedy="repeat it"))
    backup = target.with_name(f"{target.name}.bak")
    shutil.copy2(target, backup)
    files.write_text(target, after)
    target.chmod(backup.stat().st_mode)
    return backup
