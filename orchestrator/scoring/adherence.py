"""CLIP: embeddings of images, and their cosines to the embeddings of their prompts (adherence).

    python adherence.py JOB.json OUT.json

It runs in the trainer's interpreter (Python 3.10 or later, with torch and transformers but without this package), so
it imports only the standard library at the top. The job is a JSON file in UTF-8:

    {
      "schema": 2,
      "model": "/abs/clip-vit-large-patch14",
      "device": "cpu",
      "pairs": [{"image": "/abs/0001.png", "text": "photo of a woman in a red coat"}]
    }

`model` is a folder as transformers saves it. Nothing is downloaded. Only safetensors weights are read, because other
formats can contain code. The output is `{"schema": 2, "cosines": [0.24], "embeddings": ["..."]}`, in the order of the
pairs; an embedding is base64 of float32, of length 1. Texts are cut to 77 tokens and may be empty. On stdout lines like
`prompted: 8/64`.
"""

import array
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

SCHEMA = 2
_BATCH = 8


def main(job_file: Path, out: Path) -> None:
    """Raises ValueError for a job with another schema, OSError for a model or image that cannot be read."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")  # read when transformers is imported
    job = json.loads(job_file.read_text(encoding="utf-8"))
    if job["schema"] != SCHEMA:
        raise ValueError(f"{job_file}: schema {job['schema']}, this program reads {SCHEMA}")
    cosines, embeddings = embed(job)
    out.write_text(json.dumps({"schema": SCHEMA, "cosines": cosines, "embeddings": embeddings}), encoding="utf-8")


def embed(job: "dict[str, Any]") -> "tuple[list[float], list[str]]":
    """One cosine and one embedding per pair, in order."""
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(job["model"], local_files_only=True, use_safetensors=True)
    model = model.float().eval().to(job["device"])
    processor = CLIPProcessor.from_pretrained(job["model"], local_files_only=True)
    pairs, cosines, embeddings = job["pairs"], [], []
    for start in range(0, len(pairs), _BATCH):
        for cosine, embedding in _batch(model, processor, pairs[start : start + _BATCH]):
            cosines.append(cosine)
            embeddings.append(base64.b64encode(array.array("f", embedding).tobytes()).decode())
        print(f"prompted: {len(cosines)}/{len(pairs)}", flush=True)
    return cosines, embeddings


def _batch(model: Any, processor: Any, pairs: "list[dict[str, str]]") -> "list[tuple[float, list[float]]]":
    import torch
    from PIL import Image

    inputs = processor(
        text=[pair["text"] for pair in pairs],
        images=[Image.open(pair["image"]).convert("RGB") for pair in pairs],
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
    )
    with torch.inference_mode():
        output = model(**inputs.to(model.device))
    cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
    images = torch.nn.functional.normalize(output.image_embeds)
    return list(zip(cosine.tolist(), images.tolist(), strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
