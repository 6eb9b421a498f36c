"""Fixtures that several test files share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import recipe_world
from standins.world import World, build_shared

from orchestrator.config.schema import Scoring


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of a world that are expensive to build."""
    return build_shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Scoring:
    """A face pack and references of the persona, without the rest of a world."""
    return recipe_world.scoring(tmp_path_factory.mktemp("scoring"))


@pytest.fixture
def world(tmp_path: Path, shared: Path) -> Iterator[World]:
    """A small sweep: two points and a baseline. Its processes are killed after the test."""
    made = World.build(tmp_path / "world", shared)
    yield made
    made.kill_all()
