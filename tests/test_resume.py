"""Resuming a training from its last complete epoch, up to the right step; the report has the epoch."""

import json
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
from standins.world import Probe, World

from orchestrator.kohya import resume
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import State

ONE = "[dims]\nnetwork_dim = [2]\n[fixed]\n{more}"
TEN = "max_train_epochs = 10"
ONLY = "network_dim=2*"


@pytest.fixture
def ten(world: World) -> World:
    """A training of ten epochs of two steps."""
    world.ask(ONE.format(more=""))
    return world


def settle(world: World, faults: str, on: str = "true", length: str = TEN) -> None:
    world.settle(env={"STANDIN_TRAIN": faults}, trainer=f"resume = {on}", length=length)


def config(world: World, attempt: int) -> dict[str, object]:
    text = (world.run(ONLY).path / "train" / str(attempt) / "config.toml").read_text(encoding="utf-8")
    return {key: value for table in tomllib.loads(text).values() for key, value in table.items()}


def test_a_crashed_training_resumes_from_its_last_epoch(ten: World) -> None:
    settle(ten, "killed#1")
    ten.drive(only=ONLY)
    row = ten.rows()["network_dim=2"]
    assert (row["state"], row["attempts"], row["resumed"], row["steps"]) == ("finished", "2", "5", "20")
    assert (config(ten, 2)["initial_epoch"], Path(str(config(ten, 2)["resume"])).name) == (6, "lora-000005-state")
    assert [item.step for item in ten.run(ONLY).checkpoints()] == [20]


def test_a_second_resume_ends_at_the_right_step(ten: World) -> None:
    """sd-scripts counts the steps of a resumed training from zero, so its second state has the wrong step."""
    settle(ten, "killed#1")
    ten.drive(only=ONLY)
    run = ten.run(ONLY)
    second = run.attempts("train")[1]
    for product in ("checkpoints.json", "images.json", "scores.json"):
        (run.path / product).unlink()
    result = json.loads((second.path / "result.json").read_text())
    (second.path / "result.json").write_text(json.dumps({**result, "failure": "crashed", "retry": True}))
    (second.path / "output" / "lora.safetensors").unlink()
    ten.drive(only=ONLY)
    state = json.loads((second.path / "output" / "lora-000009-state" / "train_state.json").read_text())
    assert state["current_step"] == 8, "counted from zero, as by sd-scripts"
    assert (config(ten, 3)["initial_epoch"], ten.rows()["network_dim=2"]["resumed"]) == (10, "9")
    assert ten.states()["network_dim=2"] is State.FINISHED


def test_an_attempt_that_completes_no_epoch_is_repeated_from_the_same_epoch(ten: World) -> None:
    settle(ten, "killed#2")
    ten.drive(only=ONLY)
    assert [config(ten, number).get("initial_epoch") for number in (1, 2, 3)] == [None, 6, 6]
    assert ten.rows()["network_dim=2"]["resumed"] == "5"


def test_a_run_has_the_checkpoints_of_all_its_attempts(ten: World) -> None:
    ten.ask(ONE.format(more="save_every_n_epochs = 2\n"))
    settle(ten, "killed#1")
    ten.drive(only=ONLY)
    found = ten.run(ONLY).checkpoints()
    assert [(item.epoch, item.step) for item in found] == [(2, 4), (4, 8), (6, 12), (8, 16), (10, 20)]
    assert [item.file.split("/")[1] for item in found] == ["1", "1", "2", "2", "2"]
    assert all((ten.run(ONLY).path / item.file).exists() for item in found)


def test_without_the_setting_nothing_is_resumed_and_no_state_is_saved(ten: World) -> None:
    settle(ten, "killed#1", on="false")
    ten.drive(only=ONLY)
    assert ten.rows()["network_dim=2"]["resumed"] == ""
    assert "save_state" not in config(ten, 1)
    assert list(ten.run(ONLY).path.rglob("*-state")) == []


def test_the_last_two_states_and_no_extra_checkpoint_are_kept(ten: World) -> None:
    settle(ten, "")
    ten.drive(only=ONLY)
    output = ten.run(ONLY).path / "train" / "1" / "output"
    assert sorted(path.name for path in output.glob("*-state")) == ["lora-000008-state", "lora-000009-state"]
    assert len(ten.run(ONLY).checkpoints()) == 1


def test_a_fallback_starts_from_the_first_step(ten: World) -> None:
    fallback = '[[oom_fallback]]\nname = "less"\nset = { gradient_checkpointing = true }\n'
    ten.settle(env={"STANDIN_TRAIN": "oom#1"}, trainer="resume = true", length=TEN, sections=fallback)
    ten.drive(only=ONLY)
    assert ten.rows()["network_dim=2"]["resumed"] == ""
    assert "resume" not in config(ten, 2)


