"""`orchestrate run` as a child process: exit codes, output and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from standins.world import World

from orchestrator import cli
from orchestrator.cli import common
from orchestrator.errors import InputError
from orchestrator.model import State

ONE = ("--only", "network_dim=2*")


def started(world: World, until: Callable[[], bool], *more: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(world.command(*more), cwd=world.folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, "timeout"
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        time.sleep(0.01)
    return child


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.01)


def training(world: World) -> bool:
    return any("I hang" in log.read_text() for log in world.folder.glob("runs/grid/*/train/*/log"))


# --- exit codes -------------------------------------------------------------------------------------------------------


def test_exit_0_when_all_runs_are_finished_and_the_last_line_is_results_csv(world: World) -> None:
    done = world.call(*ONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(world.sweep.report / "results.csv")
    assert (world.sweep.report / "results.csv").exists()


def test_exit_1_when_a_run_failed_and_the_report_names_it(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=2"})
    done = world.call(*ONE)
    assert done.returncode == 1
    assert "these arguments do not fit together" in done.stderr
    assert "given up" in done.stderr
    assert world.rows()["network_dim=2"]["state"] == "failed"


def test_exit_2_when_the_grid_is_wrong_and_no_folder_is_created(world: World) -> None:
    world.ask("[dims]\nnetwork_dimm = [2]\n")
    done = world.call()
    assert done.returncode == 2
    assert "network_dimm" in done.stderr
    assert "grid.toml:2" in done.stderr
    assert not world.sweep.path.exists()
    assert world.call("--no-such-flag").returncode == 2


def test_exit_3_when_no_run_is_selected(world: World) -> None:
    done = world.call("--only", "nothing*")
    assert done.returncode == 3
    assert 'no run matches "nothing*"' in done.stderr
    assert "grid.toml" in done.stderr


def test_exit_4_lists_everything_that_is_missing_with_remedies(world: World) -> None:
    text = world.settings.read_text().replace('"train.py"', '"absent.py"').replace("/pack", "/no-pack")
    world.settings.write_text(text)
    done = world.call()
    assert done.returncode == 4
    assert "absent.py" in done.stderr
    assert "no-pack" in done.stderr
    assert done.stderr.count("->") >= 2
    assert not world.sweep.path.exists()


def test_exit_4_when_the_machine_makes_runs_fail_and_the_report_is_written(world: World) -> None:
    world.ask("[dims]\nnetwork_dim = [1, 2, 4]\n")
    world.settle(env={"STANDIN_TRAIN": "gpu_lost"})
    done = world.call("--only", "network_dim*")
    assert done.returncode == 4
    assert "so the machine may be the cause" in done.stderr
    assert "--retry failed" in done.stderr
    assert world.rows()["network_dim=1"]["failure"] == "gpu_lost"


def test_exit_5_when_the_inputs_of_the_sweep_changed(world: World) -> None:
    done = world.call(*ONE)
    assert done.returncode == 0
    assert "0 of 1 runs finished" in done.stderr
    (world.folder / "images" / "0001.txt").write_text("ohwx person, differently", encoding="utf-8")
    done = world.call(*ONE)
    assert done.returncode == 5
    assert "dataset portraits: has changed since the sweep grid was frozen" in done.stderr
    assert "--name" in done.stderr
    assert world.call("--name", "another", *ONE).returncode == 0


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_exit_130_after_one_signal_and_the_run_is_recorded_as_killed(world: World, number: signal.Signals) -> None:
    world.settle(env={"STANDIN_TRAIN": "hang#1"})
    child = started(world, lambda: training(world), *ONE)
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "interrupted by the user" in errors
    assert "press Ctrl-C again to end them immediately" in errors
    assert world.living() == []
    assert world.states()["network_dim=2"] is State.KILLED
    assert world.rows()["network_dim=2"]["state"] == "killed"
    assert world.call(*ONE).returncode == 0, "the same command resumes"
    assert [line.split()[0] for line in world.ledger()] == ["began", "began", "ended"]


def test_exit_130_without_a_word_while_the_command_line_is_imported() -> None:
    code = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from orchestrator.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_exit_130_after_two_signals_without_waiting_for_the_program(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "deaf#1"})
    world.settings.write_text(world.settings.read_text().replace("grace_seconds = 1", "grace_seconds = 100"))
    child = started(world, lambda: training(world), *ONE)
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    time.sleep(0.1)  # two signals at the same moment count once
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 130
    assert time.monotonic() - began < 20
    assert world.living() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_exit_130_while_preparing(world: World, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_GRID)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "READING": str(tmp_path / "reading")}
    child = subprocess.Popen(world.command(), cwd=world.folder, env=environ, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "reading").exists())
    child.send_signal(number)
    assert child.wait(timeout=30) == 130


SLOW_GRID = """
import os, time
from pathlib import Path
from orchestrator import files
open_regular = files.open_regular
def slow(path, **limits):
    if path.name == "grid.toml":
        Path(os.environ["READING"]).touch()
        time.sleep(600)
    return open_regular(path, **limits)
files.open_regular = slow
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_no_dataset_build_survives_its_parent(world: World, tmp_path: Path, number: signal.Signals, code: int) -> None:
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


