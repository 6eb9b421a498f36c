"""Scheduling: the decisions alone, then whole sweeps on simulated GPUs."""

import json
import os
import threading
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from standins.world import GPU, HERE, Heard, Probe, World

from orchestrator import host
from orchestrator.errors import Conflict, NotReady
from orchestrator.gpu import Gpu
from orchestrator.host import Host
from orchestrator.model import Failure, Point, Result, State, VramSample
from orchestrator.plan import preflight
from orchestrator.run import local_executor, retry, schedule, sweep
from orchestrator.run.context import Context
from orchestrator.run.local_executor import LocalExecutor, Perform
from orchestrator.run.retry import FailureStreak
from orchestrator.run.schedule import GpuLoad, MemoryBudget, PeakVramTable, Slot, Task
from orchestrator.store import gpu_locks, layout, mps, process, records
from orchestrator.store.layout import Run, Sweep

SEEDS = "[dims]\nseed = [1, 2, 3, 4]\n"


# --- decisions --------------------------------------------------------------------------------------------------------


def task(**given: Any) -> Task:
    point = Point(id="1", name="a", params={"base_model": "doll"})
    return Task(**{"run": Run(Path("a"), point), "stage": "train", "memory_key": "k", **given})


@pytest.mark.parametrize(
    ("need", "loads", "place"),
    [
        (None, [GpuLoad(gpu="A")], Slot(gpu="A")),
        (
            None,
            [GpuLoad(gpu="A", tasks=1, free_mib=90000)],
            None,
        ),  # unknown VRAM: it waits for a GPU of its own
        (9000, [GpuLoad(gpu="A", free_mib=20000)], Slot(gpu="A", colocated=True)),
        (9000, [GpuLoad(gpu="A", tasks=1, free_mib=9000)], Slot(gpu="A", colocated=True)),
        (9000, [GpuLoad(gpu="A", tasks=1, free_mib=8999)], None),
        (9000, [GpuLoad(gpu="A", tasks=1, alone=True, free_mib=90000)], None),
        (
            9000,
            [GpuLoad(gpu="A", tasks=1, free_mib=90000), GpuLoad(gpu="B", free_mib=90000)],
            Slot(gpu="B", colocated=True),
        ),
        (
            9000,
            [GpuLoad(gpu="A", free_mib=5000)],
            Slot(gpu="A"),
        ),  # other processes use it: OOM fallback
        (9000, [], None),
    ],
)
def test_a_training_starts_where_it_fits(need: int | None, loads: Sequence[GpuLoad], place: Slot | None) -> None:
    assert schedule.choose_slot(task(), need, loads) == place


def test_a_peak_counts_with_headroom_and_only_if_the_attempt_succeeded() -> None:
    peaks = PeakVramTable()
    peaks.add("k", Result(failure=Failure.OOM, peak_vram_mib=24000))
    assert peaks.need_mib(task()) is None
    peaks.add("k", Result(failure=None, peak_vram_mib=10000))
    peaks.add("k", Result(failure=None, peak_vram_mib=9000))
    assert peaks.need_mib(task()) == 10500
    assert peaks.need_mib(task(alone=True)) is None


def test_vram_of_other_processes_is_subtracted() -> None:
    memory = MemoryBudget()
    assert memory.free_mib(24000, 2000, []) == 24000 - 2000 - 1024
    assert memory.free_mib(24000, 9000, [10000]) == 12000 - 1024, "the assigned VRAM counts, not the used"
    assert memory.free_mib(24000, 15000, [10000]) == 9000 - 1024, "another process grew"
    assert memory.free_mib(24000, 9000, [10000]) == 9000 - 1024, "it is unknown whether it ended"
    assert memory.free_mib(24000, 9000, [10000], own_mib=8500) == 13500 - 1024, "the driver knows"
    assert memory.free_mib(24000, 0, []) == 24000 - 1024


def test_failures_are_counted_per_gpu() -> None:
    streak = FailureStreak(2)
    lost, good = Result(failure=Failure.GPU_LOST), Result(failure=None)
    assert not streak.pauses("A", "train", lost)
    assert not streak.pauses("B", "train", good)
    assert not streak.pauses("A", "train", Result(failure=Failure.OOM, retry=True)), "it is tried again"
    assert streak.pauses("A", "train", lost)
    assert not streak.pauses("B", "train", lost)
    assert not streak.pauses("B", "train", Result(failure=Failure.BAD_CONFIG))
    assert not streak.pauses("B", "train", Result(failure=Failure.BAD_CONFIG)), "the point causes it"
    assert not streak.pauses("B", "train", lost), "another failure ended the row"


