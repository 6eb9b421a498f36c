"""The sweeps of `benchmarks.gpu` without a GPU: their settings and grids are valid, and their figures are read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import docs_in_clone
import pytest
from pages import ROOT
from standins.world import HERE

pytest.importorskip("pynvml")

from benchmarks.gpu import against, cells, inputs, phases, pictures, startup, sweeps, watch
from orchestrator.kohya import oom_fallback
from orchestrator.kohya.outputs import files
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.model import Point, Result
from orchestrator.session import Session
from orchestrator.store.layout import Run


def opened(tmp_path: Path, text: str, grid: str) -> list[Point]:
    (tmp_path / "prompts.txt").write_text(sweeps.PROMPTS)
    (tmp_path / "settings.toml").write_text(text)
    (tmp_path / "grid.toml").write_text(grid)
    session = Session.open(tmp_path / "settings.toml", tmp_path / "grid.toml")
    return [point for point in session.plan.points if not point.is_baseline]


@pytest.fixture
def programs(tmp_path: Path) -> watch.Programs:
    return watch.Programs(python=Path("python"), sd_scripts=tmp_path, work=tmp_path)


@pytest.mark.parametrize("job", [*against.ALONE, *against.COLOCATED, *against.CARDS], ids=lambda job: job.name)
def test_each_job_trains_loras_with_two_checkpoints(programs: watch.Programs, job: against.Job) -> None:
    inputs = cells.Inputs(folder=programs.work)
    points = opened(programs.work, sweeps.settings(programs, inputs, job.vram(0)), job.grid)
    assert [point.params["min_snr_gamma"] for point in points] == list(range(1, job.loras + 1))
    length = TrainingLength(steps=job.epochs * sweeps.PICTURES, epochs=job.epochs, steps_per_epoch=sweeps.PICTURES)
    assert {len(files.expected("x", point.params, length)) for point in points} == {2}


def test_the_fallback_ends_with_adamw8bit(programs: watch.Programs) -> None:
    case, inputs = sweeps.FALLBACK, cells.Inputs(folder=programs.work)
    text = sweeps.settings(programs, inputs, "", images="")
    (point,) = opened(programs.work, text, sweeps.GRID.format(dim=case.dim))
    session = Session.open(programs.work / "settings.toml", programs.work / "grid.toml")
    steps = list(oom_fallback.fallbacks(point.params, session.settings.oom_fallback, session.settings.optimizers))
    assert [step.fallbacks[-1] for step in steps] == ["gradient checkpointing", "AdamW8bit"]
    assert (session.settings.generation.width, session.settings.generation.batch_size) == (1024, 4)


def test_the_figures_of_a_job_are_those_of_its_attempts(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name, Point(id=name, name=name, params={})) for name in "ab"]
    for start, run in enumerate(runs):
        for stage, seconds in (("train", 60.0), ("generate", 5.0)):
            attempt = run.new_attempt(stage)
            attempt.open({"colocated": start > 0})
            for name, moment in (("command.json", start), ("exit.json", start + seconds)):
                (attempt.path / name).touch()
                os.utime(attempt.path / name, (moment, moment))
            attempt.close(Result(failure=None, reason="", seconds=seconds, peak_vram_mib=18000, seconds_per_step=1.5))
    assert against.figures(runs) == {
        "trainings_s": 61.0,
        "each_training_s": [60.0, 60.0],
        "seconds_per_step": [1.5, 1.5],
        "peak_mib": [18000, 18000],
        "colocated": [False, True],
        "attempts": [1, 1],
        "each_images_s": [5.0, 5.0],
    }


def test_the_program_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--part" in done.stdout


class FreeCard:
    def used(self) -> int:
        return 0


@pytest.mark.parametrize("resident", [False, True])
def test_images_of_several_loras_are_measured_and_compared(
    programs: watch.Programs, monkeypatch: pytest.MonkeyPatch, resident: bool
) -> None:
    command = [sys.executable, str(HERE / "gen_img.py")]
    monkeypatch.setattr(watch, "module", lambda _programs, _name, *words: [*command, *map(str, words)])
    inputs = cells.Inputs(folder=programs.work)
    variant = pictures.Variant(resident=resident, merge=True)
    for one in (pictures.REFERENCE, variant):
        figures = pictures.measure(programs, FreeCard(), inputs, one)  # type: ignore[arg-type]
    assert figures["reserved_gib"] == 1.5
    assert 0 <= figures["further_lora_s"] <= figures["wall_s"]
    likeness = pictures.likeness(programs, variant)
    assert (likeness["compared"], likeness["identical_files"]) == (8, 8)
    assert likeness["between_loras"] > 0


TRAINER = {
    "sdxl_train_network.py": """
