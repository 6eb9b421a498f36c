"""Captions as a recipe, and what the lint finds in them."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import recipe_world
from PIL import Image

from orchestrator.config import datasets as dataset_settings
from orchestrator.config import toml_reader
from orchestrator.config.recipe import Captions, CaptionStyle, Recipe
from orchestrator.config.schema import Dataset, Scoring
from orchestrator.datasets import captions, prepare, validate

TRIGGER = "ohwx woman"
TAGS = "photo of ohwx woman, blue eyes, smiling, in a park"
MIXED = "ohwx woman, smiling. She stands in a park, wearing a red coat. Trees are behind her."


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (TAGS, {}, TAGS),
        (TAGS, {"style": "trigger"}, "ohwx woman"),
        (TAGS, {"style": "trigger", "replace_trigger": "woman"}, "woman"),
        (TAGS, {"drop_words": ["Blue eyes", "park"]}, "photo of ohwx woman, smiling"),
        (TAGS, {"keep_words": ["park"]}, "photo of ohwx woman, in a park"),
        (TAGS, {"drop_words": ["photo"]}, TAGS),
        (TAGS, {"drop_words": ["smil"]}, TAGS),
        (TAGS, {"replace_trigger": "woman"}, "photo of woman, blue eyes, smiling, in a park"),
        (TAGS, {"prefix": "snapshot,"}, f"snapshot, {TAGS}"),
        ("Ohwx  Woman, smiling", {}, "Ohwx  Woman, smiling"),
        ("Ohwx Woman's hat", {"replace_trigger": "woman"}, "woman's hat"),
        ("ohwx womanly pose", {}, "ohwx woman, ohwx womanly pose"),
        ("smiling, ohwx woman", {"shuffle": True}, "ohwx woman, smiling"),
        (MIXED, {}, MIXED),
        (MIXED, {"style": "tags"}, "ohwx woman, smiling"),
        (
            MIXED,
            {"style": "sentences"},
            "ohwx woman, She stands in a park, wearing a red coat. Trees are behind her.",
        ),
        (MIXED, {"drop_words": ["coat"]}, "ohwx woman, smiling. Trees are behind her."),
        ("She smiles.", {"style": "sentences"}, "ohwx woman, She smiles."),
        ("a park\nohwx woman in a park", {"style": "tags", "replace_trigger": "she"}, "she, a park\nshe"),
        ("", {}, "ohwx woman"),
    ],
)
def test_a_caption_is_rewritten(text: str, settings: dict[str, object], expected: str) -> None:
    style = CaptionStyle(str(settings.pop("style", "all")))
    assert captions.rewrite(Captions(trigger=TRIGGER, style=style, **settings), text) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "trigger", "found"),
    [
        ("photo of Ohwx\nPerson", "ohwx person", "Ohwx\nPerson"),
        ("ohwx persons, xohwx person", "ohwx person", None),
        ("ohwx人, in a park", "ohwx", "ohwx"),
        ("<sks>, in a park", "<sks>", "<sks>"),
        ("in a park", "", None),
    ],
)
def test_the_trigger_is_found_as_clip_reads_it(text: str, trigger: str, found: str | None) -> None:
    match = captions.find_trigger(text, trigger)
    assert (match and match[0]) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ohwx, blue-eyed, smiling", ["blue-eyed"]),
        ("ohwx with freckles, a small nose and full lips", ["freckles", "nose", "full lips"]),
        ("ohwx, closed eyes, open mouth, hand on chin, blue sky, red coat, looking into eyes", []),
        ("ohwx, light makeup, dark hair, eyeglasses", []),
    ],
)
def test_words_for_the_face_are_found(text: str, words: list[str]) -> None:
    found = list(captions.lint({"a.png": text}, "ohwx"))
    assert len(found) == bool(words)
    for word in words:
        assert word in found[0][0]
        assert f'"{word}"' in found[0][1]


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["ohwx in the park at noon"] * 2 + ["ohwx by the sea"], "0, 1"),
        (["ohwx"] * 2 + ["ohwx by the sea"], ""),
        (["photo of ohwx in one place"] * 3, ""),  # a template
    ],
)
def test_descriptions_of_several_images_are_found(texts: list[str], names: str) -> None:
    found = [what for what, _ in captions.lint({str(index): text for index, text in enumerate(texts)}, "ohwx")]
    assert [f"several images: {names} share" in what for what in found] == ([True] if names else [])


@pytest.fixture
def persona(tmp_path: Path) -> Dataset:
    (tmp_path / "images").mkdir()
    for name, text in (("a", TAGS), ("b", MIXED), ("c", "")):
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"{name}.png")
        if text:
            (tmp_path / "images" / f"{name}.txt").write_text(text, encoding="utf-8")
    return Dataset(name="persona", image_dir=tmp_path / "images", trigger=TRIGGER)


def test_captions_are_written_into_the_built_dataset_only(persona: Dataset, tmp_path: Path) -> None:
    scoring = Scoring(pack=tmp_path, references=tmp_path)
    recipes = recipe_world.RecipeWorld(tmp_path, persona.image_dir, scoring)
    recipes.persona = persona
    before = {path: path.read_bytes() for path in persona.image_dir.iterdir()}
    tags = Captions(trigger=TRIGGER, style=CaptionStyle.TAGS, drop_words=("blue eyes",))
    folder, _ = recipes.build_here(recipes.dataset("tags", captions=tags))
    written = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}
    assert written == {
        "a": "photo of ohwx woman, smiling, in a park\n",
        "b": "ohwx woman, smiling\n",
        "c": "ohwx woman\n",
    }
    assert {path: path.read_bytes() for path in persona.image_dir.iterdir()} == before


def test_the_lint_reads_captions_after_the_recipe(persona: Dataset) -> None:
    def found(drop: tuple[str, ...]) -> list[str]:
        recipe = Recipe(source="persona", captions=Captions(trigger=TRIGGER, drop_words=drop))
        known = {"persona": persona, "derived": replace(persona, name="derived", recipe=recipe)}
        return [one.what for one in validate.validate_captions(known["derived"], known)]

    assert ["describe the face (blue eyes)" in what for what in found(())] == [True]
    assert found(("blue eyes",)) == []


def test_shuffle_and_dropout_become_keys_of_the_subset(tmp_path: Path) -> None:
    path = tmp_path / "orchestrate.toml"
    path.write_text(
        f"""
[datasets.persona]
image_dir = "images"
trigger = "{TRIGGER}"
[datasets.shuffled]
source = "persona"
captions = {{ shuffle = true, dropout = 0.1 }}
[datasets.nameless]
image_dir = "images"
[datasets.odd]
source = "nameless"
captions = {{ style = "trigger" }}
[[datasets.preserved.subsets]]
source = "persona"
[[datasets.preserved.subsets]]
source = "persona"
captions = {{ replace_trigger = "woman" }}
custom_attributes = {{ diff_output_preservation = true }}
""",
        encoding="utf-8",
    )
    file = toml_reader.read(path)
    found = dataset_settings.read(file)
    assert found["shuffled"].subset == {"shuffle_caption": True, "keep_tokens": 1, "caption_dropout_rate": 0.1}
    assert [one.key for one in file.problems] == ["datasets.odd.captions.style"]
    preserved = found["preserved"].subsets[1]
    assert preserved.recipe
    assert preserved.recipe.captions
    assert (preserved.trigger, preserved.recipe.captions.trigger) == ("", TRIGGER)


def test_recipes_without_captions_keep_the_folders_of_older_versions() -> None:
    assert "captions" not in prepare._without_new(asdict(Recipe(source="persona")))
