"""Several sizes, skipped images, validation and averages on the real trainer; and v0.10.1, which still works."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import small_world
from conftest import _vocabulary
from PIL import Image
from small_world import Trained, Trainer, World

from orchestrator.kohya import release, step_count
from orchestrator.kohya.arguments import required, schema
from orchestrator.kohya.outputs import events, log
from orchestrator.model import Params
from orchestrator.plan.training_length import LengthEstimator

OLD = next(commit for commit, name in release.TESTED.items() if name == "v0.10.1")
SNAPSHOT = Path(__file__).parents[1] / "fixtures" / "arguments-v0.10.1.json"

SIZES: tuple[Params, ...] = (
    {"resolution": "64,64", "enable_bucket": True, "min_bucket_reso": 64},
    {"resolution": "128,128", "skip_image_resolution": "64,64"},
)


@pytest.fixture(scope="module")
def sized(tiny: World) -> Trained:
    """Two epochs of one dataset at two sizes, without its small image at the larger one, a quarter for validation."""
    folder = tiny.folder / "sizes"
    shutil.copytree(tiny.dataset.image_dir, folder)
    smallest = min(folder.glob("*.png"))
    Image.open(smallest).resize((64, 64)).save(smallest)
    for number in range(4):
        copy = smallest.with_name(f"more-{number}.png")
        Image.open(max(folder.glob("00*.png"))).rotate(90 * number).save(copy)
        shutil.copyfile(smallest.with_suffix(".txt"), copy.with_suffix(".txt"))
    dataset = replace(tiny.dataset, image_dir=folder, resolutions=SIZES)
    tiny.settings = replace(tiny.settings, generation=replace(tiny.settings.generation, averages=("mean",)))
    return tiny.train(
        "sizes", dataset=dataset, max_train_epochs=2, save_every_n_epochs=1, validation_split=0.25, validation_seed=1
    )


def test_the_steps_are_those_that_were_counted(tiny: World, sized: Trained) -> None:
    assert sized.result.failure is None, sized.result
    dataset = replace(tiny.dataset, image_dir=tiny.folder / "sizes", resolutions=SIZES)
    counted = LengthEstimator({"persona": dataset}).length(sized.run.point.params)
    assert counted
    assert counted.steps == log.total_steps(sized.log)
    assert (
        step_count.trained_on({**sized.run.point.params, **SIZES[1]}, [(64, 64), *[(128, 128)] * 7]) == [(128, 128)] * 6
    )


def test_the_validation_loss_of_each_epoch_is_read(sized: Trained) -> None:
    losses = events.validation_losses(sized.folder / "logs")
    steps = log.total_steps(sized.log) or 0
    assert list(losses) == [steps // 2, steps]
    assert f"val_epoch_avg_loss={losses[steps]:.3g}" in sized.log


def test_the_average_is_between_the_checkpoints(sized: Trained) -> None:
    names = [Path(one.file).name for one in sized.run.checkpoints()]
    assert names == ["lora-000001.safetensors", "lora.safetensors", "lora-mean.safetensors"]
    from safetensors.numpy import load_file

    first, last, mean = (load_file(sized.output / name) for name in names)
    for name, values in mean.items():
        expected = (first[name].astype("f8") + last[name].astype("f8")) / 2
        assert abs(values.astype("f8") - expected).max() <= 1e-3 * max(1, abs(expected).max())


# --- v0.10.1 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def older(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """v0.10.1 at ORCHESTRATE_SD_SCRIPTS_OLD, or from the history of the submodule."""
    if given := os.environ.get("ORCHESTRATE_SD_SCRIPTS_OLD"):
        return replace(trainer, sd_scripts=Path(given))
    folder = tmp_path_factory.mktemp("older")
    command = f"git -C '{trainer.sd_scripts}' archive {OLD} | tar -x -C '{folder}'"
    if not (trainer.sd_scripts / ".git").exists() or subprocess.run(command, shell=True, check=False).returncode:
        pytest.skip("v0.10.1 is not here: set ORCHESTRATE_SD_SCRIPTS_OLD")
    return replace(trainer, sd_scripts=folder)


def test_the_older_release_has_all_that_is_relied_on_and_its_snapshot(older: Trainer) -> None:
    assert list(required.missing(older.sd_scripts)) == []
    assert schema.read_source(older.sd_scripts).by_name == schema.read_snapshot(SNAPSHOT).by_name


def test_the_older_release_trains(older: Trainer, tmp_path: Path) -> None:
    world = small_world.write(tmp_path, older, _vocabulary(older))
    done = world.train("older", network_train_unet_only=True, cache_text_encoder_outputs=True)
    assert done.result.failure is None, done.log[-2000:]
    assert len(done.run.checkpoints()) == 1
