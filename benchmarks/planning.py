"""How long a large grid takes to plan:  python -m benchmarks.planning [--points 10000]

Reads a grid with this number of points as `orchestrate plan` and `run` do: expands and hashes it, checks every
argument, rule and OOM fallback, and renders every config. Prints the seconds and the peak memory of this process, then
the seconds of `orchestrate --help` in its own process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.plan import plan

SETTINGS = Path(__file__).parents[1] / "orchestrate.toml"
GRID = """
[dims]
network_dim = [4, 8, 16, 32, 64]
optimizer_type = ["Prodigy", "AdamW8bit"]
train_batch_size = [1, 2, 4, 8]
min_snr_gamma = [1.0, 3.0, 5.0, 7.0, 9.0]
{last} = [{values}]

[fixed]
network_alpha = "{{{{ network_dim // 2 }}}}"

[[when]]
match = {{ optimizer_type = "AdamW8bit" }}
set = {{ learning_rate = 1e-4, optimizer_args = ["weight_decay=0.01"] }}

[[question]]
id = "Q3"
ask = "Is network_dim 16 too low?"
contrast = {{ network_dim = [16, 32] }}
"""
_POINTS_PER_VALUE = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000, help=f"rounded up to a multiple of {_POINTS_PER_VALUE}")
    parser.add_argument("--last", default="seed", help="the last dim; `max_timestep` makes no two points replicates")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "large.toml"
        values = ", ".join(str(value) for value in range(1, -(-asked.points // _POINTS_PER_VALUE) + 1))
        grid.write_text(GRID.format(last=asked.last, values=values), encoding="utf-8")
        began, cpu_began = time.perf_counter(), time.process_time()
        found = plan.read(SETTINGS, grid)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    spent = f"{seconds:.2f} s ({cpu_s:.2f} s of CPU)"
    print(f"{len(found.points) - 1:,} points planned in {spent}, peak {peak_mib()} MiB")
    print(f"orchestrate --help: {help_seconds():.2f} s")


def peak_mib() -> int:
    """Of this program only: getrusage would include the process before its exec."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024


def help_seconds() -> float:
    """The fastest of five runs, to exclude other work on the machine."""
    return min(_one_help() for _ in range(5))


def _one_help() -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", "--help"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
