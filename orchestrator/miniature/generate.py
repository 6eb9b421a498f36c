"""The generator's program: run by path with gen_img.py's arguments."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run by path as sd-scripts is: Python must search the package's parent first, not this folder.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from orchestrator.miniature import generation

    generation.main(sys.argv[1:])
