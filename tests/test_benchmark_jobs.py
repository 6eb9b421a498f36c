"""The sweeps of `benchmarks.gpu` without a GPU: their settings and grids are valid, and their figures are read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pynvml")

from benchmarks.gpu import against, cells, sweeps, watch
from orchestrator.kohya import oom_fallback
from orchestrator.kohya.outputs import files
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import Point, Result
from orchestrator.session import Session
from orchestrator.store.layout import Run


def opened(tmp_path: Path, text: str, grid: str) -> list[Point]:
    (tmp_path / "prompts.txt").write_text(sweeps.PROMPTS)
    (tmp_path / "settings.toml").write_text(text)
    (tmp_path / "grid.toml").write_text(grid)
    session = Session.open(tmp_path / "settings.toml", tmp_path / "grid.toml")
    return [point for point in session.plan.points if not point.is_baseline]


@pytest.fixture
def programs(tmp_path: Path) -> watch.Programs:
    return watch.Programs(python=Path("python"), sd_scripts=tmp_path, work=tmp_path)


@pytest.mark.parametrize("job", [*against.ALONE, *against.COLOCATED, *against.CARDS], ids=lambda job: job.name)
def test_each_job_trains_loras_with_two_checkpoints(programs: watch.Programs, job: against.Job) -> None:
    inputs = cells.Inputs(folder=programs.work)
    points = opened(programs.work, sweeps.settings(programs, inputs, job.vram), job.grid)
    assert [point.params["seed"] for point in points] == list(range(1, job.loras + 1))
    length = TrainingLength(steps=job.epochs * sweeps.PICTURES, epochs=job.epochs, steps_per_epoch=sweeps.PICTURES)
    assert {len(files.expected("x", point.params, length)) for point in points} == {2}


def test_the_fallback_ends_with_adamw8bit(programs: watch.Programs) -> None:
    case, inputs = sweeps.FALLBACK, cells.Inputs(folder=programs.work)
    text = sweeps.settings(programs, inputs, "", images="")
    (point,) = opened(programs.work, text, sweeps.GRID.format(dim=case.dim))
    session = Session.open(programs.work / "settings.toml", programs.work / "grid.toml")
    steps = list(oom_fallback.fallbacks(point.params, session.settings.oom_fallback, session.settings.optimizers))
    assert [step.fallbacks[-1] for step in steps] == ["gradient checkpointing", "AdamW8bit"]
    assert (session.settings.generation.width, session.settings.generation.batch_size) == (1024, 4)


def test_the_figures_of_a_job_are_those_of_its_attempts(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name, Point(id=name, name=name, params={})) for name in "ab"]
    for start, run in enumerate(runs):
        for stage, seconds in (("train", 60.0), ("generate", 5.0)):
            attempt = run.new_attempt(stage)
            attempt.open({"colocated": start > 0})
            for name, moment in (("command.json", start), ("exit.json", start + seconds)):
                (attempt.path / name).touch()
                os.utime(attempt.path / name, (moment, moment))
            attempt.close(Result(failure=None, reason="", seconds=seconds, peak_vram_mib=18000, seconds_per_step=1.5))
    assert against.figures(runs) == {
        "trainings_s": 61.0,
        "each_training_s": [60.0, 60.0],
        "seconds_per_step": [1.5, 1.5],
        "peak_mib": [18000, 18000],
        "colocated": [False, True],
        "attempts": [1, 1],
        "each_images_s": [5.0, 5.0],
    }


def test_the_program_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--part" in done.stdout
