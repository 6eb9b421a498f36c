"""Answers -> changes of orchestrate.toml."""

import difflib
import stat
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tomlkit
from click.testing import CliRunner
from test_answers import read, run

from orchestrator import cli
from orchestrator.config import settings_edit
from orchestrator.errors import Conflict, InputError
from orchestrator.evidence import summary
from orchestrator.evidence.summary import SweepSummary
from orchestrator.model import Question, Value
from orchestrator.plan import plan as planning
from orchestrator.report import adoption, answers
from orchestrator.report.adoption import Decision
from orchestrator.report.answers.answer import Answer
from orchestrator.store.layout import Run, Sweep
from orchestrator.values import same

SETTINGS = Path(__file__).parents[1] / "orchestrate.toml"
TEXT = SETTINGS.read_text(encoding="utf-8")
SEEDS = "\nseed = [1, 2, 3, 4]\n"


def copy(folder: Path, text: str) -> Path:
    """Settings in another folder, with the prompts and templates of the repository."""
    for name in ("persona/prompts", "templates"):
        text = text.replace(f'"{name}', f'"{SETTINGS.parent}/{name}')
    path = folder / "orchestrate.toml"
    path.write_text(text, encoding="utf-8")
    return path


def sweep(folder: Path, grid: str, effect: float = 0.1, settings: Path = SETTINGS) -> SweepSummary:
    """A finished sweep of the grid in which the second level of its question is better by `effect`."""
    path = folder / "grid.toml"
    path.write_text(grid, encoding="utf-8")
    plan = planning.read(settings, path)
    question = plan.questions[0]
    runs = []
    for point in plan.points:
        if not point.is_baseline:
            better = same(point.params[question.dim], question.levels[1])
            made = run({"name": point.name}, 0.5 + effect * better)
            runs.append(replace(made, run=Run(folder / point.name, point)))
    return read(runs, *plan.questions)


def question(dim: str, levels: list[Value]) -> str:
    return tomlkit.dumps({"question": [{"id": "Q", "ask": "?", "measure": "similarity", "contrast": {dim: levels}}]})


def decision(found: SweepSummary) -> Decision:
    (one,) = adoption.decide(found.questions, answers.answer_questions([found])[0])
    assert not one.reason
    return one


