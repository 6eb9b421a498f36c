"""Freezes a plan: records all inputs of a sweep once, and rejects later changes."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator import images
from orchestrator import text as formatting
from orchestrator.config.schema import BaseModel, Comparison, Dataset, Lora, Scoring, Settings
from orchestrator.errors import Conflict, Problem, error, warning
from orchestrator.kohya import config_files
from orchestrator.kohya.arguments import network_lint
from orchestrator.model import LORA, PreparedDataset
from orchestrator.plan.plan import Plan
from orchestrator.scoring import faces, prompt_adherence
from orchestrator.store import layout, provenance
from orchestrator.store.hashes import HashCache, sha256, sha256_json
from orchestrator.store.layout import Sweep

_THREADS = "trainer.threads"


def freeze(plan: Plan, prepared: Mapping[str, PreparedDataset], hashes: HashCache, *, threads: int) -> int | None:
    """Create the sweep, or replace its points and questions by those of the plan, unless the plan is a follow-up.

    threads: of each program of a new sweep, unless the settings name a number. Returns the sweep's number, None for one
    that was frozen without. Raises Conflict when the inputs of the sweep have changed. Needs the sweep's lock.
    """
    fingerprint = _of_settings(plan) | _of_files(plan, prepared, hashes)
    begun = {_THREADS: str(plan.settings.trainer.threads or threads)}
    new: dict[str, Any] = {"fingerprint": begun, "points": [], "questions": []}
    old = plan.sweep.record() if plan.sweep.exists() else new
    if changed := _conflicts(plan, fingerprint):
        raise Conflict(*changed)
    current = {key: _json([asdict(one) for one in getattr(plan, key)]) for key in ("points", "questions")}
    current["design"] = asdict(plan.design) if plan.design else None
    current["margins"] = asdict(plan.margins)
    current["seeds_extended"] = _extended(old, current, plan)
    record = {
        "name": plan.sweep.name,
        "created_at": old.get("created_at", formatting.now()),
        "settings": old.get("settings", str(plan.settings.path)),
        "fingerprint": {**old["fingerprint"], **fingerprint},
        "grid": str(plan.grid_file) if plan.grid_file else old.get("grid", ""),
        "versions": provenance.versions(),
        **({key: old.get(key) for key in current} if plan.is_followup else current),
    }
    if any(old.get(key) != record[key] for key in ("fingerprint", *current)):
        plan.sweep.freeze(record, grid=plan.grid_text, templates=_templates(plan.settings.templates))
    known = str(record["fingerprint"].get(_THREADS))
    return int(known) if known.isdecimal() else None


def conflicts(plan: Plan) -> list[Problem]:
    """The changed inputs of a sweep as `freeze` reports them, without images and models, which are not read."""
    return _conflicts(plan, _of_settings(plan)) if plan.sweep.exists() else []


def upgrades(sweep: Sweep, environment: Mapping[str, Any], comparison: Comparison) -> list[Problem]:
    """A warning if the sweep has runs that were trained with other hardware or versions than `environment`."""
    trained = [run for run in sweep.runs() if run.point.is_trained and run.done("train")]
    made = [run.attempts("train")[-1].request().get("environment") for run in trained]
    now = provenance.comparable(environment)
    changed = Counter(name for one in made for name in provenance.differences(provenance.comparable(one), now))
    if not changed:
        return []
    names = ", ".join(f"{name} now ({formatting.pluralize(count, 'run')})" for name, count in changed.items())
    remedy = "restore the versions, or train all runs under a new --name"
    if not comparison.allow_different_hardware:
        remedy += "; `allow_different_hardware = true` in [comparison] compares them anyway"
    what = f"was trained with other hardware or versions: {names}; such runs are not compared with new ones"
    return [warning("", what, remedy, where=str(sweep.path))]


def _conflicts(plan: Plan, fingerprint: Mapping[str, str]) -> list[Problem]:
    old = plan.sweep.fingerprint() if plan.sweep.exists() else {}
    return [
        _changed(key, old[key], value, plan.sweep) for key, value in fingerprint.items() if old.get(key, value) != value
    ]


def _extended(old: Mapping[str, Any], current: Mapping[str, Any], plan: Plan) -> bool:
    """Whether seeds are added to runs with known results, without a maximum that was declared before."""
    ids = {record["id"] for record in current["points"]}
    kept = [record for record in old["points"] if record["id"] in ids and _seed(record)]
    if not any(plan.sweep.run(layout.point_of(record)).done("score") for record in kept):
        return False
    if old.get("seeds_extended"):
        return True
    if plan.design:
        return bool(old.get("design") != current["design"])
    before, now = (
        {_seed(record) for record in records if _seed(record)} for records in (old["points"], current["points"])
    )
    return bool(now - before)


def _seed(record: Mapping[str, Any]) -> str:
    """The training seed of a point, as JSON; empty for a point that is not trained."""
    trained = layout.point_of(record).is_trained
    return json.dumps(record["params"].get("seed")) if trained else ""


def _json(value: Any) -> Any:
    """The value as read back from JSON: lists instead of tuples."""
    return json.loads(json.dumps(value))


def _of_settings(plan: Plan) -> dict[str, str]:
    """Every input that changes an image or a score and is not an argument of a point, by the name for messages."""
    settings = plan.settings
    bases = dict.fromkeys(str(point.params["base_model"]) for point in plan.points)
    generation = {key: value for key, value in asdict(settings.generation).items() if "prompts" not in key}
    return {
        **{f"templates/{name}": sha256_json(text) for name, text in _templates(settings.templates).items()},
        **{f"generate.{key}": json.dumps(value) for key, value in generation.items()},
        "generate.prompts": sha256_json(plan.prompts),
        "trainer": trainer_identity(settings),
        **({_THREADS: str(settings.trainer.threads)} if settings.trainer.threads else {}),
        **({"early_stop": json.dumps(asdict(settings.early_stop))} if settings.early_stop else {}),
        **{f"base_models.{name} generation": json.dumps(settings.base_models[name].generation) for name in bases},
        **{f"loras.{one.name}": json.dumps([one.trigger, one.strength]) for one in _loras(plan)},
        **{f"datasets.{name}": json.dumps(subset_keys(settings.datasets[name])) for name in _datasets(plan)},
        **{
            f"datasets.{name}.resolutions": json.dumps(settings.datasets[name].resolutions)
            for name in _datasets(plan)
            if settings.datasets[name].resolutions
        },
    }


def _of_files(plan: Plan, prepared: Mapping[str, PreparedDataset], hashes: HashCache) -> dict[str, str]:
    """The same of images, models and LoRA files."""
    settings = plan.settings
    bases = dict.fromkeys(str(point.params["base_model"]) for point in plan.points)
    return {
        "face pack": _pack(settings.scoring, settings.scoring.pack),
        **({"second face pack": _pack(settings.scoring, second)} if (second := settings.scoring.second_pack) else {}),
        **_clip(plan, hashes),
        "references": hashes.of_all(images.list_images(settings.scoring.references).paths),
        **{f"base_model {name}": _base(settings.base_models[name], hashes) for name in bases},
        **{f"file {path}": hashes.of(path) for path in _named_files(plan)},
        **{f"lora {one.name}": hashes.of(one.path) for one in _loras(plan)},
        **{f"dataset {name}": one.key for name, one in prepared.items()},
    }


def _loras(plan: Plan) -> list[Lora]:
    return [plan.settings.loras[str(point.params[LORA])] for point in plan.points if LORA in point.params]


def _named_files(plan: Plan) -> list[Path]:
    """The files that arguments of the points name, such as network_weights."""
    params = [point.params for point in plan.points if not point.is_baseline]
    found = [path for one in params for key in network_lint.FILES for path in network_lint.named_files(one, key)]
    return sorted(dict.fromkeys(found))


def _datasets(plan: Plan) -> list[str]:
    named = [str(one.params["dataset"]) for one in plan.points if not one.is_baseline and "dataset" in one.params]
    return list(dict.fromkeys(named))


def subset_keys(dataset: Dataset) -> list[list[Any]]:
    """What the trainer is given with the files of each subset."""
    return [[part.num_repeats, part.trigger, part.caption_extension, dict(part.subset)] for part in dataset.parts]


def _pack(scoring: Scoring, folder: Path) -> str:
    return faces.inspect(folder, det_size=scoring.det_size).fingerprint


def _clip(plan: Plan, hashes: HashCache) -> dict[str, str]:
    """The model and the texts that it reads: prompts without triggers."""
    model = plan.settings.scoring.clip
    if model is None:
        return {}
    triggers = [dataset.trigger for dataset in plan.settings.datasets.values()]
    texts = [prompt_adherence.without(triggers, prompt) for prompt in plan.prompts]
    return {"CLIP model": sha256_json([hashes.of_all(prompt_adherence.files(model)), texts])}


def trainer_identity(settings: Settings) -> str:
    """The commit of the trainer's checkout, or the hash of its two scripts where it is no checkout."""
    folder = settings.trainer.sd_scripts
    scripts = (settings.trainer.train_script, settings.trainer.generate_script)
    return provenance.commit(folder) or sha256_json([sha256(folder / script) for script in scripts])


def _base(base: BaseModel, hashes: HashCache) -> str:
    return hashes.of(base.path) + (hashes.of(base.vae) if base.vae else "")


def _templates(folder: Path) -> dict[str, str]:
    paths = [folder / name for name in config_files.TEMPLATES]
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.exists()}


def _changed(key: str, old: str, new: str, sweep: Sweep) -> Problem:
    values = "" if _HASH.fullmatch(str(old)) else f" ({old}, now {new})"
    what = f"has changed since the sweep {sweep.name} was frozen{values}: results would not be comparable"
    copies = f" ({sweep.path} has copies of the templates)" if key.startswith("templates/") else ""
    remedy = f"revert the change{copies}, or start a new sweep with --name"
    return error(key, what, remedy, where=str(sweep.path / "sweep.json"))


_HASH = re.compile(r"[0-9a-f]{64,}")
