"""Every command in README.md and docs/ is run on a small world, or at least understood; every link leads somewhere."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from standins.world import World

from orchestrator import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINE = re.compile(r"^ {4}((?:orchestrate|make) [^#\n]+?)(?: {2,}.*| *#.*)?$", re.MULTILINE)
_INLINE = re.compile(r"`((?:orchestrate|make) [^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")

IN_ORDER = ("check", "calibrate", "plan", "probe", "run", "status", "report", "answer", "confirm", "export", "prune")
"""A reader's, and ours."""


def lines() -> Iterator[str]:
    """What stands on a line of its own, to be copied."""
    for page in PAGES:
        yield from (match[1].strip() for match in _LINE.finditer(page.read_text(encoding="utf-8")))


def mentioned() -> Iterator[str]:
    """What stands within a sentence."""
    for page in PAGES:
        yield from (match[1] for match in _INLINE.finditer(page.read_text(encoding="utf-8")))


ORCHESTRATE = list(dict.fromkeys(line for line in lines() if line.startswith("orchestrate ")))
RUN = [line for line in ORCHESTRATE if line.split()[1] in IN_ORDER]


@pytest.fixture(scope="module")
def small(tmp_path_factory, shared) -> World:
    """A world in which the commands are run one after the other."""
    made = World.build(tmp_path_factory.mktemp("docs") / "world", shared)
    made.settle()
    return made


def on(world: World, line: str) -> list[str]:
    """A command of the docs, asked of the small world: its settings, its grid, its sweep, its ranks."""
    ranks = {"network_dim=16*": "network_dim=2*", "network_dim=32*": "network_dim=4*", "network_dim=32_seed=1*": "*=4*"}
    words = shlex.split(line)[1:]
    words = ["grid" if word in ("sweep-v3", "dims") else ranks.get(word, word) for word in words]
    if "--grid" in words:
        words[words.index("--grid") + 1] = str(world.grid)
    return [words[0], "--settings", str(world.settings), *words[1:]]


@pytest.mark.parametrize("line", sorted(RUN, key=lambda line: IN_ORDER.index(line.split()[1])))
def test_the_commands_do_what_they_are_there_for(small, line):
    result = CliRunner().invoke(cli.main, on(small, line), catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("line", ORCHESTRATE)
def test_the_commands_are_understood(line):
    understood(shlex.split(line)[1:])


def understood(words: list[str]) -> None:
    """Raises click.UsageError for what the command line does not know."""
    command: click.Command = cli.main
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found, f"there is no {words[0]}"
        command, words = found, words[1:]
    command.make_context("docs", list(words))


@pytest.mark.parametrize("line", sorted({line for line in mentioned() if line.startswith("orchestrate ")}))
def test_commands_in_sentences_exist_with_their_options(line):
    word, *rest = line.split()[1:]
    if word.startswith("-"):
        return
    command = cli.main.commands[word]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {re.sub(r"\W*$", "", part.lstrip("[")) for part in rest if part.lstrip("[").startswith("--")} <= known


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("line", sorted({line for line in (*lines(), *mentioned()) if line.startswith("make ")}))
def test_make_has_the_target(line):
    target = line.split()[1]
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
