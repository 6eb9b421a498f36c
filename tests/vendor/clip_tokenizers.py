"""The two tokenizers that sd-scripts otherwise downloads, written from CLIP's published vocabulary.

The vocabulary is the file `bpe_simple_vocab_16e6.txt.gz` of OpenAI's CLIP; the package open_clip_torch carries it.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

PADDING = {
    "openai_clip-vit-large-patch14": "<|endoftext|>",
    "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k": "!",
}
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2


def write(archive: Path, folder: Path) -> Path:
    """Make `folder` a `--tokenizer_cache_dir`; returns it."""
    merges = gzip.decompress(archive.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    letters = _letters()
    words = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(pair.split()) for pair in merges),
        START,
        END,
    ]
    for name, padding in PADDING.items():
        _tokenizer(folder / name, words, merges, padding)
    return folder


def _letters() -> list[str]:
    """One printable character per byte, in CLIP's order: those that print as themselves first."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    borrowed = range(256, 512 - len(own))
    return [chr(code) for code in (*own, *borrowed)]


def _tokenizer(folder: Path, words: Sequence[str], merges: Sequence[str], padding: str) -> None:
    folder.mkdir(parents=True)
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **marks}
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(marks), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
