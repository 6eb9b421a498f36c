"""`orchestrate probe`: every memory profile once, stored apart from the runs, and used by `plan`."""

import json
from collections.abc import Mapping

import pytest
from click.testing import CliRunner
from standins.world import Heard, Probe, World

from orchestrator.cli import main, tables
from orchestrator.evidence import preview_scores
from orchestrator.model import Params, Point, State, VramSample
from orchestrator.plan import history
from orchestrator.run import probe, probe_speed
from orchestrator.run.probe_speed import Comparison, Speed
from orchestrator.store import layout

GRID = "[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2, 3]\n"


def call(world: World, *words: str):
    files = ["--settings", str(world.settings), "--grid", str(world.grid)]
    return CliRunner().invoke(main, [words[0], *files, *words[1:]])


def probed(world: World) -> list[layout.Run]:
    return layout.probes(world.settings.parent / "runs")


def test_each_memory_profile_is_trained_for_twenty_steps_once(world):
    world.ask(GRID)
    done = call(world, "probe")
    assert done.exit_code == 0, done.stderr
    assert sorted((run.point.params["network_dim"], run.point.params["max_train_steps"]) for run in probed(world)) == [
        (2, 20),
        (4, 20),
    ]
    trained = world.ledger()
    assert call(world, "probe").exit_code == 0
    assert world.ledger() == trained, "an existing probe is not repeated"


def test_probes_are_neither_runs_nor_a_sweep(world):
    world.ask(GRID)
    call(world, "probe")
    assert layout.sweeps(world.settings.parent / "runs") == []
    assert not world.sweep.exists(), "a sweep that is only probed is not frozen"
    plan = json.loads(call(world, "plan", "--json").stdout)
    assert {run["state"] for run in plan["runs"]} == {State.PENDING}


def test_plan_uses_the_probes(world):
    world.ask(GRID)
    call(world, "probe")
    plan = json.loads(call(world, "plan", "--json").stdout)
    assert {run["known_from"] for run in plan["runs"] if not run["is_baseline"]} == {"probe"}
    assert {profile["known_from"] for profile in plan["profiles"]} == {"probe"}
    assert [profile["runs"] for profile in plan["profiles"]] == [3, 3]
    (slow, _) = plan["runs"][:2]
    assert 0 < slow["train_s"] < 60


def test_only_probes_the_profiles_of_the_runs_it_names(world):
    world.ask(GRID)
    call(world, "probe", "--only", "*dim=4*")
    assert [run.point.params["network_dim"] for run in probed(world)] == [4]


def test_a_finished_run_counts_more_than_a_probe(world):
    call(world, "probe")
    world.drive(only="network_dim=2*")
    known = history.gather(world.sweep, world.plan().settings)
    origins = {run.point.params["network_dim"]: known.by_profile[history.key_of(run.point.params)].origin
               for run in world.plan().runs() if not run.point.is_baseline}  # fmt: skip
    assert origins == {2: "this sweep", 4: "probe"}


def test_a_probe_records_the_peak_and_the_fallbacks(world):
    step = '[[oom_fallback]]\nname = "smaller"\nset = { gradient_checkpointing = true }\nkeeps_result = true\n'
    world.settle(vram="[vram]\npoll_seconds = 0.02\nbudget_gib = 10\n", sections=step)
    sizes = iter([VramSample(used_mib=20000, total_mib=24576)])
    gpu = Probe(answer=lambda _pids: next(sizes, VramSample(used_mib=9000, total_mib=24576)))
    heard = Heard()
    ctx = world.context(probe=gpu, listener=heard)
    (first, *_) = probe.wanted(world.plan())
    probe.run_probe([first], ctx)
    pace = history.gather(world.sweep, world.plan().settings).by_profile[first.point.id]
    assert pace.fallbacks == ("smaller",)
    assert [what for _, _, what in heard.events][:2] == ["started 1", "oom"]


def test_a_failed_probe_exits_with_1_and_is_repeated_only_with_retry(world):
    world.settle(env={"STANDIN_TRAIN": "bad_config"})
    assert call(world, "probe").exit_code == 1
    failed = len(world.ledger())
    assert call(world, "probe").exit_code == 1
    assert len(world.ledger()) == failed
    world.settle()
    assert call(world, "probe", "--retry", "failed").exit_code == 0


def test_with_early_stopping_a_probe_draws_one_preview(world):
    world.settle(sections="[early_stop]\np = 0.9\n")
    world.ask(GRID)
    call(world, "probe", "--only", "*dim=4*")
    (run,) = probed(world)
    drawn = list((run.attempts("train")[-1].path / "output" / "sample").iterdir())
    assert [path.name[:14] for path in drawn] == ["lora_000019_00"]
    assert not (run.path / preview_scores.FOLDER).exists(), "previews are drawn, not scored"


