"""The options that several commands take."""

from pathlib import Path

import click

settings = click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default="orchestrate.toml",
    envvar="ORCHESTRATE_SETTINGS",
    show_default=True,
    help="The settings file.",
)
grid = click.option(
    "--grid", "grid_file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The grid file."
)
name = click.option("--name", default="", help="The sweep's name; the grid file's without it.")
json = click.option("--json", "as_json", is_flag=True, help="For scripts.")
seed = click.option("--seed", default=1, show_default=True, help="Of a dataset with several draws: that seed's.")
only = click.option("--only", default="*", help="Only runs whose name or id matches this glob.")
