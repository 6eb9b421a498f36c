"""A real Ray cluster of two nodes on this machine: whole sweeps, a lost node, an interrupt."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from standins.world import Heard, World
from torture import trial

from orchestrator.config.schema import Vram
from orchestrator.errors import NotReady, Problem
from orchestrator.model import State
from orchestrator.run import ray_executor, schedule, sweep
from orchestrator.run.context import Context
from orchestrator.store import process
from orchestrator.store.layout import Sweep
from orchestrator.store.state import status

ray: Any = pytest.importorskip("ray", reason="Ray is an extra: pip install '.[cluster]'")
pytest.importorskip("ray.cluster_utils")

from orchestrator.run.ray_executor import RayExecutor  # noqa: E402

NODE = "STANDIN_NODE"
"""A variable that distinguishes the two nodes of one machine."""

_BLOCK = re.compile(r"(?:^ {4}\w+\$ +.+\n)+", re.MULTILINE)
PAGE = Path(__file__).parents[1] / "docs" / "several-gpus.md"
BLOCKS = [block.splitlines() for block in _BLOCK.findall(PAGE.read_text(encoding="utf-8"))]
"""Lines that belong together: `machine$ command`."""

SEEDS = "[dims]\nseed = [1, 2, 3, 4]\n"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head node without resources."""
    from ray.cluster_utils import Cluster as Nodes

    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.fixture
def two(nodes: Any) -> Iterator[list[Any]]:
    added = [nodes.add_node(num_cpus=2, env_vars={NODE: str(number)}) for number in range(2)]
    nodes.wait_for_nodes()
    yield added
    for node in added:
        if node in nodes.list_all_nodes():
            nodes.remove_node(node)


def drive(nodes: Any, world: World, ctx: Context, check: Callable[[], list[Problem]] = list) -> None:
    runs = world.plan().runs("seed*")
    with RayExecutor.open(nodes.address, ctx, sweep.perform, runs, check) as team:
        sweep.run_sweep_on(team, runs, ctx)


def drive_and(kill: Callable[[], None], nodes: Any, world: World) -> None:
    """Drive the sweep while `kill` runs beside it; all trained runs finish."""
    killer = threading.Thread(target=kill)
    killer.start()
    drive(nodes, world, world.context())
    killer.join()
    assert {state for name, state in world.states().items() if "baseline" not in name} == {State.FINISHED}


