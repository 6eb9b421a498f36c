"""Open questions of a project's grids, and what to run next."""

import io
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from test_adopt import SEEDS, TEXT, copy, sweep

from orchestrator import cli
from orchestrator.cli import tables
from orchestrator.cli.console import Terminal
from orchestrator.config import grid as grids
from orchestrator.evidence import summary
from orchestrator.evidence.summary import SweepSummary
from orchestrator.model import State
from orchestrator.report import open_questions
from orchestrator.store import records
from orchestrator.store.layout import Sweep
from orchestrator.store.state import Status


def grid(identity: str, dim: str, levels: str, more: str = "") -> str:
    ask = (
        f'[[question]]\nid = "{identity}"\nask = "?"\nmeasure = "similarity"\ncontrast = {{ {dim} = {levels} }}\n{more}'
    )
    return f"[dims]\n{dim} = {levels}{SEEDS}{ask}"


RANK = grid("Q2", "network_dim", "[32, 64]")
BASE = grid("Q10", "base_model", '["realvisxl-v5", "helloworldxl"]', 'after = ["Q2"]')


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Runs `orchestrate next` over grids by name; returns its output by line. `done`: finished sweeps."""
    path = copy(tmp_path, TEXT)
    (tmp_path / "grids").mkdir()

    def call(done: tuple[SweepSummary, ...] = (), **texts: str) -> list[str]:
        for name, text in texts.items():
            (tmp_path / "grids" / f"{name}.toml").write_text(text, encoding="utf-8")
        by_sweep = {one.sweep: one for one in done}
        monkeypatch.setattr(open_questions, "layout", SimpleNamespace(sweeps=lambda _: list(by_sweep)))
        monkeypatch.setattr(summary, "read", lambda asked, *_: by_sweep[asked])
        result = CliRunner().invoke(cli.main, ["next", "--settings", str(path)])
        assert result.exit_code == 0, result.output
        return [line.replace(f" --settings {path}", "").rstrip() for line in result.output.splitlines()]

    with chdir(tmp_path):
        yield call


def test_questions_come_in_their_order_and_wait_for_others(project: Callable[..., list[str]]) -> None:
    lines = project(base=BASE, rank=RANK, demo=grid("Q3", "network_dim", "[2, 4]"))
    assert lines[1].startswith("Q2: ?")
    assert "~8.1" in lines[1], "8 trainings of 2160 steps at 1.5 s, and their images"
    assert lines[2].startswith("Q10: ?")
    assert lines[2].endswith("Q2")
    assert lines[-1] == "Next: orchestrate run grids/rank.toml"


def test_a_decided_question_is_adopted_before_the_next_grid_is_run(
    project: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "rank").mkdir()
    done = sweep(tmp_path / "rank", RANK)
    lines = project((done,), base=BASE, rank=RANK)
    assert not [line for line in lines if line.startswith("Q2")]
    assert lines[-2].startswith("Next: orchestrate adopt sweep ")
    assert lines[-1] == "Then: orchestrate run grids/base.toml"
    adopted = copy(tmp_path, TEXT.replace("network_dim = 32", "network_dim = 64"))
    assert adopted.exists()
    assert project((done,), rank=RANK)[-1] == "Next: orchestrate run grids/base.toml"


def test_all_decided_leads_to_the_final_training(project: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "rank").mkdir()
    done = sweep(tmp_path / "rank", RANK, effect=-0.1)
    assert project((done,), rank=RANK) == ["Every question is decided.", "Next: orchestrate run --final"]


def test_an_invalid_grid_is_listed_with_its_reason(project: Callable[..., list[str]]) -> None:
    lines = project(rank=RANK, bad="[dims]\nnetwork_dims = [1]\n", worse="[[[")
    assert [line.partition(" cannot")[0] for line in lines if "cannot be planned" in line] == [
        *("grids/bad.toml", "grids/worse.toml")
    ]
    assert lines[-1] == "Next: orchestrate run grids/rank.toml"


def test_a_narrow_terminal_shows_the_question_rather_than_the_grid() -> None:
    question = open_questions.OpenQuestion(id="Q6", ask="Is it so? " * 3, identity=(), state="not run", after=("Q1",))
    path = Path("q6-how-many-images.toml")
    found = open_questions.OpenGrid(path=path, name="", questions=(question,), gpu_hours=18.2, assumed=True, left=True)
    for width, shown in ((60, False), (80, True)):
        terminal = Terminal(file=io.StringIO(), width=width)
        terminal.print(tables.open_questions([found]))
        text = terminal.file.getvalue()
        assert ("q6-how-many-images" in text.splitlines()[1]) is shown
        assert "Q6: Is it so? Is it so?" in text


def test_a_question_in_several_grids_is_listed_once(project: Callable[..., list[str]]) -> None:
    lines = project(rank=RANK, more='include = ["rank.toml"]\n[dims]\nseed = [1, 2, 3, 4, 5]\n')
    assert [line.split()[2] for line in lines if line.startswith("Q2")] == ["more"]


def test_a_sweep_with_another_name_than_its_grid_is_found(project: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    made = sweep(tmp_path / "first", RANK)
    pending = tuple(replace(one, status=Status(state=State.PENDING, stage="train"), choice=None) for one in made.runs)
    named = replace(made, sweep=Sweep(tmp_path / "runs" / "first"), runs=pending)
    assert project((named,), rank=RANK)[-1] == "Next: orchestrate run grids/rank.toml --name first"
    other = RANK.replace(SEEDS, "\nseed = [1, 2]\n")
    assert project((named,), rank=other)[-1] == "Next: orchestrate run grids/rank.toml"


def test_sweeps_of_other_settings_answer_nothing(project: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "rank").mkdir()
    done = sweep(tmp_path / "rank", RANK)
    copy(tmp_path, TEXT.replace("realvisxl-v5", "other"))
    assert project((done,), rank=RANK)[-1] == "Next: orchestrate run grids/rank.toml"


def test_the_grids_beside_the_settings_are_read_from_any_folder(
    project: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    with chdir(tmp_path / "elsewhere"):
        assert project(rank=RANK)[-1] == f"Next: orchestrate run {tmp_path}/grids/rank.toml"


def test_a_project_without_questions_says_so(project: Callable[..., list[str]]) -> None:
    assert project(plain="[dims]\nnetwork_dim = [1, 2]\n")[-1].startswith("No grid asks a question: add a [[question]]")


def test_the_frozen_sweep_has_the_question_with_its_order(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(BASE, encoding="utf-8")
    asked = grids.load(tmp_path / "g.toml").questions
    records.write(tmp_path / "sweep.json", {"questions": [asdict(one) for one in asked]})
    assert tuple(Sweep(tmp_path).questions()) == asked
    assert asked[0].after == ("Q2",)
