"""`orchestrate run` as a child: its exit codes, its last words, and how it ends when it is asked to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from standins.world import World

from orchestrator import cli
from orchestrator.model import State

ONE = ("--only", "network_dim=2*")


def started(world: World, until: Callable[[], bool], *more: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(world.command(*more), cwd=world.folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, "waited in vain"
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        time.sleep(0.01)
    return child


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def training(world: World) -> bool:
    return any("I hang" in log.read_text() for log in world.folder.glob("runs/grid/*/train/*/log"))


# --- exit codes -------------------------------------------------------------------------------------------------------


def test_0_when_all_is_finished_and_the_last_line_is_the_report(world: World) -> None:
    done = world.call(*ONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(world.sweep.report / "results.csv")
    assert (world.sweep.report / "results.csv").exists()


def test_1_when_a_run_failed_and_the_report_says_which(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=2"})
    done = world.call(*ONE)
    assert done.returncode == 1
    assert "these arguments do not fit together" in done.stderr
    assert "given up" in done.stderr
    assert world.rows()["network_dim=2"]["state"] == "failed"


def test_2_when_the_grid_is_wrong_and_nothing_is_made(world: World) -> None:
    world.ask("[dims]\nnetwork_dimm = [2]\n")
    done = world.call()
    assert done.returncode == 2
    assert "network_dimm" in done.stderr
    assert "grid.toml:2" in done.stderr
    assert not world.sweep.path.exists()
    assert world.call("--no-such-flag").returncode == 2


def test_3_when_nothing_is_selected(world: World) -> None:
    done = world.call("--only", "nothing*")
    assert done.returncode == 3
    assert 'no run matches "nothing*"' in done.stderr


def test_4_when_the_machine_lacks_something_with_all_of_it_and_remedies(world: World) -> None:
    text = world.settings.read_text().replace('"train.py"', '"absent.py"').replace("/pack", "/no-pack")
    world.settings.write_text(text)
    done = world.call()
    assert done.returncode == 4
    assert "absent.py" in done.stderr
    assert "no-pack" in done.stderr
    assert done.stderr.count("->") >= 2
    assert not world.sweep.path.exists()


def test_4_when_the_machine_makes_runs_fail_and_the_report_is_written(world: World) -> None:
    world.ask("[dims]\nnetwork_dim = [1, 2, 4]\n")
    world.settle(env={"STANDIN_TRAIN": "gpu_lost"})
    done = world.call("--only", "network_dim*")
    assert done.returncode == 4
    assert "it looks like the machine" in done.stderr
    assert "--retry failed" in done.stderr
    assert world.rows()["network_dim=1"]["failure"] == "gpu_lost"


def test_5_when_it_was_made_from_other_inputs(world: World) -> None:
    assert world.call(*ONE).returncode == 0
    (world.folder / "images" / "0001.txt").write_text("ohwx person, differently", encoding="utf-8")
    done = world.call(*ONE)
    assert done.returncode == 5
    assert "dataset portraits has changed since the sweep grid was frozen" in done.stderr
    assert "--name" in done.stderr
    assert world.call("--name", "another", *ONE).returncode == 0


# --- ending politely --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_130_after_one_signal_the_program_is_ended_and_recorded(world: World, number: signal.Signals) -> None:
    world.settle(env={"STANDIN_TRAIN": "hang#1"})
    child = started(world, lambda: training(world), *ONE)
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "interrupted by the user" in said
    assert world.living() == []
    assert world.states()["network_dim=2"] is State.KILLED
    assert world.rows()["network_dim=2"]["state"] == "killed"
    assert world.call(*ONE).returncode == 0, "the same command goes on"
    assert [line.split()[0] for line in world.ledger()] == ["began", "began", "ended"]


def test_130_after_two_signals_at_once_even_when_the_program_is_deaf(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "deaf#1"})
    world.settings.write_text(world.settings.read_text().replace("grace_seconds = 1", "grace_seconds = 100"))
    child = started(world, lambda: training(world), *ONE)
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    time.sleep(0.1)  # one signal that comes twice at the same moment is one
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 130
    assert time.monotonic() - began < 20
    assert world.living() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_130_while_it_only_prepares(world: World, number: signal.Signals) -> None:
    os.mkfifo(world.folder / "slow.toml")
    child = subprocess.Popen(
        [*world.command()[:-1], str(world.folder / "slow.toml")], cwd=world.folder, stderr=subprocess.PIPE, text=True
    )
    writer = os.open(world.folder / "slow.toml", os.O_WRONLY)  # returns when the child reads: it is past its imports
    child.send_signal(number)
    child.communicate(timeout=30)
    os.close(writer)
    assert child.returncode == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_nothing_goes_on_building_a_dataset_for_somebody_who_is_gone(
    world: World, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    world.settle(sections='[defaults]\ndataset = "portraits"\n[datasets.one]\nsource = "portraits"\nchoose = { n = 1 }')
    world.ask('[dims]\ndataset = ["one"]\n')
    (tmp_path / "sitecustomize.py").write_text(ENDLESS)
    building = world.folder / "building"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "BUILDING": str(building)}
    child = subprocess.Popen(world.command(), cwd=world.folder, env=environ, stderr=subprocess.DEVNULL)
    wait_until(lambda: building.exists() and building.read_text() != "")
    child.send_signal(number)
    assert child.wait(timeout=30) == code
    wait_until(lambda: not Path("/proc", building.read_text()).exists())
    drafts = list((world.folder / "runs" / ".datasets").glob(".*"))
    assert drafts == [] or number == signal.SIGKILL


ENDLESS = """
import os, sys
if "--multiprocessing-fork" in sys.orig_argv:
    import time
    from pathlib import Path
    from orchestrator.datasets import builder
    def build(request):
        request.folder.mkdir()
        Path(os.environ["BUILDING"]).write_text(str(os.getpid()))
        time.sleep(600)
    builder.build = build
