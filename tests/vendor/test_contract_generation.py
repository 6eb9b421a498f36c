"""The images that the unmodified generator makes from the prompter's plans."""

import json
import subprocess
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
    """Two runs of one rank, whose images one resident process has drawn."""
    return [run for run in Sweep(swept.folder).runs() if run.point.params.get("network_dim") == 4]


@pytest.fixture(scope="module")
def alone(tiny: World, runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images, by a process for each run."""
    folder = tmp_path_factory.mktemp("alone")
    used = tiny.settings
    for run in runs:
        (folder / run.point.id).mkdir()
        plan = generate.plan(run.generated_images(), folder=run.path, negative="")
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        argv = generate.generate_argv(
            used.trainer,
            used.base_models["tiny"],
            used.generation,
            plan=folder / "plan.json",
            outdir=folder / run.point.id,
            lora=run.path / run.generated_images()[0].checkpoint,
            params=run.point.params,
        )
        environment = {**tiny.environ, **command.environment(used.trainer, gpu=None)}
        with (folder / "log").open("w") as file:
            subprocess.run(argv, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, check=True)
    return folder


def test_a_resident_process_draws_the_same_files_as_a_process_for_each_run(runs: list[Run], alone: Path) -> None:
    assert len({attempt.generator.resolve() for run in runs for attempt in run.attempts("generate")}) == 1
    for run in runs:
        assert len(run.generated_images()) == 4
        for image in run.generated_images():
            file = run.path / image.file
            assert file.read_bytes() == (alone / run.point.id / file.name).read_bytes()


def test_each_shape_and_the_base_model_alone_have_a_process_of_their_own(swept: Swept) -> None:
    runs = Sweep(swept.folder).runs()
    folders = [attempt.generator.resolve() for run in runs for attempt in run.attempts("generate")]
    assert (len(folders), len(set(folders))) == (5, 3)


def test_two_trainings_draw_different_images(runs: list[Run]) -> None:
    """Else the test above would show nothing."""
    one, other = (_pixels(run.path / run.generated_images()[0].file) for run in runs)
    assert not np.array_equal(one, other)


def test_prompt_and_seed_are_in_the_image_metadata(runs: list[Run]) -> None:
    for image in runs[0].generated_images():
        metadata = Image.open(runs[0].path / image.file).text
        assert (metadata["prompt"], metadata["seed"]) == (image.text, str(image.seed))


def test_progress_is_printed_in_a_known_form(runs: list[Run]) -> None:
    for run in runs:
        progress = log.read_images((run.attempts("generate")[-1].path / "log").read_text(encoding="utf-8"))
        assert progress is not None
        assert (progress.step, progress.total) == (4, 4)


def _pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))
