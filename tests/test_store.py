"""The store: layout of runs/, atomic records, states derived from them, locks, hashes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator import files
from orchestrator.errors import Conflict, NotReady, OrchestrateError
from orchestrator.model import Failure, Point, Result, State
from orchestrator.store import hashes, layout, outcome, process, records, state
from orchestrator.store.layout import Attempt, Run, Sweep

POINT = Point(id="1a2b3c4d", name="seed=1-1a2b3c4d", params={"seed": 1, "optimizer_args": ("a=1",)}, dims=("seed",))
BASELINE = Point(id="5e6f7a8b", name="baseline-5e6f7a8b", params={"base_model": "doll"}, is_baseline=True)
GOOD = Result(failure=None, exit_code=0, seconds=1.5)
CRASHED = Result(failure=Failure.CRASHED, reason="vanished", retry=True)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Sweep(tmp_path / "sweep").run(POINT)
    made.create()
    return made


def test_a_folder_of_another_point_is_reported(run: Run) -> None:
    """Two folders were exchanged, or one is a link to another: their results would be counted for the wrong point."""
    other = Run(run.path.with_name("seed=2-99999999"), Point(id="99999999", name="seed=2-99999999", params={"seed": 2}))
    run.path.rename(other.path)
    for use in (other.create, other.check_folder):
        with pytest.raises(NotReady, match=r"seed=2-99999999.*is the folder of the point 1a2b3c4d"):
            use()
    run.path.symlink_to(other.path.name)
    run.check_folder()


def test_a_folder_that_is_moved_during_a_command_is_reported(run: Run) -> None:
    run.path.parent.rename(run.path.parent.with_name("moved"))
    with pytest.raises(NotReady, match=f"{run.path}: was moved or deleted meanwhile"):
        records.read(run.path / "point.json")


# --- states: every row of the table in docs/design.md -----------------------------------------------------------------


def test_a_run_without_attempts_is_pending(run: Run) -> None:
    assert state.status(run) == state.Status(state=State.PENDING, stage="train")


def test_a_run_with_its_last_product_is_finished(run: Run) -> None:
    run.new_attempt("train")
    run.finish("score", {})
    assert state.status(run).state is State.FINISHED


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (GOOD, State.PENDING),
        (CRASHED, State.CRASHED),
        (Result(failure=Failure.KILLED, retry=True), State.KILLED),
        (Result(failure=Failure.OOM, retry=True), State.PENDING),
        (Result(failure=Failure.OOM, retry=False), State.FAILED),
        (Result(failure=Failure.CRASHED, retry=False), State.FAILED),
    ],
)
def test_the_state_of_a_run_follows_from_its_last_result(run: Run, result: Result, expected: State) -> None:
    run.new_attempt("train").close(result)
    assert state.status(run).state is expected


def test_a_later_stage_counts_once_the_earlier_is_done(run: Run) -> None:
    run.new_attempt("train").close(GOOD)
    run.finish("train", {"checkpoints": []})
    run.new_attempt("generate").close(CRASHED)
    status = state.status(run)
    assert (status.state, status.stage, status.failure, status.reason) == (
        State.CRASHED,
        "generate",
        Failure.CRASHED,
        "vanished",
    )


def test_an_open_attempt_is_running_or_crashed(run: Run) -> None:
    attempt = run.new_attempt("train")
    assert state.status(run).state is State.PENDING, "it never started"
    process.start(attempt.path, ["/bin/sleep", "60"], env=os.environ, cwd=attempt.path)
    assert state.status(run).state is State.RUNNING
    while not process.started(attempt.path):
        time.sleep(0.01)
    process.stop(attempt.path, 0)
    (attempt.path / "exit.json").unlink(missing_ok=True)
    assert state.status(run).state is State.CRASHED
    files.write_json(attempt.path / "exit.json", {"schema": 1, "code": 0, "seconds": 1.0})
    assert state.status(run).state is State.PENDING, "to be judged"


def test_a_baseline_is_not_trained(tmp_path: Path) -> None:
    assert state.status(Sweep(tmp_path).run(BASELINE)).stage == "generate"


@pytest.mark.parametrize(
    "text", ['{"a": 1e999}', '{"a": NaN}', '{"a": -Infinity}', '{"a": 9223372036854775808}', "9" * 5000, "[" * 5000]
)
def test_numbers_that_no_record_has_are_damage(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(OrchestrateError, match=r"record\.json: cannot be read: .*(finite|64 bits|nested)"):
        records.read(path)
    path.write_text('{"schema": 1, "a": [-9223372036854775808, 1e308]}')
    assert records.read(path) == {"a": [-(2**63), 1e308]}


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_attempt_numbers_are_never_reused(run: Run) -> None:
    (run.path / "train" / "7").mkdir(parents=True)
    (run.path / "train" / ".cache").mkdir()
    (run.path / "train" / "notes").mkdir()
    assert [attempt.number for attempt in run.attempts("train")] == [7]
    assert run.new_attempt("train").number == 8


def test_attempts_are_in_the_order_of_their_numbers(run: Run) -> None:
    numbers = [run.new_attempt("train").number for _ in range(11)]
    assert [attempt.number for attempt in run.attempts("train")] == numbers == list(range(1, 12))


def test_a_result_reads_back_equal(run: Run) -> None:
    attempt = run.new_attempt("train")
    result = Result(failure=Failure.OOM, reason="ü €", retry=True, seconds=2.5, peak_vram_mib=9, steps=4)
    attempt.close(result)
    assert attempt.result() == result


@pytest.mark.parametrize("read", [files.read_text, lambda path: files.read_tail(path, 9), hashes.sha256, records.read])
def test_only_regular_files_are_read(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it without O_NONBLOCK waits for a writer for ever
    (tmp_path / "device").symlink_to("/dev/zero")
    for path in (tmp_path / "fifo", tmp_path / "device", tmp_path):
        with pytest.raises((OSError, OrchestrateError), match="is not a regular file"):
            read(path)


def test_a_huge_record_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "point.json").open("wb") as file:
        file.truncate(files.MAX_TEXT_BYTES + 1)  # a sparse file
    with pytest.raises(OrchestrateError, match="has 67,108,865 bytes, more than 67,108,864"):
        records.read(tmp_path / "point.json")


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hashes.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashes.sha256_text("abc") == hashes.sha256(tmp_path / "a")


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_point_reads_back_equal_tuples_included(run: Run) -> None:
    assert layout.point_of(records.read(run.path / "point.json")) == POINT


def test_a_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    records.write(tmp_path / "a.json", {"x": [1, "ü", None]})
    records.write(tmp_path / "a.json", {"x": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"schema": 1, "x": 2}


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    records.write(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        records.write(tmp_path / "a.json", {"x": object()})
    (tmp_path / "b.json").mkdir()
    with pytest.raises(OSError, match=r"b\.json"):
        records.write(tmp_path / "b.json", {"x": 1})
    assert records.read(tmp_path / "a.json") == {"x": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_copy_of_a_grid_with_another_name_is_ignored(tmp_path: Path) -> None:
    for name in ("grid-10.toml", "grid-2.toml", "grid-2 (copy).toml", "grid-old.toml"):
        (tmp_path / name).touch()
    assert [path.name for path in Sweep(tmp_path).grids()] == ["grid-2.toml", "grid-10.toml"]


def test_a_record_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"schema": 2}')
    with pytest.raises(OrchestrateError, match="was written by another version"):
        records.read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("sweep/run/train/1/result.json", "sweep/run"),
        ("sweep/run/point.json", "sweep/run"),
        ("sweep/sweep.json", "sweep"),
        ("calibration.json", "calibration.json"),
    ],
)
def test_a_damaged_record_names_what_to_move(tmp_path: Path, name: str, moved: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if "run" in name:
        (tmp_path / "sweep" / "run" / "point.json").write_text("{}")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(OrchestrateError, match=f"move {tmp_path / moved} out of {(tmp_path / moved).parent},"):
        records.read(path)


def test_a_product_names_files_that_are_there(run: Run) -> None:
    """They are synced to disk before the record that makes them a fact."""
    with pytest.raises(FileNotFoundError):
        run.finish("train", {"checkpoints": [{"file": "train/1/output/lora.safetensors"}]})
    assert not run.done("train")


# --- the sweep --------------------------------------------------------------------------------------------------------


def record() -> dict[str, object]:
    return {"fingerprint": {}, "points": [asdict(POINT), asdict(BASELINE)], "questions": []}


def test_each_grid_is_copied_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep")
    for text in ("# one\n", "# two\n", "# one\n"):
        sweep.freeze(record(), grid=text, templates={"train.toml.j2": "x"})
    assert [path.read_bytes() for path in sweep.grids()] == [b"# one\n", b"# two\n"]
    assert [run.point for run in sweep.runs()] == [POINT, BASELINE]
    assert layout.sweeps(tmp_path) == [sweep]


def test_temporary_files_of_a_killed_process_are_ignored(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep")
    sweep.freeze(record(), grid="# one\n", templates={})
    (sweep.path / ".grid-2.toml.123.tmp").write_text("# ha")
    (sweep.path / ".sweep.json.123.tmp").write_text("{")
    assert len(sweep.grids()) == 1
    assert len(sweep.runs()) == 2


HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.store.layout import Sweep
with Sweep(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweep")
    assert not sweep.is_locked()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(sweep.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    holder.stdout.readline()
    assert sweep.is_locked()
    with pytest.raises(Conflict, match=rf"running in process {holder.pid} on .* since 20\d\d-"), sweep.lock():
        pass
    holder.kill()
    holder.wait()
    assert not sweep.is_locked()
    with sweep.lock():
        assert json.loads((sweep.path / ".lock").read_text())["pid"] == os.getpid()


def test_a_pipe_in_place_of_a_lock_is_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    assert not Sweep(tmp_path).is_locked()
    with pytest.raises(NotReady, match=r"\.lock: is not a regular file"), Sweep(tmp_path).lock():
        pass


@pytest.mark.parametrize("text", ["", "{", "null", '{"pid": 1}'])
def test_a_lock_without_a_readable_holder_is_still_a_lock(tmp_path: Path, text: str) -> None:
    sweep = Sweep(tmp_path / "sweep")
    with sweep.lock():
        (sweep.path / ".lock").write_text(text)
        began = time.monotonic()
        with pytest.raises(Conflict, match="is already running in"), sweep.lock():
            pass
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("name", "record", "read"),
    [
        ("attempt.json", {"overrides": None}, lambda path: Attempt(path).request()),
        ("attempt.json", {"resumed": "x"}, lambda path: Attempt(path).request()),
        ("result.json", {"failure": None, "seconds": "1"}, lambda path: Attempt(path).result()),
        ("stop.json", {"failure": "x", "reason": ""}, outcome.stopped),
        ("stop.json", {}, outcome.stopped),
        ("sweep.json", {"points": [{"name": None}]}, lambda path: Sweep(path).record()),
        ("sweep.json", {"points": [], "fingerprint": []}, lambda path: Sweep(path).record()),
    ],
)
def test_a_record_with_a_wrong_type_is_damaged(
    tmp_path: Path, name: str, record: dict[str, object], read: Callable[[Path], object]
) -> None:
    records.write(tmp_path / name, record)
    with pytest.raises(OrchestrateError, match=f"{name}: cannot be read: its content is not as expected"):
        read(tmp_path)
