"""Every command in README.md and docs/ is run on a small world, or it is said why not; every link leads somewhere."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner
from standins.world import BASE, World

from orchestrator import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINE = re.compile(r"^ {4}(?:\w+\$ +)?((?:orchestrate|make) [^#\n]+?)(?: {2,}.*| *#.*)?$", re.MULTILINE)
_INLINE = re.compile(r"`((?:orchestrate|make) [^`\n]+)`")
_MODULE = re.compile(r"python -m ([\w.]+)")
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")

IN_ORDER = (
    *("--help", "check", "dataset", "calibrate", "plan", "probe", "run", "status", "report", "answer"),
    *("confirm", "transfer", "export", "prune"),
)
"""A reader's, and ours."""

STAND_FOR = {"SWEEP": "dims", "SWEEP...": "dims", "BASE": "juggernautxl-v9"} | dict.fromkeys(
    ("G", "my.toml", "grids/...", "grids/dims.toml"), "grids/sweep-v3.toml"
)
"""What a reader puts in the place of the words that stand for something of their own."""

NEEDS_RAY = "orchestrate run --cluster auto --grid grids/sweep-v3.toml"
"""An extra with machines of its own: tests/test_cluster.py drives sweeps on real nodes."""

MAKE_NOT_HERE = {
    "setup": "makes an environment from PyPI, in minutes: how CI begins",
    "setup-trainer": "fetches sd-scripts, and PyTorch with CUDA",
    "gpu-scoring": "takes another onnxruntime into the environment that these tests run in",
    "bench-gpu": "needs a CUDA card",
    "tensorboard-v3": "needs the trainer's environment, and serves until it is ended",
    "demo": "trains for minutes: CI runs it, and test_demo.py a shorter one",
    "demo-oom": "the same",
    "test": "would run this very test, without end",
    "test-vendor": "needs the submodule and the trainer's environment: tests/vendor",
    "torture": "kills a sweep for an hour: test_torture.py does so for seconds",
}

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
crop = {{ around = "face", smallest = 32 }}
"""


def lines() -> Iterator[str]:
    """What stands on a line of its own, to be copied."""
    for page in PAGES:
        yield from (match[1].strip() for match in _LINE.finditer(page.read_text(encoding="utf-8")))


def mentioned() -> Iterator[str]:
    """What stands within a sentence."""
    for page in PAGES:
        yield from (match[1] for match in _INLINE.finditer(page.read_text(encoding="utf-8")))


def filled_in(line: str) -> str:
    words = [word.strip("[]") for word in shlex.split(line)]
    return shlex.join(STAND_FOR.get(word, word) for word in words)


def is_name(line: str) -> bool:
    """Whether a sentence only names a command."""
    return len(line.split()) == 2 and not line.endswith("--help")


def is_ours(line: str) -> bool:
    return line.startswith("orchestrate ")


COPIED = {filled_in(line) for line in lines() if is_ours(line)}
SAID = {filled_in(line) for line in mentioned() if is_ours(line) and not is_name(line)}
RUN = sorted((COPIED | SAID) - {NEEDS_RAY}, key=lambda line: (IN_ORDER.index(line.split()[1]), line))


@pytest.fixture
def small(world: World) -> World:
    """A folder like this project's, with everything small that docs name: grids, a dataset, a further base model."""
    world.settle(sections=_NAMED_IN_DOCS)
    (world.folder / "grids").mkdir()
    for name in ("dims.toml", "grids/sweep-v3.toml"):
        (world.folder / name).write_text(_V3, encoding="utf-8")
    for name in ("grids/demo.toml", "grids/demo-oom.toml"):
        (world.folder / name).write_text(_ONE_POINT, encoding="utf-8")
    return world


def test_the_commands_do_what_they_are_there_for(small):
    """Word for word, one after the other, as a reader of all pages would."""
    with chdir(small.folder):
        for line in RUN:
            result = CliRunner().invoke(cli.main, shlex.split(line)[1:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"


def test_the_one_that_needs_a_cluster_is_at_least_understood():
    assert NEEDS_RAY in COPIED
    _, command, *words = shlex.split(NEEDS_RAY)
    cli.main.commands[command].make_context("docs", words)


@pytest.mark.parametrize("line", sorted({line for line in mentioned() if is_ours(line)}))
def test_commands_in_sentences_exist_with_their_options(line):
    word, *rest = line.split()[1:]
    if word.startswith("-"):
        return
    command = cli.main.commands[word]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {re.sub(r"\W*$", "", part.lstrip("[")) for part in rest if part.lstrip("[").startswith("--")} <= known


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
class TestMake:
    NAMED = sorted({line.split()[1] for line in (*lines(), *mentioned()) if line.startswith("make ")})

    def test_targets_that_need_no_more_than_this_do_what_they_are_there_for(self, small):
        (small.folder / "grids" / "sweep-v3.toml").write_text(_ONE_POINT, encoding="utf-8")
        targets = {*self.NAMED, "report-v3", "help"} - set(MAKE_NOT_HERE)
        for target in sorted(targets, key=["help", "plan-v3", "sweep-v3", "report-v3"].index):
            done = self.make(target, "-C", str(small.folder), "-o", "setup", f"BIN={Path(sys.executable).parent}")
            assert done.returncode == 0, done.stderr
        assert (small.folder / "runs" / "sweep-v3" / "report" / "report.html").exists()

    @pytest.mark.parametrize("target", MAKE_NOT_HERE)
    def test_the_others_are_there_and_named(self, target):
        done = self.make("-n", target)
        assert done.returncode == 0, done.stderr
        assert target in self.NAMED

    @staticmethod
    def make(*words: str) -> "subprocess.CompletedProcess[str]":
        argv = ["make", "-f", str(ROOT / "Makefile"), *words]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_that_are_named_exist(page):
    named = set(_MODULE.findall(page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    targets = [target for target in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_that_are_named_exist(page):
    named = re.findall(r"\bdocs/[\w-]+\.md", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_grids_that_are_named_exist():
    named = {name for page in PAGES for name in re.findall(r"\bgrids/[\w-]+\.toml", page.read_text(encoding="utf-8"))}
    named.discard("grids/dims.toml")  # any grid's place, in docs/design.md
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
