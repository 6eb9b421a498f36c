"""Results in the terminal: the summary at the end of a run, `orchestrate results` and `orchestrate list`."""

import csv
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner
from click.testing import Result as Called
from rich.console import Console as Terminal
from rich.console import Group
from rich.table import Table
from standins.world import World
from test_answers import grid, read, run, trained_with

from orchestrator import cli
from orchestrator.cli import console, results_table, status_table
from orchestrator.cli.fitted_table import FittedTable
from orchestrator.errors import Problem
from orchestrator.evidence import configurations
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import FaceStatus, Failure, Image, Params, Point, Progress, Result, Score, State
from orchestrator.report import overview, results_csv, results_view, sweep_list
from orchestrator.report import status as status_module
from orchestrator.report.labels import labels
from orchestrator.report.progress import ProgressReader
from orchestrator.report.status import StatusRow, SweepStatus
from orchestrator.store.layout import Run
from orchestrator.store.state import Status


def point(params: Params, *, baseline: bool = False) -> Point:
    identity = str(sorted(params.items()))
    return Point(
        id=identity, name=identity, params=params, dims=() if baseline else tuple(params), is_baseline=baseline
    )


def failed(seed: int, failure: Failure, reason: str, *, stage: str = "train") -> RunSummary:
    made = run({"network_dim": 64, "seed": seed}, 0.5, state=State.FAILED)
    status = Status(state=State.FAILED, stage=stage, failure=failure, reason=reason)
    return replace(made, status=status, run=replace(made.run, point=point(made.run.point.params)))


# --- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "seeds", "end"),
    [
        (0.1, 4, "similarity (95 % interval +0.0"),
        (0.0001, 4, "that may be chance."),
        (0.1, 1, "add seeds to see whether that is chance."),
    ],
)
def test_the_best_configuration_is_named_with_its_lead(effect: float, seeds: int, end: str) -> None:
    text = overview.best(configurations.group(list(grid(effect, seeds=seeds))))
    assert text.startswith("Best: network_dim ")
    assert end in text
    assert ("chance" in text) == (end.endswith("chance."))


def test_no_further_seeds_are_asked_for_while_some_are_not_finished() -> None:
    waiting = run({"network_dim": 16, "seed": 2}, 0.0, state=State.PENDING)
    text = overview.best(configurations.group([*grid(0.1, seeds=1), waiting]))
    assert text.endswith("further seeds, not finished yet, will show whether that is chance.")


def test_the_interval_of_the_lead_is_wider_with_more_configurations() -> None:
    two = list(grid(0.1, seeds=4))
    many = [*two, *(run({"network_dim": dim, "seed": seed}, 0.2) for dim in range(40, 50) for seed in range(1, 5))]
    texts = [overview.best(configurations.group(runs)) for runs in (two, many)]
    widths = [text.partition("interval ")[2].partition(",")[0].split(" to ") for text in texts]
    assert float(widths[1][1]) - float(widths[1][0]) > float(widths[0][1]) - float(widths[0][0])


@pytest.mark.parametrize("lead", [0.3, 0.0, -0.001])
def test_a_baseline_that_is_better_or_equal_is_reported(lead: float) -> None:
    """`lead`: of the baseline over the best configuration. LoRAs that changed nothing lead it by rounding errors."""
    ranked = configurations.group(list(grid(0.1)))
    base = run({"base_model": "x"}, (ranked[0].value or 0) + lead)
    base = replace(base, run=replace(base.run, point=point({"base_model": "x"}, baseline=True)))
    assert overview.best(configurations.group([*grid(0.1), base])).startswith(
        "No configuration is better than the base"
    )
    assert "`orchestrate sheet " in overview.next_step(read([*grid(0.1), base]))
    assert "`orchestrate confirm " in overview.next_step(read(list(grid(0.1))))


