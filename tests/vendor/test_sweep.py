"""A whole sweep with the unmodified trainer and generator: four points, their pictures, their scores, one CSV."""

import csv
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import World

GRID = """
[dims]
network_dim = [4, 8]
optimizer_type = ["AdamW", "Prodigy"]

[fixed]
network_alpha = "{{ network_dim // 2 }}"

[[when]]
match = { optimizer_type = "Prodigy" }
set = { learning_rate = 1.0, optimizer_args = ["decouple=True", "weight_decay=0.01"] }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """The sweep as a user would see it."""

    code: int
    output: str
    folder: Path

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / "report" / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def swept(tiny: World) -> Swept:
    (tiny.folder / "four.toml").write_text(GRID, encoding="utf-8")
    orchestrate = Path(sys.executable).with_name("orchestrate")
    command = [orchestrate, "run", "--settings", "orchestrate.toml", "--grid", "four.toml"]
    done = subprocess.run(command, cwd=tiny.folder, capture_output=True, text=True, check=False, timeout=900)
    return Swept(code=done.returncode, output=done.stdout + done.stderr, folder=tiny.settings.runs / "four")


def test_all_of_it_is_finished(swept: Swept) -> None:
    assert swept.code == 0, swept.output
    print(swept.output)
    for row in swept.rows("results.csv"):
        print(row)