def until(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def node_of(pid: int) -> str:
    """Empty for a process of neither node, or an ended one."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((word.decode().partition("=")[2] for word in words if word.startswith(f"{NODE}=".encode())), "")


def everything() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def trains(pid: int) -> bool:
    """Whether it trains and has saved nothing yet."""
    attempt = Path(f"/proc/{pid}/cwd")
    try:
        program = b"config.toml" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return program and b"running training" in (attempt / "log").read_bytes() and not any(attempt.glob("output/*"))
    except OSError:
        return False


def test_resources_are_limited_to_those_of_one_machine_with_a_gpu() -> None:
    """No machine has the highest amount of every resource."""
    nodes = [{"CPU": 64.0, "memory": 256.0}, {"GPU": 1.0, "CPU": 1.0, "memory": 8.0}]
    assert ray_executor._within({"GPU": 0.5, "CPU": 2.0, "memory": 11.0}, nodes) == {
        "GPU": 0.5,
        "CPU": 1.0,
        "memory": 8.0,
    }
    assert ray_executor._within({"CPU": 4.0}, nodes) == {"CPU": 4.0}
    assert ray_executor._within({"GPU": 1.0, "CPU": 2.0}, nodes[:1]) == {"GPU": 1.0, "CPU": 2.0}, "keep the GPU"


def test_without_a_gpu_nothing_is_trained(nodes: Any, world: World) -> None:
    """The only machine with a GPU is lost; the others would train on their CPUs."""
    world.ask(SEEDS)
    node = nodes.add_node(num_cpus=2, num_gpus=1)
    try:
        nodes.wait_for_nodes()
        ctx, asked = world.context(), world.plan()
        ctx = replace(ctx, settings=replace(ctx.settings, vram=Vram(card="all")))
        with RayExecutor.open(nodes.address, ctx, sweep.perform, asked.runs(), list) as team:
            nodes.remove_node(node)
            until(lambda: not ray.cluster_resources().get("GPU"))
            with pytest.raises(NotReady, match="has a GPU any more"):
                team.start(schedule.build_queue(asked.runs(), ctx.settings))
            assert not team.busy()
    finally:
        if node in nodes.list_all_nodes():
            nodes.remove_node(node)


def test_a_sweep_over_two_nodes(nodes: Any, two: list[Any], world: World) -> None:
    world.ask(f'{SEEDS}[fixed]\ncache_latents = true\nresolution = "256,256"\n')
    heard = Heard()
    drive(nodes, world, world.context(listener=heard))
    assert {name: state for name, state in world.states().items() if "baseline" not in name} == {
        f"seed={seed}": State.FINISHED for seed in (1, 2, 3, 4)
    }
    assert [event[1:] for event in heard.events].count(("train", "done")) == 4
    assert {row["attempts"] for name, row in world.rows().items() if "baseline" not in name} == {"1"}


def test_a_lost_node_loses_no_finished_work(nodes: Any, two: list[Any], world: World) -> None:
    world.ask(SEEDS)
    world.settle(env={"STANDIN_STEP_S": "1"})
    killed: list[int] = []

    def kill() -> None:
        until(lambda: any(line.startswith("ended") for line in world.ledger()))
        until(lambda: any(node_of(pid) == "0" and trains(pid) for pid in world.living()))
        for pid in everything():  # the programs of a lost machine end, too
            if node_of(pid) == "0":
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)
        nodes.remove_node(two[0], allow_graceful=False)

    drive_and(kill, nodes, world)
    assert killed
    ledger = world.ledger()
    finished = [line.split()[2] for line in ledger if line.startswith("ended")]
    assert sorted(set(finished)) == sorted(finished), "finished work was not repeated"
    assert len([line for line in ledger if line.startswith("began")]) > 4, "unfinished work was repeated"


@pytest.mark.nightly
def test_a_killed_worker_loses_nothing(nodes: Any, two: list[Any], world: World) -> None:
    """Ray's process that watches a training is killed; the training goes on and is adopted by the next task."""
    world.ask(SEEDS)
    world.settle(env={"STANDIN_STEP_S": "1"})

    def kill() -> None:
        until(lambda: any(trains(pid) for pid in world.living()))
        for pid in everything():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_run_task"):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killed: list[int] = []
    drive_and(kill, nodes, world)
    assert killed
    assert len([line for line in world.ledger() if line.startswith("began")]) == 4, "no training began again"
    assert world.living() == []


@pytest.mark.nightly
def test_a_lost_head_ends_the_command_and_loses_no_finished_work(world: World) -> None:
    """Its programs survive as orphans; the same command without the cluster adopts them."""
    world.ask(SEEDS)
    world.settle(env={"STANDIN_STEP_S": "1"})
    port = str(free_port())
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_TMPDIR": folder}
        head = ["ray", "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
        subprocess.run(head, env=environ, check=True, capture_output=True)
        argv = world.command("--cluster", f"127.0.0.1:{port}")
        with subprocess.Popen(argv, cwd=world.folder, env=environ, stderr=subprocess.PIPE, text=True) as child:
            assert child.stderr
            until(lambda: any(line.startswith("ended") for line in world.ledger()))
            until(lambda: any(trains(pid) for pid in world.living()))
            for pid in everything():
                if _is_of_ray(pid, folder) and pid not in world.living():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            printed = child.stderr.read()
            assert child.wait(timeout=300) == 4, printed
            assert "the connection to the cluster is lost" in printed
            assert "Traceback" not in printed
    done = world.call()
    assert done.returncode == 0, done.stderr
    assert trial.repeated(world.ledger()) == []
    assert world.living() == []


def _is_of_ray(pid: int, folder: str) -> bool:
    """Whether it is a process of Ray's head in this folder: servers and workers, not those that connect to it."""
    with contextlib.suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        return folder.encode() in line or (line.startswith(b"ray::") and folder.encode() in environ)
    return False


def test_an_interrupt_reaches_all_machines(nodes: Any, two: list[Any], world: World) -> None:
    world.ask(SEEDS)
    world.settle(env={"STANDIN_STEP_S": "5"})
    ctx = world.context()

    def stop() -> None:
        until(world.ledger)
        ctx.stop.asked = 1

    stopper = threading.Thread(target=stop)
    stopper.start()
    drive(nodes, world, ctx)
    stopper.join()
    assert world.living() == []
    assert {State.KILLED} <= set(world.states().values()) <= {State.KILLED, State.PENDING}


def test_preflight_problems_name_the_machine(nodes: Any, two: list[Any], world: World) -> None:
    world.ask(SEEDS)
    missing = Problem(what="there is no such file", where="orchestrate.toml", key="base_models.doll.path")
    with pytest.raises(NotReady, match=f"{os.uname().nodename}: orchestrate.toml: base_models.doll.path"):
        drive(nodes, world, world.context(), check=lambda: [missing])
    assert not world.ledger()


def test_a_cluster_that_does_not_answer_is_reported(world: World) -> None:
    with (
        pytest.raises(NotReady, match="ray start --head"),
        RayExecutor.open("127.0.0.1:1", world.context(), sweep.perform, [], list),
    ):
        pass


@pytest.mark.parametrize("lines", BLOCKS, ids=lambda lines: lines[0].split()[0])
def test_the_commands_of_the_docs_work(lines: list[str], world: World) -> None:
    """Every command of docs/several-gpus.md, unchanged; each `ray start` starts a node on this machine."""
    (world.folder / "grids").mkdir()
    world.grid.rename(world.folder / "grids" / "sweep-v3.toml")
    own, port = ray.util.get_node_ip_address(), str(free_port())
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, contextlib.ExitStack() as machines:
        environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_TMPDIR": folder}
        for line in lines:
            words = shlex.split(re.sub("alpha:|PRIVATE_IP", lambda name: own + ":" * name[0].endswith(":"), line))
            words = [word.replace("6379", port) for word in words[1:]]
            if words[0] == "ray":
                machines.enter_context(started([*words, "--block"], environ))
            else:
                done = subprocess.run(words, cwd=world.folder, env=environ, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
    assert {status(run).state for run in Sweep(world.folder / "runs" / "sweep-v3").runs()} == {State.FINISHED}


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def started(argv: list[str], environ: dict[str, str]) -> Iterator[None]:
    """A node, once it reports that it runs."""
    child = subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout
    try:
        assert any("Ray runtime started" in line for line in child.stdout)
        yield
    finally:
        child.terminate()
        child.communicate(timeout=60)


def test_the_machine_of_a_child_is_recorded(world: World) -> None:
    world.drive(only="network_dim=2*")
    attempt = world.run("network_dim=2*").attempts("train")[0]
    assert process.host(attempt.path) == os.uname().nodename
    assert not process.on_other_host(attempt.path)