def test_images_without_any_face_have_no_best_configuration() -> None:
    nothing = Score(image=Image(file="a.png", checkpoint="", strength=1.0, prompt=0, seed=1), status=FaceStatus.NO_FACE)
    runs = [replace(one, choice=replace(one.choice, reported=(nothing,))) for one in grid(0.1) if one.choice]
    assert overview.best(configurations.group(runs)) == "No image of a trained run contains a face."


def test_a_degraded_configuration_is_excluded_from_the_comparison() -> None:
    best, second, degraded = (run({"network_dim": dim}, value) for dim, value in ((16, 0.6), (32, 0.5), (64, 0.7)))
    degraded = replace(degraded, training=(trained_with(degraded=True),))
    assert degraded.degraded
    text = overview.best(configurations.group([best, second, degraded]))
    assert text.startswith("Best: network_dim 16. It leads network_dim 32 by +0.")
    assert text.endswith("an OOM fallback changed the settings: network_dim 64.")
    assert overview.best(configurations.group([best, degraded])).startswith("Best: network_dim 16. No other")


def test_the_next_step_of_an_unfinished_sweep_names_the_command() -> None:
    unfinished = read([run({"network_dim": 16}, 0.5, state=State.PENDING)])
    name = unfinished.sweep.name
    assert f"`orchestrate run GRID --name {name}`" in overview.next_step(unfinished)
    here = replace(unfinished, grid_file=Path.cwd() / "grids" / f"{name}.toml")
    assert f"`orchestrate run grids/{name}.toml`" in overview.next_step(here)
    other = replace(unfinished, grid_file=Path("/data/my grid.toml"))
    assert f"`orchestrate run '/data/my grid.toml' --name {name}`" in overview.next_step(other)
    assert overview.next_step(unfinished, running=True).startswith("The sweep is running: `orchestrate status ")


@pytest.mark.parametrize(
    ("heading", "name"), [("similarity", "similarity_mean"), ("-no face", "-no_face_rate"), ("gain", "gain")]
)
def test_headings_of_the_table_name_their_columns(heading: str, name: str) -> None:
    assert results_table.column(heading) == name


def test_failures_with_one_reason_are_grouped_and_have_a_remedy() -> None:
    runs = [failed(1, Failure.NAN, "the loss became nan"), failed(2, Failure.NAN, "the loss became nan")]
    found = list(overview.failures(read([*grid(0.1), *runs, failed(3, Failure.UNKNOWN, "odd")])))
    assert [one.text for one in found] == [
        "network_dim 64, seed 1; network_dim 64, seed 2: train failed, nan: the loss became nan",
        "network_dim 64, seed 3: train failed, unknown: odd",
    ]
    assert "`learning_rate`" in found[0].remedy
    assert all("--retry failed" in one.remedy for one in found)


def test_the_remedy_for_a_bad_argument_names_the_grid() -> None:
    summary = read([*grid(0.1), failed(1, Failure.BAD_CONFIG, "no such optimizer")])
    (found,) = overview.failures(replace(summary, grid_file=Path.cwd() / "my grids" / "a.toml"))
    assert "`orchestrate check --deep 'my grids/a.toml'`" in found.remedy


def test_the_remedy_for_out_of_memory_depends_on_the_stage() -> None:
    runs = [failed(1, Failure.OOM, "full"), failed(2, Failure.OOM, "full", stage="generate")]
    train, generate = (one.remedy for one in overview.failures(read([*grid(0.1), *runs])))
    assert "[[oom_fallback]]" in train
    assert "`vram.card`" in generate
    assert "[[oom_fallback]]" not in generate


def test_labels_name_the_dims_that_vary_and_differ() -> None:
    points = [point({"network_dim": dim, "seed": seed, "optimizer_type": "AdamW"}) for dim in (2, 4) for seed in (1, 2)]
    assert list(labels(points).values())[:2] == ["network_dim 2, seed 1", "network_dim 2, seed 2"]
    twin = replace(points[0], id="other")
    assert len(set(labels([*points, twin]).values())) == 5
    assert labels([point({"base_model": "x"}, baseline=True)]) == {str([("base_model", "x")]): "baseline x"}


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_configuration_has_means_over_its_seeds() -> None:
    frame = results_view.table(read(with_ids(grid(0.1, seeds=3))), "config")
    assert frame["configuration"].tolist() == ["network_dim 32", "network_dim 16"]
    assert frame["runs"].tolist() == frame["scored"].tolist() == [3, 3]
    assert frame["similarity_mean"].tolist() == pytest.approx([0.615, 0.515], abs=0.005)
    assert frame["params_network_dim"].tolist() == [32, 16]
    assert "params_seed" not in frame


