"""Speed of large grids and sweeps, in CPU seconds, which depend little on other work on the machine."""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def spent(argv: Sequence[str]) -> tuple[float, str]:
    """CPU seconds of a child, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_ten_thousand_points_are_planned_within_six_seconds_and_400_mib():
    _, printed = spent(["-m", "benchmarks.planning"])
    words = printed.split()
    assert words[:3] == ["10,000", "points", "planned"]
    assert float(words[words.index("s") + 1].removeprefix("(")) < 6
    assert int(words[words.index("peak") + 1]) < 400


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"]])
def test_help_needs_less_than_a_quarter_of_a_second(words):
    seconds, _ = spent(["-c", "from orchestrator.cli import main; main()", *words])
    assert seconds < 0.25


def test_status_over_a_thousand_runs_needs_less_than_a_second(tmp_path):
    made = f"from benchmarks import status; from orchestrator.store.layout import Sweep; from pathlib import Path; \
status.make(Sweep(Path({str(tmp_path)!r}) / 'runs' / 'large'), 1000)"
    spent(["-c", made])
    settings = tmp_path / "orchestrate.toml"
    settings.write_text((ROOT / "orchestrate.toml").read_text(encoding="utf-8"), encoding="utf-8")
    argv = ["-c", "from orchestrator.cli import main; main()", "status", "large", "--settings", str(settings)]
    seconds, printed = spent(argv)
    assert "seed 1" in printed
    assert seconds < 1
