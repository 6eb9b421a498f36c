"""The output of the unmodified trainer: files, metadata, progress, and failures."""

import json
import math
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from small_world import HERE, ROOT, Trained, Trainer, World

from orchestrator.config.schema import Launcher
from orchestrator.kohya import train_plugin
from orchestrator.kohya.outputs import files, log, safetensors_header
from orchestrator.model import Failure, Value
from orchestrator.run.context import Stop
from orchestrator.store import hashes, process


def test_a_product_is_verified(masked: Trained) -> None:
    assert masked.result.failure is None, masked.result.reason
    assert (masked.result.steps, masked.result.exit_code) == (4, 0)


def test_checkpoints_are_named_as_expected(masked: Trained) -> None:
    length = files.TrainingLength(steps=4, epochs=2, steps_per_epoch=2)
    expected = files.expected("lora", masked.run.point.params, length)
    assert [one.file for one in expected] == ["lora-000001.safetensors", "lora.safetensors"]
    assert {path.name for path in masked.output.glob("*.safetensors")} == {one.file for one in expected}


def test_states_are_named_as_expected(masked: Trained) -> None:
    assert [path.name for path in files.states(masked.output, "lora")] == ["lora-000001-state", "lora-state"]


def test_progress_is_printed_in_a_known_form(masked: Trained) -> None:
    progress = log.read_progress(masked.log)
    assert progress is not None
    assert (progress.step, progress.total, log.total_steps(masked.log)) == (4, 4, 4)
    assert progress.seconds_per_step
    assert progress.loss is not None
    assert math.isfinite(progress.loss)


def test_masks_scale_the_loss(masked: Trained, plain: Trained) -> None:
    """The trainer's loss is not renormalised: a mask that leaves a sixteenth leaves about a sixteenth of the loss."""
    inside, everywhere = log.read_progress(masked.log), log.read_progress(plain.log)
    assert inside is not None
    assert everywhere is not None
    assert inside.loss is not None
    assert everywhere.loss is not None
    assert inside.loss < everywhere.loss / 8


def test_text_encoders_are_trained_or_not_as_asked(masked: Trained, plain: Trained) -> None:
    assert plain.result.failure is None, plain.result.reason
    assert _parts(masked.output / "lora.safetensors") == {"lora_te1", "lora_te2", "lora_unet"}
    assert _parts(plain.output / "lora.safetensors") == {"lora_unet"}


def _parts(file: Path) -> set[str]:
    return {"_".join(name.split("_")[:2]) for name in safetensors_header.read_header(file).tensors}


def test_nothing_is_written_into_the_users_folder(tiny: World, masked: Trained, plain: Trained) -> None:
    assert {path.suffix for path in tiny.dataset.image_dir.iterdir()} == {".png", ".txt"}


def test_a_loss_that_is_no_number_ends_the_run(tiny: World) -> None:
    result = tiny.train("nan", learning_rate=1e30, max_train_epochs=20).result
    assert result.failure is Failure.NAN
    assert result.steps is not None
    assert result.steps < 40


def test_an_unreadable_image_is_the_datasets_fault(tiny: World) -> None:
    result = tiny.train("broken", dataset=tiny.broken()).result
    assert result.failure is Failure.DATASET, result.reason


@pytest.fixture(scope="module")
def legs(tiny: World) -> tuple[Trained, Trained]:
    """A training of six epochs that is stopped in its second one, and what the same command makes of it."""
    return _stopped_and_resumed(tiny, "stopped", max_train_epochs=6)


def _stopped_and_resumed(tiny: World, name: str, after: int = 2, **arguments: Value) -> tuple[Trained, Trained]:
    """A training that is stopped after more than so many steps, and its next attempt. Epochs have two steps."""
    stop = Stop()
    log_file = tiny.settings.runs / "single" / name / "train" / "1" / "log"
    watcher = threading.Thread(target=_stop_after, args=(after, log_file, stop))
    watcher.start()
    stopped = tiny.train(name, stop=stop, resume=True, **arguments)
    watcher.join()
    return stopped, tiny.train(name, resume=True, **arguments)


def _stop_after(steps: int, file: Path, stop: Stop) -> None:
    nap = threading.Event()
    for _ in range(4000):
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        progress = log.read_progress(text)
        if progress and progress.step > steps:
            break
        nap.wait(0.1)
    stop.asked = 1


