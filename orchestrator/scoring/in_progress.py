"""A file that names the pictures being worked on, for whoever finds the scorer dead."""

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def read(path: Path) -> tuple[str, ...]:
    """The pictures in hand; none when there is no file."""
    return tuple(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ()


class InProgressFile:
    """Writes the file. Several threads may hold pictures at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: list[str] = []
        self._lock = threading.Lock()
        self._change()  # what an earlier life left there is no longer in hand

    @contextmanager
    def holding(self, pictures: Iterable[Path]) -> Iterator[None]:
        names = [str(path) for path in pictures]
        self._change(taken=names)
        try:
            yield
        finally:
            self._change(put_down=names)

    def _change(self, *, taken: Iterable[str] = (), put_down: Iterable[str] = ()) -> None:
        with self._lock:
            self._held.extend(taken)
            for name in put_down:
                self._held.remove(name)
            # Not synced to disk: it is for the death of this process, not of the machine.
            draft = self._path.with_name(f"{self._path.name}.tmp")
            draft.write_text(json.dumps(self._held), encoding="utf-8")
            draft.replace(self._path)