def with_ids(runs: Iterable[RunSummary]) -> list[RunSummary]:
    return [replace(one, run=replace(one.run, point=replace(one.run.point, id=one.run.point.name))) for one in runs]


def test_runs_are_sorted_best_first() -> None:
    frame = results_view.table(read(with_ids(grid(0.1, seeds=2))), "run")
    assert frame["params_network_dim"].tolist() == [32, 32, 16, 16]


# --- commands ---------------------------------------------------------------------------------------------------------


def invoke(world: World, *args: str) -> Called:
    with chdir(world.folder):
        return CliRunner().invoke(cli.main, args, env={"COLUMNS": "100"})


@pytest.fixture
def finished(world: World) -> World:
    world.ask("[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2]\n")
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=4"})
    world.drive()
    return world


def test_results_in_every_form(finished: World) -> None:
    text = invoke(finished, "results", "grid").stdout
    for part in (
        "2 of 4 trainings finished",
        "network_dim 4  0 of 2",
        "network_dim 4, seed 1; network_dim 4, seed 2: train failed",
        "Next: ",
    ):
        assert part in text
    rows = json.loads(invoke(finished, "results", "runs/grid", "--json").stdout)["rows"]
    assert {row["configuration"] for row in rows} == {"network_dim 2", "network_dim 4", "baseline doll"}
    csv_text = invoke(finished, "results", "grid", "--by", "run", "--csv", "--sort", "-params_seed").stdout
    seeds = [row["params_seed"] for row in csv.DictReader(io.StringIO(csv_text))]
    assert seeds == ["1", "1", "2", "2", ""]
    table = invoke(finished, "results", "grid", "--columns", "configuration,images").stdout
    assert table.splitlines()[0].split() == ["configuration", "images"]


def test_a_printed_table_has_no_formula() -> None:
    frame = pd.DataFrame({"params_metadata_author": ["=HYPERLINK(1)"], "gain": [-0.5]})
    assert results_csv.text(frame).splitlines()[1] == "'=HYPERLINK(1),-0.5"


def test_an_unknown_column_has_a_suggestion(finished: World) -> None:
    done = invoke(finished, "results", "grid", "--sort", "similarty_mean")
    assert done.exit_code == 2
    assert "did you mean similarity_mean?" in done.stderr
    assert "did you mean similarity?" in invoke(finished, "results", "grid", "--sort", "simlarity").stderr


def test_run_prints_the_summary_and_then_the_paths(world: World) -> None:
    lines = invoke(world, "run", "grid.toml").stdout.splitlines()
    assert any(line.startswith("configuration") for line in lines)
    assert lines[-2:] == [str(world.sweep.report / "report.html"), str(world.sweep.report / "results.csv")]


def test_list_shows_every_sweep_with_its_best_configuration(finished: World) -> None:
    assert invoke(finished, "plan", "grid.toml", "--name", "other").exit_code == 0
    (finished.sweep.path / ".lock").touch()
    os.utime(finished.sweep.path / ".lock", (0, 0))  # started long ago, active until now
    (listed,) = json.loads(invoke(finished, "list", "--json").stdout)["sweeps"]
    assert (listed["name"], listed["state"], listed["runs"], listed["finished"]) == ("grid", "failed", 5, 3)
    assert listed["best"] == "network_dim 2"
    assert listed["size_bytes"] > 10_000
    assert 0 <= listed["age_s"] < 600
    heading, row = invoke(finished, "list").stdout.splitlines()
    assert heading.split() == ["sweep", "state", "runs", "best", "similarity", "size", "last", "active"]
    assert row.split()[:3] == ["grid", "failed", "3/5"]


