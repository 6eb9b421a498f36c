"""The trainer's program: `python train.py --config_file X.toml`, as sdxl_train_network.py is run."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run by path as sd-scripts is: Python must search the package's parent first, not this folder.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from orchestrator.miniature import training

    training.main(sys.argv[1:])
