"""Latents made beforehand by the unmodified tools/cache_latents.py: trained on as they are, and never another's."""

import os
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from small_world import Swept, Trained, World, trained

from orchestrator.store import provenance
from orchestrator.run import shared_latents
from orchestrator.run.context import Context
from orchestrator.kohya import argv
from orchestrator.kohya.outputs import log
from orchestrator.kohya import latents as of_sd_scripts
from orchestrator.config.schema import Dataset
from orchestrator.model import Params
from orchestrator.run.stages import latents
from orchestrator.run.stages import train
from orchestrator.store.layout import Run

SIZES = {"square": (160, 160), "wide": (260, 140), "tall": (120, 400), "small": (70, 90), "exact": (192, 64)}
BUCKETS: Params = {"enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 256, "bucket_reso_steps": 32}
ASKED: Params = {of_sd_scripts.ON_DISK: True, **BUCKETS}


@pytest.fixture(scope="module")
def pictures(tiny: World) -> Dataset:
    """Five pictures of five shapes, half of each transparent."""
    folder = tiny.folder / "shapes"
    folder.mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        draw(folder / f"{name}.png", size, number)
        (folder / f"{name}.txt").write_text("ohwx person", encoding="utf-8")
    return replace(tiny.dataset, image_dir=folder)


def draw(path: Path, size: tuple[int, int], number: int) -> None:
    colours = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 4), np.uint8)
    colours[:, :, 3] = 255
    colours[: size[1] // 2, :, 3] = 51
    Image.fromarray(colours).save(path)


def made(tiny: World, dataset: Dataset, name: str, **arguments: object) -> tuple[Run, Context]:
    """A run that asks for latents, and a world in which they are made."""
    run = tiny.run(name, **{**ASKED, **arguments})  # type: ignore[arg-type]
    ctx = tiny.context(datasets={"persona": dataset})
    hashes = provenance.Hashes(ctx.settings.runs / ".hashes.json")
    ctx = replace(ctx, latents=shared_latents.latents([run.point], ctx.settings, ctx.datasets, hashes))
    shared = ctx.latents[run.point.id]
    shared.create()
    if not shared.done(latents.NAME):
        result = latents.perform(shared, ctx)
        assert result.failure is None, (result.reason, (shared.attempts(latents.NAME)[-1].path / "log").read_text())
    return run, ctx


def taught(run: Run, ctx: Context) -> Trained:
    one = trained(run, train.perform(run, ctx))
    assert one.result.failure is None, one.log
    assert np.isfinite(loss(one))
    return one


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def weights(one: Trained) -> dict[str, np.ndarray]:
    return load_file(next(one.output.glob("*.safetensors")))


@pytest.fixture(scope="module")
def plain(tiny: World, pictures: Dataset) -> Trained:
    """One training on latents that were made beforehand."""
    return taught(*made(tiny, pictures, "plain-latents"))


def used(one: Trained) -> Path:
    """The folder that a training was pointed to."""
    told = tomllib.loads((one.folder / "dataset.toml").read_text(encoding="utf-8"))
    return Path(told["datasets"][0]["subsets"][0]["image_dir"])


def loss(one: Trained) -> float:
    progress = log.read_progress(one.log)
    assert progress
    assert progress.loss
    return progress.loss


@pytest.mark.parametrize("extra", [{"bucket_no_upscale": True}, {"flip_aug": True, "no_half_vae": True}])
def test_the_tool_leaves_what_is_proven(tiny: World, pictures: Dataset, extra: Params) -> None:
    """In the buckets that are forecast: the proof knows them from us, the files from sd-scripts."""
    run, ctx = made(tiny, pictures, "proven" + "".join(extra), **extra)
    folder = latents.images(ctx.latents[run.point.id])
    assert len(list(folder.glob("*.npz"))) == len(SIZES)
    assert folder.stat().st_mode & 0o222 == 0


def test_trainings_read_them_and_write_nothing(tiny: World, pictures: Dataset, plain: Trained) -> None:
    before = times(used(plain))
    again = taught(*made(tiny, pictures, "plain-again"))
    other_seed = taught(*made(tiny, pictures, "plain-other", seed=2))
    assert used(again) == used(other_seed) == used(plain)
    assert times(used(plain)) == before
    assert max(before.values()) < (plain.folder / "process.json").stat().st_ctime_ns
    assert all(np.array_equal(one, weights(again)[name]) for name, one in weights(plain).items())


def test_alpha_is_kept_with_them_where_the_loss_is_weighted(tiny: World, pictures: Dataset, plain: Trained) -> None:
    weighted = taught(*made(tiny, replace(pictures, subset={"alpha_mask": True}), "weighted"))
    with np.load(used(weighted) / "square_0160x0160_sdxl.npz") as file:
        assert file["alpha_mask"].min() == pytest.approx(0.2)
    assert loss(weighted) == pytest.approx(loss(plain) * 0.6, rel=0.1)


def test_another_resolution_trains_on_latents_of_its_own(tiny: World, pictures: Dataset, plain: Trained) -> None:
    larger = taught(*made(tiny, pictures, "larger", resolution="192,192"))
    shapes = [np.load(used(one) / "square_0160x0160_sdxl.npz")["latents"].shape for one in (plain, larger)]
    assert shapes == [(4, 16, 16), (4, 24, 24)]


def test_a_changed_picture_of_the_same_size_has_its_own(
    tiny: World, pictures: Dataset, plain: Trained, tmp_path: Path
) -> None:
    edited = tmp_path / "edited"
    edited.mkdir()
    for path in pictures.image_dir.iterdir():
        (edited / path.name).write_bytes(path.read_bytes())
    draw(edited / "square.png", SIZES["square"], 99)
    run, ctx = made(tiny, replace(pictures, image_dir=edited), "edited")
    folders = used(plain), latents.images(ctx.latents[run.point.id])
    before, after = (np.load(folder / "square_0160x0160_sdxl.npz")["latents"] for folder in folders)
    assert not np.array_equal(before, after)


def test_left_to_itself_sd_scripts_takes_the_latents_of_another_resolution(tiny: World, pictures: Dataset) -> None:
    """Why they are keyed: the file is there, and nothing in it is looked at."""
    run, ctx = made(tiny, pictures, "left-alone")
    shared = ctx.latents[run.point.id]
    again = tiny.folder / "left-alone"
    again.mkdir()
    for path in latents.images(shared).iterdir():
        (again / path.name).write_bytes(path.read_bytes())
    before = times(again)
    asked = shared.attempts(latents.NAME)[-1].path
    for name in ("config.toml", "dataset.toml"):
        text = (asked / name).read_text(encoding="utf-8").replace("128,128", "192,192")
        text = text.replace(str(asked / "images"), str(again)).replace(str(asked), str(tiny.folder))
        (tiny.folder / name).write_text(text, encoding="utf-8")
    trainer = tiny.settings.trainer
    env = {**os.environ, **argv.environment(trainer, card=None), "PYTHONPATH": str(trainer.sd_scripts)}
    subprocess.run(argv.latents_argv(trainer, tiny.folder / "config.toml"), env=env, check=True, capture_output=True)
    assert times(again) == before


def test_a_sweep_by_its_command_makes_them_once(swept: Swept) -> None:
    assert swept.output.count(": latents done") == 1
