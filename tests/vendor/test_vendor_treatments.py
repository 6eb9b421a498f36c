"""Weights of the loss in the unmodified trainer: their effect, and that they are on the face."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from small_world import SIDE, Trained, Trainer, World, trained

from orchestrator.config import settings
from orchestrator.kohya.outputs import log
from orchestrator.miniature import draw
from orchestrator.miniature.world import PERSONA
from orchestrator.run.context import Context
from orchestrator.run.stages import train
from orchestrator.scoring import faces

pytestmark = pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning")

DATASETS = """
[datasets.white]
source = "persona"
mask = { face = 1.0, body = 1.0, background = 1.0 }
[datasets.half]
source = "persona"
mask = { face = 0.5, body = 0.5, background = 0.5 }
[datasets.weighted]
source = "persona"
mask = { face = 1.0, body = 0.5, background = 0.0, mean = 0.25 }
[datasets.own-masks]
source = "persona"
mask = { masks = "grey" }
"""

SEEN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from library import custom_train_functions, train_util
asked = json.loads(sys.argv[2])
for one in asked:
    infos = []
    for path in (one["plain"], one["weighted"]):
        info = train_util.ImageInfo("", 1, "", False, path)
        info.image_size = one["size"]
        buckets = train_util.BucketManager(False, tuple(one["resolution"]), 64, 512, 32)
        buckets.make_buckets()
        info.bucket_reso, info.resized_size, _ = buckets.select_bucket(*info.image_size)
        info.resize_interpolation = one["interpolation"]
        infos.append(info)
    plain, *_ = train_util.load_images_and_masks_for_caching(infos[:1], False, False)
    image, masks, *_ = train_util.load_images_and_masks_for_caching(infos[1:], True, False)
    ones = torch.ones(1, 4, image.shape[2] // 8, image.shape[3] // 8)
    weights = custom_train_functions.apply_masked_loss(ones, {"alpha_masks": torch.stack(list(masks))})
    np.savez(one["out"], plain=plain[0].numpy(), image=image[0].numpy(), weights=weights[0, 0].numpy())
"""


@pytest.fixture(scope="module")
def weighing(tiny: World) -> Context:
    """The tiny world with datasets of weighted images."""
    (tiny.folder / "grey").mkdir(exist_ok=True)
    for image in tiny.dataset.image_dir.glob("*.png"):
        Image.new("L", (SIDE, SIDE), 64).save(tiny.folder / "grey" / image.name)
    path = tiny.folder / "weighing.toml"
    text = (tiny.folder / "orchestrate.toml").read_text(encoding="utf-8")
    path.write_text(text + DATASETS + '[defaults]\ndataset = "persona"\n', encoding="utf-8")
    return tiny.context(datasets=settings.load(path).datasets)


@pytest.fixture(scope="module")
def runs(tiny: World, weighing: Context) -> dict[str, Trained]:
    """One training of each."""
    return {name: _trained(tiny, weighing, name) for name in weighing.settings.datasets}


def _trained(tiny: World, weighing: Context, name: str) -> Trained:
    run = tiny.run(f"weighing-{name}", dataset=name)
    return trained(run, train.perform(run, weighing))


def loss(one: Trained) -> float:
    assert one.result.failure is None, one.log
    progress = log.read_progress(one.log)
    assert progress
    assert progress.loss is not None
    return progress.loss


def test_weights_of_one_everywhere_change_nothing(runs: dict[str, Trained]) -> None:
    plain, white = (load_file(next(runs[name].output.glob("*.safetensors"))) for name in ("persona", "white"))
    assert plain.keys() == white.keys()
    assert all(np.array_equal(plain[key], white[key]) for key in plain)
    assert loss(runs["white"]) == loss(runs["persona"])


def test_weights_of_a_half_halve_the_loss(runs: dict[str, Trained]) -> None:
    assert loss(runs["half"]) == pytest.approx(loss(runs["persona"]) / 2, rel=0.01)


