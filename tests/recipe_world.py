"""Builds recipes over drawn portraits, whose faces the unmodified InsightFace finds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from orchestrator.config.recipe import Recipe
from orchestrator.config.schema import Dataset, Scoring
from orchestrator.datasets import builder, prepare
from orchestrator.miniature import draw, pack, world
from orchestrator.model import Params, Point, PreparedDataset
from orchestrator.store import records
from orchestrator.store.hashes import HashCache


class RecipeWorld:
    """Recipes over one dataset, `persona`."""

    def __init__(self, folder: Path, photos: Path, scoring: Scoring) -> None:
        self.runs = folder / "runs"
        self.hashes = HashCache(self.runs)
        self.persona = Dataset(name="persona", image_dir=photos, trigger=world.SUBJECT)
        self.scoring = scoring
        self._built = 0

    def dataset(self, name: str, **steps: Any) -> Dataset:
        return replace(self.persona, name=name, recipe=Recipe(source="persona", **steps))

    def build(self, dataset: Dataset, *others: Dataset) -> PreparedDataset:
        return prepare.build(dataset, self._settings(dataset, *others), self.hashes)

    def prepare(self, params: list[Params], dataset: Dataset, say: Callable[[str], None]) -> dict[str, PreparedDataset]:
        """What points with these params need."""
        points = [Point(id=str(index), name="", params=one) for index, one in enumerate(params)]
        return prepare.prepare_all(points, self._settings(dataset), self.hashes, say)

    def _settings(self, *datasets: Dataset) -> Any:
        known = {one.name: one for one in (self.persona, *datasets)}
        return SimpleNamespace(runs=self.runs, datasets=known, scoring=self.scoring)

    def build_here(self, dataset: Dataset) -> tuple[Path, dict[str, Any]]:
        """The same in this process, which is faster: the folder of images, and the record."""
        self._built += 1
        request = self.request(dataset, self.runs / ".datasets" / f"built-{self._built}")
        return request.folder / "images", builder.build(request)

    def request(self, dataset: Dataset, folder: Path) -> builder.Request:
        """A request to build `dataset`."""
        source = self.build(self.persona).folder.parent
        return builder.Request(
            dataset=dataset, source=source, folder=folder, scoring=self.scoring, cache=self.runs / ".faces"
        )

    def record(self, prepared: PreparedDataset) -> dict[str, Any]:
        return records.read(prepared.folder.parent / "dataset.json")


def scoring(folder: Path) -> Scoring:
    """A face pack and references of the persona."""
    pack.build(folder / "pack")
    world.photos(folder / "references", world.PERSONA, count=4, first=1000, captions=False)
    return Scoring(pack=folder / "pack", references=folder / "references", det_size=256)


def drawn(*faces: draw.Pose, px: int = 256, person: int = world.PERSONA, seed: int = 0) -> Image.Image:
    """A photo of the persona, or of the persona and others, in these places."""
    people = [(draw.person(person + index), pose) for index, pose in enumerate(faces)]
    return Image.fromarray(draw.photo(people, draw.Backdrop(seed=seed), px=px))
