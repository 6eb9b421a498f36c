"""Takes a run's LoRA home: the chosen checkpoint under a speaking name, a model card, and what loads it."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from orchestrator import files
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, NothingSelected, OrchestrateError, Problem
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.model import State
from orchestrator.report.export import card, workflow
from orchestrator.store.hashes import sha256
from orchestrator.store.layout import Sweep

FOLDER = "export"


def choose(ranked: Sequence[RunSummary], pattern: str, sweep: Sweep) -> RunSummary:
    """The best run, or the one run whose name or id matches. Raises NothingSelected, or InputError when several do."""
    finished = [one for one in ranked if one.status.state is State.FINISHED and one.choice]
    matching = [one for one in finished if not pattern or _matches(one, pattern)]
    if not matching:
        what = f"no finished run of {sweep.name} matches" if pattern else f"no run of {sweep.name} is finished yet"
        raise NothingSelected(Problem(what=what, value=pattern, remedy=f"`orchestrate status {sweep.name}`"))
    if pattern and len(matching) > 1:
        names = ", ".join(one.run.point.id for one in matching)
        what = f"{len(matching)} runs match, and one is taken home at a time"
        raise InputError(Problem(what=what, key="--run", value=pattern, remedy=f"name one of {names}"))
    return matching[0]


def _matches(one: RunSummary, pattern: str) -> bool:
    return fnmatch(one.run.point.name, pattern) or fnmatch(one.run.point.id, pattern)


def export(one: RunSummary, summary: SweepSummary, settings: Settings) -> list[Path]:
    """Write the files into the sweep's export folder; replaces older ones.

    Raises OrchestrateError when the checkpoint is gone or is not the one that was scored.
    """
    sweep = summary.sweep
    folder, name = sweep.path / FOLDER, name_of(one, sweep)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}{ending}" for ending in (".safetensors", ".md", ".comfyui.json", ".a1111.txt")]
    _copy(one, paths[0])
    files.write_text(paths[1], card.text(one, name, summary, settings))
    files.write_text(paths[2], json.dumps(workflow.comfyui(one, name, settings), ensure_ascii=False, indent=1) + "\n")
    files.write_text(paths[3], workflow.a1111(one, name, settings) + "\n")
    return paths


def name_of(one: RunSummary, sweep: Sweep) -> str:
    """The sweep, the dims and the id, in letters that every program takes in a file name and in a prompt."""
    checkpoint = one.choice.checkpoint if one.choice else ""
    step = re.search(r"-(?:step)?(\d+)$", Path(checkpoint).stem)
    epoch = f"_{int(step[1])}" if step else ""
    dims, _, identity = one.run.point.name.rpartition("-")
    return re.sub(r"[^A-Za-z0-9._]+", "-", f"{sweep.name}_{dims}{epoch}_{identity}").strip("-")


def _copy(one: RunSummary, target: Path) -> None:
    """Whole or not at all, and the very file whose pictures were scored."""
    chosen = next(item for item in one.run.checkpoints() if one.choice and item.file == one.choice.checkpoint)
    source, draft = one.run.path / chosen.file, target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if not source.exists():
        raise OrchestrateError(
            Problem(what="the chosen checkpoint is gone", where=str(source), remedy="train it again")
        )
    shutil.copyfile(source, draft)
    if chosen.sha256 and sha256(draft) != chosen.sha256:
        draft.unlink()
        what, remedy = "is not the file that was scored: its hash is another", "train the run again in a new sweep"
        raise OrchestrateError(Problem(what=what, where=str(source), remedy=remedy))
    draft.replace(target)