def test_a_training_with_saves_by_step_has_the_checkpoints_of_all_its_attempts(ten: World) -> None:
    """sd-scripts names them by its own count of steps: the files of the second attempt start at 2 again."""
    ten.ask(ONE.format(more="save_every_n_steps = 2\n"))
    settle(ten, "killed#1")
    ten.drive(only=ONLY)
    assert ten.rows()["network_dim=2"]["resumed"] == "5"
    found = ten.run(ONLY).checkpoints()
    assert [item.step for item in found] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 20]
    assert [item.file for item in found][4:6] == [
        "train/1/output/lora-step00000010.safetensors",
        "train/2/output/lora-step00000002.safetensors",
    ]
    assert all((ten.run(ONLY).path / item.file).exists() for item in found)
    assert config(ten, 1)["save_last_n_steps_state"] == 1


def test_a_training_that_would_save_at_other_steps_starts_again(ten: World) -> None:
    """Epochs have two steps; the states of epochs 4 and 5 are kept, and neither is at a multiple of three."""
    ten.ask(ONE.format(more="save_every_n_steps = 3\n"))
    settle(ten, "killed#1")
    ten.drive(only=ONLY)
    assert ten.rows()["network_dim=2"]["resumed"] == ""
    assert ten.states()["network_dim=2"] is State.FINISHED


@pytest.mark.parametrize(
    ("params", "steps", "key"),
    [
        ({}, 2150, None),
        ({"save_every_n_epochs": 10}, 2160, None),
        ({"save_every_n_epochs": 10}, 2150, "save_every_n_epochs"),
        ({"gradient_accumulation_steps": 2}, 2160, None),
        ({"gradient_accumulation_steps": 2}, 2150, "gradient_accumulation_steps"),
        ({"save_every_n_steps": 12}, 2160, None),
        ({"save_every_n_steps": 12}, 2148, None),
        ({"save_every_n_steps": 12}, 2150, "save_every_n_steps"),
        ({"save_every_n_steps": 72}, 2160, "save_every_n_steps"),
        ({"save_every_n_steps": 250}, 2160, "save_every_n_steps"),
    ],
)
def test_obstacles_depend_on_the_length_of_an_epoch(params: dict[str, int], steps: int, key: str | None) -> None:
    length = TrainingLength(steps=steps, epochs=60, steps_per_epoch=36)
    assert resume.obstacle_in({**params, "max_train_steps": steps}, length) == key


@pytest.mark.parametrize(
    ("length", "more", "remedy"),
    [
        ("max_train_steps = 10", "save_every_n_epochs = 1", "set max_train_steps = 9, which is 3 epochs"),
        ("max_train_steps = 9", "save_every_n_epochs = 1", ""),
        ("max_train_steps = 9", "save_every_n_steps = 6", "unset save_every_n_steps, and set save_every_n_epochs = 2"),
    ],
)
def test_a_plan_names_what_prevents_a_resume_and_its_remedy_works(
    world: World, length: str, more: str, remedy: str
) -> None:
    """The stand-in's dataset has three images."""
    world.settle(trainer="resume = true", length=length)
    world.ask(ONE.format(more=f"{more}\n"))
    assert [one.remedy for one in world.plan().warnings if one.key == "trainer.resume"] == (
        [f"{remedy}, or set resume = false in [trainer]"] if remedy else []
    )
    if "unset" in remedy:
        world.ask('unset = ["save_every_n_steps"]\n' + ONE.format(more="save_every_n_epochs = 2\n"))
        world.settle(trainer="resume = true", length=f"{length}\n{more}")
        assert not [one for one in world.plan().warnings if one.key == "trainer.resume"]


@pytest.mark.parametrize(("steps", "epoch", "begin"), [(20, 5, {"initial_epoch": 6}), (19, 4, {"initial_step": 9})])
def test_a_training_by_steps_resumes_and_ends_at_its_last_step(
    ten: World, steps: int, epoch: int, begin: dict[str, int]
) -> None:
    """Epochs have two steps. With 19, the tenth has one; sd-scripts completes it, so one step before it is skipped."""
    settle(ten, "killed#1", length=f"max_train_steps = {steps}")
    ten.drive(ten.context(probe=Probe()), only=ONLY)
    row, second = ten.rows()["network_dim=2"], config(ten, 2)
    assert (row["state"], row["attempts"], row["resumed"]) == ("finished", "2", str(epoch))
    assert {key: second[key] for key in ("initial_epoch", "initial_step") if key in second} == begin
    assert ("skip_until_initial_step" in second) == (steps == 19)
    assert [item.step for item in ten.run(ONLY).checkpoints()] == [steps]
    result = ten.run(ONLY).attempts("train")[1].result()
    assert result is not None
    assert result.steps == steps


def test_a_training_by_steps_resumes_twice(ten: World) -> None:
    """The second resume skips nothing: the epochs of the first one end one step earlier."""
    settle(ten, "killed#1", length="max_train_steps = 19")
    ten.drive(only=ONLY)
    run = ten.run(ONLY)
    second = run.attempts("train")[1]
    for product in ("checkpoints.json", "images.json", "scores.json"):
        (run.path / product).unlink()
    result = json.loads((second.path / "result.json").read_text())
    (second.path / "result.json").write_text(json.dumps({**result, "failure": "crashed", "retry": True}))
    (second.path / "output" / "lora.safetensors").unlink()
    ten.drive(only=ONLY)
    assert config(ten, 3)["initial_epoch"] == 10
    assert run.attempts("train")[2].request()["resumed"] == {"attempt": 2, "epoch": 9, "step": 17, "skip": 0}
    assert ten.states()["network_dim=2"] is State.FINISHED
    assert [item.step for item in run.checkpoints()] == [19]


