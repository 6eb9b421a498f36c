"""The short version of `make torture`: some kills of each kind, and the same result."""

import random
from pathlib import Path

import pytest
from torture import trial
from torture.trial import Reference

PLACES = (
    ("orchestrator", "result.json", "before"),
    ("orchestrator", "checkpoints.json", "torn"),
    ("shim", "process.json", "before"),
    ("trainer", "lora.safetensors", "torn"),
)
"""The first write of this kind by this role."""


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Reference:
    return trial.reference(trial.build(tmp_path_factory.mktemp("reference") / "world", shared))


@pytest.mark.parametrize(("role", "what", "how"), PLACES)
def test_a_kill_at_a_write_loses_nothing(
    tmp_path: Path, shared: Path, wanted: Reference, role: str, what: str, how: str
) -> None:
    event = next(event for event in wanted.events if event.who.startswith(f"{role} ") and what in event.what)
    world = trial.build(tmp_path / "world", shared)
    assert trial.kill_at(world, event, how), "it was not killed"
    assert trial.losses(world, wanted) == []


@pytest.mark.parametrize("seed", [3])
def test_random_kills_lose_nothing(tmp_path: Path, shared: Path, wanted: Reference, seed: int) -> None:
    world = trial.build(tmp_path / "world", shared, faults="launcher" if seed % 2 else "")
    early = min(wanted.seconds, 1.5)  # the reference may have been slower than this sweep
    assert trial.kill_at_random(world, random.Random(seed), early)
    assert trial.losses(world, wanted) == []


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(5))
def test_random_kills_lose_nothing_with_mps(tmp_path: Path, shared: Path, seed: int) -> None:
    """Trainings that share a GPU through MPS, and a resident generator."""
    wanted = trial.reference(trial.build(tmp_path / "reference", shared, mps=True))
    world = trial.build(tmp_path / "world", shared, mps=True)
    assert trial.kill_at_random(world, random.Random(seed), wanted.seconds / 2)
    assert trial.losses(world, wanted) == []
