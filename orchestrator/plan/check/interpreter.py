"""Checks of the trainer's interpreter: starts it once and imports what a training needs."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.config.schema import NO_GPU, Settings
from orchestrator.errors import Problem, Severity
from orchestrator.kohya import argv as command
from orchestrator.kohya import release
from orchestrator.kohya.arguments import schema
from orchestrator.kohya.packages import install_command, packages
from orchestrator.model import Params
from orchestrator.plan.check.report import CheckReport

TIMEOUT_S = 180
"""The first import of torch from a slow disk takes a minute."""

_CHILD = """
import importlib, importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = str(getattr(importlib.import_module(name), "__version__", "") or importlib.metadata.version(name))
    except Exception as error:
        found[name] = {"error": f"{type(error).__name__}: {error}"}
if isinstance(found.get("torch"), str):
    import torch
    found["cuda"] = torch.cuda.is_available()
    found["built for"] = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    found["sees"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if found["cuda"] else []
print("\\n" + json.dumps(found))
"""

_VENDOR = ("torch", "accelerate", "transformers", "diffusers", "safetensors", "toml", "cv2", "voluptuous")
_SMALL = ("torch", "safetensors")


def check_interpreter(settings: Settings, points: Sequence[Params]) -> CheckReport:
    """Versions of the imported libraries, and problems; `points` decide which optimizers are imported."""
    trainer = settings.trainer
    if not trainer.python.is_file():
        return CheckReport()  # reported by preflight
    needed = _needed(settings, points)
    setup = release.setup_remedy(trainer.python, trainer.sd_scripts)
    environment = {**os.environ, **command.environment(trainer, gpu=None)}
    try:
        argv = [str(trainer.python), "-c", _CHILD, *needed]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False)
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return CheckReport(problems=(_problem(settings, f"has not imported torch after {TIMEOUT_S} s", setup),))
    except (OSError, ValueError, IndexError) as error:
        return CheckReport(problems=(_problem(settings, f"does not run: {error}", setup),))
    return CheckReport(facts=_facts(found), problems=tuple(_wrong(found, needed, settings, points)))


def _needed(settings: Settings, points: Sequence[Params]) -> dict[str, Severity]:
    """The modules to import. A missing one is an error, or a warning if only an OOM fallback needs it."""
    if settings.trainer.train_script != f"{schema.ENTRY}.py":
        return dict.fromkeys(_SMALL, Severity.ERROR)
    needed = dict.fromkeys(_VENDOR, Severity.ERROR)
    of_points = {module for params in points for module in packages(params)}
    changes = [step.set for step in settings.oom_fallback if "optimizer_type" in step.set]
    of_fallbacks = {module for change in changes for module in packages(change)} - of_points
    optional = dict.fromkeys(sorted(of_fallbacks), Severity.WARNING)
    return {**optional, **needed, **dict.fromkeys(of_points, Severity.ERROR)}


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    versions = [f"{name} {version}" for name, version in found.items() if isinstance(version, str)]
    sees = ", ".join(found.get("sees", ())) or "no GPU"
    return {"trainer": ", ".join(versions), "torch sees": sees}


def _wrong(
    found: Mapping[str, Any], needed: Mapping[str, Severity], settings: Settings, points: Sequence[Params]
) -> Iterator[Problem]:
    trainer = settings.trainer
    setup = release.setup_remedy(trainer.python, trainer.sd_scripts)
    changed = [step.set for step in settings.oom_fallback if "optimizer_type" in step.set]
    reasons = {module: key for params in (*changed, *points) for module, key in packages(params).items()}
    for name, severity in needed.items():
        if isinstance(found.get(name), dict):
            key = reasons.get(name)
            what = f"cannot import {name}{f', which {key} needs' if key else ''}: {found[name]['error']}"
            remedy = f"run {install_command(trainer.python, name)}, or change {key}" if key else setup
            yield _problem(settings, what, remedy, severity)
    if str(found.get("transformers", "")).partition(".")[0] not in ("", "4") and _needs_transformers_4(settings):
        what = f"has transformers {found['transformers']}: these sd-scripts need 4"
        yield _problem(settings, what, f"run `{trainer.python} -m pip install 'transformers>=4.54,<5'`")
    if settings.vram.card != NO_GPU and isinstance(found.get("torch"), str) and not found.get("cuda"):
        what = f"sees no GPU (torch {found['torch']}, built for {found['built for']})"
        yield _problem(
            settings, what, "repair the driver (`nvidia-smi` must list the GPU), or install a torch built for CUDA"
        )


def _needs_transformers_4(settings: Settings) -> bool:
    """Whether these sources import a class that transformers 5 does not have, as sd-scripts did before v0.10.5."""
    source = settings.trainer.sd_scripts / "library" / "lpw_stable_diffusion.py"
    return not source.is_file() or "import CLIPFeatureExtractor" in source.read_text(encoding="utf-8-sig")


def _problem(settings: Settings, what: str, remedy: str, severity: Severity = Severity.ERROR) -> Problem:
    place, value = str(settings.path), str(settings.trainer.python)
    return Problem(what=what, where=place, key="trainer.python", value=value, remedy=remedy, severity=severity)