def test_a_state_whose_first_step_the_trainer_rejects_is_not_used(tmp_path: Path) -> None:
    """Of 5 steps in epochs of 4, the second epoch has one: it would begin at step 4 + 3, after the end."""
    state = tmp_path / "lora-000001-state"
    state.mkdir()
    (state / "train_state.json").write_text('{"current_epoch": 1, "current_step": 4}', encoding="utf-8")
    segment = resume.ResumeSegment(epoch=0, folder=tmp_path)
    found = [resume.continue_from(segment, "lora", 1, {"max_train_steps": steps}) for steps in (5, 6, 7, 8)]
    assert found == [None, None, (4, 1), (4, 0)]


def test_a_zip_file_without_members_is_not_whole(tmp_path: Path) -> None:
    """A block of zeros over the counts at its end hides all members."""
    zipfile.ZipFile(tmp_path / "optimizer.bin", "w").close()
    assert not resume._is_whole_zip(tmp_path / "optimizer.bin")


def zero(path: Path) -> None:
    """As after a power cut: a block in the middle was not written, the length and the end are right."""
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)


@pytest.fixture
def saved(ten: World) -> Path:
    """The output folder of a training that saved the states of epochs 8 and 9."""
    settle(ten, "")
    ten.drive(only=ONLY)
    output = ten.run(ONLY).path / "train" / "1" / "output"
    resume.record_states(output, "lora")
    assert resume.last_state(output, "lora") == 9
    return output


@pytest.mark.parametrize(
    "name", ["optimizer.bin", "model.safetensors", "scheduler.bin", "random_states_0.pkl", "train_state.json"]
)
def test_a_damaged_state_is_renamed_and_the_one_before_it_is_resumed(saved: Path, name: str) -> None:
    zero(saved / "lora-000009-state" / name)
    assert resume.last_state(saved, "lora") == 8
    if name != "train_state.json":  # without it, a folder is not a state
        assert resume.damaged_states(saved) == ["damaged-lora-000009-state"]
    zero(saved / "lora-000008-state" / name)
    assert resume.last_state(saved, "lora") is None


def test_a_truncated_or_unrecorded_state_is_not_resumed(saved: Path) -> None:
    part = saved / "lora-000009-state" / "optimizer.bin"
    part.write_bytes(part.read_bytes()[:-10])
    (saved.parent / "lora-000008-state.json").unlink()
    assert resume.last_state(saved, "lora") is None


def test_a_state_of_another_run_is_not_resumed(saved: Path) -> None:
    """The folders of two attempts were exchanged."""
    run = saved.parents[2]
    other = run.rename(run.with_name("seed=2-12345678"))
    assert resume.last_state(other / "train" / "1" / "output", "lora") is None


def test_a_state_of_another_epoch_is_not_resumed(saved: Path) -> None:
    shutil.rmtree(saved / "lora-000009-state")
    (saved / "lora-000008-state").rename(saved / "lora-000009-state")
    (saved.parent / "lora-000008-state.json").replace(saved.parent / "lora-000009-state.json")
    assert resume.last_state(saved, "lora") is None


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
def test_a_state_that_is_damaged_when_it_is_recorded_is_not_recorded(saved: Path, name: str) -> None:
    record = saved.parent / "lora-000009-state.json"
    record.unlink()
    zero(saved / "lora-000009-state" / name)
    resume.record_states(saved, "lora")
    assert not record.exists()


def test_after_a_power_cut_the_training_resumes_from_the_undamaged_state(ten: World) -> None:
    settle(ten, "killed#1")
    ten.drive(only=ONLY)
    run = ten.run(ONLY)
    for path in (*run.path.glob("*s.json"), *(run.path / "train").glob("[2-9]")):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    zero(run.path / "train" / "1" / "output" / "lora-000005-state" / "optimizer.bin")
    ten.drive(only=ONLY)
    assert (config(ten, 2)["initial_epoch"], Path(str(config(ten, 2)["resume"])).name) == (5, "lora-000004-state")
    assert (ten.states()["network_dim=2"], ten.rows()["network_dim=2"]["resumed"]) == (State.FINISHED, "4")


def test_an_invalid_state_costs_one_attempt(ten: World) -> None:
    settle(ten, "killed#1 bad_config:initial_epoch=6")
    ten.drive(only=ONLY)
    row = ten.rows()["network_dim=2"]
    assert (row["state"], row["attempts"], row["resumed"]) == ("finished", "3", "")


def test_progress_covers_the_whole_training(ten: World) -> None:
    settle(ten, "killed#1")
    ten.drive(ten.context(probe=Probe()), only=ONLY)
    results = [attempt.result() for attempt in ten.run(ONLY).attempts("train")]
    assert [result.steps for result in results if result] == [11, 20]
