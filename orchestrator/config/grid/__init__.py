"""Grid TOML -> Grid -> points: every combination of the dims, with what the rules and expressions make of it."""

from orchestrator.config.grid.expand import MAX_POINTS, expand
from orchestrator.config.grid.identity import canonical, point_id, point_name, selects
from orchestrator.config.grid.reading import Exclude, Grid, When, load, read

__all__ = [
    "MAX_POINTS",
    "Exclude",
    "Grid",
    "When",
    "canonical",
    "expand",
    "load",
    "point_id",
    "point_name",
    "read",
    "selects",
]
