"""What every command has: its console, its sweep, and the words and exit code of whatever goes wrong."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.errors import InputError, NotReady, OrchestrateError, Problem

if TYPE_CHECKING:
    from orchestrator.cli.console import Console
    from orchestrator.store.layout import Sweep

INTERRUPTED = 130


class Commands(click.Group):
    """Turns our errors into messages and exit codes, for every command."""

    def invoke(self, ctx: click.Context) -> Any:
        for number in (signal.SIGINT, signal.SIGTERM):  # the same, also where a shell's background ignores the first
            signal.signal(number, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except OrchestrateError as error:
            console().problems(error.problems)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # click's: whoever read our output has seen enough
            raise
        except OSError as error:
            console().problems([_of_the_machine(error)])
            sys.exit(NotReady.exit_code)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


_REMEDIES = {
    errno.ENOSPC: "free some disk, then run the same command again: it goes on where it stopped",
    errno.EDQUOT: "free some of your quota, then run the same command again: it goes on where it stopped",
    errno.EACCES: "give yourself the right to it, or name another folder",
    errno.EROFS: "name a folder that can be written to",
}


def _of_the_machine(error: OSError) -> Problem:
    """What the machine refused, in the words of every other problem."""
    remedy = _REMEDIES.get(error.errno or 0, "mend it, then run the same command again: it goes on where it stopped")
    return Problem(what=error.strerror or str(error), where=str(error.filename or ""), remedy=remedy)


def console() -> Console:
    from orchestrator.cli.console import Console

    return Console()


def sweep_named(settings_file: Path, name: str) -> Sweep:
    from orchestrator.config import settings
    from orchestrator.store import layout

    sweep = layout.Sweep(settings.load(settings_file).runs / name)
    if not sweep.exists():
        known = ", ".join(one.name for one in layout.sweeps(sweep.path.parent)) or "none yet"
        raise InputError(Problem(what=f'there is no sweep "{name}"', where=str(sweep.path.parent), remedy=known))
    return sweep
