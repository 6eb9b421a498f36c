"""Building datasets from recipes: what all have in common, and the choice of images."""

import hashlib
import json
import multiprocessing
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import recipe_world

from orchestrator import datasets
from orchestrator import scoring as scorer
from orchestrator.config.recipe import Choose, Recipe
from orchestrator.config.schema import Dataset
from orchestrator.datasets import build_process, choose, validate
from orchestrator.datasets.samples import Sample
from orchestrator.errors import InputError, NotReady
from orchestrator.miniature import world

PX = 96


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Six portraits with captions."""
    folder = tmp_path_factory.mktemp("photos") / "images"
    world.photos(folder, world.PERSONA, count=6, first=0, captions=True, px=PX)
    return folder


@pytest.fixture
def recipes(tmp_path, photos, scoring):
    return recipe_world.RecipeWorld(tmp_path, photos, scoring)


def contents(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}


# --- any recipe -------------------------------------------------------------------------------------------------------


def test_the_users_image_folder_is_only_read(recipes, photos):
    before = {path: path.stat().st_mtime_ns for path in photos.iterdir()}
    recipes.build(recipes.dataset("few", choose=Choose(n=2)))
    assert {path: path.stat().st_mtime_ns for path in photos.iterdir()} == before


def test_unchanged_images_are_copied_byte_by_byte_with_their_captions(recipes, photos):
    made = recipes.build(recipes.dataset("few", choose=Choose(n=2)))
    assert len(made.pictures) == 2
    for name in made.pictures:
        assert (made.folder / name).read_bytes() == (photos / name).read_bytes()
        caption = Path(name).with_suffix(".txt")
        assert (made.folder / caption).read_text() == (photos / caption).read_text()


def test_built_once_and_again_only_when_an_input_or_the_recipe_changes(recipes, photos, tmp_path):
    few = recipes.dataset("few", choose=Choose(n=2))
    first = recipes.build(few)
    stamp = (first.folder.parent / "dataset.json").stat().st_mtime_ns
    assert recipes.build(few) == first
    assert (first.folder.parent / "dataset.json").stat().st_mtime_ns == stamp
    other = recipes.build(recipes.dataset("few", choose=Choose(n=3)))
    (tmp_path / "more").mkdir()
    for path in photos.iterdir():
        (tmp_path / "more" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "more" / "0000.txt").write_text("another caption of ohwx person")
    recipes.persona = replace(recipes.persona, image_dir=tmp_path / "more")
    recaptioned = recipes.build(recipes.dataset("few", choose=Choose(n=2)))
    assert len({first.key, other.key, recaptioned.key}) == 3


def test_the_record_has_the_source_of_each_image_and_why_others_are_missing(recipes, photos):
    made = recipes.build(recipes.dataset("few", choose=Choose(n=2)))
    record = recipes.record(made)
    assert {one["origin"] for one in record["made"]} == {str(photos / name) for name in made.pictures}
    assert len(record["dropped"]) == 4
    assert all(one["why"] == "not among the 2 of draw 1" for one in record["dropped"])
    assert all((made.folder.parent / one["file"]).exists() for one in record["made"])
    assert json.dumps(record["recipe"])


def test_a_recipe_over_a_recipe_records_the_original_file(recipes, photos):
    four = recipes.dataset("four", choose=Choose(n=4))
    two = replace(recipes.dataset("two", choose=Choose(n=2)), recipe=Recipe(source="four", choose=Choose(n=2)))
    record = recipes.record(recipes.build(two, four))
    assert record["source"].startswith("four-")
    assert {Path(one["origin"]).parent for one in record["made"]} == {photos}


def test_a_failed_build_leaves_no_files(recipes):
    with pytest.raises(InputError, match="asks for 7 of 6 images"):
        recipes.build(recipes.dataset("many", choose=Choose(n=7)))
    assert [path.name.split("-")[0] for path in (recipes.runs / ".datasets").iterdir()] == ["persona"]


def test_a_build_that_dies_names_the_file_that_it_processed(recipes, tmp_path):
    few = recipes.dataset("few", choose=Choose(n=2))
    request = recipes.request(few, tmp_path / "never")
    scorer.in_progress_path(request.folder).write_text('["/videos/evil.mp4"]')

    def kill_the_first_child() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.005)
        children[0].kill()

    killer = threading.Thread(target=kill_the_first_child)
    killer.start()
    with pytest.raises(InputError, match=r"datasets\.few: .*processed .*evil\.mp4"):
        build_process.build(request)
    killer.join()


def test_a_copy_that_was_changed_is_refused(recipes):
    few = recipes.dataset("few", choose=Choose(n=2))
    made = recipes.build(few)
    (made.folder / made.pictures[0]).with_suffix(".txt").write_text("other words")
    with pytest.raises(NotReady, match="was changed"):
        recipes.build(few)


def test_a_latent_cached_beside_an_image_is_not_used(recipes):
    few = recipes.dataset("few", choose=Choose(n=2))
    made = recipes.build(few)
    (made.folder / f"{Path(made.pictures[0]).stem}_0096x0096_sdxl.npz").write_bytes(b"latents")
    with pytest.raises(NotReady, match="added"):
        recipes.build(few)


# --- choose and repeats -----------------------------------------------------------------------------------------------


def test_choices_are_nested_and_draws_differ(recipes):
    def names(n: int, draw: int) -> set[str]:
        chosen = Choose(n=n, num_subsets=2, draw=draw)
        return set(recipes.build(recipes.dataset(f"n{n}-{draw}", choose=chosen)).pictures)

    for draw in (1, 2):
        assert names(2, draw) < names(4, draw) < names(6, draw)
    assert names(4, 1) != names(4, 2)


def test_a_choice_depends_on_the_content_of_images_and_not_on_their_names(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))

    def chosen(renamed: str) -> list[Path]:
        pieces = [
            Sample(name=f"{renamed}{index}", file=file, caption="", origin="") for index, file in enumerate(files)
        ]
        return [piece.file for piece in choose.order(pieces, draw=1)]

    assert chosen("a") == chosen("b") != sorted(files)


def test_the_draw_follows_the_training_seed(recipes):
    drawn = recipes.dataset("few", choose=Choose(n=2, num_subsets=3))
    known = {"few": drawn, "persona": recipes.persona}

    def of(seed: int) -> Dataset:
        return datasets.dataset_for_point({"dataset": "few", "seed": seed}, known)

    assert [of(seed).name for seed in (1, 2, 3, 4)] == ["few-draw1", "few-draw2", "few-draw3", "few-draw1"]
    assert of(2).recipe.choose.draw == 2
    assert datasets.dataset_for_point({"dataset": "persona", "seed": 2}, known) is recipes.persona


def test_equal_steps_show_each_image_equally_often(recipes):
    made = recipes.build(recipes.dataset("few", choose=Choose(n=2), equal_steps=True))
    assert len(made.pictures) == 6
    assert len(contents(made.folder)) == 2
    assert all((made.folder / name).with_suffix(".txt").exists() for name in made.pictures)


def test_repeated_images_do_not_use_the_name_of_another(tmp_path):
    """An edited image is called NAME~2 by phones."""
    pieces = [Sample(name=name, file=tmp_path / f"{name}.png", caption="", origin="") for name in ("a", "a~2")]
    for piece in pieces:
        piece.file.write_bytes(piece.name.encode())
    assert {one.name for one in choose.repeated(pieces, 4)} == {"a", "a~2", "a~~2", "a~2~~2"}


def test_a_folder_with_two_images_of_one_name_is_reported_before_a_recipe_merges_them(recipes, tmp_path):
    (tmp_path / "phone").mkdir()
    for name in ("a.png", "a.l.png", "a.jpg"):
        (tmp_path / "phone" / name).write_bytes((recipes.persona.image_dir / "0000.png").read_bytes())
    few = replace(recipes.dataset("few", choose=Choose(n=1)), image_dir=tmp_path / "phone")
    (problem,) = validate.validate_dataset(few, "settings")
    assert problem.where == str(tmp_path / "phone" / "a.jpg")
    assert "a.png share a name" in problem.what


def test_equal_steps_repeat_some_images_more_often_if_necessary(recipes):
    made = recipes.build(recipes.dataset("few", choose=Choose(n=4), equal_steps=True))
    assert len(made.pictures) == 6
    assert len(contents(made.folder)) == 4
    assert sum("repeated for equal steps" in one["notes"] for one in recipes.record(made)["made"]) == 2
