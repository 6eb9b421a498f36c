"""The program that encodes pictures beforehand: run by path, as sd-scripts' tools/cache_latents.py is."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run by path, as the vendor's is: what Python then searches first must be the package's parent, not this folder.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from orchestrator.miniature import caching

    caching.main(sys.argv[1:])
