"""Checks that sd-scripts' two tokenizers are cached on this machine or that the Hugging Face Hub is reachable."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from orchestrator.config.schema import Settings
from orchestrator.errors import Problem, error
from orchestrator.kohya import argv
from orchestrator.kohya.arguments import schema

TIMEOUT_S = 5


def problems(settings: Settings) -> Iterator[Problem]:
    """An error where they are neither cached nor reachable."""
    trainer = settings.trainer
    if trainer.train_script != f"{schema.ENTRY}.py":
        return
    cache = trainer.tokenizer_cache_dir
    missing = [path.name for path in argv.missing_tokenizers(cache)] if cache else list(argv.TOKENIZERS)
    environment = {**os.environ, **trainer.env}
    absent = [name for name in missing if not _in_hub_cache(name, environment)]
    if absent and (reason := _unreachable(environment)):
        what = f"{' and '.join(absent)}: not cached, and the Hugging Face Hub cannot be reached ({reason})"
        remedy, value = (
            "connect this machine for one training, or copy the folder from another machine",
            str(cache or ""),
        )
        yield error("trainer.tokenizer_cache_dir", what, remedy, where=str(settings.path), value=value)


def _in_hub_cache(name: str, environment: dict[str, str]) -> bool:
    """Whether the Hub's cache has `openai_clip-vit-large-patch14` as models--openai--clip-vit-large-patch14."""
    home = Path(environment.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(environment.get("HF_HUB_CACHE", home / "hub"))
    return any(hub.glob(f"models--{name.replace('_', '--', 1)}/snapshots/*/vocab.json"))


def _unreachable(environment: dict[str, str]) -> str:
    address = environment.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if environment.get("HF_HUB_OFFLINE") == "1":
        return "HF_HUB_OFFLINE is set"
    if not address.startswith(("https://", "http://")):
        return f"HF_ENDPOINT is {address}"
    file = f"{address}/openai/clip-vit-large-patch14/resolve/main/vocab.json"
    request = urllib.request.Request(file, method="HEAD")  # noqa: S310 - only http, see above
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - as above
            return ""
    except urllib.error.HTTPError as refused:
        return f"it answers {refused.code}"
    except OSError as failed:
        return str(getattr(failed, "reason", failed))
