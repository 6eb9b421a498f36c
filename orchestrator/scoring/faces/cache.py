"""Face records on disk, one small file per image, so that no image is processed twice; machines may share it.

    <folder>/<fingerprint[:16]>/<ab>/<sha256>.json

A file is written atomically and contains a checksum; a damaged file counts as missing. There is no lock, because two
processes write the same content.
"""

import base64
import contextlib
import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.files import read_json
from orchestrator.scoring.faces.types import Face, FaceRecord
from orchestrator.store.hashes import sha256_json

SCHEMA = 2


class Cache:
    """The face records of one pack. Keys are the sha256 of an image's bytes, in hex."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder / fingerprint[:16]
        self._fingerprint = fingerprint

    def get(self, sha256: str) -> FaceRecord | None:
        """None when it is missing or damaged."""
        try:
            record = read_json(self._path(sha256))
            body = record["body"]
            if record["check"] != self._check(sha256, body):
                return None
            return _record(body)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, sha256: str, found: FaceRecord) -> None:
        """Raises OSError, and then leaves no file."""
        body = _body(found)
        record = {"schema": SCHEMA, "check": self._check(sha256, body), "body": body}
        path = self._path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            # Not synced to disk: a file damaged by a power cut fails its check.
            draft.write_text(json.dumps(record), encoding="utf-8")
            draft.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / f"{sha256}.json"

    def _check(self, sha256: str, body: Any) -> str:
        return sha256_json([SCHEMA, self._fingerprint, sha256, body])


def _body(found: FaceRecord) -> dict[str, Any]:
    return {
        "faces": [asdict(face) for face in found.faces],
        "embeddings": [base64.b64encode(one.astype("<f4").tobytes()).decode() for one in found.embeddings],
        "fallback": found.fallback,
        "rotation": found.rotation,
    }


def _record(body: dict[str, Any]) -> FaceRecord:
    return FaceRecord(
        faces=tuple(
            Face(
                box=tuple(face["box"]),
                landmarks=tuple((x, y) for x, y in face["landmarks"]),
                det_score=face["det_score"],
            )
            for face in body["faces"]
        ),
        embeddings=tuple(np.frombuffer(base64.b64decode(text), "<f4") for text in body["embeddings"]),
        fallback=body["fallback"],
        rotation=body["rotation"],
    )
