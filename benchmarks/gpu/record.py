"""What was measured, in one JSON file that grows by a cell at a time, and one Markdown file made from it."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1


class Record:
    """`folder/gpu.json`: {"schema", "machine", "parts": {part: {cell: figures}}}."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "gpu.json"
        self._table = folder / "gpu.md"
        folder.mkdir(parents=True, exist_ok=True)
        empty: dict[str, Any] = {"schema": SCHEMA, "machine": {}, "parts": {}}
        self._content = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else empty

    def machine(self, facts: Mapping[str, Any]) -> None:
        self._content["machine"].update(facts)
        self._write()

    def has(self, part: str, key: str) -> bool:
        """True when the cell was measured; a failure is measured again, unless it is out of memory."""
        figures = self._content["parts"].get(part, {}).get(key)
        return figures is not None and figures.get("failure", "oom") == "oom"

    def under(self, part: str, start: str) -> bool:
        """True when the part has a cell whose name begins so."""
        return any(key.startswith(f"{start}: ") for key in self._content["parts"].get(part, {}))

    def add(self, part: str, key: str, figures: Mapping[str, Any]) -> None:
        """Keep a cell and write both files; prints it."""
        self._content["parts"].setdefault(part, {})[key] = dict(figures)
        self._write()
        shown = "  ".join(f"{name} {value}" for name, value in figures.items())
        print(f"{part}: {key}: {shown}", flush=True)

    def _write(self) -> None:
        _replace(self._file, json.dumps(self._content, indent=1) + "\n")
        _replace(self._table, markdown(self._content))


def _replace(file: Path, text: str) -> None:
    unfinished = file.with_suffix(f"{file.suffix}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, file)  # noqa: PTH105 (one call, and the name says what it does)


def markdown(content: Mapping[str, Any]) -> str:
    """One table per part, columns as the figures name them."""
    machine = ", ".join(f"{key} {value}" for key, value in content["machine"].items())
    sections = [f"{machine}\n"]
    for part, measured in content["parts"].items():
        sections.append(f"## {part}\n\n" + "\n".join(_table(measured)) + "\n")
    return "\n".join(sections)


def _table(measured: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    columns = list(dict.fromkeys(name for figures in measured.values() for name in figures))
    yield _row(["cell", *columns])
    yield _row(["---"] * (len(columns) + 1))
    for key, figures in measured.items():
        yield _row([key, *(str(figures.get(name, "")) for name in columns)])


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"
