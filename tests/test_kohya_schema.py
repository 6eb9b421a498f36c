"""The accepted arguments equal those of the real parser, and the snapshot equals the source."""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.errors import NotReady
from orchestrator.kohya.arguments import schema
from orchestrator.kohya.arguments.schema import Argument, Kind

SD_SCRIPTS = Path(os.environ.get("ORCHESTRATE_SD_SCRIPTS", Path(__file__).parents[1] / "vendor" / "sd-scripts"))
PYTHON = os.environ.get("ORCHESTRATE_TRAINER_PYTHON", "")

DUMP = """
import json, sys
sys.path.insert(0, sys.argv[1])
import sdxl_train_network
print("DUMP" + json.dumps([
    [action.dest, getattr(action.type, "__name__", None), type(action).__name__, action.nargs,
     list(action.choices or []), action.default]
    for action in sdxl_train_network.setup_parser()._actions
]))
"""


def test_the_snapshot_is_of_the_pinned_commit() -> None:
    found = schema.load_schema(None)
    assert found.origin == schema.PINNED
    assert len(found.by_name) == 196
    assert found.by_name["network_dim"] == Argument(
        name="network_dim", kind=Kind.INT, where="train_network.setup_parser"
    )
    assert found.by_name["optimizer_args"].many
    assert found.by_name["mixed_precision"].choices == ("no", "fp16", "bf16")
    assert found.by_name["save_precision"].choices == ("float", "fp16", "bf16")  # None is absence, not a choice
    assert found.by_name["lr_warmup_steps"].kind is Kind.INT_OR_FLOAT
    assert found.by_name["sdpa"].default is False


@pytest.mark.skipif(not (SD_SCRIPTS / "sdxl_train_network.py").exists(), reason="sd-scripts is not checked out")
def test_the_snapshot_equals_the_source() -> None:
    start = time.process_time()
    read = schema.load_schema(SD_SCRIPTS)
    assert time.process_time() - start < 2
    assert read.origin == str(SD_SCRIPTS)
    assert read.by_name == schema.read_snapshot().by_name


@pytest.mark.vendor
@pytest.mark.skipif(not PYTHON, reason="needs the trainer's interpreter")
def test_the_snapshot_equals_the_real_parser() -> None:
    done = subprocess.run([PYTHON, "-c", DUMP, str(SD_SCRIPTS)], capture_output=True, text=True, check=True)
    actions = json.loads(done.stdout.partition("DUMP")[2])
    real = {
        dest: (made_by or "str" if action == "_StoreAction" else "flag", nargs == "*", choices, default)
        for dest, made_by, action, nargs, choices, default in actions
        if dest != "help"
    }
    ours = {
        name: ("Path" if name == "dataset_config" else key.kind, key.many, list(key.choices), key.default)
        for name, key in schema.read_snapshot().by_name.items()
    }
    for name, (kind, many, choices, default) in real.items():
        assert ours[name] == (kind, many, [choice for choice in choices if choice is not None], default), name
    assert ours.keys() == real.keys()


def write(root: Path, setup: str, helper: str = "") -> Path:
    (root / "library").mkdir()
    (root / "sdxl_train_network.py").write_text(f"from library import helper\nfrom library.helper import more\n{setup}")
    (root / "library" / "helper.py").write_text(helper)
    return root


def test_parsers_are_followed_through_modules_and_imported_names(tmp_path: Path) -> None:
    setup = """
SIZES = ("small", None, "large")
def setup_parser():
    parser = argparse.ArgumentParser()
    helper.add_them(parser)
    more(parser)
    parser.add_argument("-s", "--the-size", type=str, choices=SIZES, default="small")
    return parser
"""
    helper = """
def add_them(parser):
    if True:
        parser.add_argument("--many", type=float, nargs="*", default=None)
        parser.add_argument("--path", type=pathlib.Path)
def more(parser):
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--bare")
"""
    found = schema.load_schema(write(tmp_path, setup, helper)).by_name
    assert list(found) == ["many", "path", "flag", "bare", "the_size"]
    assert found["many"] == Argument(name="many", kind=Kind.FLOAT, many=True, where="helper.add_them")
    assert found["path"].kind is found["bare"].kind is Kind.STR
    assert (found["flag"].kind, found["flag"].default) == (Kind.FLAG, False)
    assert found["the_size"].choices == ("small", "large")


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("import library.deep.more as more_util", "more_util.add_them(parser)"),
        ("import library.deep.more", "library.deep.more.add_them(parser)"),
        ("from library import deep", "deep.add_all(parser)"),
        ("from library.deep import more as m", "m.add_them(parser)"),
        ("from library.deep.more import add_them as add", "add(parser)"),
        ("from library.deep import add_all", "add_all(parser)"),
    ],
)
def test_imports_of_every_form_are_followed(tmp_path: Path, imports: str, call: str) -> None:
    deep = tmp_path / "library" / "deep"
    deep.mkdir(parents=True)
    (deep / "__init__.py").write_text("from .more import add_them\ndef add_all(parser):\n    add_them(parser)\n")
    (deep / "more.py").write_text('def add_them(parser):\n    parser.add_argument("--found", type=int)\n')
    (tmp_path / "sdxl_train_network.py").write_text(f"{imports}\ndef setup_parser():\n    {call}\n")
    found = schema.load_schema(tmp_path).by_name
    assert found == {"found": Argument(name="found", kind=Kind.INT, where="more.add_them")}


@pytest.mark.parametrize(
    "argument",
    [
        'parser.add_argument("--x", action="append")',
        'parser.add_argument("--x", type=weird)',
        'parser.add_argument("--x", nargs=2)',
        'parser.add_argument("--x", choices=UNKNOWN)',
        "helper.nowhere(parser)",
        "def broken(:",
    ],
)
def test_a_source_that_is_not_understood_is_rejected_with_a_remedy(tmp_path: Path, argument: str) -> None:
    root = write(tmp_path, f"def setup_parser():\n    {argument}\n")
    with pytest.raises(NotReady) as raised:
        schema.load_schema(root)
    assert schema.PINNED in raised.value.problems[0].remedy
    assert raised.value.problems[0].where == str(root)


def test_reading_a_source_agrees_with_argparse(tmp_path: Path) -> None:
    body = """
    parser.add_argument("--rate", type=float, default=2.0e-6)
    parser.add_argument("--names", type=str, nargs="*")
    parser.add_argument("--level", type=int, default=2, choices=[0, 1, 2])
    parser.add_argument("--on", action="store_true")
"""
    parser = argparse.ArgumentParser()
    exec(f"if True:\n{body}", {"parser": parser})
    read = schema.load_schema(
        write(tmp_path, f"def setup_parser():\n    parser = argparse.ArgumentParser(){body}")
    ).by_name
    for action in parser._actions[1:]:
        assert read[action.dest].default == action.default
        assert list(read[action.dest].choices) == list(action.choices or [])
        assert read[action.dest].many is (action.nargs == "*")


def test_the_submodule_is_pinned_to_the_known_commit() -> None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a checkout: there is no submodule")
    done = subprocess.run(["git", "ls-tree", "HEAD", "vendor/sd-scripts"], cwd=root, capture_output=True, text=True)
    assert done.stdout.split()[:3] == ["160000", "commit", schema.PINNED]
