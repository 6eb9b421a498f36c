"""The tables as files: whoever writes them, and whoever else does at the same time."""

import subprocess
import sys

from standins.world import World

WRITE = """
import sys
from pathlib import Path
from orchestrator.report import results_csv as report
from orchestrator.store import layout as store
for _ in range(30):
    report.write(store.Sweep(Path(sys.argv[1])))
"""


def test_two_who_write_it_at_once_are_not_in_each_others_way(world: World) -> None:
    """`run` at its end and `report --watch` beside it."""
    world.context()
    both = [subprocess.Popen([sys.executable, "-c", WRITE, str(world.sweep.path)]) for _ in range(2)]
    assert [child.wait(timeout=60) for child in both] == [0, 0]
    assert sorted(path.name for path in world.sweep.report.iterdir()) == ["images.csv", "results.csv"]
    assert len(world.rows()) == 3
