"""Imports point downwards: the table of docs/design.md, held against the code."""

import ast
from pathlib import Path

import pytest

import orchestrator

PACKAGE = Path(orchestrator.__file__).parent

FLOORS = (
    {"errors", "recipe"},
    {"model"},
    {"quantities", "values", "discretion", "toml_lines", "toml_text", "expressions", "toml_file"},
    {"grid", "render", "ladder", "evidence", "vram_model", "dataset_settings"},
    {"kohya", "shim", "process", "locks", "vram", "host", "media", "faces", "provenance"},
    {"store", "thumbnails"},
    {"scorer", "context", "outcome", "attempt"},
    {"stages", "datasets"},
    {"yardstick", "fresh"},
    {"facts", "report", "view", "experience", "measure", "forecast", "settings"},
    {"schedule"},
    {"pool"},
    {"cluster"},
    {"answers", "questions_page", "beside", "mistakes", "plan", "readiness", "inspection", "freeze", "sweep", "probe"},
    {"bill", "confirm", "transfer", "dataset_page", "page", "export", "prune", "sharing", "webhook"},
    {"console"},
    {"cli"},
)
"""Lowest first. A room imports from floors below its own; within a floor only as SAME_FLOOR says."""

SAME_FLOOR = {
    ("toml_file", "values"), ("toml_file", "toml_lines"), ("toml_text", "values"), ("expressions", "values"),
    ("process", "shim"), ("provenance", "shim"), ("attempt", "context"), ("attempt", "outcome"),
    ("report", "facts"), ("freeze", "plan"),
    ("forecast", "experience"), ("forecast", "measure"), ("plan", "mistakes"),
    ("inspection", "readiness"), ("inspection", "plan"),
    ("stages", "datasets"), ("probe", "plan"), ("beside", "plan"), ("probe", "sweep"),
}  # fmt: skip

LAZY = {"pandas", "insightface", "onnxruntime", "pynvml", "torch", "rich", "scipy", "numpy"}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, dotted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(path: Path) -> set[str]:
    dotted = [name.split(".") for name in imports(path) if name.startswith("orchestrator.")]
    return {parts[1] for parts in dotted if len(parts) > 1 and not parts[1].startswith("__")}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    room = room_of(path)
    if room == "miniature":
        allowed = {"miniature", "kohya", "render", "toml_text", "errors", "model", "faces", "media"}
        assert rooms_imported(path) <= allowed, "the miniature stands beside the program, not in it"
        return
    floor = next(index for index, rooms in enumerate(FLOORS) if room in rooms)
    below = set().union(*FLOORS[:floor], {room}, {other for one, other in SAME_FLOOR if one == room})
    assert rooms_imported(path) <= below


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_miniature_trains(path):
    if room_of(path) != "miniature" and path.name not in ("prompter.py", "adherence.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "library", "networks"}


def test_every_room_stands_on_a_floor():
    rooms = {room_of(path) for path in FILES} - {"miniature"}
    assert rooms <= set().union(*FLOORS)


def test_the_command_line_loads_nothing_heavy():
    files = (PACKAGE / "cli").glob("*.py")
    names = {name.split(".")[0] for path in files for name in imports(path, top_level_only=True)}
    assert "click" in names
    assert not names & LAZY
