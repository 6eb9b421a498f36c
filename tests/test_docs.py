"""Every command in README.md, docs/ and help pages is run; every link in the docs resolves."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import docs_in_clone
import pages
import pytest
import test_help
from click.testing import CliRunner
from pages import PAGES, ROOT
from standins.world import BASE, World

from orchestrator import cli

_MODULE = re.compile(r"python -m ([\w.]+)")
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")

IN_ORDER = (
    *(
        "--help",
        "init",
        "demo",
        "schema",
        "check",
        "dataset",
        "calibrate",
        "plan",
        "probe",
        "run",
        "status",
        "results",
        "list",
        "report",
        "open",
        "answer",
        "sheet",
        "score",
        "vote",
    ),
    *("next", "adopt", "confirm", "transfer", "export", "bug-report", "prune", "completion"),
)
"""The order in which a reader runs them."""

STAND_FOR = {
    "SWEEP": "sweep-v3",
    "SWEEP...": "sweep-v3",
    "demo": "sweep-v3",
    "BASE": "juggernautxl-v9",
    "persona": "portraits",
} | dict.fromkeys(("G", "GRID", "my.toml", "grids/..."), "grids/sweep-v3.toml")
"""Values for placeholders."""

MAKE_HERE = ("help", "plan-v3", "sweep-v3", "report-v3")
"""Targets that run in the small world; tests/docs_in_clone.py runs the others."""

ON_A_CLUSTER = [
    line for line in pages.lines(ROOT / "docs" / "several-gpus.md") if line.startswith("ray ") or "--cluster" in line
]
"""tests/test_cluster.py runs these."""

READERS = ("optimizers.toml", "ranks.toml", "smallest-rank.toml")
"""Grids that the pages tell a reader to write."""

_V3 = (ROOT / "grids" / "sweep-v3.toml").read_text(encoding="utf-8").replace("[1, 2, 3]", "[1]")
_ONE_POINT = "[dims]\nnetwork_dim = [2]\n"
_NAMED_IN_DOCS = f"""
[defaults]
base_model = "doll"
dataset = "portraits"
[base_models.juggernautxl-v9]
path = "{BASE}"
[datasets.face-crop]
source = "portraits"
crop = {{ crop_region = "face", smallest = 32 }}
"""


def filled_in(line: str) -> str:
    """Without placeholders, and without what the shell does with the output."""
    program, command, *rest = [word.strip("[]") for word in shlex.split(line.partition(" > ")[0])]
    return shlex.join([program, command, *(STAND_FOR.get(word, word) for word in rest)])


def is_name(line: str) -> bool:
    """Whether a sentence only names a command, without arguments."""
    return len(line.split()) == 2 and not line.endswith("--help")


def is_ours(line: str) -> bool:
    return line.startswith("orchestrate ")


COPIED = {filled_in(line) for line in pages.lines() if is_ours(line) and line not in ON_A_CLUSTER}
SAID = {filled_in(line) for line in pages.mentioned() if is_ours(line) and not is_name(line)}
EXAMPLES = {filled_in(line) for words in test_help.COMMANDS for line in test_help.examples(words)}
ELSEWHERE = ("init", "demo", "import")
"""Commands that tests/test_project.py, tests/test_import.py and `make demo` run."""
WITH_SD_SCRIPTS = "--deep"
"""tests/test_check.py and tests/vendor/test_contract_check.py run this."""
RUN = sorted(
    (line for line in COPIED | SAID | EXAMPLES if line.split()[1] not in ELSEWHERE and WITH_SD_SCRIPTS not in line),
    key=lambda line: (IN_ORDER.index(line.split()[1]), line),
)


@pytest.fixture
def small(world: World) -> World:
    """A project folder with everything that docs and help pages name: grids, a dataset, another base model."""
    world.settle(sections=_NAMED_IN_DOCS)
    (world.folder / "grids").mkdir()
    for name in ("other-people", "comfyui-output"):
        shutil.copytree(world.folder / "images", world.folder / name)
    for name in (*READERS, *(path.name for path in (ROOT / "grids").glob("*.toml"))):
        text = _V3 if name in ("ranks.toml", "sweep-v3.toml") else _ONE_POINT
        (world.folder / "grids" / name).write_text(text, encoding="utf-8")
    return world


def save_votes(words: list[str]) -> None:
    """The file that the page of `orchestrate vote SWEEP` saves."""
    (key,) = Path("runs").glob(f"{words[2]}/votes/*/ballot.json")
    record = {"ballot": key.parent.name, "session": "0" * 32, "voter": "Ann", "revision": 0, "answers": {}}
    Path(words[-1]).write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.nightly
def test_all_commands_succeed(small):
    """Literally, one after the other, as by a reader of all pages."""
    with chdir(small.folder):
        for line in RUN:
            if "--import" in line:
                save_votes(shlex.split(line))
            result = CliRunner().invoke(cli.main, shlex.split(line)[1:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"


def test_other_commands_are_run_in_a_clone_or_on_a_cluster():
    """tests/docs_in_clone.py takes half an hour and is not part of `make test`."""
    elsewhere = {*(command.said for command in docs_in_clone.COMMANDS), docs_in_clone.TENSORBOARD, *ON_A_CLUSTER}
    here = {f"make {target}" for target in MAKE_HERE}
    assert pages.others() - here == {line for line in elsewhere if not is_ours(line)}


@pytest.mark.parametrize("line", sorted({line for line in pages.mentioned() if is_ours(line)}))
def test_commands_in_sentences_exist_with_their_options(line):
    word, *rest = line.split()[1:]
    if word.startswith("-"):
        return
    command = cli.main.commands[word]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {re.sub(r"\W*$", "", part.lstrip("[")) for part in rest if part.lstrip("[").startswith("--")} <= known


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_targets_succeed(small):
    (small.folder / "grids" / "sweep-v3.toml").write_text(_ONE_POINT, encoding="utf-8")
    known = ["-f", str(ROOT / "Makefile"), "-C", str(small.folder), "-o", "setup", f"BIN={Path(sys.executable).parent}"]
    for target in MAKE_HERE:
        done = subprocess.run(["make", *known, target], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (small.folder / "runs" / "sweep-v3" / "report" / "report.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_programs_exist(page):
    named = set(_MODULE.findall(page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_resolve(page):
    targets = [target for target in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_pages_exist(page):
    named = re.findall(r"\bdocs/[\w-]+\.md", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_named_grids_exist():
    named = {name for page in PAGES for name in re.findall(r"\bgrids/[\w-]+\.toml", page.read_text(encoding="utf-8"))}
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == {f"grids/{name}" for name in READERS}


@pytest.mark.parametrize("name", ["settings.md", "commands.md"])
def test_generated_pages_are_current(name):
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run python docs/generate.py"
