"""LoRAs on a base model that they were not trained on."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats
from standins.world import BASE, World

from orchestrator import cli, scoring
from orchestrator.config.schema import Comparison
from orchestrator.errors import Conflict, InputError
from orchestrator.evidence import choice, confirmation, run_metrics, summary
from orchestrator.evidence.stats.contrast import Verdict
from orchestrator.report.followup import TRANSFER, compare_transfers, report_transfers


def call(world: World, *arguments: str) -> Result:
    where = ["transfer", "--settings", str(world.settings), "grid"]
    return CliRunner().invoke(cli.main, [*where, *arguments])


@pytest.fixture
def scored(world: World) -> World:
    """A finished sweep on one base model, and a second one in the settings."""
    shutil.copyfile(BASE, world.folder / "puppet.safetensors")
    text = world.settings.read_text(encoding="utf-8")
    puppet = '[defaults]\nbase_model = "doll"\n[base_models.puppet]\npath = "puppet.safetensors"\n'
    world.settings.write_text(f"{text}\n{puppet}", encoding="utf-8")
    world.drive()
    return world


def test_images_on_another_base_model_are_compared_with_its_baseline(scored: World) -> None:
    frozen = (scored.sweep.path / "sweep.json").read_bytes()
    done = call(scored, "--to", "puppet", "--only", "network_dim=2*")
    assert done.exit_code == 0, done.output
    assert (scored.sweep.path / "sweep.json").read_bytes() == frozen, "the sweep has no new runs"
    with (scored.sweep.report / TRANSFER).open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["trained_on"], row["made_on"]) == ("doll", "puppet")
    run = scored.run("network_dim=2*")
    made = scoring.read_scores(next(run.path.glob("on/*/scores.json")))
    floor = scoring.read_scores(next(scored.sweep.path.glob("on/baseline-*/scores.json")))
    own = scoring.read_scores(run.path / "scores.json")
    assert {choice.cell(score) for score in made} == {choice.cell(score) for score in own}
    assert float(row["similarity_mean"]) == pytest.approx(run_metrics.summary(made).similarity_mean, abs=1e-3)
    assert float(row["gain"]) == pytest.approx(confirmation.gain(made, floor), abs=1e-3)
    (facts_of_it,) = [one for one in summary.gather(scored.sweep) if one.run.point == run.point]
    assert float(row["gain_at_home"]) == pytest.approx(facts_of_it.gain, abs=1e-3)


def test_base_models_are_compared_over_pairs_of_the_same_lora(scored: World) -> None:
    """The interval is that of SciPy over the seeds' mean differences of gain, from the scores alone."""
    scored.ask("[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2, 3]\n")
    scored.drive()
    assert call(scored, "--to", "puppet").exit_code == 0
    _shift_scores(scored)
    home, other = (
        {choice.cell(s): s.similarity for s in scoring.read_scores(path)}
        for path in (
            next(scored.sweep.path.glob("baseline-*/scores.json")),
            next(scored.sweep.path.glob("on/baseline-*/scores.json")),
        )
    )
    by_seed: dict[object, list[float]] = {}
    for run in scored.sweep.runs():
        if not run.point.is_baseline:
            before = {choice.cell(s): s.similarity for s in scoring.read_scores(run.path / "scores.json")}
            after = {choice.cell(s): s.similarity for s in scoring.read_scores(next(run.path.glob("on/*/scores.json")))}
            gains = [(after[cell] - other[cell]) - (before[cell] - home[cell]) for cell in before]
            by_seed.setdefault(run.point.params["seed"], []).append(float(np.mean(gains)))
    means = [float(np.mean(found)) for found in by_seed.values()]
    (result,) = compare_transfers([one for one in summary.gather(scored.sweep) if one.choice], scored.sweep)
    assert (len(result.matching.pairs), result.replicates) == (6, 3)
    assert result.difference == pytest.approx(np.mean(means))
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert result.interval is not None
    assert result.interval.low <= expected.low + 1e-9 < expected.high - 1e-9 <= result.interval.high
    for path in scored.sweep.path.glob("*/on/*/generate/*/attempt.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**record, "environment": {"gpu": "A100", "driver": "", "versions": {}}}))
    found = [one for one in summary.gather(scored.sweep) if one.choice]
    (excluded,) = compare_transfers(found, scored.sweep)
    assert (excluded.matching.pairs, excluded.verdict) == ((), Verdict.UNDECIDED), "made on another GPU model"
    allowed = Comparison(allow_different_hardware=True)
    (included,) = compare_transfers(found, scored.sweep, allowed)
    assert (included.verdict, included.interval) == (result.verdict, result.interval)
    *_, sentence = report_transfers(scored.sweep, allowed)
    assert sentence.startswith(f"Do LoRAs trained on doll gain more on puppet? {result.verdict.value}: ")
    assert sentence.endswith("(6 LoRAs, 3 training seeds)")
    with (scored.sweep.report / TRANSFER).open(encoding="utf-8", newline="") as file:
        assert {(row["verdict"], row["low"]) for row in csv.DictReader(file)} == {
            (result.verdict.value, f"{result.interval.low:.4g}")
        }


def _shift_scores(world: World) -> None:
    """The stand-ins draw the same images on both base models: make each LoRA's images worse by about 0.1."""
    for number, path in enumerate(sorted(world.sweep.path.glob("network_dim*/on/*/scores.json"))):
        record = json.loads(path.read_text(encoding="utf-8"))
        for index, score in enumerate(record["scores"]):
            score["similarity"] -= 0.1 + 0.003 * number + 0.001 * index
        path.write_text(json.dumps(record), encoding="utf-8")


def test_a_base_model_has_generation_settings_of_its_own(scored: World) -> None:
    text = scored.settings.read_text(encoding="utf-8")
    own = 'path = "puppet.safetensors"\nscale = 4.5\nsampler = "ddim"\nsteps = 7\nnegative_prompt = "blurry"\n'
    scored.settings.write_text(text.replace('path = "puppet.safetensors"\n', own), encoding="utf-8")
    assert call(scored, "--to", "puppet", "--only", "network_dim=2*").exit_code == 0
    run = scored.run("network_dim=2*")
    command = json.loads(next(run.path.glob("on/*/generate/1/generator/command.json")).read_text(encoding="utf-8"))
    words = " ".join(map(str, command["argv"]))
    assert "--steps 7 --sampler ddim --scale 4.5" in words
    plans = [
        json.loads((path / "generate/1/plan.json").read_text()) for path in (next(run.path.glob("on/*")), run.path)
    ]
    assert [plan["images"][0]["negative"] for plan in plans] == ["blurry", ""]
    home = json.loads((run.path / "generate/1/generator/command.json").read_text(encoding="utf-8"))
    assert "--steps 28 --sampler euler_a --scale 6.0" in " ".join(map(str, home["argv"]))


def test_a_mistake_in_the_settings_of_a_base_model_names_its_table(scored: World) -> None:
    text = scored.settings.read_text(encoding="utf-8")
    scored.settings.write_text(text.replace("[base_models.puppet]", '[base_models.puppet]\nsampler = "eulr"'))
    with pytest.raises(InputError, match=r"base_models\.puppet\.sampler"):
        scored.plan()


def test_changed_settings_of_a_base_model_are_rejected(scored: World) -> None:
    text = scored.settings.read_text(encoding="utf-8")
    scored.settings.write_text(text.replace("[base_models.doll]", "[base_models.doll]\nscale = 3.0"))
    with pytest.raises(Conflict, match=r"base_models\.doll generation: has changed"):
        scored.context()


def test_the_generator_receives_the_other_base_model_and_the_lora(scored: World) -> None:
    call(scored, "--to", "puppet", "--only", "network_dim=2*")
    attempt = next(scored.run("network_dim=2*").path.glob("on/*/generate/1"))
    command = (attempt / "generator/command.json").read_text(encoding="utf-8")
    assert str(scored.folder / "puppet.safetensors") in command
    assert Path(next(iter(plan_of(attempt)["loras"]))).resolve() == next(
        scored.run("network_dim=2*").path.glob("train/1/output/*.safetensors")
    )


def plan_of(attempt: Path) -> dict[str, list[str]]:
    return dict(json.loads((attempt / "plan.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--to", "pupet"], 2, "there is no [base_models.pupet]"),
        (["--to", "doll"], 3, "trained on another base model than doll"),
        (["--to", "puppet", "--only", "nothing*"], 3, "no scored run of grid matches"),
    ],
)
def test_runs_without_a_transfer_are_reported(scored: World, arguments: list[str], code: int, message: str) -> None:
    refused = call(scored, *arguments)
    assert refused.exit_code == code
    assert message in " ".join(refused.stderr.split())
