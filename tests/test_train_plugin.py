"""The trainer takes the SHA-256 of unchanged files from the cache, and computes all others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.kohya import train_plugin
from orchestrator.kohya.outputs import log
from orchestrator.store import hashes

SCRIPT = """
import sys
from library import {module} as owner
assert __name__ == "__main__"
print(sys.argv[1:], owner.calculate_sha256(sys.argv[2]))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "base.safetensors"
    file.write_bytes(b"first")
    hashes.HashCache(tmp_path).of(file)
    return file


@pytest.mark.parametrize("module", ["train_util", "model_io"])
def test_the_script_runs_with_the_known_hash(tmp_path: Path, model: Path, module: str) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / f"library/{module}.py").write_text("def calculate_sha256(filename): return 'computed'")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(module=module))

    def run() -> str:
        command = [
            sys.executable,
            train_plugin.__file__,
            str(tmp_path / hashes.CACHE),
            str(script),
            "--file",
            str(model),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run() == f"['--file', '{model}'] {hashes.sha256(model)}\n"
    model.write_bytes(b"other")
    assert run() == f"['--file', '{model}'] computed\n"


def start(script: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, train_plugin.__file__, str(script.parent / hashes.CACHE), str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environ})


def test_a_script_without_sd_scripts_runs(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys; print(__name__, sys.path[0])")
    assert start(script).stdout == f"__main__ {tmp_path}\n"


def test_a_linked_script_imports_from_the_folder_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/train.py").write_text("import sys; print(sys.path[0])")
    link = tmp_path / "link.py"
    link.symlink_to("scripts/train.py")
    assert start(link).stdout == f"{tmp_path}/scripts\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_python_safe_path_is_respected(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys; print(sys.path)")
    python = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, check=True).stdout
    assert start(script, PYTHONSAFEPATH="1").stdout == python


def test_the_script_imports_sd_scripts_itself_and_once(tmp_path: Path) -> None:
    """A failed import of torch has another error when it is repeated."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library/train_util.py").write_text("print('imported'); import torch_is_missing")
    script = tmp_path / "train.py"
    script.write_text("print('started'); from library import train_util")
    done = start(script)
    assert (done.stdout, done.returncode) == ("started\nimported\n", 1)
    classified = log.classify(done.stderr, 1)
    assert classified is not None
    assert "torch_is_missing" in classified[1]


def test_a_link_has_the_hash_of_its_target(tmp_path: Path, model: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(model)
    assert train_plugin.cached(tmp_path / hashes.CACHE, lambda _: "computed")(str(link)) == hashes.sha256(model)


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"files": 3}', '{"files": {"PATH": 3}}', "[" * 100_000])
def test_a_damaged_cache_is_ignored(tmp_path: Path, model: Path, damaged: str) -> None:
    (tmp_path / hashes.CACHE).write_text(damaged.replace("PATH", str(model)))
    assert train_plugin.cached(tmp_path / hashes.CACHE, lambda _: "computed")(str(model)) == "computed"


@pytest.mark.parametrize("entry", ["null", "3", '"abc"'])
def test_an_entry_that_is_no_hash_is_ignored(tmp_path: Path, model: Path, entry: str) -> None:
    cache = tmp_path / hashes.CACHE
    cache.write_text(cache.read_text().replace(f'"{hashes.sha256(model)}"', entry))
    assert train_plugin.cached(cache, lambda _: "computed")(str(model)) == "computed"


def test_a_cache_that_is_no_file_is_ignored(tmp_path: Path, model: Path) -> None:
    (tmp_path / hashes.CACHE).unlink()
    os.mkfifo(tmp_path / hashes.CACHE)
    assert train_plugin.cached(tmp_path / hashes.CACHE, lambda _: "computed")(str(model)) == "computed"