@pytest.mark.parametrize(
    ("cores", "gpus", "trainings", "colocate", "threads"),
    [
        *((16, 1, 9, False, 16), (16, 2, 9, False, 8), (16, 0, 9, False, 16), (2, 4, 9, False, 1)),
        *((16, 1, 3, True, 5), (16, 1, 30, True, 2), (1, 1, 9, True, 1)),
    ],
)
def test_threads_share_the_cores(cores: int, gpus: int, trainings: int, colocate: bool, threads: int) -> None:
    assert schedule.default_threads(cores, gpus, trainings, colocate=colocate) == threads


# --- the order --------------------------------------------------------------------------------------------------------


def test_baselines_come_first_then_the_first_replicate_of_every_point(world: World) -> None:
    world.ask("[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2]\n")
    asked = world.plan()
    line = schedule.build_queue(asked.runs(), asked.settings)
    assert [one.run.point.name.rpartition("-")[0] for one in line] == [
        "baseline-base_model=doll",
        "network_dim=2_seed=1",
        "network_dim=4_seed=1",
        "network_dim=2_seed=2",
        "network_dim=4_seed=2",
    ]


def trainings(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if not run.point.is_baseline]


@pytest.mark.parametrize(("vram", "first"), [("", "train"), ("[vram]\ncolocate = true\n", "generate")])
def test_images_of_a_replicate_are_made_after_its_trainings_unless_runs_are_colocated(
    world: World, vram: str, first: str
) -> None:
    world.ask("[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2, 3]\n")
    world.settle(vram=vram)
    asked = world.plan()
    runs = {(run.point.params["network_dim"], run.point.params["seed"]): run for run in trainings(asked.runs())}
    for trained in ((2, 1), (4, 1), (2, 2)):
        runs[trained].create()
        (runs[trained].path / "checkpoints.json").write_text("{}")
    order = [(one.run, one.stage) for one in schedule.build_queue(asked.runs(), asked.settings)][1:]
    second = {"train": (runs[4, 2], "train"), "generate": (runs[2, 2], "generate")}
    assert order[:2] == [(runs[2, 1], "generate"), (runs[4, 1], "generate")]
    assert order[2:4] == [second[first], *(one for one in second.values() if one != second[first])]
    assert [stage for _, stage in order[4:]] == ["train", "train"]


def test_started_trainings_come_before_new_ones(world: World) -> None:
    asked = world.plan()
    first, second = trainings(asked.runs())
    second.create()
    second.new_attempt("train").close(Result(failure=Failure.KILLED, retry=True))
    line = schedule.build_queue(asked.runs(), asked.settings)
    assert [one.run for one in line[1:]] == [second, first]


# --- whole sweeps -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Gpus:
    """A driver with two GPUs of 24 GiB, on which every attempt uses `each_mib`."""

    each_mib: int = 8000
    busy: dict[str, int] = field(default_factory=dict)

    def gpus(self) -> list[Gpu]:
        return [Gpu(uuid=f"GPU-{one}", name="c", total_mib=24576, used_mib=0, driver="1", processes={}) for one in "AB"]

    def sample(self, gpu: str, pids: Collection[int]) -> VramSample | None:
        own = self.each_mib if pids else 0
        return VramSample(used_mib=own, total_mib=24576, own_mib=own)


