"""`orchestrate init` and `orchestrate demo`: `plan` accepts a new project as it is."""

from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from orchestrator import cli
from orchestrator.cli.commands import init
from orchestrator.config import project, settings
from orchestrator.errors import InputError


def call(*words: str) -> str:
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_new_project_is_planned_and_lists_what_run_needs(tmp_path: Path) -> None:
    with chdir(tmp_path):
        call("init", "mine")
    written = (tmp_path / "mine" / "orchestrate.toml").read_text(encoding="utf-8")
    assert "docs/" not in written
    assert "`make " not in written
    with chdir(tmp_path / "mine"):
        output = call("plan", "grids/sweep-v3.toml")
    assert "6 trainings and 1 baseline" in output
    missing = output[output.index("Before `orchestrate run`") :]
    assert all(key in missing for key in ("trainer.python", "image_dir", "score.pack", "score.references", ".path"))
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        *("orchestrate.toml", "grids", "templates", "persona", ".gitignore")
    }
    assert {path.name for path in (tmp_path / "mine" / "persona").iterdir()} == {
        *("README.md", "prompts.txt", "pictures", "references")
    }


def test_the_next_command_quotes_a_folder_with_a_space(tmp_path: Path) -> None:
    with chdir(tmp_path):
        assert "Next: cd 'my persona'; orchestrate plan" in call("init", "my persona", "--yes")


def test_answers_replace_the_defaults_and_are_quoted(tmp_path: Path) -> None:
    values = project.defaults() | {"trigger": 'a "b" \\1', "path": "models/mine.safetensors"}
    project.create(tmp_path, values)
    loaded = settings.load(tmp_path / "orchestrate.toml")
    assert loaded.datasets["persona"].trigger == 'a "b" \\1'
    prompts = (tmp_path / "persona" / "prompts.txt").read_text(encoding="utf-8").splitlines()
    assert all('a "b" \\1' in prompt for prompt in prompts)
    assert loaded.base_models["realvisxl-v5"].path == tmp_path / "models" / "mine.safetensors"
    assert loaded.base_models["juggernautxl-v9"].path.name == "Juggernaut-XL_v9.safetensors"


def test_existing_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "persona").mkdir()
    (tmp_path / "persona" / "prompts.txt").write_text("mine\n")
    made = project.create(tmp_path, {})
    assert (tmp_path / "persona" / "prompts.txt").read_text() == "mine\n"
    assert tmp_path / "persona" / "prompts.txt" not in made
    with pytest.raises(InputError, match="not overwritten"):
        project.create(tmp_path, {})


def test_an_existing_project_is_reported_before_any_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.create(tmp_path, {})
    monkeypatch.setattr("click.prompt", lambda *_: pytest.fail("it asks"))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(InputError, match="not overwritten"):
        init.init.main([str(tmp_path)], standalone_mode=False)
