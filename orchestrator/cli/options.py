"""Options and arguments that several commands share."""

import os
import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


class _File(click.Path):
    """A file. `~` is the home folder here, too: shells do not replace it in `--settings=~/x.toml`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 - never raises


_FILE = _File(path_type=Path, dir_okay=False)
SETTINGS = "orchestrator.settings"
"""The key of ` --settings FILE` in the `meta` of a context, if the command was called with it."""


def _keep(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    """Keep the option for messages: an error is printed after the command's own context has ended."""
    if context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE:
        context.meta[SETTINGS] = f" --settings {shlex.quote(str(path))}"
    return path


settings = click.option(
    "--settings",
    "settings_file",
    type=_FILE,
    default="orchestrate.toml",
    envvar="ORCHESTRATE_SETTINGS",
    show_default=True,
    callback=_keep,
    help="The settings file.",
)
name = click.option("--name", default="", help="The name of the sweep. Default: that of the grid file.")
json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
seed = click.option("--seed", default=1, show_default=True, help="The seed of a dataset with several subsets.")
_ONLY = "Only runs whose name or id matches, or with an argument such as network_dim=8."
only = click.option("--only", default="*", metavar="GLOB", help=_ONLY)
retry = click.option("--retry", type=click.Choice(["failed"]), help="Give failed runs another attempt.")


def output(what: str, *suffixes: str) -> Callable[..., Any]:
    """--out: a file to write, with one of these suffixes. A device, pipe or folder is never replaced."""

    def check(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is None:
            return None
        if not path.name or (suffixes and path.suffix.lower() not in suffixes):
            ending = f" that ends with {', '.join(suffixes)}" if suffixes else ""
            raise click.BadParameter(f"{str(path)!r} must be the name of a file{ending}.")
        if (path.exists() or path.is_symlink()) and not path.is_file():
            raise click.BadParameter(f"{str(path)!r} exists and is not a regular file.")
        return path

    return click.option("--out", type=_FILE, callback=check, help=f"Write the {what} here instead.")


def complete_sweep(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of the sweeps that begin so, for the completion of a shell, which ignores errors."""
    from orchestrator.config import settings as settings_file
    from orchestrator.errors import OrchestrateError
    from orchestrator.store import layout

    try:
        runs = settings_file.load(Path(context.params.get("settings_file") or "orchestrate.toml")).runs
    except OrchestrateError:
        return []
    return [one.name for one in layout.sweeps(runs) if one.name.startswith(incomplete)]


sweep = click.argument("sweep", shell_complete=complete_sweep)
"""The name of a sweep or its folder, `demo` or `runs/demo`."""


def grid(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A grid file, as an argument or as --grid; passed as `grid_file`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("grid_argument", metavar="GRID" if required else "[GRID]", type=_FILE, required=False)
        @click.option("--grid", "grid_option", metavar="GRID", type=_FILE, help="The grid file, instead of GRID.")
        @wraps(command)
        def wrapper(*, grid_argument: Path | None, grid_option: Path | None, **rest: Any) -> Any:
            if grid_argument and grid_option:
                raise click.UsageError("Name the grid once: as GRID or with --grid.")
            grid_file = grid_argument or grid_option
            if required and grid_file is None:
                name = click.get_current_context().info_name
                raise click.UsageError(f"Name a grid file: `orchestrate {name} grids/sweep-v3.toml`.")
            return command(grid_file=grid_file, **rest)

        return wrapper

    return decorate


def final(command: Callable[..., Any]) -> Callable[..., Any]:
    """--final and --seeds instead of an optional grid; passed as `final_seeds`, 0 without --final."""

    @click.option("--final", is_flag=True, help="Instead of a grid: the settings alone, with several training seeds.")
    @click.option("--seeds", type=click.IntRange(min=1), help="Training seeds of --final.  [default: 3]")
    @wraps(command)
    def wrapper(*, final: bool, seeds: int | None, **rest: Any) -> Any:
        grid = rest["grid_argument"] or rest["grid_option"]
        if final and grid:
            raise click.UsageError("--final trains the settings alone: name no grid.")
        if not final and not grid:
            name = click.get_current_context().info_name
            raise click.UsageError(f"Name a grid file: `orchestrate {name} grids/sweep-v3.toml`.")
        if seeds and not final:
            raise click.UsageError("--seeds belongs to --final; the seeds of a grid are in its [dims].")
        return command(final_seeds=(seeds or 3) if final else 0, **rest)

    return wrapper
