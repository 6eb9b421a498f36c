"""LoRAs on a base model that they were not trained on."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from standins.world import BASE, World

from orchestrator import cli, scoring
from orchestrator.evidence import choice, confirmation, run_metrics, summary
from orchestrator.report.followup import TRANSFER


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


def test_the_generator_receives_the_other_base_model_and_the_lora(scored: World) -> None:
    call(scored, "--to", "puppet", "--only", "network_dim=2*")
    attempt = next(scored.run("network_dim=2*").path.glob("on/*/generate/1"))
    command = (attempt / "command.json").read_text(encoding="utf-8")
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