def test_a_folder_of_masks_scales_the_loss(runs: dict[str, Trained]) -> None:
    assert loss(runs["own-masks"]) == pytest.approx(loss(runs["persona"]) * 64 / 255, rel=0.01)


def test_the_loss_is_weighted_by_the_mean_that_was_asked(runs: dict[str, Trained]) -> None:
    """About: the loss is not the same everywhere."""
    assert loss(runs["weighted"]) == pytest.approx(loss(runs["persona"]) / 4, rel=0.2)


def test_latents_are_never_taken_from_another_run(
    tiny: World, weighing: Context, runs: dict[str, Trained], trainer: Trainer
) -> None:
    """They are cached in memory: another resolution finds nothing on the disk, and has its own."""
    run = tiny.run("weighing-larger", dataset="persona", resolution="192,192")
    larger = trained(run, train.perform(run, weighing))
    assert loss(larger) != loss(runs["persona"])
    assert "caching latents" in larger.log
    for dataset in weighing.datasets.values():
        assert not list(dataset.folder.rglob("*.npz"))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (96, 150), (260, 256)])
def test_in_the_bucket_the_weights_lie_on_the_face_and_the_image_is_the_same(
    trainer: Trainer, weighing: Context, tmp_path: Path, size: tuple[int, int]
) -> None:
    asked = _weighted(tmp_path, size, interpolation="area")
    seen = _seen(trainer, asked, tmp_path)
    assert np.abs(seen["plain"] - seen["image"]).max() <= 1 / 127
    face = _face(seen["plain"], weighing)
    rows, columns = np.nonzero(seen["weights"] > 0.5)
    middle = ((face[0] + face[2]) / 16 - 0.5, (face[1] + face[3]) / 16 - 0.5)  # a latent is 8 pixels wide
    assert columns.mean() == pytest.approx(middle[0], abs=0.75)
    assert rows.mean() == pytest.approx(middle[1], abs=0.75)


def test_without_area_interpolation_enlarging_blackens_pixels_of_weight_0(trainer: Trainer, tmp_path: Path) -> None:
    """Why a weighted dataset sets resize_interpolation: this is the trainer's own default."""
    seen = _seen(trainer, _weighted(tmp_path, (96, 150), interpolation=None), tmp_path)
    assert np.abs(seen["plain"] - seen["image"]).max() > 0.5


def _weighted(folder: Path, size: tuple[int, int], *, interpolation: str | None) -> dict[str, object]:
    """A portrait off the middle, with and without weights that leave the face alone."""
    pose = draw.Pose(x=0.38, y=0.45, size=0.4)
    square = draw.photo([(draw.person(PERSONA), pose)], draw.Backdrop(), px=max(size))
    image = Image.fromarray(square[: size[1], : size[0]])
    image.save(folder / "plain.png")
    u, v = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    unit = pose.size * max(size)
    inside = np.hypot((u - pose.x * max(size)) / unit, (v - pose.y * max(size)) / unit) < 0.3
    image.putalpha(Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)))
    image.save(folder / "weighted.png")
    return {
        "plain": str(folder / "plain.png"),
        "weighted": str(folder / "weighted.png"),
        "size": size,
        "resolution": (256, 256),
        "interpolation": interpolation,
        "out": str(folder / "seen.npz"),
    }


def _seen(trainer: Trainer, asked: dict[str, object], folder: Path) -> dict[str, np.ndarray]:
    """What the trainer makes of them: images 3 x height x width in -1..1, weights at the latents' size."""
    command = [trainer.python, "-c", SEEN, trainer.sd_scripts, json.dumps([asked])]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return dict(np.load(folder / "seen.npz"))


def _face(picture: np.ndarray, weighing: Context) -> tuple[float, ...]:
    scoring = weighing.settings.scoring
    model = faces.load(faces.inspect(scoring.pack, det_size=256), device="cpu")
    pixels = np.rint((picture.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    return model.find(pixels).faces[0].box
