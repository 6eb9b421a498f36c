"""Is this machine ready for this sweep: everything that is missing in one list, each with what mends it."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator import images
from orchestrator.config.schema import NO_CARD, BaseModel, Scoring, Settings
from orchestrator.datasets import prepare
from orchestrator.errors import NotReady, Problem, Severity
from orchestrator.gpu import Card, VramProbe
from orchestrator.kohya import argv, base_model
from orchestrator.kohya.arguments import schema
from orchestrator.model import TREATMENTS, Point
from orchestrator.scoring import faces, prompt_adherence
from orchestrator.store import provenance


def findings(settings: Settings, points: Iterable[Point], probe: VramProbe) -> list[Problem]:
    """What is missing or doubtful on this machine for these points; nothing is started or written."""
    chosen = list(points)
    used = {key: dict.fromkeys(str(p.params[key]) for p in chosen if key in p.params) for key in TREATMENTS}
    where = str(settings.path)
    problems = [*_trainer(settings, where), *_card(settings, probe, where)]
    for name in used["base_model"]:
        problems += _base(settings.base_models[name], where)
    for name in prepare.with_ancestors(used["dataset"], settings.datasets):
        problems += prepare.validate_dataset(settings.datasets[name], where)
    return [*problems, *_faces(settings, where), *_disk(settings, where)]


def _trainer(settings: Settings, where: str) -> Iterator[Problem]:
    trainer = settings.trainer
    for script in (trainer.train_script, trainer.generate_script):
        if not (trainer.sd_scripts / script).is_file():
            yield _missing(f"{script} is not there", where, "trainer.sd_scripts", trainer.sd_scripts, _SUBMODULE)
    if not (trainer.python.is_file() and os.access(trainer.python, os.X_OK)):
        yield _missing("there is no such interpreter", where, "trainer.python", trainer.python, "`make setup-trainer`")
    commit = provenance.commit(trainer.sd_scripts)
    if commit and commit != schema.PINNED:
        what = f"is at commit {commit[:12]}, not at the pinned {schema.PINNED[:12]}"
        yield _doubt(what, where, "trainer.sd_scripts", str(trainer.sd_scripts), _SUBMODULE)
    cache = trainer.tokenizer_cache_dir
    if cache and (absent := argv.missing_tokenizers(cache)):
        what = f"lacks {len(absent)} of 2 tokenizers: the first training fetches them from the Hugging Face Hub"
        yield _doubt(what, where, "trainer.tokenizer_cache_dir", str(cache), "keep this machine online for one run")


_SUBMODULE = "`git submodule update --init vendor/sd-scripts`, or `make setup-trainer` for all of it"


def _card(settings: Settings, probe: VramProbe, where: str) -> Iterator[Problem]:
    if settings.vram.card == NO_CARD:
        return
    cards = probe.cards()
    for wanted in _wanted(settings.vram.card) or [""]:
        if not choose_cards(cards, wanted):
            what = "no such NVIDIA GPU" if cards else "the NVIDIA driver shows no GPU"
            remedy = "install the driver, then `nvidia-smi` must list the card" if not cards else _names(cards)
            yield _missing(what, where, "vram.card", wanted or "(all)", remedy)
    for card in choose_cards(cards, settings.vram.card):
        if card.processes:
            named = ", ".join(f"process {pid} ({mib or '?'} MiB)" for pid, mib in card.processes.items())
            yield _doubt(f"{card.name} is also used by {named}", where, "vram.card", card.uuid, "end what you can")


def choose_cards(cards: Iterable[Card], wanted: str) -> list[Card]:
    """The cards of these UUIDs or indices, with commas between them; all when none is named."""
    listed, names = list(cards), _wanted(wanted)
    return [card for index, card in enumerate(listed) if not names or {card.uuid, str(index)} & set(names)]


def _wanted(written: str) -> list[str]:
    return [name.strip() for name in written.split(",") if name.strip()]


def _names(cards: Iterable[Card]) -> str:
    return "one of " + ", ".join(f"{index}: {card.uuid} ({card.name})" for index, card in enumerate(cards))


def _base(base: BaseModel, where: str) -> Iterator[Problem]:
    key = f"base_models.{base.name}"
    for name, path in (("path", base.path), ("vae", base.vae)):
        if path and not path.is_file():
            remedy = (
                f"download it from {base.url} and put it there" if base.url else "put it there, or correct the path"
            )
            yield _missing("there is no such file", where, f"{key}.{name}", path, remedy)
    if base.path.is_file():
        yield from base_model.problems(base.path, where=where, key=f"{key}.path")
    if base.vae and base.vae.is_file():
        yield from base_model.vae_problems(base.vae, where=where, key=f"{key}.vae")


def _faces(settings: Settings, where: str) -> Iterator[Problem]:
    scoring = settings.scoring
    try:
        faces.inspect(scoring.pack, det_size=scoring.det_size)
    except NotReady as error:
        yield from error.problems
    listing = images.pictures(scoring.references)
    yield from listing.problems if listing.pictures else ()
    if not listing.pictures:
        remedy = "put pictures of the persona there that are not trained on: eight at least, better twenty"
        yield _missing("holds no pictures", where, "score.references", scoring.references, remedy)
    elif len(listing.pictures) < 8:
        what = f"only {len(listing.pictures)} reference pictures: scores against them are shaky"
        yield _doubt(what, where, "score.references", str(scoring.references), "eight at least, better twenty")
    yield from _clip(scoring, where)
    yield from faces.runtime_problems()


def _clip(scoring: Scoring, where: str) -> Iterator[Problem]:
    if scoring.clip and (absent := [name for name in prompt_adherence.FILES if not (scoring.clip / name).is_file()]):
        remedy = "put a CLIP model there, as transformers saves it, or take `clip` out"
        yield _missing(f"lacks {', '.join(absent)}", where, "score.clip", scoring.clip, remedy)


def _disk(settings: Settings, where: str) -> Iterator[Problem]:
    folder = next(path for path in (settings.runs, *settings.runs.parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1024**3
    if free < settings.limits.free_gib:
        what = f"{free:.1f} GiB are free at {folder}, less than {settings.limits.free_gib:g}"
        yield _missing(what, where, "limits.free_gib", str(settings.limits.free_gib), "free some disk")
    if not os.access(folder, os.W_OK):
        yield _missing("cannot be written to", where, "runs", settings.runs, "choose another folder")


def _missing(what: str, where: str, key: str, value: Path | str, remedy: str) -> Problem:
    return Problem(what=what, where=where, key=key, value=str(value), remedy=remedy)


def _doubt(what: str, where: str, key: str, value: str, remedy: str) -> Problem:
    return Problem(what=what, where=where, key=key, value=value, remedy=remedy, severity=Severity.WARNING)
