"""The accepted arguments equal those of the real parser, and the snapshot equals the source."""

import argparse
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import NotReady, Severity
from orchestrator.kohya import release
from orchestrator.kohya.arguments import required, schema
from orchestrator.kohya.arguments.schema import Argument, Kind
from orchestrator.plan import preflight

SD_SCRIPTS = Path(os.environ.get("ORCHESTRATE_SD_SCRIPTS", Path(__file__).parents[1] / "vendor" / "sd-scripts"))
OLD_SNAPSHOT = Path(__file__).parent / "fixtures" / "arguments-v0.10.1.json"
PYTHON = os.environ.get("ORCHESTRATE_TRAINER_PYTHON", "")


def test_the_snapshot_is_of_the_pinned_commit() -> None:
    found = schema.load_schema(None)
    assert found.origin == release.PINNED
    assert len(found.by_name) == 198
    assert found.by_name["network_dim"] == Argument(
        name="network_dim", kind=Kind.INT, where="train_network.setup_parser"
    )
    assert found.by_name["optimizer_args"].many
    assert found.by_name["mixed_precision"].choices == ("no", "fp16", "bf16")
    assert found.by_name["save_precision"].choices == ("float", "fp16", "bf16")  # None is absence, not a choice
    assert found.by_name["lr_warmup_steps"].kind is Kind.INT_OR_FLOAT
    assert found.by_name["sdpa"].default is False


def test_the_older_snapshot_has_the_same_arguments_but_two() -> None:
    old, new = schema.read_snapshot(OLD_SNAPSHOT), schema.read_snapshot()
    assert old.origin in release.TESTED
    assert new.by_name.keys() - old.by_name.keys() == {"skip_image_resolution", "train_inpainting"}
    assert [name for name, key in old.by_name.items() if replace(new.by_name[name], where=key.where) != key] == []


@pytest.mark.skipif(not (SD_SCRIPTS / "sdxl_train_network.py").exists(), reason="sd-scripts is not checked out")
def test_the_snapshot_equals_the_source() -> None:
    start = time.process_time()
    read = schema.load_schema(SD_SCRIPTS)
    assert time.process_time() - start < 2
    assert read.origin == str(SD_SCRIPTS)
    old = release.describe(SD_SCRIPTS).startswith("v0.10.1")
    assert read.by_name == schema.read_snapshot(OLD_SNAPSHOT if old else schema.SNAPSHOT).by_name


def write(root: Path, setup: str, helper: str = "") -> Path:
    (root / "library").mkdir()
    (root / "sdxl_train_network.py").write_text(f"from library import helper\nfrom library.helper import more\n{setup}")
    (root / "library" / "helper.py").write_text(helper)
    return root


def test_parsers_are_followed_through_modules_and_imported_names(tmp_path: Path) -> None:
    setup = """
SIZES = ("small", None, "large")
def setup_parser():
    parser = argparse.ArgumentParser()
    helper.add_them(parser)
    more(parser)
    parser.add_argument("-s", "--the-size", type=str, choices=SIZES, default="small")
    return parser
"""
    helper = """
def add_them(parser):
    if True:
        parser.add_argument("--many", type=float, nargs="*", default=None)
        parser.add_argument("--path", type=pathlib.Path)
def more(parser):
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--bare")
"""
    found = schema.load_schema(write(tmp_path, setup, helper)).by_name
    assert list(found) == ["many", "path", "flag", "bare", "the_size"]
    assert found["many"] == Argument(name="many", kind=Kind.FLOAT, many=True, where="helper.add_them")
    assert found["path"].kind is found["bare"].kind is Kind.STR
    assert (found["flag"].kind, found["flag"].default) == (Kind.FLAG, False)
    assert found["the_size"].choices == ("small", "large")


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("import library.deep.more as more_util", "more_util.add_them(parser)"),
        ("import library.deep.more", "library.deep.more.add_them(parser)"),
        ("from library import deep", "deep.add_all(parser)"),
        ("from library.deep import more as m", "m.add_them(parser)"),
        ("from library.deep.more import add_them as add", "add(parser)"),
        ("from library.deep import add_all", "add_all(parser)"),
    ],
)
def test_imports_of_every_form_are_followed(tmp_path: Path, imports: str, call: str) -> None:
    deep = tmp_path / "library" / "deep"
    deep.mkdir(parents=True)
    (deep / "__init__.py").write_text("from .more import add_them\ndef add_all(parser):\n    add_them(parser)\n")
    (deep / "more.py").write_text('def add_them(parser):\n    parser.add_argument("--found", type=int)\n')
    (tmp_path / "sdxl_train_network.py").write_text(f"{imports}\ndef setup_parser():\n    {call}\n")
    found = schema.load_schema(tmp_path).by_name
    assert found == {"found": Argument(name="found", kind=Kind.INT, where="more.add_them")}


@pytest.mark.parametrize(
    "argument",
    [
        'parser.add_argument("--x", action="append")',
        'parser.add_argument("--x", type=weird)',
        'parser.add_argument("--x", nargs=2)',
        'parser.add_argument("--x", choices=UNKNOWN)',
        "helper.nowhere(parser)",
        "def broken(:",
    ],
)
def test_a_source_that_is_not_understood_is_rejected_with_a_remedy(tmp_path: Path, argument: str) -> None:
    root = write(tmp_path, f"def setup_parser():\n    {argument}\n")
    with pytest.raises(NotReady) as raised:
        schema.load_schema(root)
    assert release.PINNED in raised.value.problems[0].remedy
    assert raised.value.problems[0].where == str(root)


