"""The arguments that we read from sd-scripts' source are those that its own parser takes."""

import json
import subprocess

import pytest
from small_world import Trainer

from orchestrator.kohya import argv
from orchestrator.kohya.arguments import required, schema

PARSER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import sdxl_train_network
def described(action):
    flag = type(action).__name__ in ("_StoreTrueAction", "_StoreFalseAction")
    return {
        "kind": "flag" if flag else getattr(action.type, "__name__", "str"),
        "many": action.nargs in ("*", "+"),
        "choices": [choice for choice in action.choices or () if choice is not None],
        "default": action.default,
    }
actions = sdxl_train_network.setup_parser()._actions
print("\\nPARSER " + json.dumps({action.dest: described(action) for action in actions if action.dest != "help"}))
"""


@pytest.fixture(scope="module")
def parser(trainer: Trainer) -> dict[str, dict[str, object]]:
    """Every argument as argparse itself holds it."""
    done = subprocess.run(
        [trainer.python, "-c", PARSER, trainer.sd_scripts], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout.rpartition("PARSER ")[2])


def test_names_are_the_parsers_own(trainer: Trainer, parser: dict[str, dict[str, object]]) -> None:
    assert set(schema.read_source(trainer.sd_scripts).by_name) == set(parser)


def test_types_choices_and_defaults_are_the_parsers_own(trainer: Trainer, parser: dict[str, dict[str, object]]) -> None:
    read = schema.read_source(trainer.sd_scripts).by_name
    found = {
        name: {"kind": str(key.kind), "many": key.many, "choices": list(key.choices), "default": key.default}
        for name, key in read.items()
    }
    found = {name: entry if entry["default"] != () else entry | {"default": []} for name, entry in found.items()}
    entry = {name: one | {"kind": "str" if one["kind"] == "Path" else one["kind"]} for name, one in parser.items()}
    assert found == entry


def test_tokenizers_are_read_from_the_configured_folder(trainer: Trainer) -> None:
    source = (trainer.sd_scripts / "library" / "strategy_base.py").read_text(encoding="utf-8")
    named = (trainer.sd_scripts / "library" / "strategy_sdxl.py").read_text(encoding="utf-8")
    assert 'replace("/", "_")' in source
    assert all(f'"{name.replace("_", "/", 1)}"' in named for name in argv.TOKENIZERS)


def test_everything_that_orchestrate_uses_exists(trainer: Trainer) -> None:
    assert list(required.missing(trainer.sd_scripts)) == []
