"""The trainer takes the SHA-256 of unchanged files from the cache, and computes all others."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.kohya import train_plugin
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


def test_a_script_without_sd_scripts_runs(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys; print(__name__, sys.path[0])")
    command = [sys.executable, train_plugin.__file__, str(tmp_path / hashes.CACHE), str(script)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"__main__ {tmp_path}\n"


def test_a_link_has_the_hash_of_its_target(tmp_path: Path, model: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(model)
    assert train_plugin.cached(tmp_path / hashes.CACHE, lambda _: "computed")(str(link)) == hashes.sha256(model)


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"files": 3}', '{"files": {"PATH": 3}}', "[" * 100_000])
def test_a_damaged_cache_is_ignored(tmp_path: Path, model: Path, damaged: str) -> None:
    (tmp_path / hashes.CACHE).write_text(damaged.replace("PATH", str(model)))
    assert train_plugin.cached(tmp_path / hashes.CACHE, lambda _: "computed")(str(model)) == "computed"
