"""Crops: the result for every kind of image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recipe_world
from PIL import Image
from recipe_world import drawn

from orchestrator import images
from orchestrator.config.recipe import Crop, CropRegion, OnNoFace
from orchestrator.datasets import captions, crop, validate
from orchestrator.errors import InputError, Severity
from orchestrator.miniature.draw import Pose
from orchestrator.scoring import faces

pytestmark = pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning")

CAPTION = "photo of ohwx person, full body, on a street, smiling"
SMALL = Pose(x=0.3, y=0.35, size=0.3)


@pytest.fixture(scope="module")
def model(scoring):
    found = faces.inspect(scoring.pack, det_size=scoring.det_size)
    return faces.load(found, device="cpu")


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder for images."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def recipes(tmp_path, photos, scoring):
    return recipe_world.RecipeWorld(tmp_path, photos, scoring)


def put(picture: Image.Image, path: Path, **options: object) -> None:
    picture.save(path, **options)
    path.with_suffix(".txt").write_text(CAPTION)


def notes(record: dict) -> dict[str, str]:
    return {Path(one["name"]).stem: "; ".join(one["notes"]) for one in record["made"]}


def share(model: faces.Faces, path: Path) -> float:
    """The longer side of the face's box as a part of the image's width."""
    image = images.load(path)
    left, top, right, bottom = model.find(image).faces[0].box
    return max(right - left, bottom - top) / image.shape[1]


def test_the_face_is_cut_out_with_its_padding(recipes, photos, model):
    put(drawn(SMALL), photos / "a.png")
    made, _ = recipes.build_here(recipes.dataset("close", crop=Crop(padding=0.25, smallest=32)))
    face = share(model, photos / "a.png")
    assert share(model, made / "a.png") == pytest.approx(1 / 1.5, abs=0.05)
    assert share(model, made / "a.png") > 2 * face
    assert (photos / "a.png").stat().st_size > (made / "a.png").stat().st_size


def test_head_and_shoulders_show_more_and_more_below_than_above():
    face, size = (100, 100, 140, 140), (400, 400)
    close = crop.crop_box(face, size, Crop(smallest=1, padding=0))
    wide = crop.crop_box(face, size, Crop(smallest=1, padding=0, crop_region=CropRegion.HEAD_AND_SHOULDERS))
    assert close == (100, 100, 140, 140)
    assert wide[3] - 140 > 2 * (100 - wide[1]) > 0
    assert (wide[2] - wide[0], (wide[0] + wide[2]) / 2) == (wide[3] - wide[1], 120)


@pytest.mark.parametrize("face", [(0, 0, 40, 40), (360, 260, 400, 300), (180, 0, 220, 40)])
def test_a_crop_lies_in_its_image_and_is_no_smaller_than_the_smallest(face):
    left, top, right, bottom = crop.crop_box(face, (400, 300), Crop(smallest=128))
    assert (right - left, bottom - top) == (128, 128)
    assert left >= 0
    assert top >= 0
    assert right <= 400
    assert bottom <= 300


def test_a_crop_wider_than_the_image_is_cut_to_it():
    assert crop.crop_box((50, 50, 150, 150), (400, 200), Crop(padding=1.0)) == (0, 0, 400, 200)
    assert crop.crop_box((50, 50, 150, 150), (400, 200), Crop(padding=1.0, smallest=64)) == (0, 0, 300, 200)


def test_every_kind_of_image_has_its_result_and_table_row(recipes, photos):
    put(drawn(SMALL), photos / "one.png")
    put(drawn(), photos / "none.png")
    put(drawn(Pose(x=0.25, y=0.3, size=0.2), Pose(x=0.7, y=0.6, size=0.4)), photos / "two.png")
    put(drawn(Pose(size=0.7)).resize((60, 60)), photos / "tiny.png")
    put(drawn(Pose(size=0.8)), photos / "filled.png")
    _, record = recipes.build_here(recipes.dataset("close", crop=Crop(smallest=96)))
    found = notes(record)
    assert found["one"] == ""
    assert "not cropped: no face found" in found["none"]
    assert "2 faces, the largest is used" in found["two"]
    assert "not cropped: its shorter side has 60 of 96 pixels" in found["tiny"]
    assert "the whole image: the face fills it" in found["filled"]
    crops = {Path(one["name"]).stem: one["crop"] for one in record["made"]}
    assert crops["two"][0] > 40
    assert crops["none"] is crops["tiny"] is crops["filled"] is None
    assert record["dropped"] == []


def test_lost_images_can_be_left_out_and_are_named(recipes, photos):
    put(drawn(SMALL), photos / "one.png")
    put(drawn(), photos / "none.png")
    _, record = recipes.build_here(recipes.dataset("close", crop=Crop(smallest=96, on_no_face=OnNoFace.DROP)))
    assert record["pictures"] == ["one.png"]
    (dropped,) = record["dropped"]
    assert (dropped["origin"], dropped["why"]) == (str(photos / "none.png"), "no face found")


def test_crops_can_stand_beside_their_originals(recipes, photos):
    put(drawn(SMALL), photos / "one.png")
    put(drawn(), photos / "none.png")
    words = Crop(smallest=96, keep_original=True, drop_words=("full body",))
    made, record = recipes.build_here(recipes.dataset("both", crop=words))
    assert set(record["pictures"]) == {"none.png", "one-face.png", "one.png"}
    assert (made / "one.png").read_bytes() == (photos / "one.png").read_bytes()
    assert "full body" in (made / "one.txt").read_text()
    assert "full body" not in (made / "one-face.txt").read_text()
    assert "no crop added: no face found" in record["dropped"][0]["why"]


def test_a_crop_that_would_take_another_images_file_stops_the_build(recipes, photos):
    put(drawn(SMALL), photos / "one.png")
    put(drawn(SMALL, seed=1), photos / "one-face.png")
    with pytest.raises(InputError, match=r"named one-face: one(-face)?\.png and one(-face)?\.png"):
        recipes.build_here(recipes.dataset("both", crop=Crop(smallest=96, keep_original=True)))


def test_a_share_of_the_images_is_cropped(recipes, photos):
    for number in range(4):
        put(drawn(SMALL, seed=number), photos / f"{number}.png")
    _, record = recipes.build_here(recipes.dataset("half", crop=Crop(smallest=96, share=0.5)))
    assert sum(one["crop"] is not None for one in record["made"]) == 2


def test_an_image_is_rotated_by_its_exif_data(recipes, photos, model):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    put(drawn(SMALL).rotate(90, expand=True), photos / "turned.png", exif=exif)
    made, record = recipes.build_here(recipes.dataset("close", crop=Crop(smallest=96)))
    assert "rotated as its EXIF says" in notes(record)["turned"]
    with Image.open(made / "turned.png") as image:
        assert not image.getexif()
    eyes = model.find(images.load(made / "turned.png")).faces[0].landmarks
    assert eyes[0][0] < eyes[1][0]
    assert abs(eyes[0][1] - eyes[1][1]) < 5


def test_sd_scripts_reads_no_exif_so_a_plain_folder_with_a_turned_image_is_refused(recipes, photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    put(drawn(SMALL), photos / "turned.png", exif=exif)
    put(drawn(SMALL), photos / "upright.png")
    (problem,) = validate.validate_dataset(recipes.persona, "settings")
    assert problem.where == str(photos / "turned.png")
    assert "is rotated by its EXIF data" in problem.what


def test_transparent_parts_become_white(recipes, photos):
    image = drawn(SMALL)
    alpha = np.full((256, 256), 255, np.uint8)
    alpha[200:] = 0
    image.putalpha(Image.fromarray(alpha))
    put(image, photos / "clear.png")
    made, record = recipes.build_here(recipes.dataset("wide", crop=Crop(smallest=250)))
    assert "transparency replaced by white" in notes(record)["clear"]
    with Image.open(made / "clear.png") as opened:
        assert opened.mode == "RGB"
        assert np.asarray(opened)[-1].min() == 255
    (problem,) = validate.validate_dataset(recipes.persona, "settings")
    assert problem.severity is Severity.WARNING
    assert "hidden under them" in problem.what, "the source itself would be trained with other colours"
    assert validate.validate_dataset(replace(recipes.persona, subset={"alpha_mask": True}), "settings") == []


def test_an_opaque_alpha_channel_is_not_reported(recipes, photos):
    put(drawn(SMALL).convert("RGBA"), photos / "opaque.png")
    _, record = recipes.build_here(recipes.dataset("close", crop=Crop(smallest=96)))
    assert notes(record)["opaque"] == ""
    assert validate.validate_dataset(recipes.persona, "settings") == []


def test_an_image_that_cannot_be_decoded_stops_the_build_with_its_name(recipes, photos):
    put(drawn(SMALL), photos / "whole.png")
    (photos / "broken.png").write_bytes((photos / "whole.png").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"broken\.png"):
        recipes.build_here(recipes.dataset("close", crop=Crop(smallest=96)))


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        (CAPTION, "photo of ohwx person, smiling"),
        ("ohwx person on a street, Full Body", "ohwx person on a street"),
        ("streetwear, smiling", "streetwear, smiling"),
        ("on a street", ""),
    ],
)
def test_captions_lose_the_parts_that_a_crop_does_not_show(caption, kept):
    assert captions.without_words(caption, ("full body", "street"), trigger="ohwx person") == kept


def test_a_caption_never_becomes_empty(recipes, photos):
    put(drawn(SMALL), photos / "a.png")
    (photos / "a.txt").write_text("on a street")
    made, _ = recipes.build_here(recipes.dataset("close", crop=Crop(smallest=96, drop_words=("street",))))
    assert (made / "a.txt").read_text().strip() == "on a street"


def test_a_sweep_reports_what_it_builds_and_images_without_faces(recipes, photos):
    put(drawn(SMALL), photos / "one.png")
    put(drawn(), photos / "none.png")
    said: list[str] = []
    close = recipes.dataset("close", crop=Crop(smallest=96))
    made = recipes.prepare([{"dataset": "close", "seed": seed} for seed in (1, 2)], close, said.append)
    assert list(made) == ["close"]
    assert said[0] == "close: building from persona"
    assert "2 images; 0 dropped; without a face or not cropped: none.png" in said[1]
    recipes.prepare([{"dataset": "close"}], close, said.append)
    assert len(said) == 2