def test_a_suspended_machine_is_not_a_stall(world: World) -> None:
    """The suspension is longer than the stall limit, which is longer than the delays of a busy machine."""
    world.settle(env={"STANDIN_STEP_S": "0.3"}, limits="stall_minutes = 0.05\n")
    child = started(world, lambda: len(world.ledger()) > 0, *ONE)
    pids = [child.pid, *world.living()]
    for number, seconds in ((signal.SIGSTOP, 4.0), (signal.SIGCONT, 0.0)):
        for pid in pids if number == signal.SIGSTOP else reversed(pids):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.1)
    _, errors = child.communicate(timeout=60)
    results = [attempt.result() for attempt in world.run("network_dim=2*").attempts("train")]
    assert [result.failure for result in results if result] == [None], errors


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_watch_shows_a_running_sweep_and_then_its_end(world: World, tmp_path: Path) -> None:
    world.settle(env={"STANDIN_TRAIN": "hang#1"})
    runner = started(world, lambda: training(world), *ONE)
    code = "from orchestrator.cli import main; main()"
    argv = [sys.executable, "-c", code, "status", "--settings", str(world.settings), "grid", "--watch"]
    terminal, environ = tmp_path / "terminal", {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "200"}
    with terminal.open("wb") as shown:  # Rich takes it for a terminal because of FORCE_COLOR
        watcher = subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=shown, text=True)
    deadline = time.monotonic() + 60
    while "running" not in terminal.read_text():
        assert time.monotonic() < deadline, "the running run is not shown"
        assert watcher.poll() is None, "it ended before the sweep"
        time.sleep(0.02)
    runner.send_signal(signal.SIGINT)
    runner.communicate(timeout=30)
    errors, _ = watcher.communicate(timeout=30)
    assert watcher.returncode == 0
    assert "killed" in errors
    assert "running" not in errors


def test_status_as_json_has_one_record_per_run_and_null_for_unknown_values(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=4"})
    world.call()
    done = CliRunner().invoke(cli.main, ["status", "--settings", str(world.settings), "grid", "--json"])
    record = json.loads(done.stdout)
    assert (record["schema"], record["sweep"]) == (1, "grid")
    good, bad, baseline = record["runs"]
    assert good["run"] == world.run("network_dim=2*").point.name
    unknown = dict.fromkeys(("stage", "attempt", "failure", "reason", "progress", "vram", "left_s"))
    assert good == {"run": good["run"], "id": good["id"], "state": "finished", **unknown}
    assert (bad["state"], bad["stage"], bad["attempt"], bad["failure"]) == ("failed", "train", 1, "unknown")
    assert bad["reason"]
    assert baseline["state"] == "finished"


# --- arguments --------------------------------------------------------------------------------------------------------


def invoke(world: World, *args: str) -> Result:
    with chdir(world.folder):
        return CliRunner().invoke(cli.main, args)


def test_a_sweep_is_found_by_its_name_and_by_its_folder(world: World) -> None:
    world.context()
    for name in ("grid", "runs/grid", "runs/grid/", str(world.sweep.path)):
        done = invoke(world, "status", name, "--json")
        assert json.loads(done.stdout)["sweep"] == "grid"
    done = invoke(world, "status", "runs/grit")
    assert done.exit_code == 2
    assert "did you mean grid?" in done.stderr


def test_a_name_longer_than_a_file_name_is_rejected(world: World) -> None:
    with pytest.raises(InputError, match="must have 1 to 60 bytes"):
        common.find_sweep(world.settings, "x" * 300)


def test_the_status_of_a_sweep_that_does_not_run_names_the_command_that_resumes_it(world: World) -> None:
    world.context()
    hint = "Next: `orchestrate run grid.toml` resumes the sweep."
    assert hint in invoke(world, "status", "grid").stdout
    with world.sweep.lock():
        assert hint not in invoke(world, "status", "grid").stdout


def test_plan_prints_the_configuration_file_if_only_is_given_even_as_a_star(world: World) -> None:
    assert "network_dim = 2" in invoke(world, "plan", "grid.toml", "--only", "*").stdout
    assert "network_dim = 2" not in invoke(world, "plan", "grid.toml").stdout


def test_retry_without_a_failed_run_says_so(world: World) -> None:
    message = "none of the selected runs has failed, so there is nothing to retry"
    assert message in invoke(world, "run", "grid.toml", "--only", "network_dim=2*", "--retry", "failed").stderr
    assert message not in invoke(world, "run", "grid.toml", "--only", "network_dim=2*").stderr


def test_probe_shows_its_own_measurements_although_the_sweep_has_some(world: World) -> None:
    assert invoke(world, "run", "grid.toml").exit_code == 0
    done = invoke(world, "probe", "grid.toml")
    assert done.exit_code == 0, done.stderr
    assert " probe " in done.stdout
    assert "this sweep" not in done.stdout


# --- errors of the operating system -----------------------------------------------------------------------------------


def test_a_file_where_a_folder_belongs_is_a_message_without_traceback(world: World) -> None:
    (world.folder / "runs" / "grid").write_text("in the way")
    done = world.call()
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert str(world.folder / "runs" / "grid") in done.stderr
    assert "->" in done.stderr


def test_a_closed_pipe_is_not_an_error_message(world: World) -> None:
    assert world.call(*ONE).returncode == 0
    code = "from orchestrator.cli import main; main()"
    argv = [sys.executable, "-c", code, "status", "--settings", str(world.settings), "grid", "--json"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout
    child.stdout.close()
    assert child.stderr
    assert "->" not in child.stderr.read()


def test_a_file_that_cannot_be_written_is_named_as_it_would_be(tmp_path: Path) -> None:
    error = PermissionError(13, "Permission denied", str(tmp_path / ".answers.md.4711.tmp"))
    assert common._system_problem(error).where == str(tmp_path / "answers.md")
    assert common._system_problem(PermissionError(13, "Permission denied", ".b.tar.gz.4711.tmp")).where == "b.tar.gz"
    assert (
        common._system_problem(OSError(28, "No space left on device", "a.png", None, "/full/a.png")).where
        == "/full/a.png"
    )