def changed(before: str, after: str) -> list[str]:
    """The lines that were removed and added, without comments."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line.partition("  #")[0].rstrip() for line in lines if line[0] in "+-" and line[1] not in "+-"]


@pytest.mark.parametrize(
    ("dim", "levels", "more", "expected"),
    [
        ("network_dim", [32, 64], "", ["-network_dim = 32", "+network_dim = 64"]),  # alpha follows by its expression
        (
            *("network_dim", [32, 64], "[fixed]\nnetwork_alpha = 8\n"),
            [
                *("-network_dim = 32", '-network_alpha = "{{ network_dim // 2 }}"'),
                *("+network_dim = 64", "+network_alpha = 8"),
            ],
        ),
        (
            *("optimizer_type", ["Prodigy", "AdamW8bit"], ""),
            ['-optimizer_type = "Prodigy"', '+optimizer_type = "AdamW8bit"'],
        ),
        (
            *("optimizer_type", ["Prodigy", "AdamW8bit"]),
            '[[when]]\nmatch = { optimizer_type = "AdamW8bit" }\nset = { learning_rate = 2e-4 }\n',
            [
                *('-optimizer_type = "Prodigy"', '+optimizer_type = "AdamW8bit"'),
                *("-learning_rate = 1e-4", "+learning_rate = 0.0002"),
            ],
        ),
        (
            *("optimizer_type", ["Prodigy", "AdamWScheduleFree"], ""),
            ['-optimizer_type = "Prodigy"', '-lr_scheduler = "cosine"', '+optimizer_type = "AdamWScheduleFree"'],
        ),
        (
            *("base_model", ["realvisxl-v5", "helloworldxl"], ""),
            ['-base_model = "realvisxl-v5"', '+base_model = "helloworldxl"'],
        ),
        ("dataset", ["persona", "face-crop"], "", ['-dataset = "persona"', '+dataset = "face-crop"']),
        ("max_train_epochs", [20, 40], "", ["-max_train_steps = 2160", "+max_train_epochs = 40"]),
        ("noise_offset", [0.0, 0.05], "", ["+noise_offset = 0.05"]),
    ],
)  # fmt: skip
def test_the_settings_get_the_better_value_and_what_belongs_to_it(
    tmp_path: Path, dim: str, levels: list[Value], more: str, expected: list[str]
) -> None:
    found = sweep(tmp_path, f"[dims]\n{tomlkit.dumps({dim: levels})}{SEEDS}{more}{question(dim, levels)}")
    edit = adoption.apply(decision(found), found, SETTINGS, TEXT)
    assert sorted(changed(TEXT, edit.text)) == sorted(expected)
    (point, *_) = planning.read_final(SETTINGS, text=edit.text).points
    best = next(one.run.point for one in found.runs if same(one.run.point.params[dim], levels[1]))
    assert {**point.params, "seed": 1} == {**best.params, "seed": 1}
    assert adoption.apply(decision(found), found, SETTINGS, edit.text).text == edit.text, (
        "a second time changes nothing"
    )


def test_dims_that_move_together_are_adopted_together(tmp_path: Path) -> None:
    zipped = '[[zip]]\nresolution = ["768,768", "1024,1024"]\ntrain_batch_size = [2, 1]\n'
    found = sweep(tmp_path, f"[dims]{SEEDS}{zipped}{question('resolution', ['1024,1024', '768,768'])}")
    edit = adoption.apply(decision(found), found, SETTINGS, TEXT)
    assert changed(TEXT, edit.text) == [
        *("-train_batch_size = 1", "+train_batch_size = 2", '-resolution = "1024,1024"', '+resolution = "768,768"')
    ]


def test_a_rate_in_arguments_does_not_stay_with_another_optimizer(tmp_path: Path) -> None:
    text = TEXT[: TEXT.index("\n[optimizers.Prodigy]")] + TEXT[TEXT.index("# --- images") :]
    text = text.replace('"Prodigy"  ', '"Prodigy"\nlearning_rate = 1.0  ')
    path = copy(tmp_path, text)
    grid = f'[dims]\noptimizer_type = ["Prodigy", "AdamW"]{SEEDS}{question("optimizer_type", ["Prodigy", "AdamW"])}'
    found = sweep(tmp_path, grid, settings=path)
    edit = adoption.apply(decision(found), found, path, path.read_text())
    table = tomllib.loads(edit.text)["arguments"]
    assert (table["optimizer_type"], table["learning_rate"]) == ("AdamW", 1e-4)
    assert table["optimizer_args"] == ["weight_decay=0.01"]


def test_different_arguments_of_the_sweep_are_listed(tmp_path: Path) -> None:
    grid = f"[dims]\nnetwork_dim = [8, 16]{SEEDS}[fixed]\nmax_train_steps = 500\n{question('network_dim', [8, 16])}"
    found = sweep(tmp_path, grid)
    compared, other = adoption.apply(decision(found), found, SETTINGS, TEXT).notes
    assert "network_dim = 32" in compared
    assert "max_train_steps = 500 (2160)" in other
    assert "network_dim" not in other


def test_a_value_that_cannot_be_planned_is_an_error(tmp_path: Path) -> None:
    grid = f'[dims]\ndataset = ["persona", "images-24"]{SEEDS}{question("dataset", ["persona", "images-24"])}'
    found = sweep(tmp_path, grid)
    text = TEXT.replace("images-24", "images-25")
    with pytest.raises(InputError, match="images-24"):
        adoption.apply(decision(found), found, SETTINGS, text)


# --- decisions --------------------------------------------------------------------------------------------------------


def asked(*verdicts: tuple[tuple[int, int], str], at_a_cost: bool = False) -> list[Decision]:
    questions = [Question(id=f"Q{n}", ask="?", dim="rank", levels=levels) for n, (levels, _) in enumerate(verdicts)]
    given = [Answer(id=f"Q{n}", ask="?", sweep="s", verdict=v, sentence="") for n, (_, v) in enumerate(verdicts)]
    return adoption.decide(questions, given, at_a_cost=at_a_cost)


@pytest.mark.parametrize(
    ("verdicts", "value"),
    [
        ([((8, 16), "yes")], 16),
        ([((8, 16), "no")], 8),
        ([((16, 32), "no"), ((8, 16), "yes")], 16),
        ([((8, 16), "yes"), ((16, 32), "yes")], 32),
        ([((8, 16), "yes"), ((8, 32), "no")], 16),
    ],
)
def test_the_value_that_no_answer_rules_out_is_adopted(verdicts: list[tuple[tuple[int, int], str]], value: int) -> None:
    (one,) = asked(*verdicts)
    assert (one.reason, one.value) == ("", value)


def test_two_better_values_and_contradictions_are_not_adopted() -> None:
    (two,) = asked(((8, 16), "yes"), ((8, 32), "yes"))
    assert "16 and 32 remain" in two.reason
    (circle,) = asked(((8, 16), "yes"), ((16, 8), "yes"))
    assert "contradict" in circle.reason


def test_a_cost_is_accepted_only_on_request() -> None:
    assert "--at-a-cost" in asked(((8, 16), "yes, at a cost"))[0].reason
    assert asked(((8, 16), "yes, at a cost"), at_a_cost=True)[0].value == 16


@pytest.mark.parametrize("kind", ["memory", "threshold"])
def test_questions_about_vram_and_the_threshold_change_nothing(kind: str) -> None:
    given = Answer(id="Q", ask="?", sweep="s", verdict="yes", sentence="")
    (one,) = adoption.decide([Question(id="Q", ask="?", kind=kind)], [given])  # type: ignore[arg-type]
    assert one.reason


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[arguments]\r\na = 1 # x\r\n\r\n# next\r\n[x]\r\n",
            "[arguments]\r\na = 2 # x\r\nb = [3]\r\n\r\n# next\r\n[x]\r\n",
        ),
        ("\ufeff[arguments]\na = 1", "\ufeff[arguments]\na = 2\nb = [3]\n"),
        ("arguments = { a = 1 } # x\n", "arguments = { a = 2, b = [3]} # x\n"),
        ("arguments.a = 1\n", "arguments.a = 2\narguments.b = [3]\n"),
    ],
)  # fmt: skip
def test_line_ends_comments_and_inline_tables_stay(text: str, expected: str) -> None:
    assert settings_edit.edit(text, {("arguments", "a"): 2, ("arguments", "b"): (3,)}) == expected


def test_a_missing_table_is_added() -> None:
    assert settings_edit.edit("[x]\ny = 1\n", {("defaults", "a"): "b"}) == '[x]\ny = 1\n\n[defaults]\na = "b"\n'


def test_the_file_is_replaced_with_a_backup_and_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "real.toml"
    path.write_text("a = 1\n")
    path.chmod(0o600)
    (tmp_path / "link.toml").symlink_to(path)
    backup = settings_edit.save(tmp_path / "link.toml", "a = 1\n", "a = 2\n")
    assert (path.read_text(), backup.read_text()) == ("a = 2\n", "a = 1\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (tmp_path / "link.toml").is_symlink()
    with pytest.raises(Conflict):
        settings_edit.save(path, "a = 1\n", "a = 3\n")
    assert path.read_text() == "a = 2\n"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def adopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `orchestrate adopt` over a sweep whose answer is network_dim = 64."""
    path = copy(tmp_path, TEXT)
    grid = f"[dims]\nnetwork_dim = [32, 64]{SEEDS}{question('network_dim', [32, 64])}"
    found = sweep(tmp_path, grid, settings=path)
    monkeypatch.setattr("orchestrator.cli.common.find_sweep", lambda _path, name: Sweep(tmp_path / name))
    monkeypatch.setattr(summary, "read", lambda *_: found)

    def call(*more: str) -> str:
        done = CliRunner().invoke(cli.main, ["adopt", "s", "--settings", str(path), *more])
        assert done.exit_code == 0, done.output
        return done.output

    return call


def test_without_a_terminal_the_command_only_shows_the_changes(tmp_path: Path, adopt: Callable[..., str]) -> None:
    path = tmp_path / "orchestrate.toml"
    before = path.read_text()
    shown = adopt()
    assert "-network_dim = 32\n+network_dim = 64" in shown
    assert "--yes" in shown
    assert path.read_text() == before
    assert "changed" in adopt("--yes")
    assert changed(before, path.read_text()) == ["-network_dim = 32", "+network_dim = 64"]
    assert "nothing to change" in adopt("--yes")
