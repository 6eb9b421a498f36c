"""Runs an unmodified script of sd-scripts and writes its peak memory at the end.

`python -m benchmarks.gpu.full REPORT.json SCRIPT [arguments...]`, in the trainer's interpreter.
"""

import json
import runpy
import sys
from pathlib import Path

import torch

GIB = 2**30


def main(report: str, script: str, *arguments: str) -> None:
    """As `python SCRIPT arguments...`; the report is written however the script ends."""
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        figures = {
            "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
            "allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        }
        Path(report).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
