"""Holds the first GPU's memory until its input ends: `python -m benchmarks.gpu.ballast GIB` leaves so much free."""

import sys

import torch

GIB = 2**30


def main(leave_gib: str) -> None:
    """Prints how much it holds, MiB, once it does."""
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - int(float(leave_gib) * GIB), dtype=torch.uint8, device="cuda")
    print(held.numel() // 2**20, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
