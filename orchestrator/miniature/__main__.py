"""`python -m orchestrator.miniature FOLDER` writes the miniature world into FOLDER; sweeps go beside it."""

import sys
from pathlib import Path

from orchestrator.miniature import world

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m orchestrator.miniature FOLDER")
    world.write(Path(sys.argv[1]), runs=Path(sys.argv[1]).absolute().parent)
