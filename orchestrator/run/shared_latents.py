"""Which latents trainings share: by all that they are made of, so that none is ever taken for another's."""

import json
from collections.abc import Iterable, Mapping

from orchestrator import datasets
from orchestrator.config.schema import Dataset, Settings
from orchestrator.kohya import latents as of_sd_scripts
from orchestrator.model import TREATMENTS, Params, Point, PreparedDataset
from orchestrator.plan import freeze
from orchestrator.store import layout, provenance, records
from orchestrator.store.layout import Run


def latents(
    points: Iterable[Point], used: Settings, prepared: Mapping[str, PreparedDataset], hashes: provenance.Hashes
) -> dict[str, Run]:
    """By point id, where the latents are, or are to be made, that a point asks to have on the disk.

    prepared: the datasets of these points by name, as they lie in `runs/.datasets`.
    """
    asking = [point for point in points if not point.is_baseline and of_sd_scripts.on_disk(point.params)]
    trainer = _trainer(used) if asking else ""
    return {point.id: _run(point, used, prepared, trainer, hashes) for point in asking}


def _run(
    point: Point, used: Settings, prepared: Mapping[str, PreparedDataset], trainer: str, hashes: provenance.Hashes
) -> Run:
    dataset = datasets.dataset_for_point(point.params, used.datasets)
    made_of = {
        "pictures": records.read(prepared[dataset.name].folder.parent / "dataset.json")["content"],
        "vae": _vae(point, used, hashes),
        "trainer": trainer,
        "arguments": of_sd_scripts.deciding({**point.params, **dataset.subset}),
    }
    key = provenance.sha256_text(json.dumps(made_of, sort_keys=True))
    name = f"{dataset.name}-{key[:16]}"
    return layout.latents(used.runs, Point(id=key[:8], name=name, params=_params(point, dataset)))


def _params(point: Point, dataset: Dataset) -> Params:
    """What there is to know of the point; of its seed only which of several draws it falls to."""
    kept = {key: point.params[key] for key in (*TREATMENTS, *of_sd_scripts.DECIDING) if key in point.params}
    choose = dataset.recipe.choose if dataset.recipe else None
    return {**kept, "seed": choose.draw} if choose else kept


def _vae(point: Point, used: Settings, hashes: provenance.Hashes) -> str:
    """Its own file, else the base model's, which holds one."""
    base = used.base_models[str(point.params["base_model"])]
    return hashes.of(base.vae or base.path)


def _trainer(used: Settings) -> str:
    """Its commit, and the program, which need not be of that checkout."""
    script = used.trainer.sd_scripts / used.trainer.latents_script
    return f"{freeze.trainer_identity(used)} {provenance.sha256(script)}"
