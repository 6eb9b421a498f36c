"""The archive of `orchestrate bug-report`: records, versions and ends of logs, without images, texts and secrets.

Triggers, captions, prompts and negative prompts become `[hidden]`, secrets their variable's name, home directories `~`.
Links are not followed.
"""

import io
import json
import os
import re
import tarfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator import files, redaction
from orchestrator.config.schema import Settings
from orchestrator.errors import OrchestrateError
from orchestrator.gpu import VramProbe
from orchestrator.run import generators
from orchestrator.store import provenance, state
from orchestrator.store.layout import Sweep

_RECORDS = re.compile(r"(sweep|point|attempt|result|exit|stop)\.json|grid-\d+\.toml")
_NO_RECORDS = {"images", "output", "report", "templates"}
"""Folders without records."""

_LOG_BYTES = 64 * 1024
_FILE_BYTES = 8 * 1024**2
_TOTAL_BYTES = 64 * 1024**2
_HIDDEN = "[hidden]"
_TEXT_KEY = re.compile(r"prompt|caption(?!_extension)|trigger$|^text$", re.IGNORECASE)
_TEXT_LINE = re.compile(r"(?i)(prompt|caption)([^\n:=]{0,30}[:=]).*")
"""A log line with a prompt or caption."""

_OTHER_HOME = re.compile(r"(?:(?<![\w.-])(?:/mnt)?(?:/[A-Za-z])?/|\b[A-Za-z]:[\\/]+)(?i:home|Users)[\\/]+[^\\/\s\"']+")

Clean = Callable[[str], str]


