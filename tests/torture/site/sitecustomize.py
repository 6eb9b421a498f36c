"""Python imports this at its start when this folder is in PYTHONPATH: every program of the sweep but the shim."""

import os
import sys
from pathlib import Path

if "TORTURE_WORLD" in os.environ:
    import hook

    _ROLES = {
        "train.py": "trainer",
        "generate.py": "generator",
        "orchestrator.scoring": "scorer",
        "run": "orchestrator",
    }
    _found = [role for word, role in _ROLES.items() if any(part.endswith(word) for part in sys.orig_argv)]
    if _found == ["orchestrator"]:
        from orchestrator.host import Host
        from orchestrator.store import shim

        if "TORTURE_CORES" in os.environ:  # as many programs at once as on a larger machine
            Host.cores = lambda _self: int(os.environ["TORTURE_CORES"])  # type: ignore[method-assign]
        shim.__file__ = str(Path(__file__).with_name("hooked_shim.py"))
    if _found:
        hook.listen(_found[0])
