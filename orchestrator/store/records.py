"""Records: JSON objects with a schema number, written once and atomically."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from orchestrator import files, redaction
from orchestrator.errors import NotReady, OrchestrateError, Problem

_Made = TypeVar("_Made")

SCHEMA = 1

_EXACT = frozenset({"file", "checkpoint", "path", "name", "text", "failure", "status"})
"""Keys of file names, prompts and words of this program, which are never redacted."""


def write(path: Path, record: Mapping[str, Any], *, exact: bool = False) -> None:
    """Write a record with its schema number. The folder must exist.

    Secrets are redacted, unless the record is `exact`: what a program reads, and what identifies an input.
    """
    recorded = record if exact else redaction.redact_strings(record, _EXACT)
    files.write_json(path, {"schema": SCHEMA, **recorded})


def read(path: Path) -> dict[str, Any]:
    """The record without its schema number. Raises OrchestrateError when it is damaged or has another schema.

    Raises NotReady when its folder was moved while a command uses it.
    """
    if not path.parent.exists():
        what, remedy = "was moved or deleted meanwhile", "move it back, then run the same command"
        raise NotReady(Problem(what=what, where=str(path.parent), remedy=remedy))
    try:
        record = files.read_json(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(record, dict):
        raise _damaged(path, "its content is not a JSON object")
    if record.pop("schema", None) != SCHEMA:
        what, remedy = "was written by another version of orchestrate", "use the version that wrote it"
        raise OrchestrateError(Problem(what=what, where=str(path), remedy=remedy))
    return record


def parse(path: Path, make: Callable[[dict[str, Any]], _Made]) -> _Made:
    """What `make` makes of a record. Raises as `read`, also when a key is missing or a value has a wrong type."""
    record = read(path)
    try:
        return make(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"its content is not as expected: {type(error).__name__}: {error}") from error


def require_types(record: dict[str, Any], types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """The record, for `parse`. Raises TypeError when a value that is there has another type."""
    for key in types.keys() & record.keys():
        if not isinstance(record[key], types[key]):
            raise TypeError(f"{key} is {type(record[key]).__name__}")
    return record


def _damaged(path: Path, reason: str) -> OrchestrateError:
    run = next((folder for folder in path.parents if (folder / "point.json").exists()), None)
    moved = run or (path.parent if path.name == "sweep.json" else path)
    remedy = f"move {moved} out of {moved.parent}, then run the same command"
    return OrchestrateError(Problem(what=f"cannot be read: {reason}", where=str(path), remedy=remedy))
