import re
from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.config import datasets as dataset_settings
from orchestrator.config import toml_reader
from orchestrator.config.recipe import Captions, Choose, Crop, CropRegion, Dedupe, Frames, Mask, OnNoFace, Recipe
from orchestrator.config.schema import Dataset
from orchestrator.errors import InputError

PERSONA = """
[datasets.persona]
image_dir = "pictures"
caption_extension = ".caption"
trigger = "ohwx"
num_repeats = 2
pictures = 36
subset = { flip_aug = false }
"""


@pytest.fixture
def load(tmp_path):
    """The datasets of a settings file of this text."""

    def load(text):
        path = tmp_path / "orchestrate.toml"
        path.write_text(text, encoding="utf-8")
        file = toml_reader.read(path)
        datasets = dataset_settings.read(file)
        if file.problems:
            raise InputError(*file.problems)
        return datasets

    return load


@pytest.fixture
def problems(load):
    """What is wrong with settings of this text, by key."""

    def problems(text):
        with pytest.raises(InputError) as caught:
            load(text)
        assert all(problem.where and problem.remedy for problem in caught.value.problems)
        return {problem.key: problem for problem in caught.value.problems}

    return problems


def test_a_recipe_inherits_the_keys_of_its_source(load, tmp_path):
    found = load("[datasets.few]\nsource = 'persona'\nequal_steps = true\n[datasets.few.choose]\nn = 12\n" + PERSONA)
    assert found["few"] == Dataset(
        name="few",
        image_dir=tmp_path / "pictures",
        caption_extension=".caption",
        trigger="ohwx",
        num_repeats=2,
        subset={"flip_aug": False},
        recipe=Recipe(source="persona", choose=Choose(n=12), equal_steps=True),
    )
    assert found["persona"].recipe is None


def test_every_key_of_a_recipe_is_read(load, tmp_path):
    found = load(
        PERSONA
        + """
[datasets.all]
source = "persona"
num_repeats = 3
subset = { flip_aug = true }
[datasets.all.frames]
videos = "videos"
window_s = 0.5
similarity = 0.3
duplicates = 6
share = 0.25
smallest_face = 64
caption = "still of ohwx"
[datasets.all.dedupe]
distance = 2
mirror = false
[datasets.all.choose]
n = 12
num_subsets = 3
[datasets.all.crop]
crop_region = "head-and-shoulders"
padding = 0
smallest = 256
share = 0.5
keep_original = true
on_no_face = "drop"
drop_words = ["street", "full body"]
[datasets.all.mask]
face = 0.9
body = 0.4
background = 0
feather = 0
mean = 0.5
"""
    )["all"]
    assert (found.num_repeats, found.subset["flip_aug"], found.pictures) == (3, True, None)
    assert found.recipe == Recipe(
        source="persona",
        frames=Frames(
            videos=tmp_path / "videos",
            window_s=0.5,
            similarity=0.3,
            duplicates=6,
            share=0.25,
            smallest_face=64,
            caption="still of ohwx",
        ),
        dedupe=Dedupe(distance=2, mirror=False),
        choose=Choose(n=12, num_subsets=3),
        crop=Crop(
            crop_region=CropRegion.HEAD_AND_SHOULDERS,
            padding=0,
            smallest=256,
            share=0.5,
            keep_original=True,
            on_no_face=OnNoFace.DROP,
            drop_words=("street", "full body"),
        ),
        mask=Mask(face=0.9, body=0.4, background=0, feather=0, mean=0.5),
    )


def test_a_mask_sets_alpha_mask_and_area_interpolation(load):
    weighted = load(PERSONA + "[datasets.w]\nsource = 'persona'\n[datasets.w.mask]\n")["w"]
    assert weighted.subset == {"flip_aug": False, "alpha_mask": True, "resize_interpolation": "area"}
    assert weighted.recipe.mask == Mask()


def test_a_recipe_may_use_another_recipe(load):
    text = "[datasets.b]\nsource = 'a'\n[datasets.b.mask]\n[datasets.a]\nsource = 'persona'\n[datasets.a.crop]\n"
    found = load(text + PERSONA)
    assert found["b"].recipe.source == "a"
    assert found["b"].image_dir == found["persona"].image_dir


