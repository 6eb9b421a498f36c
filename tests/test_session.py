"""The library: a sweep runs, reports and ends without the command line."""

import logging
import re
import signal
import subprocess
import sys
import time
from contextlib import chdir

import pandas as pd
import pytest
from pages import ROOT
from standins.world import World

from orchestrator.errors import InputError
from orchestrator.model import State
from orchestrator.session import Session

EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_documented_example_runs_a_sweep_and_prints_the_best_run(world: World, capsys) -> None:
    assert EXAMPLE
    (world.folder / "grids").mkdir()
    world.grid.rename(world.folder / "grids" / "sweep-v3.toml")
    with chdir(world.folder):
        exec(EXAMPLE[1], {})
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("network_dim="), last


def test_results_are_the_table_results_csv(world: World) -> None:
    session = world.session()
    statuses = session.run()
    assert {status.state for status in statuses.values()} == {State.FINISHED}
    report = session.report()
    written, frame = pd.read_csv(report.table), session.results()
    assert list(frame.columns) == list(written.columns)
    assert list(frame["run"]) == list(written["run"])
    assert frame["similarity_mean"].astype(float).tolist() == pytest.approx(written["similarity_mean"].tolist())


def test_events_are_logged_and_nothing_is_printed(world: World, caplog, capsys) -> None:
    with caplog.at_level(logging.INFO, "orchestrator"):
        Session.open(str(world.settings), str(world.grid)).run("network_dim=2*")
    assert any("train done in" in message for message in caplog.messages)
    assert caplog.messages[-1] == str(world.sweep.report / "results.csv")
    assert capsys.readouterr() == ("", "")


def test_open_raises_every_mistake_of_both_files(world: World) -> None:
    world.ask("[dimz]\nnetwork_dim = [2]\n")
    world.settings.write_text(world.settings.read_text() + "\n[scor]\n")
    with pytest.raises(InputError) as raised:
        Session.open(world.settings, world.grid)
    assert {problem.key for problem in raised.value.problems} >= {"scor", "dimz"}


def test_ctrl_c_ends_the_running_attempts_of_a_library_call(world: World) -> None:
    world.settle(env={"STANDIN_TRAIN": "hang#1"})
    code = "from orchestrator.session import Session\nSession.open('orchestrate.toml', 'grid.toml').run()"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=world.folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any("I hang" in log.read_text() for log in world.folder.glob("runs/grid/*/train/*/log")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert world.living() == []
    assert State.KILLED in world.states().values()


def test_python_dash_m_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "orchestrator", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: orchestrate ")
    assert (ROOT / "orchestrator" / "py.typed").exists()
