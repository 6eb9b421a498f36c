"""The whole program on the miniature: trainings, images, face scores and child processes are real."""

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import cli
from orchestrator.errors import Conflict, error
from orchestrator.miniature import world

GRID = """
[dims]
network_dim = [2, 8]
[fixed]
max_train_steps = 120
optimizer_type = "AdamW"
learning_rate = 2e-3
optimizer_args = []
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / ".miniature"
    world.write(folder, runs=folder.parent)
    (folder / "short.toml").write_text(GRID, encoding="utf-8")
    return folder


def run(here: Path, settings: str, grid: Path):
    return CliRunner().invoke(cli.main, ["run", "--settings", str(here / settings), "--grid", str(grid)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(here):
    """The sweep, run once."""
    result = run(here, "orchestrate.toml", here / "short.toml")
    assert result.exit_code == 0, result.output
    return result


def test_the_last_line_on_stdout_is_the_report(here, finished):
    assert finished.stdout.splitlines()[-1] == str(here.parent / "short" / "report" / "results.csv")


def test_trained_runs_are_clearly_above_the_baseline(here, finished):
    found = rows(here.parent / "short" / "report" / "results.csv")
    baseline = next(row for row in found if row["run"].startswith("baseline-"))
    trained = [row for row in found if row is not baseline]
    assert [row["state"] for row in found] == ["finished"] * 3
    assert len(trained) == 2
    assert all(float(row["similarity_mean"]) > float(baseline["similarity_mean"]) + 0.3 for row in trained)
    assert all(row["degraded"] == "False" and row["attempts"] == "1" for row in trained)
    assert all(row["peak_vram_mib"] == "" for row in found), "VRAM is unknown without a GPU"


def test_every_image_has_one_row(here, finished):
    found = rows(here.parent / "short" / "report" / "images.csv")
    assert len(found) == 3 * len(world.PROMPTS) * 2
    assert len({(row["id"], row["prompt"], row["seed"]) for row in found}) == len(found)


def test_a_second_run_starts_nothing(here, finished):
    before = sorted((here.parent / "short").rglob("attempt.json"))
    again = run(here, "orchestrate.toml", here / "short.toml")
    assert again.exit_code == 0
    assert ": train" not in again.stderr
    assert sorted((here.parent / "short").rglob("attempt.json")) == before


def test_a_grown_grid_keeps_finished_runs(here, finished):
    grown = here / "grown.toml"
    grown.write_text(GRID.replace("[2, 8]", "[2, 8, 4]"), encoding="utf-8")
    result = CliRunner().invoke(
        cli.main,
        ["plan", "--settings", str(here / "orchestrate.toml"), "--grid", str(grown), "--name", "short", "--json"],
    )
    assert result.exit_code == 0, result.output
    states = [run["state"] for run in json.loads(result.stdout)["runs"]]
    assert sorted(states) == ["finished", "finished", "finished", "pending"]


def test_the_oom_fallback_ends_with_another_optimizer_and_its_learning_rate(here):
    grid = here / "oom.toml"
    shipped = (Path(__file__).parents[1] / "grids" / "demo-oom.toml").read_text(encoding="utf-8")
    text = re.sub(r"\[\[when.*?(?=\[\[question)", "", shipped, flags=re.DOTALL)  # of AdamW alone
    grid.write_text(text.replace('"AdamW", ', "").replace("= 150", "= 10"), encoding="utf-8")
    result = run(here, "tight.toml", grid)
    assert result.exit_code == 0, result.output
    (row, _baseline) = rows(here.parent / "oom" / "report" / "results.csv")
    overrides = json.loads(row["overrides"])
    assert row["degraded"] == "True"
    assert row["params_optimizer_type"] == "Prodigy", "the params column keeps the value of the grid"
    assert overrides["optimizer_type"] == "AdamW8bit"
    assert overrides["learning_rate"] == 1e-3
    assert row["attempts"] == "3"
    assert "with gradient checkpointing, AdamW8bit" in result.stderr
    words = ["answer", "--settings", str(here / "tight.toml"), "oom", "--json"]
    (answer,) = json.loads(CliRunner().invoke(cli.main, words).stdout)["answers"]
    assert answer["verdict"] == "undecided", "13.7 GiB say nothing about 24 GiB"
    assert "1 out of memory with less VRAM than that" in answer["sentence"]


def test_after_an_update_the_demo_has_a_remedy_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".miniature").mkdir()
    (tmp_path / "calibration.json").touch()
    monkeypatch.setattr(world, "write", lambda *_, **__: None)

    def changed(*_: object, **__: object) -> None:
        raise Conflict(error("templates/train.toml.j2", "has changed", "start a new sweep with --name"))

    monkeypatch.setattr(cli.run.run, "main", changed)
    result = CliRunner().invoke(cli.main, ["demo", str(tmp_path)])
    assert result.exit_code == 5
    assert f"delete {tmp_path / 'demo'}, or name another folder: `orchestrate demo FOLDER`" in result.stderr
    assert "--name" not in result.stderr
