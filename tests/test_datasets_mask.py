"""Weights of the loss: their position and mean, and that they do not change the image."""

from pathlib import Path

import numpy as np
import pytest
import recipe_world
from PIL import Image
from recipe_world import drawn

from orchestrator import images
from orchestrator.config.recipe import Crop, Mask
from orchestrator.datasets import mask, prepare, validate
from orchestrator.errors import Severity
from orchestrator.miniature.draw import Pose
from orchestrator.store.hashes import HashCache

pytestmark = pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning")

FACE, SIZE = (100.0, 60.0, 160.0, 140.0), (300, 400)
PLAIN = Mask(face=1.0, body=0.5, background=0.2, feather=0.0)


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def recipes(tmp_path, photos, scoring):
    return recipe_world.RecipeWorld(tmp_path, photos, scoring)


def test_face_body_and_background_have_their_weights():
    weights = mask.weights(PLAIN, FACE, SIZE)
    assert weights.shape == (400, 300)
    assert weights[100, 130] == 1.0
    assert weights[390, 130] == weights[60, 90] == 0.5
    assert weights[5, 5] == weights[390, 5] == 0.2


def test_feathering_softens_the_edge_and_never_leaves_the_range():
    hard, soft = mask.weights(PLAIN, FACE, SIZE), mask.weights(Mask(body=0.5, background=0.2, feather=0.5), FACE, SIZE)
    assert np.abs(np.diff(soft, axis=0)).max() < np.abs(np.diff(hard, axis=0)).max() / 4
    assert (soft.min(), soft.max()) == (pytest.approx(0.2), pytest.approx(1.0))


@pytest.mark.parametrize("mean", [0.1, 0.4, 0.6, 0.9, 1.0])
def test_the_mean_is_what_the_recipe_says(mean):
    weights = mask.weights(Mask(mean=mean), FACE, SIZE)
    assert weights.mean() == pytest.approx(mean, abs=1e-6)
    assert weights.max() <= 1
    assert weights[100, 130] == weights.max()


def test_the_mean_is_exact_with_a_weight_near_zero():
    raw = np.array([[1.0, 0.5, 0.25], [0.25, 1e-17, 0.0]])
    assert mask.scaled(raw, 0.2) == pytest.approx(raw * 0.6)


def test_below_one_the_ratios_stay():
    weights = mask.weights(Mask(face=1.0, body=0.5, background=0.25, feather=0, mean=0.2), FACE, SIZE)
    assert weights[100, 130] / weights[5, 5] == pytest.approx(4)


def test_a_mean_that_cannot_be_reached_gives_the_largest_weights():
    weights = mask.weights(Mask(face=1, body=0, background=0, feather=0, mean=0.9), FACE, SIZE)
    assert set(np.unique(weights.round(6))) >= {0.0, 1.0}
    assert weights[5, 5] == 0
    assert weights.mean() < 0.2


def test_without_a_face_all_pixels_have_one_weight():
    assert np.all(mask.weights(Mask(mean=0.4), None, SIZE) == pytest.approx(0.4))
    assert np.all(mask.weights(Mask(), None, SIZE) == 1.0)


def test_a_larger_face_weighs_no_more_than_a_smaller_one_under_a_mean():
    close, far = (mask.weights(Mask(mean=0.5), face, SIZE).sum() for face in ((50, 50, 250, 300), FACE))
    assert close == pytest.approx(far)


