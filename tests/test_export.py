"""What goes home, and what the disk is freed of: real runs of the stand-in trainer, by the command line."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from standins.world import GRID, World

from orchestrator import cli, export, facts, settings, store
from orchestrator.export import workflow

SEVERAL = "[fixed]\nsave_every_n_epochs = 1\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory, shared) -> World:
    """Two runs, each with its last checkpoint and one before it."""
    built = World.build(tmp_path_factory.mktemp("export") / "world", shared)
    built.ask(GRID + SEVERAL)
    built.drive()
    return built


@pytest.fixture
def finished(made, tmp_path) -> World:
    """A copy of them, to spoil."""
    shutil.copytree(made.folder, tmp_path / "world")
    copy = World(folder=tmp_path / "world", shared=made.shared)
    copy.settle()
    return copy


def call(world, *words: str):
    return CliRunner().invoke(cli.main, [words[0], "--settings", str(world.settings), *words[1:]])


def files(world) -> set[str]:
    return {
        str(path.relative_to(world.sweep.path))
        for path in world.sweep.path.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_best_goes_home_with_its_papers(finished):
    result = call(finished, "export", "grid")
    assert result.exit_code == 0, result.output
    lora, card, comfyui, prompt = (finished.sweep.path / "export" / line for line in result.stdout.splitlines())
    best = facts.ranked(facts.gather(finished.sweep))[0]
    chosen = next(one for one in best.run.checkpoints() if one.file == best.choice.checkpoint)
    assert hashlib.sha256(lora.read_bytes()).hexdigest() == chosen.sha256
    assert best.run.point.id in lora.name
    assert re.fullmatch(r"[\w.-]+", lora.name)
    text = card.read_text(encoding="utf-8")
    assert "trigger: ohwx person" in text
    assert "no interval" in text
    assert "licence" in text
    nodes = json.loads(comfyui.read_text(encoding="utf-8"))
    assert nodes["2"]["inputs"]["lora_name"] == lora.name
    assert f"<lora:{lora.stem}:1>" in prompt.read_text(encoding="utf-8")


def test_every_link_of_the_workflow_leads_to_a_node(finished):
    one = facts.ranked(facts.gather(finished.sweep))[0]
    nodes = workflow.comfyui(one, "lora", settings.load(finished.settings))
    links = [value for node in nodes.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert links
    assert all(target in nodes for target, _ in links)


def test_a_run_is_named_by_a_glob_of_its_name_or_id(finished):
    (one, *_rest) = [run for run in finished.sweep.runs() if not run.point.floor]
    assert one.point.id in call(finished, "export", "grid", "--run", one.point.id).stdout
    several = call(finished, "export", "grid", "--run", "network_dim=*")
    assert several.exit_code == 2
    assert one.point.id in several.stderr
    assert call(finished, "export", "grid", "--run", "nobody").exit_code == 3


def test_a_changed_checkpoint_does_not_go_home(finished):
    one = facts.ranked(facts.gather(finished.sweep))[0]
    (one.run.path / one.choice.checkpoint).write_bytes(b"another")
    result = call(finished, "export", "grid")
    assert result.exit_code == 1
    assert "is not the file that was scored" in result.stderr
    assert not list((finished.sweep.path / export.FOLDER).glob("*.safetensors"))


def test_prune_shows_and_deletes_nothing_until_it_is_told_to(finished):
    before = files(finished)
    shown = call(finished, "prune", "grid", "--keep-best", "1")
    assert shown.exit_code == 0, shown.output
    assert files(finished) == before
    assert len(shown.stdout.splitlines()) == 1
    assert "--yes" in shown.stderr


def test_prune_takes_what_nobody_chose_and_the_report_is_as_before(finished):
    _best, other = facts.ranked(facts.gather(finished.sweep))
    state = other.run.path / "train/1/output/lora-000001-state"
    state.mkdir()
    (state / "optimizer.bin").write_bytes(b"0" * 1000)
    table, before = call(finished, "report", "grid").stdout.splitlines()[-1], files(finished)
    rows = Path(table).read_text(encoding="utf-8")
    assert call(finished, "prune", "grid", "--keep-best", "1", "--yes").exit_code == 0
    gone = before - files(finished)
    folder = f"{other.run.path.name}/train/1/output"
    assert gone == {f"{folder}/lora-000001.safetensors", f"{folder}/lora-000001-state/optimizer.bin"}
    assert (other.run.path / other.choice.checkpoint).exists()
    call(finished, "report", "grid")
    assert Path(table).read_text(encoding="utf-8") == rows
    assert all(store.status(run).state is store.State.FINISHED for run in finished.sweep.runs())


def test_prune_keeps_its_hands_off_runs_that_are_not_finished(finished):
    run = facts.ranked(facts.gather(finished.sweep))[-1].run
    (run.path / "scores.json").unlink()
    assert run.path.name not in call(finished, "prune", "grid", "--keep-best", "0").stdout


def test_a_sweep_that_is_driven_is_not_pruned(finished):
    with finished.sweep.lock():
        assert call(finished, "prune", "grid", "--keep-best", "0").exit_code == 5
