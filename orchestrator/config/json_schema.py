"""JSON schemas of settings and grids, with which editors check and complete TOML files."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import TypeAdapter

from orchestrator.config.grid.reading import GridFile
from orchestrator.config.settings import SettingsFile
from orchestrator.model import LORA, TREATMENTS


def schemas(arguments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """File name -> JSON schema. arguments: the sd-scripts arguments to offer, next to any other name."""
    return {
        "orchestrate.schema.json": _schema(SettingsFile, arguments),
        "grid.schema.json": _schema(GridFile, [*arguments, *TREATMENTS, LORA]),
    }


def _schema(kind: Any, arguments: Iterable[str]) -> dict[str, Any]:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **TypeAdapter(kind).json_schema()}
    schema["additionalProperties"] = False
    for table in _tables_of_arguments(schema):
        table["properties"] = {name: {} for name in arguments}
    return schema


def _tables_of_arguments(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict) and "patternProperties" in node:
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _tables_of_arguments(inner)
