"""Early stopping with real child processes, real files and the real InsightFace."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from standins.world import GRID, Heard, World

from orchestrator.errors import InputError
from orchestrator.evidence import preview_scores, summary
from orchestrator.evidence.run_metrics import image_value
from orchestrator.model import Failure, State
from orchestrator.report import answers, html
from orchestrator.run.early_stop import EarlyStopWatcher
from orchestrator.run.stages import train
from orchestrator.store import layout, process, state
from orchestrator.store.outcome import FailureReason

ASKED = "[early_stop]\np = 0.9\n"
"""Two previews per step, so `p` must be large."""
QUESTION = '[[question]]\nid = "Q"\nask = "Is 4 better?"\ncontrast = { network_dim = [2, 4] }\n'


def _settled(folder: Path, shared: Path) -> World:
    """Two trainings; the previews of the second show no face, and it hangs until it is stopped."""
    world = World(folder=folder, shared=shared)
    world.settle(env={"STANDIN_TRAIN": "hopeless:network_dim=4 hang:network_dim=4"}, sections=ASKED)
    world.ask(GRID + QUESTION)
    return world


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """The folder of a finished sweep."""
    folder = tmp_path_factory.mktemp("stopped") / "world"
    World.build(folder, shared)
    _settled(folder, shared).drive()
    return folder


@pytest.fixture
def stopped(driven: Path, shared: Path, tmp_path: Path) -> World:
    """A copy of it."""
    shutil.copytree(driven, tmp_path / "world")
    return _settled(tmp_path / "world", shared)


def test_a_clearly_worse_training_is_stopped_with_the_reason(world: World) -> None:
    heard = Heard()
    world = _settled(world.folder, world.shared)
    world.drive(world.context(listener=heard))
    good, bad = world.run("network_dim=2*"), world.run("network_dim=4*")
    assert world.states() == {
        "network_dim=2": State.FINISHED,
        "network_dim=4": State.STOPPED,
        "baseline-base_model=doll": State.FINISHED,
    }
    status = state.status(bad)
    assert status.failure is Failure.STOPPED_EARLY
    assert f"worse than {good.point.name} at step 2 of 4: 2 images" in status.reason
    assert [stage for name, stage, _ in heard.events if name == bad.point.name] == ["train", "train"]

    world.drive(world.context(listener=heard), retry=True)
    assert len(bad.attempts("train")) == 1, "a stopped run is not retried"
    assert world.call().returncode == 0, "a sweep with stopped runs has not failed"


def test_a_stopped_run_is_in_the_table_without_a_similarity(stopped: World) -> None:
    rows = stopped.rows()
    row = rows["network_dim=4"]
    assert (row["state"], row["failure"], row["similarity_mean"]) == ("stopped", "stopped_early", "")
    assert "at step 2 of 4" in row["reason"]
    assert rows["network_dim=2"]["similarity_mean"]


def test_answers_compare_a_stopped_run_by_its_previews(stopped: World) -> None:
    read = summary.read(stopped.sweep)
    answer = answers.answer_questions([read])[0][0]
    assert "some runs were stopped early" in answer.sentence
    assert answer.difference is not None
    assert answer.difference < -1
    stopped = dict(answer.facts)["Stopped early"]
    assert stopped.startswith("1 at `4`; all pairs are compared by their previews at step 2")
    assert (answer.pairs, answer.left_out) == (1, 0)

    text = html.write(read, [answer]).read_text(encoding="utf-8")
    assert "1 run stopped early" in text
    assert "are not finished" not in text


def test_without_the_setting_nothing_is_checked(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "hopeless:network_dim=4"})
    world.drive()
    run = world.run("network_dim=4*")
    assert state.status(run).state is State.FINISHED
    assert not (run.path / preview_scores.FOLDER).exists()
    assert "sample" not in (run.attempts("train")[-1].path / "config.toml").read_text(encoding="utf-8")


def test_missing_preview_scores_are_made_again(stopped: World) -> None:
    """As after an orchestrator that ended between the previews and their scores."""
    run, ctx = stopped.run("network_dim=4*"), stopped.context()
    kept = preview_scores.of_run(run)
    assert {step: list(map(image_value, scores)) for step, scores in kept.items()} == {2: [-1.0, -1.0]}

    shutil.rmtree(run.path / preview_scores.FOLDER)
    training = run.attempts("train")[-1]
    EarlyStopWatcher(run, ctx).score(training)
    _settle(run)
    assert preview_scores.of_run(run) == kept

    EarlyStopWatcher(run, ctx).score(training)
    assert len(run.attempts("preview_checks/2")) == 1, "existing scores are not made again"


def test_the_next_orchestrator_continues_the_checks(world: World) -> None:
    world = _settled(world.folder, world.shared)
    bad = world.run("network_dim=4*")
    orchestrator = subprocess.Popen(world.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (bad.path / "train" / "1" / "output").exists():
        time.sleep(0.01)
    orchestrator.kill()
    orchestrator.wait()
    assert state.status(bad).state is State.RUNNING

    world.drive()
    assert state.status(bad).state is State.STOPPED
    assert len(bad.attempts("train")) == 1


def test_a_new_watcher_scores_missed_previews(stopped: World) -> None:
    good, bad = stopped.run("network_dim=2*"), stopped.run("network_dim=4*")
    shutil.rmtree(good.path / preview_scores.FOLDER)
    watch, training = EarlyStopWatcher(bad, stopped.context()), bad.attempts("train")[-1]
    assert watch.check(training) is None, "nothing to compare with yet"
    _settle(good)
    found = next(one for _ in range(1000) if (one := _next_turn(watch, training)))
    assert found.failure is Failure.STOPPED_EARLY


def test_a_crashing_scorer_is_tried_three_times(stopped: World) -> None:
    run, ctx = stopped.run("network_dim=4*"), stopped.context()
    shutil.rmtree(run.path / preview_scores.FOLDER)
    shutil.move(stopped.shared / "pack", stopped.shared / "away")
    try:
        for _ in range(5):
            EarlyStopWatcher(run, ctx).score(run.attempts("train")[-1])
            _settle(run)
    finally:
        shutil.move(stopped.shared / "away", stopped.shared / "pack")
    assert len(run.attempts("preview_checks/2")) == 3
    assert preview_scores.of_run(run) == {}


def test_incomplete_previews_are_not_scored(stopped: World) -> None:
    run, ctx = stopped.run("network_dim=4*"), stopped.context()
    shutil.rmtree(run.path / preview_scores.FOLDER)
    training = run.attempts("train")[-1]
    last = max((training.path / "output" / "sample").iterdir())
    whole = last.read_bytes()
    last.write_bytes(whole[:-4])
    EarlyStopWatcher(run, ctx).score(training)
    assert not run.attempts("preview_checks/2")
    last.write_bytes(whole)
    EarlyStopWatcher(run, ctx).score(training)
    assert run.attempts("preview_checks/2")
    _settle(run)


def test_previews_use_every_prompt_before_a_second_seed(world: World) -> None:
    world.settle(sections=ASKED)
    run = world.run("network_dim=4*")
    run.create()
    files = train.rendered(run, run.new_attempt("train"), world.context())
    lines = [line for line in files["prompts.txt"].splitlines() if line and not line.startswith("#")]
    assert [line.partition(" --w")[0] for line in lines] == ["photo of ohwx person", "ohwx person outside"]
    assert "sample_every_n_steps = 2" in files["config.toml"]


def test_compared_runs_share_the_training_seed_and_the_length(world: World) -> None:
    """Each of four trainings per seed is compared with three others once, so `p` is divided by three."""
    world.settle(sections="[early_stop]\np = 0.0002\npictures = 12\n")
    world.ask("[dims]\nnetwork_dim = [2, 4]\nlearning_rate = [1e-4, 1e-3]\nseed = [1, 2]\n")
    with pytest.raises(InputError, match="1 checks of 4 runs share p") as refused:
        world.plan()
    assert "at least 14" in str(refused.value)


def test_runs_with_nothing_to_compare_with_are_reported(world: World) -> None:
    world.settle(sections=ASKED)
    world.ask("[dims]\nnetwork_dim = [2, 4]\n[[when]]\nmatch = { network_dim = 4 }\nset = { max_train_steps = 6 }\n")
    assert any("cannot stop any training" in problem.what for problem in world.plan().warnings)


def _next_turn(watch: EarlyStopWatcher, training: layout.Attempt) -> FailureReason | None:
    time.sleep(0.01)
    return watch.check(training)


def _settle(run: layout.Run) -> None:
    """Wait until the scorers have ended."""
    for one in run.attempts("preview_checks/2"):
        while process.running(one.path):
            process.wait(one.path, 1.0)
