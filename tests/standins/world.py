"""A small project: settings, grid, images, face pack and stand-in programs. A run takes about a second."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from orchestrator import scoring
from orchestrator.config.schema import Scoring
from orchestrator.evidence import summary
from orchestrator.gpu import Gpu, VramProbe
from orchestrator.miniature import pack, world
from orchestrator.model import Image, Result, State, VramSample
from orchestrator.plan.plan import Plan
from orchestrator.report import results_csv
from orchestrator.report.listener import SessionListener
from orchestrator.run import sweep
from orchestrator.run.context import Context, Stop
from orchestrator.session import Session
from orchestrator.store import process, state
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASE = ROOT / "orchestrator" / "miniature" / "base.safetensors"
GRID = "[dims]\nnetwork_dim = [2, 4]\n"
GPU = Gpu(uuid="GPU-1", name="a GPU", total_mib=24576, used_mib=0, driver="1", processes={})

_SETTINGS = """
runs = "runs"
templates = "{root}/templates"
[trainer]
python = "{python}"
sd_scripts = "{here}"
train_script = "train.py"
generate_script = "generate.py"
{trainer}
[trainer.env]
STANDIN_ALBUM = "{shared}/references"
STANDIN_LEDGER = "{folder}/ledger"
{env}
[base_models.doll]
path = "{base}"
[datasets.portraits]
image_dir = "images"
trigger = "ohwx person"
[arguments]
network_module = "networks.lora"
network_dim = 4
network_alpha = "{{{{ network_dim }}}}"
optimizer_type = "AdamW"
learning_rate = 1e-4
{length}
train_batch_size = 1
mixed_precision = "bf16"
save_precision = "fp16"
sdpa = true
resolution = "1024,1024"
cache_latents = true
seed = 1
[generate]
prompts = "{shared}/prompts.txt"
seeds = [1]
[score]
pack = "{shared}/pack"
references = "{shared}/references"
workers = 1
{sections}
"""

_VRAM = '[vram]\ncard = "none"\npoll_seconds = 0.05\n'
_LIMITS = "[limits]\ngrace_seconds = 1\nfree_gib = 0.001\n"


def build_shared(folder: Path) -> Path:
    """Build what all worlds share: portraits, references, prompts, face pack and cached faces."""
    folder.mkdir(parents=True, exist_ok=True)
    world.photos(folder / "images", world.PERSONA, count=3, first=0, captions=True, px=128)
    world.photos(folder / "references", world.PERSONA, count=8, first=1000, captions=False, px=128)
    (folder / "prompts.txt").write_text("photo of ohwx person\nohwx person outside\n", encoding="utf-8")
    pack.build(folder / "pack")
    _find_faces(folder)
    return folder


def _find_faces(folder: Path) -> None:
    job = scoring.Job(
        settings=Scoring(pack=folder / "pack", references=folder / "references"),
        cache=folder / ".faces",
        references=tuple((folder / "references").glob("*.png")),
        training=tuple((folder / "images").glob("*.png")),
        images=(Image(file="images/0000.png", checkpoint="", strength=1.0, prompt=0, seed=1),),
        root=folder,
        out=folder / "scored.json",
    )
    subprocess.run(scoring.write_job(folder, job), check=True, capture_output=True, cwd=ROOT)


def blind_pack(pack: Path, folder: Path, common: float = 3.0) -> Path:
    """A copy of the miniature's face pack whose recogniser sees no identity, as with wrong normalisation.

    common: standard deviation of a constant that all embeddings share; larger: all faces are more similar.
    """
    shutil.copytree(pack, folder)
    model, rng = onnx.load(str(folder / "recogniser.onnx")), np.random.default_rng(0)
    weights, bias = model.graph.node[-1].input[1:]
    for tensor in model.graph.initializer:
        scale = {weights: 1.0, bias: common}.get(tensor.name)
        if scale is not None:
            values = rng.normal(0, scale, numpy_helper.to_array(tensor).shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(folder / "recogniser.onnx"))
    return folder


class Heard(SessionListener):
    """Records the events of attempts."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, str, str]] = []

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        self.events.append((run.point.name, stage, f"started {attempt} {note}".strip()))

    def ended(self, run: Run, stage: str, result: Result) -> None:
        self.events.append((run.point.name, stage, str(result.failure or "done")))