import sys
import train_network
if "--help" not in sys.argv:
    train_network.NetworkTrainer().train(sys.argv)
""",
    "train_network.py": """
import time
import accelerate
from library import config_util, model_io, sdxl_train_util
from networks import lora
class NetworkTrainer:
    def on_step_start(self, step):
        time.sleep(0.3 if step == 6 else 0.02)
    def train(self, argv):
        config_util.generate_dataset_group_by_blueprint()
        sdxl_train_util.load_target_model()
        accelerate.Accelerator().prepare()
        model_io.calculate_sha256()
        for step in range(9):
            self.on_step_start(step)
        lora.LoRANetwork().save_weights()
""",
    "library/strategy_sdxl.py": "class SdxlTokenizeStrategy:\n    def __init__(self): pass\n",
    "library/config_util.py": "def generate_dataset_group_by_blueprint(): pass\n",
    "library/train_util.py": "def prepare_accelerator(): pass\n",
    "library/sdxl_train_util.py": "import time\ndef load_target_model(): time.sleep(0.2)\n",
    "library/dataset.py": "class DatasetGroup:\n    new_cache_latents = new_cache_text_encoder_outputs = print\n",
    "library/optimizer.py": "def get_optimizer(): pass\n",
    "library/model_io.py": "import time\ndef calculate_sha256(): time.sleep(0.1)\n",
    "networks/lora.py": "create_network = print\nclass LoRANetwork:\n    def save_weights(self): pass\n",
    "accelerate.py": "class Accelerator:\n    def prepare(self): pass\n",
}
"""Modules with the functions of sd-scripts that the phases are measured by."""


@pytest.fixture
def trainer(programs: watch.Programs) -> watch.Programs:
    for name, text in TRAINER.items():
        file = programs.sd_scripts / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return watch.Programs(python=Path(sys.executable), sd_scripts=programs.sd_scripts, work=programs.work)


def test_the_phases_of_a_start_are_measured(trainer: watch.Programs) -> None:
    files = cells.Inputs(folder=trainer.work / "inputs")
    files.folder.mkdir()
    files.checkpoint.touch()
    inputs.pictures(files.pictures(1024), 64)
    figures = startup.measure(trainer, files, startup.Training(name="a start", cached=False), trainer.work / "startup")
    assert "failure" not in figures, (trainer.work / "startup" / "a-start.log").read_text()
    assert figures["base_model_s"] >= 0.2
    assert figures["hash_s"] >= 0.1
    measured = [f"{name}_s" for name in ("interpreter", "imports", "arguments", *phases.PHASES, "other")]
    assert sum(figures[name] for name in measured) == pytest.approx(figures["before_first_step_s"], abs=0.1)
    assert figures["longest_later_step_s"] >= 0.3
    assert figures["before_first_step_s"] + figures["exit_s"] < figures["wall_s"]


def test_the_imports_of_a_start_are_measured_by_package(trainer: watch.Programs) -> None:
    figures = startup.imports(trainer, startup.IMPORTS[0], trainer.work / "startup")
    assert "failure" not in figures
    assert len(figures["packages"].split(", ")) == 8
    log = "import time: 1500000 | 2000000 | torch.nn\nusage\nimport time:  500000 | 500000 |   torch\n"
    assert startup.by_package(log) == {"torch": 2.0}


@pytest.mark.nightly
@pytest.mark.parametrize(
    "command",
    [one for one in docs_in_clone.COMMANDS if "benchmarks." in one.said and one.needs is not docs_in_clone.gpu],
    ids=lambda command: command.said,
)
def test_each_documented_benchmark_runs(command: docs_in_clone.Command, tmp_path: Path) -> None:
    """With little work, as `make test-docs` runs it; those of a GPU have their own tests above."""
    record = tmp_path / "runs" / "bench-gpu" / "gpu.json"
    record.parent.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "vram.json", record)
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", f"{command.said} {command.more}"],
        cwd=tmp_path,
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert command.prints in done.stdout