class Together(Heard):
    """Records the highest number of attempts at a stage that ran at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now: dict[str, set[str]] = {}
        self.most: dict[str, int] = {}
        self._lock = threading.Lock()

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        with self._lock:
            now = self.now.setdefault(stage, set())
            now.add(run.point.name)
            self.most[stage] = max(len(now), self.most.get(stage, 0))
        super().started(run, stage, attempt, note)

    def ended(self, run: Run, stage: str, result: Result) -> None:
        with self._lock:
            self.now[stage].discard(run.point.name)
        super().ended(run, stage, result)


def attempts(world: World, stage: str = "train") -> list[dict[str, Any]]:
    found = sorted((world.sweep.path).glob(f"*/{stage}/*/attempt.json"))
    return [json.loads(path.read_text()) for path in found]


PACKED = '[vram]\ncard = "all"\ncolocate = true\npoll_seconds = 0.05\n'


def test_two_gpus_work_at_once(world: World) -> None:
    world.ask(SEEDS)
    world.settle(env={"STANDIN_STEP_S": "0.05"})
    together = Together()
    ctx = world.context(probe=Gpus(), listener=together)
    drive(world, ctx, "GPU-A", "GPU-B")
    assert set(world.states().values()) == {State.FINISHED, State.PENDING}
    assert together.most["train"] == 2
    assert {one["card"] for one in attempts(world)} == {"GPU-A", "GPU-B"}
    assert not any(one["colocated"] for one in attempts(world))


class Large(Host):
    """A machine with cores and memory for eight trainings, or less."""

    def __init__(self, cores: int = 16, memory_gib: int = 256) -> None:
        self._cores, self._memory_gib = cores, memory_gib

    def cores(self) -> int:
        return self._cores

    def memory_mib(self) -> tuple[int, int]:
        return self._memory_gib * 1024, 0


def drive(world: World, ctx: Context, *gpus: str, perform: Perform = sweep.perform, host: Host | None = None) -> None:
    """All trainings, without the baseline."""
    runs = world.plan().runs("seed*")
    with LocalExecutor.open(ctx, gpus, perform, runs, host or Large()) as team:
        sweep.run_sweep_on(team, runs, ctx)


def test_each_gpu_starts_the_generator_of_another_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_executor, "_WAIT_S", 0.05)
    world.ask("[dims]\nlearning_rate = [1e-4, 2e-4, 3e-4, 4e-4]\n")
    world.settle(env={"STANDIN_STEP_S": "0.2"})
    ctx, runs = world.context(probe=Gpus()), world.plan().runs("learning*")
    with LocalExecutor.open(ctx, ("GPU-A", "GPU-B"), sweep.perform, runs, Large()) as team:
        sweep.run_sweep_on(team, runs, ctx)
    early = [run.path / "generate" / "generator" for run in runs]
    cards = [records.read(folder / "attempt.json")["card"] for folder in early if folder.exists()]
    assert sorted(cards) == ["GPU-A", "GPU-B"]
    assert not world.living()


def test_runs_with_known_vram_are_colocated_under_mps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{HERE}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_MPS", str(world.folder / "mps"))
    world.ask(SEEDS)
    world.settle(env={"STANDIN_STEP_S": "0.1"}, vram=PACKED)
    together = Together()
    ctx = world.context(probe=Gpus(each_mib=8000), listener=together)
    limits: dict[Any, str | None] = {}

    def perform(run: Run, stage: str, one: Context) -> Result:
        if stage == "train":
            limits[run.point.params["seed"]] = one.environ.get(mps.LIMIT)
        return sweep.perform(run, stage, one)

    drive(world, ctx, "GPU-A", perform=perform)
    assert limits == {1: None, 2: "0=12600M", 3: "0=12600M", 4: "0=12600M"}
    commands = [line.split()[0] for line in (world.folder / "mps").read_text().splitlines()]
    others = [command for command in commands if command != "terminate_client"]  # of generators, when they are stopped
    assert others == ["-d", "start_server", "quit"], "one daemon, which ends with the sweep"
    assert set(world.states().values()) == {State.FINISHED, State.PENDING}
    trained = {one.point.params["seed"]: one.attempts("train")[0] for one in world.plan().runs("seed*")}
    assert not trained[1].colocated, "the first run of a memory profile is alone"
    assert all(trained[seed].colocated for seed in (2, 3, 4))
    assert together.most["train"] == 2, "three would not fit"


def test_runs_take_turns_where_clients_of_mps_cannot_connect(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container without access: daemon and server start. Later runs do not fail first."""
    monkeypatch.setenv("PATH", f"{HERE}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_MPS", str(world.folder / "mps"))
    caplog.set_level("INFO", "orchestrator")
    world.ask(SEEDS)
    world.settle(env={"STANDIN_TRAIN": "mps", "STANDIN_STEP_S": "0.02"}, vram=PACKED)
    drive(world, world.context(probe=Gpus(each_mib=8000)), "GPU-A")
    assert set(world.states().values()) == {State.FINISHED, State.PENDING}
    failed = [len(one.attempts("train")) - 1 for one in world.plan().runs("seed*")]
    assert (sum(failed), max(failed)) == (2, 1), "those that were started before it was known"
    assert caplog.text.count("MPS is not available") == 1