def test_the_weights_are_the_alpha_of_an_unchanged_image(recipes, photos):
    drawn(Pose(x=0.4, y=0.4, size=0.4)).save(photos / "a.png")
    made, record = recipes.build_here(recipes.dataset("weighted", mask=Mask(background=0.0, feather=0.0)))
    with Image.open(made / "a.png") as image, Image.open(photos / "a.png") as original:
        assert image.mode == "RGBA"
        assert np.array_equal(np.asarray(image)[..., :3], np.asarray(original))
        alpha = np.asarray(image)[..., 3]
    with Image.open(made.parent / "masks" / "a.png") as kept, Image.open(made.parent / "plain" / "a.png") as plain:
        assert np.array_equal(np.asarray(kept), alpha)
        assert np.array_equal(np.asarray(plain), np.asarray(original))
    left, top, right, bottom = (round(side) for side in record["made"][0]["face"])
    assert alpha[(top + bottom) // 2, (left + right) // 2] == 255
    assert alpha[2, 2] == 0
    assert f"mean weight {alpha.mean() / 255:.2f}" in record["made"][0]["notes"]


def test_in_a_crop_the_weights_lie_where_the_face_is(recipes, photos):
    drawn(Pose(x=0.25, y=0.3, size=0.3)).save(photos / "a.png")
    both = recipes.dataset("both", crop=Crop(smallest=96), mask=Mask(body=0.0, background=0.0, feather=0.0))
    made, record = recipes.build_here(both)
    with Image.open(made / "a.png") as image:
        alpha = np.asarray(image)[..., 3]
    rows, columns = np.nonzero(alpha)
    face, crop = record["made"][0]["face"], record["made"][0]["crop"]
    middle = ((face[0] + face[2]) / 2 - crop[0], (face[1] + face[3]) / 2 - crop[1])
    assert (columns.mean(), rows.mean()) == (pytest.approx(middle[0], abs=2), pytest.approx(middle[1], abs=2))


def test_an_image_without_a_face_is_named(recipes, photos):
    drawn().save(photos / "none.png")
    _, record = recipes.build_here(recipes.dataset("weighted", mask=Mask(mean=0.4)))
    assert "no face found" in record["made"][0]["notes"]
    assert "mean weight 0.40" in record["made"][0]["notes"]


def test_face_detection_gets_images_without_weights(recipes, photos):
    drawn(Pose(size=0.5)).save(photos / "a.png")
    prepared = recipes.build(recipes.dataset("weighted", mask=Mask(background=0.0)))
    assert prepared.unmasked_dir == prepared.folder.parent / "plain"
    assert all((prepared.unmasked_dir / name).exists() for name in prepared.pictures)


# --- a folder of masks ------------------------------------------------------------------------------------------------


@pytest.fixture
def masks(tmp_path) -> Path:
    (tmp_path / "masks").mkdir()
    return tmp_path / "masks"


def test_masks_become_the_weights_and_follow_the_crop(recipes, photos, masks):
    drawn(Pose(x=0.25, y=0.3, size=0.3)).save(photos / "a.png")
    weights = np.zeros((256, 256), np.uint8)
    weights[70:90, 60:80] = 200
    Image.fromarray(weights).save(masks / "a.png")
    whole, _ = recipes.build_here(recipes.dataset("whole", mask=Mask(masks=masks)))
    with Image.open(whole / "a.png") as image, Image.open(photos / "a.png") as original:
        assert np.array_equal(np.asarray(image)[..., 3], weights)
        assert np.array_equal(np.asarray(image)[..., :3], np.asarray(original))
    made, record = recipes.build_here(recipes.dataset("both", crop=Crop(smallest=96), mask=Mask(masks=masks)))
    left, top, right, bottom = record["made"][0]["crop"]
    with Image.open(made / "a.png") as image:
        assert np.array_equal(np.asarray(image)[..., 3], weights[top:bottom, left:right])


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "RGBA", "cut out"])
def test_masks_of_any_tool_are_read(tmp_path, mode):
    grey = np.array([[0, 255], [255, 0]], np.uint8)
    mask, white = Image.fromarray(grey), Image.new("L", (2, 2), 255)
    # a cut-out is white everywhere: its alpha channel is the mask
    mask = Image.merge("RGBA", [white, white, white, mask]) if mode == "cut out" else mask.convert(mode)
    mask.save(tmp_path / "a.png")
    assert np.array_equal(images.load_mask(tmp_path / "a.png"), grey / 255)


def test_a_mean_applies_to_masks_too(recipes, photos, masks):
    Image.new("RGB", (32, 32)).save(photos / "a.png")
    Image.fromarray(np.repeat([[40, 80]], 16, 1).repeat(32, 0).astype(np.uint8)).save(masks / "a.png")
    _, record = recipes.build_here(recipes.dataset("mean", mask=Mask(masks=masks, mean=0.5)))
    assert "mean weight 0.50" in record["made"][0]["notes"]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ((), "a.png has no mask"),
        (("a.png", "a.jpg"), "a.png has 2 masks"),
        (("small",), "a.png has 32 x 32 pixels, and its mask a.png 16 x 32"),
        (("broken",), "a.png has the mask a.png, which cannot be read"),
        (("black",), "a.png has the mask a.png, which is black everywhere"),
    ],
)
def test_an_unusable_mask_is_an_error_before_anything_starts(recipes, photos, masks, names, why):
    Image.new("RGB", (32, 32)).save(photos / "a.png")
    for name in names:
        size, colour = (16 if name == "small" else 32, 32), "black" if name == "black" else "white"
        path = masks / (name if "." in name else "a.png")
        Image.new("L", size, colour).save(path)
        if name == "broken":
            path.write_bytes(path.read_bytes()[:40])
    (problem,) = validate.validate_dataset(recipes.dataset("masked", mask=Mask(masks=masks)), "settings")
    assert (why in problem.what, problem.key, problem.severity) == (True, "datasets.masked.mask.masks", Severity.ERROR)


def test_an_edited_mask_makes_another_dataset(recipes, photos, masks):
    for folder in (photos, masks):
        Image.new("L", (32, 32), 255).save(folder / "a.png")
    dataset, settings = recipes.dataset("masked", mask=Mask(masks=masks)), recipes._settings()
    before = prepare.folder_of(dataset, settings, HashCache(recipes.runs))
    assert prepare.folder_of(dataset, settings, HashCache(recipes.runs)) == before
    Image.new("L", (32, 32), 128).save(masks / "a.png")
    assert prepare.folder_of(dataset, settings, HashCache(recipes.runs)) != before