"""


def test_a_suspended_machine_is_no_stall(world: World) -> None:
    """Longer than a stall may be; that itself is more than a busy machine keeps a training waiting."""
    world.settle(env={"STANDIN_STEP_S": "0.3"}, limits="stall_minutes = 0.05\n")
    child = started(world, lambda: len(world.ledger()) > 0, *ONE)
    everybody = [child.pid, *world.living()]
    for number, seconds in ((signal.SIGSTOP, 4.0), (signal.SIGCONT, 0.0)):
        for pid in everybody if number == signal.SIGSTOP else reversed(everybody):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.1)
    _, said = child.communicate(timeout=60)
    results = [attempt.result() for attempt in world.run("network_dim=2*").attempts("train")]
    assert [result.failure for result in results if result] == [None], said


# --- watching from another terminal -----------------------------------------------------------------------------------


def test_status_watch_shows_a_sweep_as_long_as_it_is_driven_and_then_how_it_ended(world: World, tmp_path: Path) -> None:
    world.settle(env={"STANDIN_TRAIN": "hang#1"})
    driver = started(world, lambda: training(world), *ONE)
    code = "from orchestrator.cli import main; main()"
    asked = [sys.executable, "-c", code, "status", "--settings", str(world.settings), "grid", "--watch"]
    terminal, environ = tmp_path / "terminal", {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "200"}
    with terminal.open("wb") as shown:  # which Rich takes for a terminal, with that variable
        watcher = subprocess.Popen(asked, env=environ, stdout=subprocess.PIPE, stderr=shown, text=True)
    deadline = time.monotonic() + 60
    while "running" not in terminal.read_text():
        assert time.monotonic() < deadline, "it does not show what runs"
        assert watcher.poll() is None, "it ended while the sweep was being driven"
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=30)
    said, _ = watcher.communicate(timeout=30)
    assert watcher.returncode == 0
    assert "killed" in said
    assert "running" not in said


def test_status_as_json_says_of_every_run_how_it_stands_and_null_where_nothing_is_known(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=4"})
    world.call()
    done = CliRunner().invoke(cli.main, ["status", "--settings", str(world.settings), "grid", "--json"])
    told = json.loads(done.stdout)
    assert (told["schema"], told["sweep"]) == (1, "grid")
    good, bad, floor = told["runs"]
    assert good["run"] == world.run("network_dim=2*").point.name
    nothing = dict.fromkeys(("stage", "attempt", "failure", "reason", "progress", "vram", "left_s"))
    assert good == {"run": good["run"], "id": good["id"], "state": "finished", **nothing}
    assert (bad["state"], bad["stage"], bad["attempt"], bad["failure"]) == ("failed", "train", 1, "unknown")
    assert bad["reason"]
    assert floor["state"] == "finished"


# --- what the machine refuses -----------------------------------------------------------------------------------------


def test_a_file_in_the_place_of_a_folder_is_a_message_and_no_traceback(world: World) -> None:
    (world.folder / "runs" / "grid").write_text("in the way")
    done = world.call()
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert str(world.folder / "runs" / "grid") in done.stderr
    assert "->" in done.stderr


def test_output_that_nobody_reads_is_no_error_of_the_machine(world: World) -> None:
    assert world.call(*ONE).returncode == 0
    code = "from orchestrator.cli import main; main()"
    asked = [sys.executable, "-c", code, "status", "--settings", str(world.settings), "grid", "--json"]
    child = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout
    child.stdout.close()
    assert child.stderr
    assert "->" not in child.stderr.read()
