"""GPU model, driver and versions of each attempt: recorded, compared, and reported when they change."""

import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from standins.world import GPU, Heard, Probe, World

from orchestrator.config.schema import Comparison
from orchestrator.errors import Problem
from orchestrator.evidence import summary
from orchestrator.gpu import Gpu
from orchestrator.report import answers
from orchestrator.report.answers.answer import Answer
from orchestrator.store import provenance

GRID = (
    "[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2]\n"
    '[[question]]\nid = "Q3"\nask = "Too low?"\ncontrast = { network_dim = [2, 4] }\n'
)
H100 = replace(GPU, name="H100", driver="550")


def interpreter(folder: Path, torch: str) -> Path:
    """A program that answers as an interpreter with this torch would."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\necho \'{{"python": "3.11.0", "torch": "{torch}"}}\'\n', encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Messages(Heard):
    """Keeps the problems of a session."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def problems(self, problems: Mapping[Problem, None]) -> None:
        self.messages += map(str, problems)


def train(world: World, only: str, gpu: Gpu) -> list[str]:
    listener = Messages()
    world.session(probe=Probe(gpu=gpu), listener=listener).run(only)
    return listener.messages


def answered(world: World, comparison: Comparison | None = None) -> Answer:
    ((only,),) = answers.answer_questions([summary.read(world.sweep, comparison)])
    return only


@pytest.fixture
def asked(world: World) -> World:
    world.settle(vram='[vram]\ncard = "GPU-1"\npoll_seconds = 0.05\n', env={"HF_TOKEN": "hf_abcdef", "PLAIN": "yes"})
    world.ask(GRID)
    return world


def test_an_attempt_records_gpu_versions_and_variables_without_secrets(asked: World) -> None:
    train(asked, "network_dim=2_seed=1*", H100)
    for stage in ("train", "generate"):
        (attempt,) = asked.run("network_dim=2_seed=1*").attempts(stage)
        found = attempt.request()["environment"]
        assert (found["gpu"], found["driver"]) == ("H100", "550")
        assert found["versions"]["numpy"]
        assert found["versions"]["python"].startswith("3.")
        assert (found["env"]["PLAIN"], found["env"]["HF_TOKEN"]) == ("yes", "[HF_TOKEN]")
        assert "hf_abcdef" not in (attempt.path / "attempt.json").read_text(encoding="utf-8")
    row = asked.rows()["network_dim=2_seed=1"]
    assert row["gpu"] == "H100"
    assert '"driver": "550"' in row["versions"]


def test_runs_of_another_gpu_model_are_not_paired_unless_allowed(asked: World) -> None:
    train(asked, "*", H100)
    assert answered(asked).pairs == 2
    other = asked.run("network_dim=4_seed=2*").attempts("train")[-1].path / "attempt.json"
    text = other.read_text(encoding="utf-8")
    other.write_text(text.replace('"gpu": "H100"', '"gpu": "A100"'), encoding="utf-8")
    found = answered(asked)
    assert (found.pairs, found.left_out) == (1, 2)
    assert "GPU H100 and A100" in dict(found.facts)["Excluded runs"]
    allowed = answered(asked, Comparison(allow_different_hardware=True))
    assert allowed.pairs == 2
    assert dict(allowed.facts)["Different conditions"] == "GPU H100 and A100 in 1 pair"


def test_gains_over_a_baseline_of_another_gpu_model_are_excluded_unless_allowed(asked: World) -> None:
    grid = asked.grid.read_text(encoding="utf-8").replace("contrast =", 'measure = "gain"\ncontrast =')
    asked.ask(grid)
    train(asked, "*", H100)
    assert answered(asked).pairs == 2
    (baseline,) = [run for run in asked.sweep.runs() if run.point.is_baseline]
    record = baseline.attempts("generate")[-1].path / "attempt.json"
    text = record.read_text(encoding="utf-8")
    record.write_text(text.replace('"gpu": "H100"', '"gpu": "A100"'), encoding="utf-8")
    found = answered(asked)
    assert (found.pairs, found.left_out) == (0, 4)
    assert "than the baseline: images: GPU H100 and A100" in dict(found.facts)["Excluded runs"]
    assert answered(asked, Comparison(allow_different_hardware=True)).pairs == 2


def test_another_gpu_of_the_same_model_is_equal(asked: World) -> None:
    train(asked, "*seed=1*", H100)
    text = asked.settings.read_text(encoding="utf-8").replace('card = "GPU-1"', 'card = "GPU-2"')
    asked.settings.write_text(text, encoding="utf-8")
    train(asked, "*", replace(H100, uuid="GPU-2"))
    assert answered(asked).pairs == 2


def test_resuming_after_an_upgrade_prints_a_warning(asked: World) -> None:
    assert not any("other hardware or versions" in line for line in train(asked, "*seed=1*", H100))
    lines = train(asked, "*", replace(H100, driver="560"))
    (line,) = [line for line in lines if "other hardware or versions" in line]
    assert "driver 550 and 560 now (2 runs)" in line
    assert not any("other hardware" in line for line in train(asked, "*", replace(H100, driver="570")))


def test_an_upgraded_package_is_noticed(tmp_path: Path) -> None:
    before = provenance.environment("H100", "550", interpreter(tmp_path, "2.6.0"), {})
    python = interpreter(tmp_path, "2.7.0")
    after = provenance.environment("H100", "550", python, {})
    assert provenance.differences(provenance.comparable(before), provenance.comparable(after)) == [
        "torch 2.6.0 and 2.7.0"
    ]
    assert provenance.differences(provenance.comparable(before), provenance.comparable(None)) == []
    assert provenance.differences({"GPU": "a"}, {"images: GPU": "b"}) == []
    assert provenance.differences({"torch": "2"}, {"torch": "2", "xformers": "1"}) == ["xformers none and 1"]


def test_an_interpreter_that_does_not_run_gives_no_versions(tmp_path: Path) -> None:
    assert provenance.environment("", "", tmp_path / "absent" / "python", {})["versions"] == {}


def test_the_settings_allow_different_hardware(world: World) -> None:
    world.settle(sections="[comparison]\nallow_different_hardware = true\n")
    assert world.session().settings.comparison.allow_different_hardware
