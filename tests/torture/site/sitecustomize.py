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
        from orchestrator.store import shim

        shim.__file__ = str(Path(__file__).with_name("hooked_shim.py"))
    if _found:
        hook.listen(_found[0])
