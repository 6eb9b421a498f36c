"""Adherence to the prompt, by CLIP: the cosine between the embeddings of an image and of its prompt.

    python adherence.py JOB.json OUT.json

It runs in the trainer's interpreter (Python 3.10 or later, with torch and transformers but without this package), so
it imports only the standard library at the top. The job is a JSON file in UTF-8:

    {
      "schema": 1,
      "model": "/abs/clip-vit-large-patch14",
      "device": "cpu",
      "pairs": [{"picture": "/abs/0001.png", "text": "photo of a woman in a red coat"}]
    }

`model` is a folder as transformers saves it. Nothing is downloaded. Only safetensors weights are read, because other
formats can contain code. The output is `{"schema": 1, "cosines": [0.24]}`, in the order of the pairs. Texts are cut
to 77 tokens. On stdout lines like `prompted: 8/64`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

SCHEMA = 1
_BATCH = 8


def main(job_file: Path, out: Path) -> None:
    """Raises ValueError for a job with another schema, OSError for a model or image that cannot be read."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")  # read when transformers is imported
    job = json.loads(job_file.read_text(encoding="utf-8"))
    if job["schema"] != SCHEMA:
        raise ValueError(f"{job_file}: schema {job['schema']}, this program reads {SCHEMA}")
    out.write_text(json.dumps({"schema": SCHEMA, "cosines": cosines(job)}), encoding="utf-8")


def cosines(job: "dict[str, Any]") -> "list[float]":
    """One per pair, in order."""
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(job["model"], local_files_only=True, use_safetensors=True)
    model = model.float().eval().to(job["device"])
    processor = CLIPProcessor.from_pretrained(job["model"], local_files_only=True)
    pairs, found = job["pairs"], []
    for start in range(0, len(pairs), _BATCH):
        found += _batch(model, processor, pairs[start : start + _BATCH])
        print(f"prompted: {len(found)}/{len(pairs)}", flush=True)
    return found


def _batch(model: Any, processor: Any, pairs: "list[dict[str, str]]") -> "list[float]":
    import torch
    from PIL import Image

    inputs = processor(
        text=[pair["text"] for pair in pairs],
        images=[Image.open(pair["picture"]).convert("RGB") for pair in pairs],
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
    )
    with torch.inference_mode():
        output = model(**inputs.to(model.device))
    cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
    return [float(value) for value in cosine]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
