"""Adds the adherence to the prompt, by CLIP, to scores. CLIP runs in the trainer's interpreter: see `adherence`."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator import scoring
from orchestrator.errors import NotReady, Problem
from orchestrator.model import FaceStatus, Score
from orchestrator.scoring import adherence

FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json")
"""What a CLIP folder contains at least, as transformers saves it."""


def files(model: Path) -> list[Path]:
    """The files of a CLIP folder that are read: weights, settings and vocabulary."""
    return sorted(path for path in model.glob("*") if path.suffix in (".safetensors", ".json", ".txt"))


def without(triggers: Iterable[str], text: str) -> str:
    """A prompt without the triggers, which CLIP does not know."""
    for trigger in sorted(filter(None, triggers), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", " ", text)
    return " ".join(text.split())


def with_adherence(scores: Sequence[Score], clip: scoring.ClipConfig, *, root: Path, folder: Path) -> tuple[Score, ...]:
    """The scores with their adherence; None for unreadable images and prompts that contain only triggers.

    root: the images' files are relative to it. folder: for the program's input and output. Raises NotReady.
    """
    texts = [without(clip.triggers, score.image.text) for score in scores]
    unreadable = (FaceStatus.UNREADABLE, FaceStatus.ERROR)
    chosen = [index for index, score in enumerate(scores) if texts[index] and score.status not in unreadable]
    pairs = [{"picture": str(root / scores[index].image.file), "text": texts[index]} for index in chosen]
    cosines = dict(zip(chosen, _cosines(pairs, clip, folder) if pairs else [], strict=True))
    return tuple(replace(score, adherence=cosines.get(index)) for index, score in enumerate(scores))


def _cosines(pairs: list[dict[str, str]], clip: scoring.ClipConfig, folder: Path) -> list[float]:
    job, out = folder / "adherence-job.json", folder / "adherence.json"
    record = {"schema": adherence.SCHEMA, "model": str(clip.model), "device": clip.device, "pairs": pairs}
    job.write_text(json.dumps(record), encoding="utf-8")
    argv = [str(clip.python), adherence.__file__, str(job), str(out)]
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NotReady(Problem(what=f"CLIP failed: {last}", where=str(clip.model), key="score.clip"))
    cosines: list[float] = json.loads(out.read_text(encoding="utf-8"))["cosines"]
    return cosines
