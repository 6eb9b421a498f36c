"""The shim, listened to: it is started with -I -S, so that sitecustomize does not reach it."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import hook  # noqa: E402

hook.listen("shim")
runpy.run_path(str(HERE.parents[2] / "orchestrator" / "store" / "shim.py"), run_name="__main__")