@dataclass(slots=True)
class Probe:
    """A VramProbe with one GPU; `answer` gives the sample of the polled processes."""

    answer: Callable[[Collection[int]], VramSample | None] = lambda _pids: None
    gpu: Gpu = GPU
    polled: int = 0

    def gpus(self) -> list[Gpu]:
        return [self.gpu]

    def sample(self, gpu: str, pids: Collection[int]) -> VramSample | None:
        assert gpu == self.gpu.uuid
        self.polled += 1
        return self.answer(pids)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A folder with settings and a grid. `shared`: what all worlds share."""

    folder: Path
    shared: Path

    @classmethod
    def build(cls, folder: Path, shared: Path) -> "World":
        """A world whose trainings all succeed, with cached faces of its images."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(shared / "images", folder / "images")
        shutil.copytree(shared / ".faces", folder / "runs" / ".faces")
        made = cls(folder=folder, shared=shared)
        made.settle()
        made.ask(GRID)
        return made

    def settle(
        self,
        *,
        env: Mapping[str, str] | None = None,
        trainer: str = "",
        length: str = "max_train_steps = 4",
        vram: str = _VRAM,
        limits: str = "",
        sections: str = "",
    ) -> None:
        """Rewrite the settings. env: of the stand-ins; the others are lines of TOML."""
        text = _SETTINGS.format(
            root=ROOT,
            here=HERE,
            python=sys.executable,
            base=BASE,
            folder=self.folder,
            shared=self.shared,
            trainer=trainer,
            length=length,
            env="\n".join(f'{key} = "{value}"' for key, value in (env or {}).items()),
            sections=f"{vram}{_LIMITS}{limits}\n{sections}",
        )
        self.settings.write_text(text, encoding="utf-8")

    def ask(self, grid: str) -> None:
        self.grid.write_text(grid, encoding="utf-8")

    @property
    def settings(self) -> Path:
        return self.folder / "orchestrate.toml"

    @property
    def grid(self) -> Path:
        return self.folder / "grid.toml"

    @property
    def sweep(self) -> Sweep:
        return Sweep(self.folder / "runs" / "grid")

    # --- in this process ----------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        return self.session().plan

    def session(
        self,
        *,
        probe: VramProbe | None = None,
        listener: SessionListener | None = None,
        stop: Stop | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Session:
        """A session on the GPU of `probe`."""
        opened = Session.open(self.settings, self.grid, listener=listener or Heard())
        # A Stop is false until it is requested.
        return replace(opened, gpus=probe or Probe(), stop=Stop() if stop is None else stop, environ=environ)

    def context(
        self,
        *,
        probe: VramProbe | None = None,
        listener: SessionListener | None = None,
        stop: Stop | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Context:
        """The context of the sweep, prepared and frozen; with `probe`, its GPU is in use."""
        session = self.session(probe=probe, listener=listener, stop=stop, environ=environ)
        return session.context([GPU.uuid] if probe else [])

    def drive(
        self, ctx: Context | None = None, *, only: str = "*", retry: bool = False, fail_fast: bool = False
    ) -> None:
        sweep.run_sweep(self.plan().runs(only), ctx or self.context(), retry=retry, fail_fast=fail_fast)

    def run(self, only: str = "*") -> Run:
        """The first run whose name matches."""
        return self.plan().runs(only)[0]

    def statuses(self) -> dict[str, Status]:
        """By the run's name without its id."""
        return {run.point.name.rpartition("-")[0]: state.status(run) for run in self.plan().runs()}

    def states(self) -> dict[str, State]:
        return {name: status.state for name, status in self.statuses().items()}

    def rows(self) -> dict[str, dict[str, str]]:
        """Rewrite results.csv and return its rows by the run's name without its id."""
        with results_csv.write(summary.read(self.sweep)).open(encoding="utf-8", newline="") as file:
            return {row["run"].rpartition("-")[0]: row for row in csv.DictReader(file)}

    def ledger(self) -> list[str]:
        """One line for each start and end of a training."""
        path = self.folder / "ledger"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    # --- as a command -------------------------------------------------------------------------------------------------

    def command(self, *more: str) -> list[str]:
        where = ["--settings", str(self.settings), "--grid", str(self.grid)]
        return [sys.executable, "-c", "from orchestrator.cli import main; main()", "run", *where, *more]

    def call(
        self, *more: str, env: Mapping[str, str] | None = None, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run `orchestrate run` until it exits."""
        environ = {**os.environ, **(env or {})}
        return subprocess.run(
            self.command(*more),
            env=environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def living(self) -> list[int]:
        """The processes with the marker of an attempt of this world."""
        return [pid for pid in _pids() if f"{process.MARKER}={self.folder}".encode() in _environ(pid)]

    def kill_all(self) -> None:
        """Kill all processes of a test."""
        for pid in self.living():
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