@pytest.mark.parametrize(
    ("record", "change"),
    [
        ("sweep.json", {"fingerprint": None}),
        ("sweep.json", {"questions": [None]}),
        ("sweep.json", {"points": [{"a": 1}]}),
        ("sweep.json", {"design": "x"}),
        ("sweep.json", {"margins": [1]}),
        ("*/train/1/attempt.json", {"environment": {"gpu": 1}}),
    ],
)
def test_a_damaged_sweep_does_not_hide_the_others(
    finished: World, tmp_path: Path, record: str, change: dict[str, object]
) -> None:
    for name in ("good", "bad"):
        shutil.copytree(finished.sweep.path, tmp_path / name)
    for path in (tmp_path / "bad").glob(record):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    listed = {one.name: one.state for one in sweep_list.sweeps(tmp_path)}
    assert listed["good"] == "failed"
    assert listed["bad"].startswith("unreadable: cannot be read: its" if record == "sweep.json" else "failed")


def test_a_folder_that_cannot_be_searched_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("closed", "no-sweep", ".cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(os, "access", lambda path, _mode: path.name == "no-sweep")

    def refuse(_sweep):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("orchestrator.evidence.summary.read", refuse)
    (listed,) = sweep_list.sweeps(tmp_path)
    assert (listed.name, listed.state) == ("closed", "unreadable: Permission denied")
    assert sweep_list.sweeps(tmp_path / "absent") == []


@pytest.mark.parametrize(("release", "opened"), [("6.6-microsoft-standard-WSL2", "windows"), ("6.6", "browser")])
def test_open_shows_the_page(finished: World, monkeypatch: pytest.MonkeyPatch, release: str, opened: str) -> None:
    page, used = finished.sweep.report / "report.html", []
    monkeypatch.setattr("platform.release", lambda: release)
    monkeypatch.setattr("shutil.which", lambda name: f"/mnt/c/{name}")
    monkeypatch.setattr("webbrowser.open", lambda url: used.append(("browser", url)))

    def start(argv: list[str], **_: object) -> SimpleNamespace:
        used.append(("windows", argv[-1]))
        return SimpleNamespace(stdout="C:\\report.html\n")

    monkeypatch.setattr("subprocess.run", start)
    assert invoke(finished, "open", "grid").exit_code == 3, "there is no report yet"
    assert invoke(finished, "report", "grid").exit_code == 0
    monkeypatch.setenv("DISPLAY", ":0")
    assert invoke(finished, "open", "grid").stdout.strip() == str(page)
    if opened == "windows":
        assert used == [("windows", str(page)), ("windows", "C:\\report.html")]
    else:
        assert used == [("browser", page.as_uri())]
        used.clear()
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
            monkeypatch.delenv(name, raising=False)
        assert invoke(finished, "open", "grid").exit_code == 0
        assert used == []


# --- progress ---------------------------------------------------------------------------------------------------------


def test_the_remaining_time_comes_from_the_forecast_from_the_start(world: World) -> None:
    session = world.session()
    session.context([])
    progress = ProgressReader(session.sweep, session.forecast).read()
    assert progress.left_s == pytest.approx(session.forecast().seconds, abs=1)
    assert 0 <= progress.share < 0.5
    assert progress.counts() == "0 of 3 runs finished"
    assert ProgressReader(session.sweep).read().times().endswith(" s, remaining time unknown")
    images = session.sweep.runs()[0].confirmation("12345678")
    images.create()
    assert ProgressReader(session.sweep, runs=[images]).read().counts() == "0 of 1 runs finished"


def test_a_running_stage_counts_with_what_its_progress_leaves(world: World) -> None:
    session = world.session()
    session.context([])
    (run, *_), costs = session.sweep.runs(), session.forecast()
    status = Status(state=State.RUNNING, stage="train", attempt=1)
    row = StatusRow(run=run, status=status, progress=Progress(step=1, total=4, seconds_per_step=100.0, loss=0.25))
    view = SweepStatus(name="grid", rows=(row,), left_s=None)
    reader = ProgressReader(session.sweep, lambda: costs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status_module, "read_status", lambda *_: view)
        progress = reader.read()
    assert progress.left_s == pytest.approx(costs.seconds - costs.runs[0].train_s + 300, abs=1)
    assert "network_dim 2: train 1/4" in status_table.heartbeat(progress)
    shown = io.StringIO()
    Terminal(file=shown, width=80).print(status_table.live(progress))
    for part in ("network_dim 2", "1/4", "0.2500", "100.00", "0 of 1 runs finished"):
        assert part in shown.getvalue()
    assert "VRAM" not in shown.getvalue()


def test_a_dumb_terminal_has_its_own_width(monkeypatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 20)))
    monkeypatch.setenv("TERM", "dumb")
    assert console.Terminal(force_terminal=True).width == 60