def test_reading_a_source_agrees_with_argparse(tmp_path: Path) -> None:
    body = """
    parser.add_argument("--rate", type=float, default=2.0e-6)
    parser.add_argument("--names", type=str, nargs="*")
    parser.add_argument("--level", type=int, default=2, choices=[0, 1, 2])
    parser.add_argument("--on", action="store_true")
"""
    parser = argparse.ArgumentParser()
    exec(f"if True:\n{body}", {"parser": parser})
    read = schema.load_schema(
        write(tmp_path, f"def setup_parser():\n    parser = argparse.ArgumentParser(){body}")
    ).by_name
    for action in parser._actions[1:]:
        assert read[action.dest].default == action.default
        assert list(read[action.dest].choices) == list(action.choices or [])
        assert read[action.dest].many is (action.nargs == "*")


def test_the_submodule_is_pinned_to_the_known_commit() -> None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a checkout: there is no submodule")
    done = subprocess.run(["git", "ls-tree", "HEAD", "vendor/sd-scripts"], cwd=root, capture_output=True, text=True)
    assert done.stdout.split()[:3] == ["160000", "commit", release.PINNED]


# --- other versions ---------------------------------------------------------------------------------------------------


def whole(root: Path, *, without: str = "") -> Path:
    """Sources with everything that orchestrate relies on, except one name."""
    root.mkdir(exist_ok=True)
    for program, names in required._OPTIONS.items():
        lines = [f'    parser.add_argument("--{name}", nargs=2)' for name in names if name != without]
        text = f"def setup_parser():\n{chr(10).join(lines)}\n"
        (root / f"{program}.py").write_text("\ufeff" + text, encoding="utf-8")
    for name, texts in required._TEXTS.items():
        with (root / name).open("a", encoding="utf-8") as file:
            file.write("".join(f"# {text}\n" for text in texts if text != without))
    return root


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("initial_epoch", "sdxl_train_network.py has no option --initial_epoch"),
        ("network_pre_calc", "gen_img.py has no option --network_pre_calc"),
        ("ss_training_comment", "train_network.py does not mention ss_training_comment"),
        ("get_prompter", "gen_img.py does not mention get_prompter"),
    ],
)
def test_a_version_that_lacks_something_is_rejected_by_its_name(tmp_path: Path, name: str, what: str) -> None:
    assert list(required.missing(whole(tmp_path / "whole"))) == []
    (found,) = preflight._sd_scripts(whole(tmp_path / "part", without=name), (), "settings.toml")
    assert (found.severity, what in found.what, release.PINNED in found.remedy) == (Severity.ERROR, True, True)


def test_a_network_module_that_a_version_lacks_is_named(tmp_path: Path) -> None:
    (whole(tmp_path) / "networks").mkdir()
    (tmp_path / "networks" / "lora.py").touch()
    used = ["networks.lora", "networks.lokr", "lycoris.kohya"]
    assert list(required.missing(tmp_path, used)) == ["networks/lokr.py does not exist"]


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_is_named_by_its_tag_and_its_remedy_checks_out_the_pinned_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(tmp_path)
    for words in (["init", "-qb", "main"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v0.12.0"]):
        git(tmp_path, *words)
    pinned = git(tmp_path, "rev-parse", "HEAD")
    assert release.describe(tmp_path) == f"v0.12.0, {pinned[:8]}"
    git(tmp_path, "commit", "-qm", "two", "--allow-empty")
    other = git(tmp_path, "rev-parse", "HEAD")
    assert release.describe(tmp_path) == f"v0.12.0+1, {other[:8]}"
    (found,) = preflight._sd_scripts(tmp_path, (), "settings.toml")
    assert (found.severity, "v0.11.1+2 (c162e903)" in found.what) == (Severity.WARNING, True)

    (tmp_path / "gen_img.py").write_text((tmp_path / "gen_img.py").read_text(encoding="utf-8") + "\n# mine\n")
    assert release.describe(tmp_path) == f"v0.12.0+1, {other[:8]} with local changes"
    monkeypatch.setattr(release, "PINNED", pinned)
    monkeypatch.setattr(release, "TESTED", {pinned: "v0.12.0"})
    monkeypatch.setattr(release, "URL", str(tmp_path))
    command = release.remedy(tmp_path).removeprefix("run `").removesuffix("`")
    environ = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_COMMITTER_NAME": "a"}
    environ |= {"GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run(command, shell=True, check=True, capture_output=True, env=environ)
    assert release.describe(tmp_path) == f"v0.12.0, {pinned[:8]}"
    assert list(preflight._sd_scripts(tmp_path, (), "settings.toml")) == []


def test_the_remedy_for_a_folder_without_git_leaves_it_as_it_is(tmp_path: Path) -> None:
    assert f"submodule update --init {release._SUBMODULE}" in release.remedy(release._ROOT / release._SUBMODULE)
    missing = tmp_path / "none here"
    assert release.remedy(missing).startswith(f"run `git clone {release.URL} '{missing}'")
    (whole(tmp_path) / "README.md").write_text("- **Version 0.10.6 (2026-06-12):**\n- **Version 0.10.5**\n")
    assert release.describe(tmp_path) == "v0.10.6, not a git checkout"
    assert f"set trainer.sd_scripts = '{tmp_path}-c162e903'" in release.remedy(tmp_path)


def test_the_remedy_for_the_interpreter_works_outside_of_the_repository(tmp_path: Path) -> None:
    here = Path(release.__file__).resolve().parents[2] / "vendor"
    assert "`make setup-trainer`" in release.setup_remedy(here / ".venv/bin/python", here / "sd-scripts")
    elsewhere = release.setup_remedy(tmp_path / "a b/bin/python", tmp_path / "sd-scripts")
    assert f"python3 -m venv '{tmp_path}/a b' && '{tmp_path}/a b/bin/python' -m pip install" in elsewhere
    assert "make" not in release.setup_remedy(Path("/usr/python3"), tmp_path)
