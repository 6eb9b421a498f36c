"""Grid TOML -> Grid -> Points: what the user asked for, every combination of it, and each one's id and name."""

from orchestrator.grid.expand import MAX_POINTS, expand
from orchestrator.grid.identity import canonical, point_id, point_name
from orchestrator.grid.language import Exclude, Grid, When
from orchestrator.grid.reading import load

__all__ = ["MAX_POINTS", "Exclude", "Grid", "When", "canonical", "expand", "load", "point_id", "point_name"]
