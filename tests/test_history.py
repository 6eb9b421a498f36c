"""The forecast uses only times of the same program, base model, image size and GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
from standins.world import GPU, World

from orchestrator.config import settings
from orchestrator.gpu import Gpu
from orchestrator.plan import forecast, history, plan
from orchestrator.store import records

CHANGES = {
    "another trainer": lambda text: text.replace('train_script = "train.py"', 'train_script = "train_wd14.py"'),
    "another base model": lambda text: text.replace("[base_models.doll]\npath = ", "[base_models.doll]\npath = 'b' #"),
    "another image size": lambda text: text.replace("[generate]", "[generate]\nwidth = 512\nheight = 512"),
}  # fmt: skip


def times(world: World, path: Path, gpus: tuple[Gpu, ...] = ()) -> list[tuple[float, float, float]]:
    """Seconds of each run of another sweep in the same `runs`, with the settings of `path`."""
    grid = world.folder / "next.toml"
    grid.write_text("[dims]\nnetwork_dim = [2]\n", encoding="utf-8")
    asked = plan.read(path, grid)
    found = forecast.forecast(asked.sweep, asked.runs(), asked.settings, prompts=2, gpus=gpus)
    return [(run.train_s, run.generate_s, run.score_s) for run in found.runs]


def changed(world: World, change: str) -> Path:
    path = world.settings.with_name("changed.toml")
    path.write_text(CHANGES[change](world.settings.read_text(encoding="utf-8")), encoding="utf-8")
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_times_of_other_conditions_do_not_change_the_forecast(world: World, change: str) -> None:
    """As those of the 32 px miniature for a grid of SDXL in the same runs folder."""
    path = changed(world, change)
    before, own = times(world, path), times(world, world.settings)
    world.drive(only="network_dim=2*")
    after = times(world, path)
    assert times(world, world.settings) != own, "the same conditions do"
    stages = {"another trainer": (0,), "another base model": (0, 1), "another image size": (1, 2)}[change]
    assert [[run[n] for n in stages] for run in after] == [[run[n] for n in stages] for run in before]


def test_times_of_another_gpu_do_not_change_the_forecast(world: World) -> None:
    before = times(world, world.settings, gpus=(replace(GPU, name="NVIDIA H200"),))
    world.drive(only="network_dim=2*")
    for record in world.sweep.path.glob("*/*/*/attempt.json"):
        found = records.read(record)
        found["environment"]["gpu"] = GPU.name
        records.write(record, found)
    (trained, generated, _), *_ = times(world, world.settings, gpus=(replace(GPU, name="NVIDIA H200"),))
    assert (trained, generated) == before[0][:2]
    assert times(world, world.settings, gpus=(GPU,))[0][:2] != before[0][:2]


def test_an_attempt_without_recorded_conditions_does_not_count(world: World) -> None:
    world.drive(only="network_dim=2*")
    known = history.gather(world.sweep, settings.load(world.settings))
    assert known.by_profile
    assert set(known.image_s) == set(known.score_s) == {"doll"}
    for record in world.sweep.path.glob("*/*/*/attempt.json"):
        found = records.read(record)
        del found["conditions"]
        records.write(record, found)
    known = history.gather(world.sweep, settings.load(world.settings))
    assert (known.by_profile, known.sweep, known.image_s, known.score_s) == ({}, {}, {}, {})


RUN = (100.0, 10.0)
BASELINE = (0.0, 10.0)


@pytest.mark.parametrize(
    ("gpus", "runs", "seconds"),
    [
        (1, [], 0),
        (1, [RUN] * 3, 330),
        (2, [RUN], 110),  # one run cannot use two GPUs
        (2, [RUN] * 2, 110),
        (2, [RUN] * 3, 200),  # the images are made beside the third training
        (2, [BASELINE, RUN, RUN, RUN, RUN], 230),
        (4, [BASELINE] * 8, 20),
    ],
)
def test_the_duration_is_that_of_the_busiest_gpu(gpus: int, runs: list[tuple[float, float]], seconds: float) -> None:
    assert forecast.makespan(gpus, runs) == seconds
