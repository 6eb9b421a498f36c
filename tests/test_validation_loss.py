"""The validation loss of a training, from the files that sd-scripts writes for TensorBoard."""

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.evidence import summary
from orchestrator.kohya.outputs import events
from orchestrator.model import Point
from orchestrator.report import results_csv
from orchestrator.store.layout import Run

NAME = "network_train/events.out.tfevents.1.host.1.0"


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def event(tag: str, step: int, value: float) -> bytes:
    """One record as TensorBoard's writer makes it; the checksums are not read."""
    scalar = b"\x0a" + varint(len(tag)) + tag.encode() + b"\x15" + struct.pack("<f", value)
    summary_ = b"\x0a" + varint(len(scalar)) + scalar
    data = b"\x09" + struct.pack("<d", 1.7e9) + b"\x10" + varint(step) + b"\x2a" + varint(len(summary_)) + summary_
    return struct.pack("<Q", len(data)) + b"\0" * 4 + data + b"\0" * 4


def write(logs: Path, *records: tuple[str, int, float], cut: int = 0) -> Path:
    path = logs / NAME
    path.parent.mkdir(parents=True)
    content = b"".join(event(*record) for record in records)
    path.write_bytes(content[: len(content) - cut])
    return logs


EPOCHS = (
    ("loss/current", 299, 0.2), ("loss/current", 300, 0.2), ("loss/validation/epoch_average", 1, 0.5),
    ("loss/current", 600, 0.1), ("loss/validation/epoch_average", 2, 0.25),
    ("loss/validation/epoch_divergence", 2, 9.0),
    ("loss/current", 900, 0.1), ("loss/validation/epoch_average", 3, 0.375),
)  # fmt: skip


def test_the_validation_of_an_epoch_belongs_to_its_last_step(tmp_path: Path) -> None:
    assert events.validation_losses(write(tmp_path, *EPOCHS)) == {300: 0.5, 600: 0.25, 900: 0.375}


def test_a_file_that_is_cut_off_is_read_to_its_last_whole_record(tmp_path: Path) -> None:
    assert events.validation_losses(write(tmp_path, *EPOCHS, cut=9)) == {300: 0.5, 600: 0.25}


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, struct.pack("<Q", 2**60) + b"x" * 50, event("x", 1, 1.0)[:-20]]
)
def test_a_damaged_file_has_no_scalars(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    assert list(events.scalars(tmp_path / "events.out.tfevents.1")) == []


def test_a_resumed_training_has_one_curve_and_two_columns(tmp_path: Path) -> None:
    params = {"validation_split": 0.1, "base_model": "b", "dataset": "d"}
    run = Run(tmp_path, Point(id="0", name="r", params=params))
    first, second = tmp_path / "train" / "1", tmp_path / "train" / "2"
    write(first / "logs", *EPOCHS)
    write(second / "logs", ("loss/current", 300, 0.1), ("loss/validation/epoch_average", 3, 0.125))
    (second / "attempt.json").write_text('{"schema": 1, "resumed": {"attempt": 1, "epoch": 2, "step": 600}}')
    (first / "attempt.json").write_text('{"schema": 1}')
    found = summary._validation(run)
    assert found == {300: 0.5, 600: 0.25, 900: 0.125}
    cells = {column.name: column.value for column in results_csv.COLUMNS}
    one = SimpleNamespace(validation={300: 0.5, 600: 0.25, 900: 0.375})
    assert (cells["validation_loss"](one, None), cells["validation_best_step"](one, None)) == (0.375, 600)
    without = Run(tmp_path, Point(id="0", name="r", params={"base_model": "b"}))
    assert summary._validation(without) == {}
