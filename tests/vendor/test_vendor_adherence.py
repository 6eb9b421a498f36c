"""CLIP in the trainer's interpreter: a small one with random weights, from a folder as transformers saves it."""

import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from small_world import Trainer, World

from orchestrator.scoring import adherence, prompt_adherence

MAKE = """
import sys, torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast
torch.manual_seed(0)
small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
config = CLIPConfig(
    text_config={**small, "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407},
    vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16)
model = CLIPModel(config)
model.save_pretrained(sys.argv[1], safe_serialization=sys.argv[3] == "safe")
pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
words = CLIPTokenizerFast.from_pretrained(sys.argv[2])
CLIPProcessor(image_processor=pictures, tokenizer=words).save_pretrained(sys.argv[1])
"""

ONE_BY_ONE = """
import json, sys, torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor
model, processor = CLIPModel.from_pretrained(sys.argv[1]).eval(), CLIPProcessor.from_pretrained(sys.argv[1])
found = []
for pair in json.loads(sys.argv[2]):
    words = processor(text=pair["text"], return_tensors="pt", truncation=True)
    seen = processor(images=Image.open(pair["image"]), return_tensors="pt")
    with torch.no_grad():
        text = model.text_projection(model.text_model(**words).pooler_output)
        picture = model.visual_projection(model.vision_model(**seen).pooler_output)
    found.append(torch.cosine_similarity(text, picture).item())
print(json.dumps(found))
"""


def make(trainer: Trainer, tiny: World, folder: Path, kind: str = "safe") -> Path:
    tokenizer = tiny.folder / "tokenizers" / "openai_clip-vit-large-patch14"
    subprocess.run([trainer.python, "-c", MAKE, folder, tokenizer, kind], check=True, capture_output=True)
    return folder


def ask(trainer: Trainer, folder: Path, model: Path, pairs: list[dict[str, str]]) -> subprocess.CompletedProcess[str]:
    job = {"schema": adherence.SCHEMA, "model": str(model), "device": "cpu", "pairs": pairs}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    argv = [trainer.python, adherence.__file__, folder / "job.json", folder / "out.json"]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_cosines_are_those_of_one_pair_at_a_time(trainer: Trainer, tiny: World, tmp_path: Path) -> None:
    model = make(trainer, tiny, tmp_path / "clip")
    assert all((model / name).is_file() for name in prompt_adherence.FILES)
    images = sorted((tiny.folder / "references").glob("*.png"))
    texts = ["a red coat", "a very long prompt, " * 40, ""]
    pairs = [{"image": str(images[n % len(images)]), "text": texts[n % 3]} for n in range(10)]
    done = ask(trainer, tmp_path, model, pairs)
    assert done.stdout.splitlines() == ["prompted: 8/10", "prompted: 10/10"], done.stderr
    alone = subprocess.run(
        [trainer.python, "-c", ONE_BY_ONE, model, json.dumps(pairs)], check=True, capture_output=True, text=True
    )
    output = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert output["cosines"] == pytest.approx(json.loads(alone.stdout), abs=1e-5)
    assert len(set(output["cosines"])) > 5
    rows = [np.frombuffer(base64.b64decode(text), "<f4") for text in output["embeddings"]]
    assert [len(row) for row in rows] == [16] * 10
    assert [float(row @ row) for row in rows] == pytest.approx([1.0] * 10, abs=1e-5)


def test_weights_that_can_hold_code_are_not_loaded(trainer: Trainer, tiny: World, tmp_path: Path) -> None:
    model = make(trainer, tiny, tmp_path / "clip", kind="pickle")
    assert (model / "pytorch_model.bin").is_file()
    done = ask(trainer, tmp_path, model, [{"image": str(tmp_path / "a.png"), "text": "a hill"}])
    assert done.returncode
    assert "safetensors" in done.stderr
    assert not (tmp_path / "out.json").exists()
