"""Every dotted key that a message names exists in the settings, and every [table] in settings or grids."""

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

from orchestrator.config.grid.reading import GridFile
from orchestrator.config.settings import SettingsFile

PACKAGE = Path(__file__).parents[1] / "orchestrator"
ALIASES = {"generation": "generate", "scoring": "score"}
"""Names of tables in the code that a user does not know."""


def tables():
    """Table -> its keys; a table of named tables has the keys of these."""
    found = {}
    for name, hint in get_type_hints(SettingsFile).items():
        options = [hint, *get_args(hint), *(one for part in get_args(hint) for one in get_args(part))]
        found[name] = {field.name for one in options if is_dataclass(one) for field in fields(one)}
    return found


TABLES = tables()
NAMED = ("base_models", "datasets", "optimizers", "arguments")
"""Tables whose keys are names that a user chooses."""


def texts():
    """Every string of the code that a person could read: file, line, text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "miniature" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value


def wrong(text):
    names = "|".join((*TABLES, *ALIASES))
    for table, key in re.findall(rf"(?<![\w./])({names})\.([a-z_]+)(?![\w(/]|\.(?:py))", text):
        if key != "csv" and (table in ALIASES or (table not in NAMED and TABLES[table] and key not in TABLES[table])):
            yield f"{table}.{key}"
    for table in re.findall(r"\b(?:in|under|to|of|remove|add|above) \[([a-z_]+)(?:\.[A-Z]+)?\](?!\])", text):
        if table not in {*TABLES, *GridFile.__annotations__}:
            yield f"[{table}]"


def test_messages_name_existing_keys():
    assert {where: names for where, text in texts() if (names := list(wrong(text)))} == {}


def test_a_wrong_key_is_found():
    assert list(wrong("set scoring.pack or score.packs in [scorer]")) == ["scoring.pack", "score.packs", "[scorer]"]
    assert list(wrong("set score.pack, vram.card, datasets.persona in [score] and [trainer.env]")) == []
