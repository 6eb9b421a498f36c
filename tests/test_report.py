"""results.csv and images.csv: columns, cells, and two processes that write them at the same time."""

import csv
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from standins.world import World

from benchmarks import page as sweeps
from orchestrator.evidence import run_metrics, summary
from orchestrator.evidence.calibration import statistics
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.summary import SweepSummary
from orchestrator.report import results_csv
from orchestrator.store.layout import Sweep

WRITE = """
import sys
from pathlib import Path
from orchestrator.evidence import summary
from orchestrator.report import results_csv
from orchestrator.store import layout
for _ in range(30):
    results_csv.write(summary.read(layout.Sweep(Path(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> SweepSummary:
    """Sixteen trained runs and a baseline: one is degraded, one has failed, the others are finished."""
    folder = tmp_path_factory.mktemp("sweep")
    sweep = Sweep(folder / "runs" / "s")
    sweeps.write(sweep, 16, sweeps.Made(album=sweeps.album(folder / "album", px=32, count=2), seeds=2))
    return summary.read(sweep)


def written(sweep: SweepSummary) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(results_csv.write(sweep).read_text(encoding="utf-8"))))


def test_every_column_is_written_once_with_arguments_in_between(scored: SweepSummary) -> None:
    names = list(written(scored)[0])
    params = [name for name in names if name.startswith("params_")]
    listed = [column.name for column in results_csv.COLUMNS]
    assert names == [name for one in listed for name in (params if one == "params_*" else [one])]
    assert len(set(names)) == len(names)
    assert params[:3] == ["params_network_dim", "params_optimizer_type", "params_seed"], "dims come first"


def test_baseline_rows_are_marked_and_named(scored: SweepSummary) -> None:
    (baseline,) = [row for row in written(scored) if row["is_baseline"] == "True"]
    assert baseline["run"].startswith("baseline-")
    assert (baseline["attempts"], baseline["gain"], baseline["pareto_best"]) == ("", "", "")


def test_unknown_values_are_empty_and_known_zeros_are_not(scored: SweepSummary) -> None:
    rows = {row["state"]: row for row in written(scored)}
    assert rows["failed"]["similarity_mean"] == rows["failed"]["threshold"] == rows["failed"]["images"] == ""
    assert rows["finished"]["unreadable"] == "0"
    assert rows["finished"]["pass_rate"] == "", "there is no calibration"


def test_the_threshold_is_a_number_and_its_caveat_has_a_column_of_its_own(scored: SweepSummary) -> None:
    photos = np.random.default_rng(1).normal(size=(9, 16)) + 2
    found = statistics.calibrate({f"{number}.png": photo for number, photo in enumerate(photos)})
    record = CalibrationRecord(face_pack="p", references="r", measured_at="", calibration=found, rejected={})
    runs = tuple(
        replace(run, metrics=run_metrics.summary(run.choice.reported, found.thresholds) if run.choice else None)
        for run in scored.runs
    )
    rows = written(replace(scored, runs=runs, calibration=record))
    known = [row for row in rows if row["similarity_mean"]]
    assert [float(row["threshold"]) for row in known] == pytest.approx([found.threshold] * len(known), abs=1e-5)
    assert {row["threshold_caveat"] for row in known} == {"provisional: 9 photos"}
    assert all(float(row["pass_low"]) <= float(row["pass_rate"]) <= float(row["pass_high"]) for row in known)


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\n=1", "\uff1d1"])
def test_text_that_spreadsheets_would_evaluate_is_escaped(scored: SweepSummary, text: str) -> None:
    first, *others = scored.runs
    point = replace(first.run.point, params={**first.run.point.params, "training_comment": text, "scale": -0.5})
    runs = (replace(first, run=replace(first.run, point=point)), *others)
    row = written(replace(scored, runs=runs))[0]
    assert row["params_training_comment"] == f"'{text}"
    assert row["params_scale"] == "-0.5", "a number is no formula"


def test_a_carriage_return_does_not_end_a_row(scored: SweepSummary) -> None:
    first, *others = scored.runs
    point = replace(first.run.point, params={**first.run.point.params, "training_comment": "a\r=1\r\nb"})
    rows = written(replace(scored, runs=(replace(first, run=replace(first.run, point=point)), *others)))
    assert (len(rows), rows[0]["params_training_comment"]) == (len(scored.runs), "a\n=1\nb")


def test_image_rows_name_their_run(scored: SweepSummary) -> None:
    results_csv.write(scored)
    text = (scored.sweep.report / results_csv.IMAGES).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["run"] for row in rows} == {run.run.point.name for run in scored.runs if run.scores}
    assert all((scored.sweep.path / row["run"] / row["file"]).exists() for row in rows[:5])


def test_a_sweep_without_scores_has_both_tables(tmp_path: Path, scored: SweepSummary) -> None:
    bare = replace(scored, sweep=Sweep(tmp_path), runs=tuple(replace(run, scores=()) for run in scored.runs))
    assert len(written(bare)) == len(scored.runs)
    assert (tmp_path / "report" / results_csv.IMAGES).read_text(encoding="utf-8") == "run,id\n"


def test_two_processes_can_write_at_the_same_time(world: World) -> None:
    """`run` at its end, and `report --watch`."""
    world.context()
    both = [subprocess.Popen([sys.executable, "-c", WRITE, str(world.sweep.path)]) for _ in range(2)]
    assert [child.wait(timeout=60) for child in both] == [0, 0]
    assert sorted(path.name for path in world.sweep.report.iterdir()) == ["images.csv", "results.csv"]
    assert len(world.rows()) == 3


def test_the_documentation_lists_the_columns() -> None:
    page = Path(__file__).parents[1] / "docs" / "results-csv.md"
    assert page.read_text(encoding="utf-8") == results_csv.document(), results_csv.document.__doc__