def test_trainings_at_once_are_measured_and_used_where_runs_share_a_gpu(world: World) -> None:
    world.ask("[dims]\nseed = [1, 2, 3, 4]\n")
    world.settle(env={"STANDIN_STEP_S": "0.01"})
    assert "share a GPU" not in call(world, "plan").stdout
    world.settle(env={"STANDIN_STEP_S": "0.01"}, vram='[vram]\ncard = "none"\npoll_seconds = 0.05\ncolocate = true\n')
    assert "4 of 4 trainings may share a GPU, and how fast they then are is not measured" in plain(world, "plan")
    done = call(world, "probe", "--colocate", "2")
    assert done.exit_code == 0, done.stderr
    began = [line for line in world.ledger() if line.startswith("began")]
    assert len(began) == 3, "one alone, then two"
    assert [line.split()[0] for line in world.ledger()[2:]] == ["began", "began", "ended", "ended"]
    alone, one, other = (run.attempts("train")[-1].request() for run in sorted(probed(world), key=lambda run: run.path))
    assert ("at_once" not in alone, one["at_once"], other["at_once"]) == (True, 2, 2)
    found = json.loads(call(world, "plan", "--json").stdout)
    assert {run["at_once"] for run in found["runs"] if not run["is_baseline"]} == {2}
    assert (found["profiles"][0]["at_once"], found["profiles"][0]["runs"]) == (2, 4)
    assert "shares of a GPU that runs 2 at once" in plain(world, "plan")
    trained = world.ledger()
    call(world, "probe", "--colocate", "2")
    assert world.ledger() == trained, "it is not repeated"


def plain(world: World, *words: str) -> str:
    return " ".join(call(world, *words).output.split())


# --- probe --speed ----------------------------------------------------------------------------------------------------


def test_options_are_compared_once_and_apart_from_other_probes(world: World) -> None:
    world.ask(GRID)
    done = call(world, "probe", "--speed")
    assert done.exit_code == 0, done.stderr
    names = sorted(path.name.rpartition("-")[0] for path in (world.settings.parent / "runs" / ".speed").glob("*-*"))
    assert {"settings", "gradient_checkpointing=true", "max_data_loader_n_workers=0", "lowram=true"} <= {*names}
    assert len(names) == len({*names})
    assert "no option saves more than 2 %" in done.output
    trained = world.ledger()
    assert call(world, "probe", "--speed").exit_code == 0
    assert world.ledger() == trained, "they are not repeated"
    found = json.loads(call(world, "plan", "--json").stdout)
    assert "probe" not in {run["known_from"] for run in found["runs"]}
    assert call(world, "probe", "--speed", "--colocate", "2").exit_code == 2
    assert call(world, "probe", "--speed", "--only", "baseline*").exit_code == 3


def compared(world: World, monkeypatch: pytest.MonkeyPatch, measured: Mapping[str, float | str]) -> Comparison:
    """measured: by changed arguments, seconds per step or the reason of a failure; others take 2 s."""

    def measure(_point: Point, changes: Params, *_: object, **__: object) -> Speed:
        value = measured.get("+".join(changes), 2.0)
        if isinstance(value, str):
            return Speed(changes=changes, failure=value)
        return Speed(changes=changes, seconds_per_step=value, start_s=10, peak_mib=2048)

    monkeypatch.setattr(probe_speed, "_measure", measure)
    return probe_speed.compare(world.plan(), "*", world.context())


def test_the_fastest_options_are_measured_together_and_recommended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = {"gradient_checkpointing": 1.99, "max_data_loader_n_workers": 1.8, "lowram": 1.9, "highvram": 1.7}
    both = "max_data_loader_n_workers+highvram"
    found = compared(world, monkeypatch, {**fast, both: 1.5})
    assert {*found.best.changes} == {*both.split("+")}
    assert found.best is found.speeds[-1]
    shown = "".join(text for text in tables.speeds(found, world.plan().settings).renderables if isinstance(text, str))
    assert shown.endswith("\\[arguments]\nmax_data_loader_n_workers = 0\nhighvram = true")
    alone = compared(world, monkeypatch, {**fast, both: "out of memory"})
    assert alone.best.changes == {"highvram": True}


def test_settings_that_do_not_fit_are_replaced_by_an_option_that_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask("[fixed]\ngradient_checkpointing = false\n[dims]\nnetwork_dim = [2]\n")
    options = ("", "max_data_loader_n_workers", "lowram", "highvram", "trainer.threads", "torch_compile")
    found = compared(world, monkeypatch, dict.fromkeys(options, "out of memory"))
    assert found.best.changes == {"gradient_checkpointing": True}
    shown = tables.speeds(found, world.plan().settings)
    assert shown.renderables[-1] == "\nIn the grid, which sets them:\ngradient_checkpointing = true"
