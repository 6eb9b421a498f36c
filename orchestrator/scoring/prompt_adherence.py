"""Adds to scores how well the pictures follow their prompts, from a program in the trainer's interpreter."""

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
"""What a CLIP folder holds at least, as transformers saves it."""

_UNREAD = frozenset({FaceStatus.UNREADABLE, FaceStatus.ERROR})


def files(model: Path) -> list[Path]:
    """What of a CLIP folder is read: its weights, settings and vocabulary."""
    return sorted(path for path in model.glob("*") if path.suffix in (".safetensors", ".json", ".txt"))


def without(triggers: Iterable[str], text: str) -> str:
    """A prompt without the words that only a LoRA understands: CLIP has never seen them."""
    for trigger in sorted(filter(None, triggers), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", " ", text)
    return " ".join(text.split())


def with_adherence(
    scores: Sequence[Score], asked: scoring.ClipConfig, *, root: Path, folder: Path
) -> tuple[Score, ...]:
    """The scores with their adherence, None for pictures that could not be read or prompts of triggers alone.

    root: what the pictures' files are relative to; folder: where job and answer are kept. Raises NotReady.
    """
    texts = [without(asked.triggers, score.image.text) for score in scores]
    chosen = [index for index, score in enumerate(scores) if texts[index] and score.status not in _UNREAD]
    pairs = [{"picture": str(root / scores[index].image.file), "text": texts[index]} for index in chosen]
    cosines = dict(zip(chosen, _cosines(pairs, asked, folder), strict=True))
    return tuple(replace(score, adherence=cosines.get(index)) for index, score in enumerate(scores))


def _cosines(pairs: list[dict[str, str]], asked: scoring.ClipConfig, folder: Path) -> list[float]:
    if not pairs:
        return []
    job, out = folder / "adherence-job.json", folder / "adherence.json"
    asks = {"schema": adherence.SCHEMA, "model": str(asked.model), "device": asked.device, "pairs": pairs}
    job.write_text(json.dumps(asks), encoding="utf-8")
    argv = [str(asked.python), adherence.__file__, str(job), str(out)]
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NotReady(Problem(what=f"CLIP did not run: {last}", where=str(asked.model), key="score.clip"))
    cosines: list[float] = json.loads(out.read_text(encoding="utf-8"))["cosines"]
    return cosines