@pytest.mark.parametrize(
    ("text", "key", "part"),
    [
        ("[datasets.a]\nimage_dir = 'x'\ncaption_extension = '.'", "datasets.a.caption_extension", "file extension"),
        ("[datasets.a]\nsource = 'persone'\nequal_steps = true", "datasets.a.source", "no [datasets.persone]"),
        ("[datasets.a]\nsource = 'a'\nequal_steps = true", "datasets.a.source", "a -> a"),
        ("[datasets.a]\nsource = 'persona'", "datasets.a.source", "is a recipe without steps"),
        ("[datasets.a]\nsource = 'persona'\nchoose = 12", "datasets.a.choose", "must be a table"),
        ("[datasets.a]\nsource = 'persona'\n[datasets.a.choose]\ndraws = 2", "datasets.a.choose.n", "is missing"),
        ("[datasets.a]\nsource = 'persona'\n[datasets.a.crop]\npading = 1", "datasets.a.crop.pading", "unknown key"),
        (
            "[datasets.a]\nsource = 'persona'\n[datasets.a.crop]\ncrop_region = 'hand'",
            "datasets.a.crop.crop_region",
            "is not known here",
        ),
        ("[datasets.a]\nsource = 'persona'\n[datasets.a.crop]\nshare = 0", "datasets.a.crop.share", "above 0"),
        ("[datasets.a]\nsource = 'persona'\n[datasets.a.mask]\nface = 1.5", "datasets.a.mask.face", "at most 1"),
        ("[datasets.a]\nsubsets = []", "datasets.a.subsets", "must not be empty"),
        (
            "[datasets.a]\nimage_dir = 'i'\ntrigger = 't'\nnum_repeats = 10001",
            "datasets.a.num_repeats",
            "must be at most 10000",
        ),
        (
            "[datasets.a]\nsource = 'persona'\n[datasets.a.mask]\nface = 0\nbody = 0\nbackground = 0",
            "datasets.a.mask.face",
            "no weight is above 0",
        ),
        (
            "[datasets.m]\nsource = 'persona'\n[datasets.m.mask]\n[datasets.a]\nsource = 'm'\n[datasets.a.crop]",
            "datasets.a.source",
            "alpha",
        ),
        (
            "[datasets.n]\nimage_dir = 'n'\n[datasets.a]\nsource = 'n'\n[datasets.a.frames]\nvideos = 'v'",
            "datasets.a.frames.caption",
            "no caption",
        ),
    ],
)
def test_mistakes_are_reported_at_their_key(problems, text, key, part):
    found = problems(f"{PERSONA}\n{text}\n")
    assert part in found[key].what


def test_all_mistakes_are_reported(problems):
    found = problems("[datasets.a]\nsource = 'b'\nequal_steps = 1\n[datasets.b]\nimage_dri = 'x'\n")
    assert {"datasets.a.equal_steps", "datasets.b.image_dri", "datasets.b.image_dir"} <= found.keys()


def test_paths_are_relative_to_the_file(load, tmp_path):
    found = load(PERSONA + "[datasets.v]\nsource = 'persona'\n[datasets.v.frames]\nvideos = '/films'\n")
    assert found["v"].recipe.frames.videos == Path("/films")


# --- docs/dataset-recipes.md ------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "dataset-recipes.md").read_text(encoding="utf-8")
EXAMPLES = [block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[datasets." in block]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_page_are_valid(load, example):
    around = {
        "persona": '[datasets.persona]\nimage_dir = "p"\ntrigger = "x"\n',
        "images-12": '[datasets.images-12]\nsource = "persona"\nchoose = { n = 12 }\n',
    }
    beside = "".join(text for name, text in around.items() if f"[datasets.{name}]" not in example)
    assert load(example + beside)


@pytest.mark.parametrize("kind", [Recipe, Choose, Crop, Mask, Captions, Dedupe, Frames])
def test_the_page_explains_every_key(kind):
    ours = {"draw", "trigger"}  # a run's seed decides which draw; the source has the trigger
    missing = [field.name for field in fields(kind) if field.name not in ours and f"`{field.name}`" not in PAGE]
    assert not missing


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("mask = { masks = 'm', face = 1.0 }", "mask.face", "has no effect with a folder of masks"),
        ("mask = { masks = 'm' }\nframes = { videos = 'v' }", "mask.masks", "stills of videos have no masks"),
        ("mask = { masks = 'm' }", "mask.masks", "cropped has other images"),
    ],
)
def test_masks_belong_to_the_images_of_the_folder(problems, text, key, what):
    cropped = "[datasets.cropped]\nsource = 'persona'\ncrop = {}\n"
    source = "cropped" if "cropped" in what else "persona"
    found = problems(f"{PERSONA}{cropped}[datasets.odd]\nsource = '{source}'\n{text}\n")
    assert what in found[f"datasets.odd.{key}"].what