GIB = 1024**3


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 16), ("450000 100000", 4), ("50000 100000", 1), ("", 16)])
def test_a_container_has_the_cores_of_its_quota_and_the_ram_that_no_program_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(host, "_CONTAINER", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    assert Host().cores() == cores
    (tmp_path / "memory.max").write_text(str(GIB))
    (tmp_path / "memory.current").write_text(str(GIB))
    (tmp_path / "memory.stat").write_text(f"anon {GIB // 4}\nactive_file {GIB // 4}\ninactive_file {GIB // 2}")
    assert Host().memory_mib() == (1024, 256), "a base model in the page cache does not prevent a second run"
    (tmp_path / "memory.max").write_text("max")
    assert Host().memory_mib()[0] > 1024


@pytest.mark.parametrize("host", [Large(cores=3), Large(memory_gib=7)])
def test_a_small_machine_does_not_colocate(world: World, host: Host) -> None:
    world.ask(SEEDS)
    world.settle(env={"STANDIN_STEP_S": "0.05"}, vram=PACKED)
    together = Together()
    drive(world, world.context(probe=Gpus(), listener=together), "GPU-A", host=host)
    assert together.most["train"] == 1


def test_a_colocated_run_that_fails_is_repeated_alone(world: World) -> None:
    """Seed 4 crashes twice, and once when others were on the GPU is not counted: it gets a third attempt."""
    world.ask(SEEDS)
    step = '[[oom_fallback]]\nname = "gradient checkpointing"\nset = { gradient_checkpointing = true }\n'
    env = {"STANDIN_STEP_S": "0.05", "STANDIN_TRAIN": "oom:seed=3#1 segfault:seed=4#2"}
    world.settle(env=env, vram=PACKED, sections=step, limits="crashes = 2\n")
    drive(world, world.context(probe=Gpus()), "GPU-A")
    first, second = world.run("seed=3*").attempts("train")
    assert (first.colocated, first.request()["fallbacks"], retry.needs_gpu_alone(first)) == (True, [], True)
    assert (second.colocated, second.request()["fallbacks"], retry.needs_gpu_alone(second)) == (False, [], False)
    assert world.rows()["seed=3"]["degraded"] == "False"
    assert [one.colocated for one in world.run("seed=4*").attempts("train")] == [True, False, False]
    assert world.run("seed=4*").done("train")


def test_a_broken_gpu_is_retired_and_the_other_continues(world: World) -> None:
    world.ask("[dims]\nseed = [1, 2, 3, 4, 5, 6]\n")
    world.settle(env={"STANDIN_STEP_S": "0.1"})  # the broken GPU is the faster one
    ctx = world.context(probe=Gpus())
    env = {**ctx.settings.trainer.env, "STANDIN_TRAIN": "gpu_lost", "STANDIN_STEP_S": "0"}
    bad = replace(ctx.settings.trainer, env=env)
    broken = replace(ctx, settings=replace(ctx.settings, trainer=bad))

    def perform(run: Run, stage: str, one: Context) -> Result:
        return sweep.perform(run, stage, replace(broken, gpu=one.gpu) if one.gpu == "GPU-B" else one)

    with pytest.raises(NotReady, match=r"GPU-B.*3 runs in a row failed with gpu_lost"):
        drive(world, ctx, "GPU-A", "GPU-B", perform=perform)
    gpus = [one["card"] for one in attempts(world)]
    assert gpus.count("GPU-B") == 3
    assert gpus.count("GPU-A") == 3


def test_an_error_stops_the_sweep_after_running_attempts_have_ended(world: World) -> None:
    world.ask(SEEDS)
    ctx = world.context(probe=Gpus())

    def perform(run: Run, stage: str, one: Context) -> Result:
        if run.point.params["seed"] == 2:
            raise NotReady("no disk")
        return sweep.perform(run, stage, one)

    with pytest.raises(NotReady, match="no disk"):
        drive(world, ctx, "GPU-A", "GPU-B", perform=perform)
    assert world.run("seed=1*").done("train"), "a running attempt ends normally"
    assert not world.run("seed=4*").attempts("train")
    assert world.living() == []


# --- locks of GPUs ----------------------------------------------------------------------------------------------------


def test_a_gpu_is_locked_by_one_sweep(tmp_path: Path) -> None:
    one, other = Sweep(tmp_path / "one"), Sweep(tmp_path / "other")
    with gpu_locks.acquire(one, ["A", "B"]) as held:
        assert held == ["A", "B"]
        with gpu_locks.acquire(other, ["B", "C"]) as rest:
            assert rest == ["C"]
        with pytest.raises(Conflict, match=f"A by process {os.getpid()} on .* since"), gpu_locks.acquire(other, ["A"]):
            pass
    with gpu_locks.acquire(other, ["A"]) as held:
        assert held == ["A"]


def test_no_gpu_needs_no_lock(tmp_path: Path) -> None:
    with gpu_locks.acquire(Sweep(tmp_path / "one"), []) as held:
        assert held == []


def test_an_attempt_of_a_killed_sweep_keeps_its_gpu(tmp_path: Path) -> None:
    attempt = layout.Attempt(tmp_path / "killed" / "run" / "train" / "1")
    attempt.path.mkdir(parents=True)
    attempt.open({"card": "A"})
    process.start(attempt.path, ["sleep", "60"], env=dict(os.environ), cwd=attempt.path)
    try:
        with gpu_locks.acquire(Sweep(tmp_path / "other"), ["A", "B"]) as held:
            assert held == ["B"]
        with (
            pytest.raises(Conflict, match=r"A by the attempt in .*killed"),
            gpu_locks.acquire(Sweep(tmp_path / "other"), ["A"]),
        ):
            pass
        with gpu_locks.acquire(Sweep(tmp_path / "killed"), ["A"]) as held:
            assert held == ["A"], "it is its own attempt"
        point = Point(id="1", name="run", params={})
        runs = [Sweep(tmp_path / "killed").run(replace(point, name=name)) for name in ("run", "another")]
        with gpu_locks.acquire(Sweep(tmp_path / "killed"), ["A"], runs) as held:
            assert held == ["A"], "it is one of the selected runs"
        with gpu_locks.acquire(Sweep(tmp_path / "killed"), ["A", "B"], runs[1:]) as held:
            assert held == ["B"], "it left the grid or is not selected"
    finally:
        process.stop(attempt.path, 0)
    with gpu_locks.acquire(Sweep(tmp_path / "other"), ["A"]) as held:
        assert held == ["A"]


def test_processes_of_attempts_are_not_reported_as_foreign(world: World) -> None:
    world.settle(vram="[vram]\n")
    attempt = layout.Attempt(world.folder / "runs" / "killed" / "run" / "train" / "1")
    attempt.path.mkdir(parents=True)
    process.start(attempt.path, ["sleep", "60"], env=dict(os.environ), cwd=attempt.path)
    try:
        using = {**dict.fromkeys(process.pids_of(attempt.path), 9000), 1: 5}
        asked = world.plan()
        found = preflight.findings(asked.settings, asked.points, Probe(gpu=replace(GPU, processes=using)))
        assert [one.what for one in found if "also used" in one.what] == ["a GPU is also used by process 1 (5 MiB)"]
    finally:
        process.stop(attempt.path, 0)


def hold(world: World) -> AbstractContextManager[list[str]]:
    session = world.session()
    return session.lock_gpus(session.sweep, ["A"])


def test_a_gpu_is_shared_only_with_ignore_other_sweeps(world: World) -> None:
    with (
        hold(world),
        pytest.raises(Conflict, match="ignore_other_sweeps = true"),
        hold(world),
    ):
        pass
    world.settle(vram="[vram]\nignore_other_sweeps = true\n")
    with hold(world) as one, hold(world) as other:
        assert one == other == ["A"]


@dataclass(slots=True, kw_only=True)
class SharedGpu(Gpus):
    """A GPU on which every running training or generation below a folder uses 8000 MiB."""

    folder: Path
    highest_mib: int = 0

    def gpus(self) -> list[Gpu]:
        return Gpus.gpus(self)[:1]

    def sample(self, gpu: str, pids: Collection[int]) -> VramSample | None:
        live = [path for path in process.live_attempts() if path.is_relative_to(self.folder)]
        using = [path for path in live if path.parent.name in ("train", "generate")]
        own = [path for path in using if set(process.pids_of(path)) & set(pids)]
        used = self.each_mib * len(using)
        self.highest_mib = max(self.highest_mib, used)
        return VramSample(used_mib=used, total_mib=24576, own_mib=self.each_mib * len(own))


@pytest.mark.nightly
def test_two_sweeps_on_one_gpu_finish_and_count_only_their_own_vram(tmp_path: Path, shared: Path) -> None:
    gpu, worlds = SharedGpu(folder=tmp_path), [World.build(tmp_path / name, shared) for name in ("one", "two")]
    for world in worlds:
        world.settle(vram="[vram]\nignore_other_sweeps = true\npoll_seconds = 0.05\n", env={"STANDIN_STEP_S": "0.3"})
    sweeps = [threading.Thread(target=world.drive, args=(world.context(probe=gpu),)) for world in worlds]
    for one in sweeps:
        one.start()
    for one in sweeps:
        one.join()
    assert gpu.highest_mib == 16000, "they ran at the same time"
    for world in worlds:
        assert set(world.states().values()) == {State.FINISHED}
        results = [run.attempts(stage)[0].result() for run in world.plan().runs() for stage in run.stages[:-1]]
        assert [result.peak_vram_mib for result in results if result] == [8000] * 5
        assert world.living() == []
