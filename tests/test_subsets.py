"""Datasets of several subsets: settings, lengths, config files, copies, checks, and how the miniature reads them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toml
import torch
from PIL import Image

from orchestrator import datasets as recipes
from orchestrator.config import datasets as dataset_settings
from orchestrator.config import toml_reader
from orchestrator.config.schema import PRESERVED, Dataset
from orchestrator.datasets import prepare, validate
from orchestrator.errors import Severity
from orchestrator.kohya import config_files, step_count
from orchestrator.kohya.arguments import lint
from orchestrator.miniature import photos
from orchestrator.miniature.arguments import Arguments
from orchestrator.model import Point
from orchestrator.plan import freeze
from orchestrator.plan.training_length import LengthEstimator
from orchestrator.store.hashes import HashCache

SETTINGS = """
[datasets.persona]
image_dir = "persona"
trigger = "ohwx woman"
num_repeats = 2

[datasets.with-class]
caption_extension = ".caption"

[[datasets.with-class.subsets]]
source = "persona"
keep_tokens = 1

[[datasets.with-class.subsets]]
image_dir = "class"
is_reg = true
class_tokens = "woman"

[datasets.preserved]
trigger = "zwx"
subset = { flip_aug = false }

[[datasets.preserved.subsets]]
image_dir = "persona"

