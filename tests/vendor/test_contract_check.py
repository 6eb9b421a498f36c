"""`check --deep` with the unmodified trainer: its parser, dataset loader, optimizers and schedulers."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_world import World

from orchestrator.errors import Severity, errors_of
from orchestrator.plan.check import configurations
from orchestrator.plan.check.report import CheckReport

GOOD = {
    "plain": {},
    "prodigy": {"optimizer_type": "Prodigy", "optimizer_args": ("decouple=True",), "learning_rate": 1.0},
    "half": {"mixed_precision": "fp16", "no_half_vae": True},
    "cosine": {"lr_scheduler": "cosine", "lr_warmup_steps": 0.1, "max_token_length": 225},
}
BAD = {
    "unknown-argument": ({"optimizer_args": ("beta=1",)}, "unexpected keyword argument 'beta'"),
    "another-one": ({"optimizer_args": ("beta=1",), "network_dim": 8}, ""),
    "warmup": ({"lr_scheduler": "constant", "lr_warmup_steps": 2}, "does not require `num_warmup_steps`"),
    "steps": ({"enable_bucket": True, "min_bucket_reso": 64, "bucket_reso_steps": 40}, "divisible by 32"),
    "cached-text": ({"cache_text_encoder_outputs": True}, "cannot be trained with caching Text Encoder outputs"),
    "a-string": ({"learning_rate": "fast"}, "'<=' not supported"),
}


LONG = "(a:1.2), " * 40
"""Of 80 tokens: the weights are none."""


@pytest.fixture(scope="module")
def report(tiny: World) -> CheckReport:
    """Of all configurations, and of one more that differs in its seed alone."""
    table = {**GOOD, **{name: arguments for name, (arguments, _) in BAD.items()}, "other-seed": {"seed": 2}}
    points = [tiny.run(name, **arguments).point for name, arguments in table.items()]
    return configurations.check_configurations(tiny.settings, points, ("photo of a person", LONG))


def test_accepted_configurations_are_counted_without_replicates(report: CheckReport) -> None:
    counted = f"{len(GOOD)} of {len(GOOD) + len(BAD)} configurations accepted by sd-scripts"
    assert report.facts["deep check"] == counted


def test_each_cause_is_one_problem_that_names_its_first_run(report: CheckReport) -> None:
    found = {problem.where: problem.what for problem in errors_of(report.problems)}
    assert set(found) == set(BAD) - {"another-one"}
    for name, words in found.items():
        assert BAD[name][1] in words, words
    assert "2 configurations" in found["unknown-argument"]


def test_tokens_are_counted_by_the_trainers_tokenizer(tiny: World, report: CheckReport) -> None:
    captions = [path.read_text(encoding="utf-8") for path in tiny.dataset.image_dir.glob("*.txt")]
    assert report.facts["tokens"] == "19 in the longest caption, 80 in the longest prompt", captions
    [cut] = [one for one in report.problems if one.severity is Severity.WARNING]
    assert "gen_img.py cuts 1 of 3 prompts after 75 tokens" in cut.what
    assert "(80)" in cut.what


def test_the_users_folder_is_unchanged(tiny: World, report: CheckReport) -> None:
    assert {path.suffix for path in tiny.dataset.image_dir.iterdir()} == {".png", ".txt"}


def test_sources_that_cannot_be_imported_are_one_problem(tiny: World, tmp_path: Path) -> None:
    used = replace(tiny.settings, trainer=replace(tiny.settings.trainer, sd_scripts=tmp_path))
    found = configurations.check_configurations(used, [tiny.run("plain").point], ())
    assert [problem.key for problem in found.problems] == ["trainer.sd_scripts"]