def test_a_stopped_training_leaves_nothing_running(legs: tuple[Trained, Trained]) -> None:
    stopped, _ = legs
    assert (stopped.result.failure, stopped.result.retry) == (Failure.KILLED, True)
    assert process.pids_of(stopped.folder) == []
    assert not (stopped.output / "lora.safetensors").exists()


def test_it_resumes_after_an_interruption(legs: tuple[Trained, Trained]) -> None:
    _, resumed = legs
    assert resumed.result.failure is None, resumed.result.reason
    assert "epoch 1/6" not in resumed.log
    assert "epoch 6/6" in resumed.log


def test_a_resumed_training_saves_at_the_right_steps(tiny: World) -> None:
    """By steps, which the second attempt counts from zero, and by epochs, with a length in steps."""
    by_steps = {"max_train_epochs": 6, "save_every_n_steps": 2}
    by_epochs = {"max_train_steps": 12, "save_every_n_epochs": 2}
    for name, after, arguments, steps in (
        ("by-steps", 2, by_steps, [2, 4, 6, 8, 10, 12, 12]),
        ("by-epochs", 4, by_epochs, [4, 8, 12]),
    ):
        _, resumed = _stopped_and_resumed(tiny, name, after, **arguments)
        assert resumed.result.failure is None, resumed.result.reason
        assert resumed.run.attempts("train")[1].request()["resumed"]
        assert [one.step for one in resumed.run.checkpoints()] == steps


def test_accelerates_launcher_trains_the_same(tiny: World, plain: Trained) -> None:
    settings = {"network_train_unet_only": True, "cache_text_encoder_outputs": True}
    launched = tiny.train("launched", launcher=Launcher.ACCELERATE, **settings)
    assert launched.result.failure is None, launched.result.reason
    assert "accelerate.commands.launch" in (launched.folder / "command.json").read_text(encoding="utf-8")
    files = [one.output / "lora.safetensors" for one in (launched, plain)]
    weights = [safetensors_header.read_header(file).metadata["sshs_model_hash"] for file in files]
    assert weights[0] == weights[1]


def test_failures_behind_accelerates_launcher_are_distinguished(tiny: World) -> None:
    """It turns every exit code into 1: the log says what it was."""
    launched = tiny.train("launched-broken", dataset=tiny.broken(), launcher=Launcher.ACCELERATE)
    assert launched.result.exit_code == 1
    assert launched.result.failure is Failure.DATASET, launched.result.reason
    assert process.pids_of(launched.folder) == []


@pytest.mark.parametrize(
    ("allocation", "failure"),
    [
        ("raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB.')", Failure.OOM),
        ("torch.empty(2**60, dtype=torch.uint8)", Failure.HOST_OOM),
    ],
)
def test_torchs_message_for_out_of_memory(tiny: World, allocation: str, failure: Failure) -> None:
    """Its class has been renamed before; what a GPU says is in the fixtures, a CPU has nothing to say it about."""
    text = tiny.said(f"import torch; {allocation}")
    classified = log.classify(text, 1)
    assert classified is not None
    assert classified[0] is failure


def test_the_benchmark_measures_the_phases_of_a_start(masked: Trained, trainer: Trainer, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    argv = [trainer.python, "-m", "benchmarks.gpu.phases", report, str(time.time()), HERE / "tiny_train.py"]
    argv += ["--config_file", masked.folder / "config.toml", "--output_dir", tmp_path]
    path = f"{trainer.sd_scripts}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "ORCHESTRATE_SD_SCRIPTS": str(trainer.sd_scripts)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(report.read_text())
    measured = ("imports_s", "tokenizers_s", "base_model_s", "latents_s", "network_s", "first_step_s", "save_s")
    assert all(figures[name] > 0 for name in measured), figures
    assert 0 < figures["other_s"] < figures["before_first_step_s"]


KNOWN_HASH = """
import sys
import train_network
owner = getattr(train_network, "model_io", None) or train_network.train_util
print(owner.calculate_sha256(sys.argv[1]))
"""


def test_the_hash_of_a_base_model_comes_from_the_cache(trainer: Trainer, tmp_path: Path) -> None:
    script, model, cache = (tmp_path / name for name in ("script.py", "base.safetensors", hashes.CACHE))
    script.write_text(KNOWN_HASH)
    model.write_bytes(b"weights")
    hash_ = hashes.HashCache(tmp_path).of(model)
    known = "a" * 64
    cache.write_text(cache.read_text().replace(hash_, known))
    argv = [trainer.python, train_plugin.__file__, cache, script, model]
    environment = {**os.environ, "PYTHONPATH": str(trainer.sd_scripts)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == known