def test_without_a_terminal_a_timestamped_line_is_repeated(world: World, capsys, monkeypatch) -> None:
    monkeypatch.setattr(console, "_HEARTBEAT_S", 0.05)
    session = world.session()
    session.context([])
    with console.Console().live(session.sweep, session.forecast):
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d grid: 0 of 3 runs finished; elapsed .+, about .+ left$", line)


def test_a_narrow_terminal_lacks_columns_instead_of_parts_of_words() -> None:
    label = "optimizer_type Prodigy, network_dim 16, seed 1"
    rows = [(label, "failed: runs again only with --retry failed", "12", "3 min", "4 s")]
    table = FittedTable(
        ("run", "why", "steps", "train", "score"), rows, right=("steps", "train", "score"), optional=("score", "steps")
    )

    def shown(width: int) -> list[str]:
        file = io.StringIO()
        Terminal(file=file, width=width).print(table)
        return file.getvalue().splitlines()

    assert shown(160)[1].split("  ")[0] == label
    assert shown(78)[0].split() == ["run", "why", "steps", "train"]
    assert shown(78)[-1] == "A wider terminal also shows: score"
    assert shown(50)[0].split() == ["run", "why", "train"]
    words = {word for line in shown(50)[1:-1] for word in line.split()}
    assert words <= {word for cell in rows[0] for word in cell.split()}


def test_commands_in_messages_name_the_settings_of_this_command(capsys) -> None:
    shown = console.Console(settings=" --settings mine.toml")
    shown.page(Group("Next: `orchestrate confirm demo` scores it.", Table()))
    shown.sentence("`orchestrate init` and `orchestrate demo` need no settings, `orchestrate plan GRID` does")
    text = capsys.readouterr().out
    assert "`orchestrate confirm demo --settings mine.toml`" in text
    assert "`orchestrate init` and `orchestrate demo` need" in text
    assert "`orchestrate plan GRID --settings mine.toml`" in text


def test_the_cause_in_a_message_is_short_and_what_follows_is_kept(capsys) -> None:
    reason = f"RuntimeError: {'very ' * 100}long; trying again"
    console.Console().ended(
        Run(Path("x"), point({"seed": 1})), "train", Result(failure=Failure.CRASHED, reason=reason, retry=True)
    )
    text = capsys.readouterr().err
    assert len(text) < 200
    assert text.rstrip().endswith("; trying again")


def test_messages_on_a_narrow_terminal_break_between_words_and_never_in_a_path() -> None:
    shown = console.Console()
    shown._err = Terminal(file=io.StringIO(), force_terminal=True, width=30, color_system=None)
    path = "/a/very/long/path/that/is/wider/than/the/terminal.toml"
    shown.problems([Problem(what="is missing", where=path, remedy="create the file with the example of the docs")])
    lines = shown._err.file.getvalue().splitlines()
    assert any(path in line for line in lines)
    assert max(len(line) for line in lines if path not in line) <= 30
