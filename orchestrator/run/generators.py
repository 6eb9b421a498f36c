"""Resident generators: one process per GPU keeps its base model loaded and makes the images of one run after another.

A generator runs in a folder `generator`, of the attempt that started it or of its stage if it was started before the
attempt. It works there on `job.json` (see `kohya/gen_img_plugin`). The program of each attempt follows its job (see
`store/follow`), so attempts are watched, adopted and judged like all others. A generator ends when its GPU is needed
for something else, when an attempt fails, and at the end of the sweep; without an orchestrator, when its job is done.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.run.stages import Command
from orchestrator.store import follow, locks, process, records
from orchestrator.store.layout import Attempt

NAME = "generator"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resident:
    """key: generators with the same key make the same images. owner: holds the lock that keeps it waiting for jobs."""

    folder: Path
    key: str
    owner: contextlib.ExitStack


class Generators:
    """The generators of this process, at most one per GPU. A GPU runs one attempt to generate at a time."""

    def __init__(self, grace_s: float, hurry: Callable[[], bool]) -> None:
        self._grace_s, self._hurry = grace_s, hurry
        self._by_gpu: dict[str, _Resident] = {}

    def folder(self, gpu: str) -> Path | None:
        """The folder of the GPU's generator."""
        resident = self._by_gpu.get(gpu)
        return resident.folder if resident else None

    def is_used(self, parent: Path) -> bool:
        """Whether the generator of a GPU has its folder in `parent`."""
        return any(one.folder.parent == parent for one in self._by_gpu.values())

    def choose(self, parent: Path, gpu: str, key: str) -> Path:
        """The folder of the GPU's generator if it has this key, else of a new one in its place, in `parent`."""
        resident = self._by_gpu.get(gpu)
        if resident and resident.key == key and process.running(resident.folder):
            return resident.folder
        self.stop(gpu)
        folder = parent / NAME
        assert not self.is_used(parent), "a folder has one generator"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier orchestrator, whose generators have been stopped
        folder.mkdir(parents=True)
        Attempt(folder).open({"card": gpu})
        owner = contextlib.ExitStack()
        owner.enter_context(locks.acquire(folder / follow.OWNER))
        self._by_gpu[gpu] = _Resident(folder=folder, key=key, owner=owner)
        return folder

    def start(self, folder: Path, generator: Command) -> None:
        """Start a generator if it is new. It makes no images and needs no VRAM before its first job."""
        if not process.started(folder):
            process.start(folder, generator.argv, env=generator.env, cwd=generator.cwd)

    def give(self, folder: Path, job: Mapping[str, Any], generator: Command) -> Command:
        """Give a job to a generator, which is started if it is new. Returns the command that follows the job."""
        log = folder / "log"
        log.touch()
        offset = log.stat().st_size
        records.write(folder / follow.JOB, job, exact=True)
        self.start(folder, generator)
        argv = [sys.executable, "-m", "orchestrator.store.follow", str(folder), str(offset)]
        return Command(argv=argv, env={}, cwd=generator.cwd)

    def stop(self, gpu: str) -> None:
        """Stop the GPU's generator, if there is one. Raises NotReady when it goes on."""
        if resident := self._by_gpu.pop(gpu, None):
            with resident.owner:
                process.stop(resident.folder, self._grace_s, self._hurry)

    def __enter__(self) -> "Generators":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    def stop_all(self) -> None:
        for gpu in list(self._by_gpu):
            self.stop(gpu)


def stop_orphans(folder: Path, grace_s: float) -> None:
    """Stop the generators below `folder` that an earlier orchestrator left and whose job no attempt follows."""
    live = [path for path in process.live_attempts() if folder.resolve() in path.parents]
    followed = {one.resolve() for path in live if (one := Attempt(path).generator)}
    for path in live:
        if path.name == NAME and path not in followed:
            process.stop(path, grace_s)
