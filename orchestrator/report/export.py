"""Exports a run's LoRA as a folder to upload: checkpoint, model card, ComfyUI workflow, A1111 prompt and samples."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrator import files
from orchestrator.config import grid
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, NothingSelected, OrchestrateError, Problem
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.kohya import web_ui
from orchestrator.kohya.outputs import safetensors_header
from orchestrator.model import State
from orchestrator.report import model_card, sheet, workflow
from orchestrator.store import hashes
from orchestrator.store.layout import Sweep

FOLDER, CARD = "export", "README.md"


def choose(ranked: Sequence[RunSummary], pattern: str, sweep: Sweep) -> RunSummary:
    """The best finished run, of confirmed ones the best on new images, or the only one that matches the glob.

    Raises NothingSelected if none matches, InputError if several do.
    """
    found = [one for one in ranked if one.status.state is State.FINISHED and one.choice]
    if pattern:
        found = [one for one in found if grid.selects(pattern, one.run.point)]
    if not found:
        what = f"no finished run of {sweep.name} matches" if pattern else f"no run of {sweep.name} is finished"
        remedy = f"`orchestrate status {sweep.name}` lists the runs"
        raise NothingSelected(Problem(what=what, value=pattern, remedy=remedy))
    if pattern and len(found) > 1:
        names = ", ".join(one.run.point.id for one in found)
        what = f"matches {len(found)} runs, but one run is exported at a time"
        raise InputError(Problem(what=what, key="--run", value=pattern, remedy=f"use one of the ids {names}"))
    confirmed = [(one.degraded, -one.confirmation.comparison.confirmed, one) for one in found if one.confirmation]
    return min(confirmed, key=lambda item: item[:2])[2] if confirmed else found[0]


def export(one: RunSummary, summary: SweepSummary, settings: Settings) -> list[Path]:
    """Write the files into a folder of the sweep's export folder; replaces older ones.

    Raises OrchestrateError if the checkpoint is missing or is not the scored file.
    """
    name = name_of(one, summary.sweep)
    folder = summary.sweep.path / FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    for draft in folder.glob(".*.tmp"):  # the folder is passed on: without what a killed export has left
        if not Path("/proc", draft.suffixes[-2].lstrip(".")).exists():
            draft.unlink()
    lora = folder / f"{name}.safetensors"
    _copy_checkpoint(one, lora)
    loaded = [lora]
    if web_ui.is_oft(safetensors_header.read_header(lora)):
        loaded.append(folder / f"{name}-lycoris.safetensors")
        web_ui.write_oft(lora, loaded[-1])
    nodes = json.dumps(workflow.comfyui(one, loaded[-1].stem, settings), ensure_ascii=False, indent=1)
    texts = {
        CARD: model_card.text(one, name, summary, settings, loading(lora, one)),
        f"{name}.comfyui.json": f"{nodes}\n",
        f"{name}.a1111.txt": f"{workflow.a1111(one, loaded[-1].stem, settings)}\n",
    }
    for file, text in texts.items():
        files.write_text(folder / file, text)
    sheet.write_samples(one, folder / model_card.SAMPLES)
    return [*loaded, *(folder / file for file in (*texts, model_card.SAMPLES))]


def loading(lora: Path, one: RunSummary) -> list[str]:
    """What to know before the exported LoRA is loaded in ComfyUI or A1111, as sentences."""
    header = safetensors_header.read_header(lora)
    copy = (
        f"ComfyUI does not know the key names of networks.oft: load {lora.stem}-lycoris.safetensors there and in A1111"
    )
    return [
        *([copy] if web_ui.is_oft(header) else []),
        *web_ui.deviations(header, one.choice.strength if one.choice else 1.0),
    ]


def name_of(one: RunSummary, sweep: Sweep) -> str:
    """Sweep, dims, epoch or average, and id, in characters that are valid in file names and in prompts."""
    end = re.search(r"-(?:step)?(?:(\d{6,})|(mean.*|ema.*))$", Path(one.choice.checkpoint).stem) if one.choice else None
    epoch = f"_{int(end[1]) if end[1] else end[2]}" if end else ""
    dims, _, identity = one.run.point.name.rpartition("-")
    return re.sub(r"[^A-Za-z0-9._]+", "-", f"{sweep.name}_{dims}{epoch}_{identity}").strip("-")


def _copy_checkpoint(one: RunSummary, target: Path) -> None:
    """Copy the selected checkpoint atomically, and only if it is the scored file."""
    chosen = next(item for item in one.run.checkpoints() if one.choice and item.file == one.choice.checkpoint)
    source, draft = one.run.path / chosen.file, target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if not source.exists():
        remedy = "train the run again: delete its folder, then run the sweep with the same command as before"
        raise OrchestrateError(Problem(what="the selected checkpoint is missing", where=str(source), remedy=remedy))
    shutil.copyfile(source, draft)
    if chosen.sha256 and hashes.sha256(draft) != chosen.sha256:
        draft.unlink()
        what, remedy = "is not the file that was scored: its hash differs", "train the run again in a new sweep"
        raise OrchestrateError(Problem(what=what, where=str(source), remedy=remedy))
    files.sync(draft)
    draft.replace(target)
