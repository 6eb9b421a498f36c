"""What a made dataset's pictures hang on, as one hash: its source, its recipe, and what the recipe looks at."""

from dataclasses import asdict, replace
from typing import Any

from orchestrator import images
from orchestrator.config.schema import Dataset, Scoring
from orchestrator.datasets import builder, video
from orchestrator.scoring import faces
from orchestrator.store.hashes import HashCache, sha256_json


def key_of(dataset: Dataset, source_key: str, scoring: Scoring, hashes: HashCache) -> str:
    """NotReady where faces are needed and there is no face pack."""
    recipe = dataset.recipe
    assert recipe
    choose = replace(recipe.choose, num_subsets=1) if recipe.choose else None
    parts: dict[str, Any] = {
        "rule": builder.RULE,
        "source": source_key,
        "recipe": asdict(replace(recipe, source="", frames=None, choose=choose)),
        "caption": [dataset.caption_extension, dataset.trigger],
    }
    if recipe.needs_faces:
        parts["faces"] = faces.inspect(scoring.pack, det_size=scoring.det_size).fingerprint
    if recipe.frames:
        parts["frames"] = asdict(recipe.frames) | {"videos": hashes.of_all(video.files(recipe.frames.videos))}
        parts["references"] = hashes.of_all(images.pictures(scoring.references).pictures)
    return sha256_json(parts)
