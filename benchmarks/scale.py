"""What the orchestrator itself costs over many runs:  python -m benchmarks.scale [--runs 1000]

Runs whose trainer and generator are the tests' stand-ins, which end at once, and whose scorer copies one real record of
scores. The same programs are also started one after the other by a bare loop, under the same shim: what a run takes
beyond that is the orchestrator's. Then the finished sweep is asked for again. Needs nothing but a CPU.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from standins.world import World, build_shared  # noqa: E402

from orchestrator import scoring  # noqa: E402
from orchestrator.model import Result, State  # noqa: E402
from orchestrator.run import (  # noqa: E402
    attempt,
    local_executor,
    sweep,
)
from orchestrator.run.context import Context  # noqa: E402
from orchestrator.run.stages import Command, Stage  # noqa: E402
from orchestrator.store import process, records, state  # noqa: E402
from orchestrator.store.layout import Attempt, Run  # noqa: E402

_SAMPLE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        world = World.build(Path(folder) / "world", build_shared(Path(folder) / "shared"))
        world.ask(f"[dims]\nseed = {list(range(1, count + 1))}\n")
        world.settle(vram='[vram]\ncard = "none"\n')  # polls once a second, as by default
        ctx = world.context(listener=Memory())
        runs = world.plan().runs()
        first, rest = [runs[0], runs[-1]], runs[1:-1]
        sweep.run_sweep(first, ctx)
        _measure(rest, ctx, runs[0])
        assert {state.status(run).state for run in runs} == {State.FINISHED}
        _again(world, "the report is made")
        _again(world, "nothing is left to do")


def _measure(runs: Sequence[Run], ctx: Context, example: Run) -> None:
    scored = example.path / "scores.json"
    began, cpu = time.monotonic(), time.process_time()
    children = _children_s()
    perform = _Perform(scored)
    with local_executor.LocalExecutor.open(ctx, ("",), perform, runs) as team:
        sweep.run_sweep_on(team, runs, ctx)
    wall, own, spent = time.monotonic() - began, time.process_time() - cpu, _children_s() - children
    bare = _bare(runs[:_SAMPLE])
    print(f"runs                          {len(runs)}, {3 * len(runs)} attempts")
    print(f"own CPU time a run            {1000 * own / len(runs):.1f} ms")
    print(f"wall time a run               {1000 * wall / len(runs):.1f} ms")
    print(f"programs' CPU time a run      {1000 * spent / len(runs):.1f} ms")
    print(f"a bare loop, wall time a run  {1000 * bare:.1f} ms")
    assert isinstance(ctx.listener, Memory)
    early, late = ctx.listener.mib[len(ctx.listener.mib) // 10], ctx.listener.mib[-1]
    print(f"memory                        {early:.0f} MiB after a tenth, {late:.0f} MiB at the end")


class _Perform:
    """As by default, but without the scorer, which takes the same time with any orchestrator."""

    def __init__(self, scored: Path) -> None:
        self._scored = scored

    def __call__(self, run: Run, stage: str, ctx: Context) -> Result:
        if stage != "score":
            return sweep.perform(run, stage, ctx)
        job = Stage(name=stage, prepare=self._prepare, progress=lambda _text: None, record=_judge)
        return attempt.run_attempt(run, job, ctx)

    def _prepare(self, one: Attempt) -> Command:
        one.open({})
        return Command(argv=["cp", str(self._scored), str(one.path / "scored.json")], env={}, cwd=one.path)


def _judge(one: Attempt, _ended: object) -> dict[str, object]:
    scoring.read_scored(one.path / "scored.json")
    return records.read(one.path / "scored.json")


def _bare(runs: Sequence[Run]) -> float:
    """Seconds a run: each of its programs again, under the shim, one after the other, without looking at anything."""
    began = time.monotonic()
    for run in runs:
        for stage in ("train", "generate", "score"):
            folder = run.attempts(stage)[0].path
            command = [sys.executable, "-I", "-S", str(Path(process.shim.__file__)), str(folder)]
            subprocess.run(command, check=True, env={**os.environ, **_environment(run)}, cwd=folder)
    return (time.monotonic() - began) / len(runs)


def _environment(run: Run) -> dict[str, str]:
    return {"STANDIN_ALBUM": str(run.path.parents[3] / "shared" / "references")}


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _again(world: World, why: str) -> None:
    began, cpu = time.monotonic(), _children_s()
    done = subprocess.run(world.command(), cwd=world.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spent = _children_s() - cpu
    print(f"`run` again, {why:<22} {time.monotonic() - began:.2f} s, {spent:.2f} s of CPU")


class Memory:
    """A Listener that notes our memory instead of the events."""

    def __init__(self) -> None:
        self.mib: list[float] = []

    def started(self, *_events: object) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def ended(self, *_events: object) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.mib.append(pages * resource.getpagesize() / 1024**2)


if __name__ == "__main__":
    main()
