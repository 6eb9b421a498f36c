"""What the unmodified generator makes of our prompter's plan."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_world import Swept, World

from orchestrator.kohya import argv as command
from orchestrator.kohya import generate
from orchestrator.kohya.outputs import log
from orchestrator.store.layout import Run, Sweep


@pytest.fixture(scope="module")
def runs(swept: Swept) -> list[Run]:
    """Two runs of one rank, whose pictures were drawn by a process of their own."""
    return [run for run in Sweep(swept.folder).runs() if run.point.params.get("network_dim") == 4]


@pytest.fixture(scope="module")
def together(tiny: World, runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures of both, in one process that swaps the LoRA between them."""
    folder = tmp_path_factory.mktemp("together")
    images = [
        replace(image, checkpoint=str(run.path / image.checkpoint), file=f"{run.point.id}-{Path(image.file).name}")
        for run in runs
        for image in run.pictures()
    ]
    plan = generate.plan(images, folder=folder, negative="")
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    used = tiny.settings
    argv = generate.generate_argv(
        used.trainer,
        used.base_models["tiny"],
        used.generation,
        plan=folder / "plan.json",
        outdir=folder,
        lora=Path(images[0].checkpoint),
        params=runs[0].point.params,
    )
    environment = {**tiny.environ, **command.environment(used.trainer, card=None)}
    with (folder / "log").open("w") as file:
        subprocess.run(argv, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, check=True)
    return folder


def test_swapping_weights_draws_the_same_pictures(runs: list[Run], together: Path) -> None:
    for run in runs:
        for image in run.pictures():
            alone = run.path / image.file
            assert np.array_equal(_pixels(alone), _pixels(together / f"{run.point.id}-{alone.name}"))


def test_two_trainings_draw_different_pictures(runs: list[Run]) -> None:
    """Else the test above would show nothing."""
    one, other = (_pixels(run.path / run.pictures()[0].file) for run in runs)
    assert not np.array_equal(one, other)


def test_prompt_and_seed_stand_in_the_picture(runs: list[Run]) -> None:
    for image in runs[0].pictures():
        metadata = Image.open(runs[0].path / image.file).text
        assert (metadata["prompt"], metadata["seed"]) == (image.text, str(image.seed))


def test_progress_is_printed_in_a_known_form(together: Path) -> None:
    progress = log.read_images((together / "log").read_text(encoding="utf-8"))
    assert progress is not None
    assert (progress.step, progress.total) == (8, 8)


def _pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))
