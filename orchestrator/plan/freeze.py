"""Freezes a plan: what the results are made from, written down once, and refused when it has changed."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator import images
from orchestrator import text as quantities
from orchestrator.config.schema import Scoring, Settings
from orchestrator.errors import Conflict, Problem
from orchestrator.kohya import config_files
from orchestrator.model import Point, PreparedDataset
from orchestrator.plan.plan import Plan
from orchestrator.scoring import faces, prompt_adherence
from orchestrator.store import provenance
from orchestrator.store.hashes import HashCache, sha256, sha256_json
from orchestrator.store.layout import Sweep


def freeze(asked: Plan, prepared: Mapping[str, PreparedDataset], hashes: HashCache) -> None:
    """Make the sweep, or grow it; raises Conflict when it was made from other inputs. The lock must be held."""
    made_from = _fingerprint(asked, prepared, hashes)
    old = asked.sweep.record() if asked.sweep.exists() else {"fingerprint": {}, "points": [], "questions": []}
    changed = {key: old["fingerprint"].get(key, value) for key, value in made_from.items()}
    problems = [
        _changed(key, was, made_from[key], asked.sweep) for key, was in changed.items() if was != made_from[key]
    ]
    if problems:
        raise Conflict(*problems)
    points = {record["id"]: record for record in [*old["points"], *_json([asdict(point) for point in asked.points])]}
    questions = {record["id"]: record for record in [*old["questions"], *_json([asdict(q) for q in asked.questions])]}
    record = {
        "name": asked.sweep.name,
        "created_at": old.get("created_at", quantities.now()),
        "fingerprint": {**old["fingerprint"], **made_from},
        "versions": provenance.versions(),
        "points": sorted(points.values(), key=lambda point: bool(point["is_baseline"])),
        "questions": list(questions.values()),
    }
    if not asked.sweep.exists() or _grown(old, record):
        asked.sweep.freeze(record, grid=asked.grid_text, templates=_templates(asked.settings.templates))


def _grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old[key] != new[key] for key in ("fingerprint", "points", "questions"))


def _json(value: Any) -> Any:
    """As it would be read back: lists for tuples."""
    return json.loads(json.dumps(value))


def _fingerprint(asked: Plan, prepared: Mapping[str, PreparedDataset], hashes: HashCache) -> dict[str, str]:
    """What changes a picture or a number and is not an argument of a point; one entry for each thing to name."""
    used = asked.settings
    generation = {key: value for key, value in asdict(used.generation).items() if "prompts" not in key}
    pack = faces.inspect(used.scoring.pack, det_size=used.scoring.det_size)
    return {
        **{f"templates/{name}": sha256_json(text) for name, text in _templates(used.templates).items()},
        **{f"generate.{key}": json.dumps(value) for key, value in generation.items()},
        "generate.prompts": sha256_json(asked.prompts),
        "trainer": trainer_identity(used),
        "face pack": pack.fingerprint,
        **_second_pack(used.scoring),
        **_clip(asked, hashes),
        **({"early_stop": json.dumps(asdict(used.early_stop))} if used.early_stop else {}),
        "references": hashes.of_all(images.pictures(used.scoring.references).pictures),
        **{f"base_model {name}": _base(used, name, hashes) for name in _used(asked.points, "base_model")},
        **{f"dataset {name}": one.key for name, one in prepared.items()},
    }


def _second_pack(used: Scoring) -> dict[str, str]:
    if used.second_pack is None:
        return {}
    pack = faces.inspect(used.second_pack, det_size=used.det_size)
    return {"second face pack": pack.fingerprint}


def _clip(asked: Plan, hashes: HashCache) -> dict[str, str]:
    """The model, and what it reads: another dataset's trigger is no change where no prompt has it."""
    model = asked.settings.scoring.clip
    if model is None:
        return {}
    triggers = [dataset.trigger for dataset in asked.settings.datasets.values()]
    texts = [prompt_adherence.without(triggers, prompt) for prompt in asked.prompts]
    return {"CLIP model": sha256_json([hashes.of_all(prompt_adherence.files(model)), texts])}


def trainer_identity(used: Settings) -> str:
    """The commit of the trainer's checkout; without one, the hash of its two scripts."""
    folder = used.trainer.sd_scripts
    scripts = (used.trainer.train_script, used.trainer.generate_script)
    return provenance.commit(folder) or sha256_json([sha256(folder / script) for script in scripts])


def _base(used: Settings, name: str, hashes: HashCache) -> str:
    base = used.base_models[name]
    return hashes.of(base.path) + (hashes.of(base.vae) if base.vae else "")


def _used(points: Iterable[Point], treatment: str) -> list[str]:
    return list(dict.fromkeys(str(point.params[treatment]) for point in points if treatment in point.params))


def _templates(folder: Path) -> dict[str, str]:
    paths = [folder / name for name in config_files.TEMPLATES]
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.exists()}


def _changed(key: str, was: str, is_now: str, sweep: Sweep) -> Problem:
    values = "" if _HASH.fullmatch(was) else f" ({was}, now {is_now})"
    return Problem(
        what=f"{key} is not what the sweep {sweep.name} was made from{values}: old and new results would not compare",
        where=str(sweep.path / "sweep.json"),
        key=key,
        remedy=f"put it back as it was (templates and grids are kept in {sweep.path}), or start a sweep of another "
        "name with --name",
    )


_HASH = re.compile(r"[0-9a-f]{64,}")
