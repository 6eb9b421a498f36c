"""What all commands share: the command group, error messages and exit codes, the console, finding a sweep."""

from __future__ import annotations

import difflib
import errno
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.errors import InputError, NotReady, OrchestrateError, Problem

if TYPE_CHECKING:
    from orchestrator.cli.console import Console
    from orchestrator.config.schema import Settings
    from orchestrator.run.context import Stop
    from orchestrator.store.layout import Sweep

INTERRUPTED = 130


class Commands(click.Group):
    """A group that maps errors to messages and exit codes and lists its commands in sections, untruncated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections: dict[str, list[str]] = {}

    def invoke(self, ctx: click.Context) -> Any:
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job would ignore SIGINT
            signal.signal(number, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except OrchestrateError as error:
            console().problems(error.problems)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # click handles it: the reader of our output has closed it
            raise
        except OSError as error:
            console().problems([_system_problem(error)])
            sys.exit(NotReady.exit_code)
        except RuntimeError as error:
            if not str(error).startswith("Symlink loop"):  # of Path.resolve
                raise
            console().problems([Problem(what=str(error), remedy="remove this link, which leads to itself")])
            sys.exit(InputError.exit_code)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = self.sections or {"Commands": self.list_commands(ctx)}
        width = max(len(name) for names in sections.values() for name in names)
        for title, names in sections.items():
            with formatter.section(title):
                rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit=200)) for name in names]
                formatter.write_dl(rows)


def add_section(group: click.Group, title: str, *commands: click.Command) -> None:
    """Add commands under a heading of the help page."""
    assert isinstance(group, Commands)
    for command in commands:
        group.add_command(command)
    group.sections[title] = [str(command.name) for command in commands]


_REMEDIES = {
    errno.ENOSPC: "free disk space, then run the same command again: it resumes",
    errno.EDQUOT: "free some of your quota, then run the same command again: it resumes",
    errno.EACCES: "change the permissions of the path, or use another folder",
    errno.EROFS: "use a folder on a writable file system",
}


_TEMPORARY = re.compile(r"(?:^|(?<=/))\.([^/]+)\.\d+\.tmp$")
"""The name under which a file is written before it is renamed."""


def _system_problem(error: OSError) -> Problem:
    """An error of the operating system as a problem."""
    remedy = _REMEDIES.get(error.errno or 0, "fix the cause, then run the same command again: it resumes")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)  # then the copy is meant, not what is copied
    where = _TEMPORARY.sub(r"\1", str((full and error.filename2) or error.filename or ""))
    return Problem(what=error.strerror or str(error), where=where, remedy=remedy)


def console(*, final: bool = False) -> Console:
    from orchestrator.cli.console import Console

    return Console(final=final, settings=settings_option())


def settings_option() -> str:
    """` --settings FILE` if the current command was called with it, else empty."""
    context = click.get_current_context(silent=True)
    return str(context.meta.get(options.SETTINGS, "")) if context else ""


def find_sweep(settings_file: Path, name: str) -> Sweep:
    """The sweep of this name or folder. Raises InputError with the known names."""
    from orchestrator.config import settings
    from orchestrator.store import layout
    from orchestrator.text import bad_name, did_you_mean

    runs = settings.load(settings_file).runs
    possible = len(Path(name).name.encode("utf-8", "surrogateescape")) <= 255  # bytes of a file name
    for folder in (runs / name, Path(name).resolve()) if possible else ():
        if layout.Sweep(folder).exists():
            return layout.Sweep(folder)
    if reason := bad_name(Path(name).name):
        raise InputError(
            Problem(what=f"the name {name[:100]!r} {reason}", where=str(runs), remedy="`orchestrate list` lists them")
        )
    known, wanted = [one.name for one in layout.sweeps(runs)], Path(name).name.removesuffix(".toml")
    grids = own_grids(settings_file)
    if wanted in {grid.stem for grid in grids} - set(known):
        remedy = f"run it first: `{run_command(grids, wanted)}`"
    else:
        remedy = did_you_mean(wanted, known, f"run one: `{run_command(grids, wanted)}`")
    raise InputError(Problem(what=f'there is no sweep "{name}"', where=str(runs), remedy=remedy))


def own_grids(settings_file: Path) -> list[Path]:
    """The grids beside the settings, sorted, except those of the demo, as paths from the current folder."""
    from orchestrator.files import from_here

    grids = sorted(from_here(settings_file.parent / "grids").glob("*.toml"))
    return [path for path in grids if not path.name.startswith("demo")]


def run_command(grids: Sequence[Path], wanted: str = "") -> str:
    """The command that runs the grid with the most similar name, else sweep-v3 or the first one."""
    by_name = {grid.stem: grid for grid in grids}
    near = difflib.get_close_matches(wanted, by_name, n=1) or [
        name for name in ("sweep-v3", *by_name) if name in by_name
    ]
    return f"orchestrate run {shlex.quote(str(by_name[near[0]])) if near else 'GRID'}"


def settings_of(sweep: Sweep, settings_file: Path) -> Path:
    """The settings with which the sweep was started, unless the command names others or they are gone."""
    if click.get_current_context().get_parameter_source("settings_file") is not click.core.ParameterSource.DEFAULT:
        return settings_file
    own = Path(sweep.record().get("settings", ""))
    return own if own.is_file() else settings_file


def load_settings(sweep: Sweep, settings_file: Path) -> Settings:
    """`settings_of` a sweep. Raises InputError if they do not have one of its base models or datasets."""
    from orchestrator.config import settings

    used = settings.load(settings_of(sweep, settings_file))
    for key, known in {"base_model": used.base_models, "dataset": used.datasets}.items():
        for run in sweep.runs():
            name = str(run.point.params.get(key, ""))
            if name and name not in known:
                what, remedy = (
                    f"has no {key} {name}, which the sweep {sweep.name} uses",
                    "use --settings FILE of the sweep",
                )
                raise InputError(Problem(what=what, where=str(used.path), remedy=remedy))
    return used


def leave(stop: Stop, finished: bool) -> None:
    """Exit with 130 if the user interrupted, 0 if everything is finished, else 1."""
    sys.exit(INTERRUPTED if stop else 0 if finished else 1)