[[datasets.preserved.subsets]]
source = "persona"
choose = { n = 1, num_subsets = 2 }
class_tokens = "woman"
custom_attributes = { diff_output_preservation = true }
"""


def read(folder: Path, text: str = SETTINGS) -> tuple[dict[str, Dataset], dict[str, str]]:
    """The datasets of settings, and the problems by key."""
    path = folder / "orchestrate.toml"
    path.write_text(text, encoding="utf-8")
    file = toml_reader.read(path)
    return dataset_settings.read(file), {one.key: f"{one.what} -> {one.remedy}" for one in file.problems}


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Dataset]:
    """Two persona images of 64 x 64 and 64 x 128, three class images of 64 x 64."""
    for folder, sizes in (("persona", [(64, 64), (64, 128)]), ("class", [(64, 64)] * 3)):
        (tmp_path / folder).mkdir()
        for index, size in enumerate(sizes):
            Image.new("RGB", size, (40 * index, 99, 7)).save(tmp_path / folder / f"{index}.png")
    for index in range(2):
        (tmp_path / "persona" / f"{index}.txt").write_text("ohwx woman, smiling", encoding="utf-8")
    found, problems = read(tmp_path)
    assert problems == {}
    return found


def test_each_subset_is_a_dataset_with_its_own_keys(known: dict[str, Dataset], tmp_path: Path) -> None:
    training, regularisation = known["with-class"].subsets
    assert training == replace(known["persona"], name="with-class.subsets.0", subset={"keep_tokens": 1})
    assert (regularisation.image_dir, regularisation.caption_extension) == (tmp_path / "class", ".caption")
    assert (regularisation.trigger, regularisation.class_tokens, regularisation.is_prior) == ("", "woman", True)
    plain, preserved = known["preserved"].subsets
    assert (plain.trigger, plain.subset, plain.is_prior) == ("zwx", {"flip_aug": False}, False)
    assert preserved.subset == {"flip_aug": False, "class_tokens": "woman", PRESERVED: True}
    assert preserved.is_prior
    assert [known[name].trigger for name in ("with-class", "preserved")] == ["ohwx woman", "zwx"]
    assert known["persona"].parts == (known["persona"],)


@pytest.mark.parametrize(
    ("subset", "key", "part"),
    [
        ("keep_token = 1", "subsets[0].keep_token", "did you mean keep_tokens"),
        ("caption_dropout_rate = 2", "subsets[0].caption_dropout_rate", "at most 1"),
        ("is_reg = true\ntrigger = 'ohwx'", "subsets[0].trigger", "write class_tokens"),
        ("is_reg = true", "subsets", "none teaches the persona"),
        ("custom_attributes = { diff_output = true }", "subsets[0].custom_attributes.diff_output", "unknown key"),
        ("subset = { resolution = 512 }", "subsets[0].subset.resolution", "set it in [arguments]"),
    ],
)
def test_a_wrong_subset_is_named_with_a_remedy(tmp_path: Path, subset: str, key: str, part: str) -> None:
    _, problems = read(tmp_path, f"[[datasets.odd.subsets]]\nimage_dir = 'x'\n{subset}\n")
    assert part in problems[f"datasets.odd.{key}"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[[datasets.a.subsets]]\nsource = 'a'", "circular"),
        ("[[datasets.a.subsets]]\nimage_dir = 'x'\n[datasets.b]\nsource = 'a'\nequal_steps = true", "has subsets"),
        ("[datasets.a]\nimage_dir = 'x'\n[[datasets.a.subsets]]\nimage_dir = 'y'", "unknown key"),
        ("[datasets.a.subsets]\nimage_dir = 'x'", "[[datasets.a.subsets]] above each"),
    ],
)
def test_tables_that_cannot_have_subsets(tmp_path: Path, text: str, part: str) -> None:
    _, problems = read(tmp_path, text + "\n")
    assert part in " ".join(problems.values())


@pytest.mark.parametrize(
    ("training", "regularisation", "expected"),
    [
        ((2, 2), (3, 1), 3 + 1),  # in turn until there are four: the first is used twice
        ((1, 2), (5, 1), 2),  # three are not used
        ((2, 3), (1, 4), 4 + 2),
        ((2, 1), (0, 1), 0),
    ],
)
def test_an_epoch_has_as_many_regularisation_images_as_training_images(
    training: tuple[int, int], regularisation: tuple[int, int], expected: int
) -> None:
    subsets = [([(1, 1)] * training[0], training[1], False), ([(2, 2)] * regularisation[0], regularisation[1], True)]
    used = step_count.one_epoch({}, subsets)
    assert used.count((1, 1)) == training[0] * training[1]
    assert used.count((2, 2)) == expected


def test_the_length_counts_the_images_of_an_epoch(known: dict[str, Dataset]) -> None:
    lengths = LengthEstimator(known)
    params = {"train_batch_size": 2, "resolution": "64,64", "max_train_epochs": 1}
    # two persona images twice and four regularisation images; the last of three is not in the second turn
    assert lengths.length({**params, "dataset": "with-class"}).steps == 4
    assert lengths.length({**params, "dataset": "preserved"}).steps == 2  # two images once, and one of them twice
    assert lengths.length({**params, "dataset": "persona"}).steps == 2
    assert lengths.dataset_size("with-class").counted
    assert not lengths.dataset_size("preserved").counted


def test_the_trainer_gets_one_dataset_with_all_subsets(known: dict[str, Dataset]) -> None:
    renderer = config_files.Renderer(config_files.shipped_templates())
    point = Point(id="1", name="p", params={})
    for name in ("with-class", "preserved"):
        text = renderer.dataset_toml(point, dataset=known[name], folders=[Path("/a"), Path("/b")])
        (dataset,) = toml.loads(text)["datasets"]
        assert [subset["image_dir"] for subset in dataset["subsets"]] == ["/a", "/b"]
    assert dataset["subsets"][1]["custom_attributes"] == {"diff_output_preservation": True}
    assert (dataset["subsets"][0]["class_tokens"], dataset["subsets"][1]["class_tokens"]) == ("zwx", "woman")


def _settings(folder: Path, known: dict[str, Dataset]) -> Any:
    return SimpleNamespace(runs=folder / "runs", datasets=known, scoring=None)


def test_each_subset_is_copied_and_every_file_counts(known: dict[str, Dataset], tmp_path: Path) -> None:
    settings = _settings(tmp_path, known)
    built = prepare.build(known["with-class"], settings, HashCache(settings.runs))
    assert [len(list(folder.glob("*.png"))) for folder in built.folders] == [2, 3]
    assert [path.parent for path in built.images] == [built.folders[0]] * 2
    Image.new("RGB", (64, 64), "red").save(tmp_path / "class" / "0.png")
    assert prepare.build(known["with-class"], settings, HashCache(settings.runs)).key != built.key


def test_the_seed_of_a_run_selects_the_draws_of_all_subsets(known: dict[str, Dataset]) -> None:
    one, two = (recipes.dataset_for_point({"dataset": "preserved", "seed": seed}, known) for seed in (1, 2))
    assert [part.name for part in one.subsets] == ["preserved.subsets.0", "preserved.subsets.1-draw1"]
    assert [part.name for part in two.subsets] == ["preserved.subsets.0", "preserved.subsets.1-draw2"]
    assert one.name != two.name
    assert recipes.dataset_for_point({"dataset": "with-class", "seed": 2}, known) == known["with-class"]


def test_a_changed_key_of_a_subset_is_frozen(known: dict[str, Dataset]) -> None:
    before = freeze.subset_keys(known["with-class"])
    reg = replace(known["with-class"].subsets[1], num_repeats=9)
    assert freeze.subset_keys(replace(known["with-class"], subsets=(known["with-class"].subsets[0], reg))) != before


def test_the_checks_include_every_subset(known: dict[str, Dataset], tmp_path: Path) -> None:
    names = [one.name for one in recipes.with_ancestors(["preserved"], known)]
    assert names == ["preserved.subsets.0", "preserved.subsets.1", "persona"]
    assert list(validate.validate_captions(known["with-class"], known)) == []
    (tmp_path / "class" / "1.caption").write_text("ohwx woman outside", encoding="utf-8")
    many = replace(known["with-class"].subsets[1], num_repeats=2)
    both = replace(known["with-class"], subsets=(known["with-class"].subsets[0], many))
    found = list(validate.validate_captions(both, known))
    assert [one.severity for one in found] == [Severity.WARNING] * 2
    assert "1 image contain the trigger" in found[0].what
    assert "uses 4 of 6 regularisation images" in found[1].what


def test_regularisation_images_need_class_tokens_instead_of_captions(known: dict[str, Dataset]) -> None:
    regularisation = known["with-class"].subsets[1]
    assert validate.validate_dataset(regularisation, "settings") == []
    (problem,) = validate.validate_dataset(replace(regularisation, subset={"is_reg": True}), "settings")
    assert problem.remedy.endswith("or set datasets.with-class.subsets.1.class_tokens")


@pytest.mark.parametrize(
    ("params", "dataset", "key"),
    [
        ({"prior_loss_weight": 0.5}, "persona", "prior_loss_weight"),
        ({"prior_loss_weight": 0.5}, "with-class", ""),
        ({"keep_tokens": 2, "shuffle_caption": True}, "with-class", ""),  # one subset overrides it, the other uses it
        ({"flip_aug": True}, "preserved", "flip_aug"),
    ],
)
def test_arguments_are_compared_with_all_subsets(
    known: dict[str, Dataset], params: dict[str, Any], dataset: str, key: str
) -> None:
    found = lint.lint_points([{**params, "dataset": dataset}], datasets=known)
    assert [one.key for one in found if one.key in params] == ([key] if key else [])


def test_mask_folders_exclude_regularisation_images(known: dict[str, Dataset]) -> None:
    training, reg = known["with-class"].subsets
    masked = replace(training, subset={"conditioning_data_dir": "/masks"})
    odd = {"odd": replace(known["with-class"], subsets=(masked, reg))}
    found = lint.lint_points([{"masked_loss": True, "dataset": "odd"}], datasets=odd)
    assert "sd-scripts accepts conditioning_data_dir only in all subsets" in found[-1].what


def test_the_miniature_balances_and_weighs_as_sd_scripts(known: dict[str, Dataset], tmp_path: Path) -> None:
    renderer = config_files.Renderer(config_files.shipped_templates())
    folders = [tmp_path / "persona", tmp_path / "class"]
    text = renderer.dataset_toml(Point(id="1", name="p", params={}), dataset=known["with-class"], folders=folders)
    (tmp_path / "dataset.toml").write_text(text, encoding="utf-8")
    values = {"dataset_config": str(tmp_path / "dataset.toml"), "train_batch_size": 8, "prior_loss_weight": 0.25}
    (dataset,) = photos.read(Arguments(values=values))
    assert dataset.repeats() == [[2, 2], [2, 1, 1]]
    (batch,) = photos.epoch([dataset])
    assert sorted(batch.weights.tolist()) == [0.25] * 4 + [1.0] * 4
    assert not batch.preserved.any()
    of_class = batch.captions[batch.weights < 1]
    assert torch.equal(of_class, of_class[:1].expand(4, -1))
    assert np.isfinite(batch.pictures.numpy()).all()
