"""Datasets of several subsets in the unmodified trainer: repeats, the weight of the prior loss, what is preserved."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_world import SIDE, Trained, World, trained

from orchestrator.config import settings
from orchestrator.config.schema import PRESERVED
from orchestrator.kohya.outputs import log, safetensors_header
from orchestrator.miniature import world
from orchestrator.model import Failure
from orchestrator.plan.training_length import LengthEstimator
from orchestrator.run.context import Context
from orchestrator.run.stages import train

DATASETS = """
[datasets.two]
source = "persona"
choose = { n = 2 }

[datasets.regularised]
[[datasets.regularised.subsets]]
source = "two"
[[datasets.regularised.subsets]]
image_dir = "class"
is_reg = true
class_tokens = "person"

[datasets.preserved]
[[datasets.preserved.subsets]]
source = "two"
[[datasets.preserved.subsets]]
image_dir = "class"
class_tokens = "person"
custom_attributes = { diff_output_preservation = true }

[datasets.repeated]
[[datasets.repeated.subsets]]
source = "two"
num_repeats = 2
[[datasets.repeated.subsets]]
image_dir = "class"
is_reg = true
class_tokens = "person"

[datasets.trigger]
source = "two"
captions = { style = "trigger" }

[datasets.class-captions]
source = "two"
captions = { replace_trigger = "person", keep_words = ["light"], shuffle = true, dropout = 0.5 }

[defaults]
dataset = "persona"
"""
TRAINED = ("two", "regularised", "preserved", "repeated", "trigger", "class-captions")
NOTHING = 1e-9
"""A learning rate at which the loss of every step is that of the base model."""


@pytest.fixture(scope="module")
def ctx(tiny: World) -> Context:
    world.photos(tiny.folder / "class", world.PERSONA + 1, count=2, first=2000, captions=False, px=SIDE)
    path = tiny.folder / "subsets.toml"
    text = (tiny.folder / "orchestrate.toml").read_text(encoding="utf-8")
    path.write_text(text + DATASETS, encoding="utf-8")
    known = settings.load(path).datasets
    only = replace(known["two"], name="only", subset={PRESERVED: True, "class_tokens": "person"})
    return tiny.context(datasets={**known, "only": only})


@pytest.fixture(scope="module")
def runs(tiny: World, ctx: Context) -> dict[str, Trained]:
    """One epoch of each."""

    def one(name: str, dataset: str, **arguments: float) -> Trained:
        run = tiny.run(
            f"subsets-{name}", dataset=dataset, resolution="64,64", network_train_unet_only=True, **arguments
        )
        return trained(run, train.perform(run, ctx))

    return {
        **{
            f"weight {weight}": one(f"w{weight}", "regularised", prior_loss_weight=weight, learning_rate=NOTHING)
            for weight in (0.0, 0.5, 1.0)
        },
        "only": one("only", "only", learning_rate=NOTHING),
        **{name: one(name, name) for name in TRAINED},
    }


def loss(one: Trained) -> float:
    assert one.result.failure is None, one.log
    progress = log.read_progress(one.log)
    assert progress
    assert progress.loss is not None
    return progress.loss


def test_the_loss_of_regularisation_images_is_scaled_by_prior_loss_weight(runs: dict[str, Trained]) -> None:
    none, half, whole = (loss(runs[f"weight {weight}"]) for weight in (0.0, 0.5, 1.0))
    assert none < 0.8 * whole
    assert half == pytest.approx((none + whole) / 2, rel=0.01)


def test_the_target_of_preserved_images_is_the_base_models_prediction(runs: dict[str, Trained]) -> None:
    """While the LoRA is zero they have no loss."""
    progress = log.read_progress(runs["only"].log)
    assert progress
    assert progress.loss == 0
    assert runs["only"].result.failure is Failure.NO_PRODUCT, "and the LoRA stays zero"


def test_every_kind_of_subset_trains_other_weights(runs: dict[str, Trained]) -> None:
    weights = [load_file(next(runs[name].output.glob("*.safetensors"))) for name in TRAINED]
    for one, other in itertools.combinations(weights, 2):
        assert any(not np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "training", "regularisation"), [("regularised", 2, 2), ("preserved", 4, 0), ("repeated", 4, 4)]
)
def test_repeats_count_as_planned(
    runs: dict[str, Trained], ctx: Context, name: str, training: int, regularisation: int
) -> None:
    one = runs[name]
    planned = LengthEstimator(ctx.settings.datasets).length(one.run.point.params)
    assert planned
    assert log.total_steps(one.log) == planned.steps == (training + regularisation) / 2
    metadata = safetensors_header.read_header(next(one.output.glob("*.safetensors"))).metadata
    assert metadata["ss_num_train_images"] == str(training)
    assert metadata["ss_num_reg_images"] == str(2 if name == "repeated" else regularisation)


def test_the_trainer_reads_the_captions_of_the_recipe(runs: dict[str, Trained]) -> None:
    def tags(name: str) -> set[str]:
        metadata = safetensors_header.read_header(next(runs[name].output.glob("*.safetensors"))).metadata
        return {tag for counts in json.loads(metadata["ss_tag_frequency"]).values() for tag in counts}

    assert tags("trigger") == {"ohwx person"}
    kept = tags("class-captions")
    assert "photo of person" in kept
    assert all(tag == "photo of person" or "light" in tag for tag in kept)
    metadata = safetensors_header.read_header(next(runs["class-captions"].output.glob("*.safetensors"))).metadata
    assert metadata["ss_caption_dropout_rate"] == "0.0", "of the arguments, not of the subset"
    (dataset,) = json.loads(metadata["ss_datasets"])
    assert (dataset["subsets"][0]["shuffle_caption"], dataset["subsets"][0]["keep_tokens"]) == (True, 1)