def write(
    path: Path, sweep: Sweep, settings_file: Path, settings: Settings, gpus: VramProbe, environ: Mapping[str, str]
) -> None:
    """Write the archive, a .tar.gz, atomically. Raises OSError."""
    root = sweep.path.resolve()
    clean = _cleaner(settings, root, environ)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    left_out: list[str] = []
    total = 0
    try:
        with tarfile.open(temporary, "w:gz") as archive:
            for name, read in _contents(root, sweep, settings_file, settings, gpus, clean):
                try:
                    data = read().encode("utf-8", "replace")
                except (OSError, ValueError, RecursionError, OrchestrateError) as error:
                    left_out.append(clean(f"{name}: {error}"))
                    continue
                total += len(data)
                if total > _TOTAL_BYTES:
                    left_out.append(clean(f"{name} and all that follows: more than {_TOTAL_BYTES:,} bytes"))
                    break
                _add(archive, _printable(clean(name)), data)
            if left_out:
                _add(archive, "left-out.txt", "\n".join(left_out).encode("utf-8", "replace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _printable(name: str) -> str:
    """The name with escapes for line breaks, direction marks and invalid bytes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _contents(
    root: Path, sweep: Sweep, settings_file: Path, settings: Settings, gpus: VramProbe, clean: Clean
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names in the archive, and functions that read the cleaned texts."""
    yield "versions.json", lambda: _json(_versions(settings, gpus), clean)
    yield "settings.json", lambda: _json(tomllib.loads(_read(settings_file)), clean)
    yield "status.json", lambda: _json({run.path.name: asdict(state.status(run)) for run in sweep.runs()}, clean)
    for path in _records(root):
        name = f"sweep/{path.relative_to(root)}"
        if path.name == "log":
            yield name, lambda path=path: clean(_TEXT_LINE.sub(rf"\1\2 {_HIDDEN}", _log_end(path)))  # type: ignore[misc]
        else:
            parse = json.loads if path.suffix == ".json" else tomllib.loads
            name = f"{name.removesuffix('.toml')}.json" if path.suffix == ".toml" else name
            yield name, lambda path=path, parse=parse: _json(parse(_read(path)), clean)  # type: ignore[misc]


def _versions(settings: Settings, probe: VramProbe) -> dict[str, Any]:
    gpus = [{"name": gpu.name, "total_mib": gpu.total_mib, "driver": gpu.driver} for gpu in probe.gpus()]
    return {"versions": provenance.versions(), "trainer": provenance.commit(settings.trainer.sd_scripts), "gpus": gpus}


def _records(root: Path) -> Iterator[Path]:
    """The records below the folder, and the logs of attempts that have failed or not ended; no links.

    The log of a resident generator is left out: each attempt's log has its part.
    """
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _NO_RECORDS)
        here = Path(folder)
        logs = {"log"} if here.name != generators.NAME and _failed(here) else set()
        wanted = [name for name in sorted(names) if _RECORDS.fullmatch(name) or name in logs]
        yield from (here / name for name in wanted if not (here / name).is_symlink())


def _failed(attempt: Path) -> bool:
    """Whether the attempt has a failure, or no result that can be read."""
    try:
        return bool(json.loads(_read(attempt / "result.json"))["failure"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return True


def _read(path: Path) -> str:
    return files.read_bytes(path, max_bytes=_FILE_BYTES).decode("utf-8", "replace")


def _log_end(path: Path) -> str:
    """The last lines of a log; a line that is cut at its beginning is left out."""
    text = files.read_tail(path, _LOG_BYTES)
    return text.partition("\n")[2] if len(text.encode()) >= _LOG_BYTES else text


def _json(value: Any, clean: Clean) -> str:
    return json.dumps(_cleaned(value, clean), ensure_ascii=False, indent=1)


def _cleaned(value: Any, clean: Clean, key: str = "") -> Any:
    """The value with every string cleaned; texts of prompts and captions, and values of secret keys, are hidden."""
    if isinstance(value, dict):
        return {clean(str(name)): _cleaned(item, clean, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, clean, key) for item in value]
    if isinstance(value, str):
        return _HIDDEN if _TEXT_KEY.search(key) else clean(redaction.hide(key, value))
    return value if value is None or isinstance(value, int | float) else clean(str(value))


# --- texts to hide ----------------------------------------------------------------------------------------------------


def _cleaner(settings: Settings, root: Path, environ: Mapping[str, str]) -> Clean:
    """A function that hides prompts and captions, secrets and home directories in a text."""
    secrets = {**environ, **settings.trainer.env, "NOTIFY_WEBHOOK": settings.notify}
    texts = sorted({text for text in _texts(settings, root) if len(text) > 3}, key=len, reverse=True)
    private = re.compile("|".join(map(re.escape, texts))) if texts else None
    homes = sorted({environ.get("HOME", ""), str(Path.home()), str(Path.home().resolve())} - {"", "/"}, key=len)
    home = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, reversed(homes)))})(?![\w.-])") if homes else None

    def clean(text: str) -> str:
        text = private.sub(_HIDDEN, text) if private else text
        text = redaction.redact(text, secrets)
        return _OTHER_HOME.sub("~", home.sub("~", text) if home else text)

    return clean


def _texts(settings: Settings, root: Path) -> Iterator[str]:
    """Triggers, lines of prompt files, captions, and texts of generated images, as far as they can be read."""
    sources = [settings.generation.prompts, settings.generation.confirm_prompts]
    yield from (one.trigger for one in settings.datasets.values())
    yield from (one.trigger for one in settings.loras.values())
    for dataset in settings.datasets.values():
        for part in dataset.parts:
            sources += part.image_dir.rglob(f"*{part.caption_extension}")
    for made in settings.runs.glob(".datasets/*"):
        sources += made.rglob("*.txt")
    for path in filter(None, sources):
        try:
            yield from map(str.strip, _read(path).lstrip("\ufeff").splitlines())
        except OSError:
            continue
    for path in [*root.rglob("images.json"), *root.rglob("plan.json")]:
        try:
            yield from (str(image["text"]).strip() for image in json.loads(_read(path))["images"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
    yield settings.generation.negative_prompt.strip()
