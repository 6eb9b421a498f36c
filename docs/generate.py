"""Writes docs/settings.md from the schema of orchestrate.toml, and docs/commands.md from the help pages.

python docs/generate.py
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from pydantic import TypeAdapter

from orchestrator import cli
from orchestrator.config.json_schema import schemas
from orchestrator.config.schema import SubsetKeys
from orchestrator.kohya.inheritance import TABLES as OPTIMIZERS

HERE = Path(__file__).parent
TABLES = {
    "trainer": "Trainer", "base_models.NAME": "BaseModel", "datasets.NAME": "Dataset",
    "[datasets.NAME.subsets]": "FolderSubset", "loras.NAME": "Lora", "defaults": "Defaults",
    "generate": "Generation", "score": "Scoring", "vram": "Vram", "limits": "Limits", "early_stop": "EarlyStop",
    "comparison": "Comparison", "margins": "Margins", "notify": "Notify", "[oom_fallback]": "FallbackStep",
}  # fmt: skip
"""Table of orchestrate.toml -> its name in the schema."""

_HEAD = """# Settings

`orchestrate.toml` contains the settings that all sweeps share. `orchestrate init` writes a commented one. Paths are
relative to it, `~` is your home folder, and unknown keys are errors. `orchestrate schema` writes a JSON schema for
editors. Commands on a sweep use the file with which it was started, unless `--settings` names another one.

| key or table | content |
|---|---|
| `runs` | the folder of all sweeps; required |
| `templates` | templates of the config, dataset and prompt files; required |
| `[arguments]` | sd-scripts arguments of all points; a grid can replace them |
| `[optimizers.NAME]` | arguments for this optimizer; they replace `[arguments]`, and a grid replaces them |
| `[datasets.NAME]` with `source` | a [dataset recipe](dataset-recipes.md) |
| `[[datasets.NAME.subsets]]` | [several folders](dataset-recipes.md#several-subsets) instead of one |
"""
_COLUMNS = "| key | type | default | meaning |\n|---|---|---|---|\n"
_OPTIMIZERS = """
## Built-in values of `[optimizers.NAME]`

Settings without a table for an optimizer use these values; the shipped `orchestrate.toml` contains the same ones.
Adaptive optimizers estimate the step size and expect a learning rate of 1. The values are usual ones, not results of a
comparison.

| optimizer | `learning_rate` | `optimizer_args` |
|---|---|---|
"""
_COMMANDS = """# Commands

This page has the text that `--help` prints for each command.
"""


def settings_page() -> str:
    """One section per table of orchestrate.toml, one row per key."""
    schema = schemas(())["orchestrate.schema.json"]
    page = _HEAD
    for table, name in TABLES.items():
        known = schema["$defs"][name]
        if name == "FolderSubset":  # pydantic drops the docstrings of inherited keys
            inherited = schema["$defs"]["Dataset"]["properties"] | TypeAdapter(SubsetKeys).json_schema()["properties"]
            known = {
                **known,
                "properties": {key: {**inherited[key], **one} for key, one in known["properties"].items()},
            }
        page += f"\n## `[{table}]`\n\n{_one_line(known['description'])}\n\n{_COLUMNS}"
        page += "".join(_row(key, known) for key in known["properties"])
    return page + _optimizers()


def _optimizers() -> str:
    """The values of settings without `[optimizers.NAME]`, one row for the optimizers that share them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, table in OPTIMIZERS.items():
        rate, arguments = f"{table['learning_rate']:g}", " ".join(table["optimizer_args"])
        groups.setdefault((rate, arguments), []).append(f"`{name}`")
    rows = (f"| {', '.join(names)} | {rate} | `{words}` |".replace("``", "") for (rate, words), names in groups.items())
    return _OPTIMIZERS + "".join(f"{row}\n" for row in rows)


def commands_page() -> str:
    """The help page of each command, 80 columns wide."""
    pages = []
    for words in ("", *_names(cli.main)):
        help_words = [*words.split(), "--help"]
        shown = CliRunner().invoke(cli.main, help_words, prog_name="orchestrate", terminal_width=80)
        pages.append(f"\n## orchestrate {words}".rstrip() + f"\n\n```text\n{shown.output.rstrip()}\n```\n")
    return _COMMANDS + "".join(pages)


def _row(key: str, table: Mapping[str, Any]) -> str:
    known = table["properties"][key]
    default = "required" if key in table.get("required", ()) else _default(known)
    meaning = _one_line(known.get("description", ""))
    return f"| `{key}` | {_type(known)} | {default} | {meaning} |\n"


def _default(known: Mapping[str, Any]) -> str:
    value = known.get("default")
    return "" if value in (None, "", [], {}) else f"`{json.dumps(value)}`"


def _type(known: Mapping[str, Any]) -> str:
    if "anyOf" in known:
        return " or ".join(name for one in known["anyOf"] if (name := _type(one)) != "null")
    if "enum" in known:
        return " or ".join(f'`"{value}"`' for value in known["enum"])
    if "$ref" in known:
        return _type(schemas(())["orchestrate.schema.json"]["$defs"][known["$ref"].rsplit("/", 1)[-1]])
    kind = {"string": "text", "array": "list", "object": "table", "boolean": "true or false"}
    return kind.get(known.get("type", ""), known.get("type", "any"))


def _names(group: click.Group, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{before} {name}".strip()
        if isinstance(command, click.Group):
            yield from _names(command, f"{before} {name}".strip())


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"settings.md": settings_page, "commands.md": commands_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
