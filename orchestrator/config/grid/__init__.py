"""Grid TOML -> Grid -> Points: what the user asked for, every combination of it, and each one's id and name."""

from orchestrator.config.grid.expand import MAX_POINTS, expand
from orchestrator.config.grid.identity import canonical, point_id, point_name
from orchestrator.config.grid.language import Exclude, Grid, When
from orchestrator.config.grid.reading import load

__all__ = ["MAX_POINTS", "Exclude", "Grid", "When", "canonical", "expand", "load", "point_id", "point_name"]
