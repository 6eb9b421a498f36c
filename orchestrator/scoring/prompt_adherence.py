"""Runs CLIP in the trainer's interpreter (see `adherence`): adherence to the prompts, and embeddings of the images."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator import scoring
from orchestrator.errors import NotReady, Problem
from orchestrator.files import read_json
from orchestrator.model import FaceStatus, Score
from orchestrator.scoring import adherence

FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json")
"""What a CLIP folder contains at least, as transformers saves it."""


def files(model: Path) -> list[Path]:
    """The files of a CLIP folder that are read: weights, settings and vocabulary."""
    return sorted(path for path in model.glob("*") if path.suffix in (".safetensors", ".json", ".txt"))


def without(triggers: Iterable[str], text: str) -> str:
    """A prompt without the triggers, which CLIP does not know."""
    return replaced(triggers, text, " ")


def replaced(triggers: Iterable[str], text: str, by: str) -> str:
    """A prompt with other words in place of the triggers."""
    longest_first = sorted(filter(None, triggers), key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first))
    return " ".join((re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", lambda _: by, text) if pattern else text).split())


def drift_prompts(triggers: Iterable[str], prompts: Iterable[str]) -> frozenset[str]:
    """The prompts without a trigger, which measure drift; none if no prompt has a trigger."""
    texts, triggers = list(prompts), list(triggers)
    plain = frozenset(text for text in texts if without(triggers, text) == without((), text))
    return plain if plain < set(texts) else frozenset()


def measure(
    scores: Sequence[Score], clip: scoring.ClipConfig, *, root: Path, folder: Path
) -> tuple[tuple[Score, ...], NDArray[np.float32]]:
    """The scores with their adherence, and (images, width) CLIP embeddings of the images, of length 1.

    Unreadable images have neither. Prompts that contain only triggers have no adherence; only images of prompts without
    a trigger have an embedding, because a LoRA is meant to change the others. root: the images' files are
    relative to it. folder: for the program's input and output. Raises NotReady.
    """
    unreadable = (FaceStatus.UNREADABLE, FaceStatus.ERROR)
    chosen = [index for index, score in enumerate(scores) if score.status not in unreadable]
    texts = [without(clip.triggers, scores[index].image.text) for index in chosen]
    pairs = [{"image": str(root / scores[i].image.file), "text": text} for i, text in zip(chosen, texts, strict=True)]
    output = _run(pairs, clip, folder) if pairs else {"cosines": [], "embeddings": []}
    found = list(scores)
    for index, text, cosine in zip(chosen, texts, output["cosines"], strict=True):
        found[index] = replace(found[index], adherence=cosine if text else None)
    rows = [np.frombuffer(base64.b64decode(text), "<f4") for text in output["embeddings"]]
    embeddings = np.full((len(scores), len(rows[0]) if rows else 0), np.nan, np.float32)
    for index, text, row in zip(chosen, texts, rows, strict=True):
        if text == without((), scores[index].image.text):
            embeddings[index] = row
    return tuple(found), embeddings


def _run(pairs: list[dict[str, str]], clip: scoring.ClipConfig, folder: Path) -> dict[str, Any]:
    job, out = folder / "adherence-job.json", folder / "adherence.json"
    record = {"schema": adherence.SCHEMA, "model": str(clip.model), "device": clip.device, "pairs": pairs}
    job.write_text(json.dumps(record), encoding="utf-8")
    argv = [str(clip.python), adherence.__file__, str(job), str(out)]
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NotReady(Problem(what=f"CLIP failed: {last}", where=str(clip.model), key="score.clip"))
    try:
        return dict(read_json(out))
    except ValueError as error:
        raise NotReady(Problem(what=f"CLIP failed: {error}", where=str(clip.model), key="score.clip")) from error
