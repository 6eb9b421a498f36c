"""Help pages: summaries fit 80 columns, every command has an example that parses and says what it writes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from rich.console import Console as Terminal
from rich.markup import escape

from orchestrator import cli
from orchestrator.cli.console import Console


def commands(group: click.Group = cli.main, *names: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield " ".join((*names, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)


def page(words: str) -> str:
    result = CliRunner().invoke(cli.main, [*words.split(), "--help"], env={"COLUMNS": "80"}, terminal_width=80)
    assert result.exit_code == 0
    return result.output


COMMANDS = dict(commands())


def examples(words: str) -> list[str]:
    """The command lines of a help page."""
    return re.findall(r"^    (orchestrate .+)$", page(words), re.MULTILINE)


def test_every_command_is_listed_once_under_a_step_with_its_whole_summary() -> None:
    text = page("")
    for name, command in cli.main.commands.items():
        summary = (command.help or "").splitlines()[0]
        assert re.findall(rf"^  {name} +(.+)$", text, re.MULTILINE) == [summary]
        assert summary.endswith(".")
    assert [line for line in text.splitlines()[1:] if len(line) > 80 or "..." in line] == []
    assert re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE)[1:] == [
        "Prepare", "Run", "View results", "Use the best LoRA"
    ]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
def test_every_page_has_an_example_that_parses(words: str) -> None:
    lines = examples(words)
    assert lines
    assert [line for line in page(words).splitlines() if len(line) > 80] == []
    for line in lines:
        args = shlex.split(line)[1:]
        named = [name for name in COMMANDS if args[: len(name.split())] == name.split()]
        name = max(named, key=len)
        assert name.startswith(words)
        COMMANDS[name].make_context(name, args[len(name.split()) :])


@pytest.mark.parametrize("words", [name for name, command in COMMANDS.items() if not isinstance(command, click.Group)])
def test_every_page_says_what_the_command_writes(words: str) -> None:
    assert re.search(r"^  Writes(:$| nothing)", page(words), re.MULTILINE)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Name a grid file: `orchestrate plan grids/sweep-v3.toml`."),
        (["a.toml", "--grid", "b.toml"], "Name the grid once: as GRID or with --grid."),
    ],
)
def test_a_grid_is_named_exactly_once(args: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.main, ["plan", *args])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("name", [name for name, one in COMMANDS.items() if not isinstance(one, click.Group)])
def test_a_command_in_a_message_gets_the_settings_if_it_takes_them(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Console(settings=" --settings mine.toml").sentence(f"repeat `orchestrate {name} X`")
    takes = any("--settings" in one.opts for one in COMMANDS[name].params)
    assert capsys.readouterr().out == f"repeat `orchestrate {name} X{' --settings mine.toml' if takes else ''}`\n"


def test_a_command_in_a_message_stays_on_one_line_of_a_terminal() -> None:
    command = "`git clone https://example.org/x && git -C x checkout 01234567`"
    wrapped = Console()._wrapped(
        f"run it: {command} and then run the same command again", Terminal(width=30, force_terminal=True)
    )
    assert wrapped.splitlines() == ["run it:", f"    {command}", "    and then run the same", "    command again"]


def test_a_message_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Console().message("prompt <lora:x:0.8> [b]")
    Console().page(escape("prompt <lora:x:0.8> [b]"))
    printed = capsys.readouterr()
    assert (printed.err, printed.out) == ("prompt <lora:x:0.8> [b]\n",) * 2


def test_a_command_in_a_message_keeps_its_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    Console(settings=" --settings mine.toml").sentence("run `orchestrate check --settings other.toml`")
    assert capsys.readouterr().out == "run `orchestrate check --settings other.toml`\n"


@pytest.mark.parametrize("words", ["results", "answer", "sheet"])
def test_the_names_of_sweeps_are_completed(words: str, tmp_path: Path) -> None:
    for name in ("ranks", "rates", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "sweep.json").write_text("{}", encoding="utf-8")
    made = CliRunner().invoke(cli.main, ["init", str(tmp_path)])
    assert made.exit_code == 0, made.output
    complete = ShellComplete(cli.main, {}, "orchestrate", "_ORCHESTRATE_COMPLETE").get_completions
    settings = str(tmp_path / "orchestrate.toml")
    assert [one.value for one in complete([words, "--settings", settings], "ra")] == ["ranks", "rates"]
    assert complete([words, "--settings", str(tmp_path / "missing.toml")], "ra") == []
