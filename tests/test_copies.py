"""Changed copies of a photo are found; other photos of the same person are not copies."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from orchestrator.miniature import world
from orchestrator.scoring import copies

PHOTOS = 10


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("copies") / "photos"
    world.photos(folder, world.PERSONA, count=PHOTOS, first=0, captions=False, px=192)
    return sorted(folder.glob("*.png"))


def crop(share: float, at: float) -> Callable[[Image.Image], Image.Image]:
    def cut(image: Image.Image) -> Image.Image:
        side = round(image.width * share)
        left, top = round((image.width - side) * at), round((image.height - side) * (1 - at))
        return image.crop((left, top, left + side, top + side))

    return cut


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "grey": lambda image: image.convert("L"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "smaller": lambda image: image.resize((80, 80)),
    "cropped": crop(0.7, 0.3),
    "cropped, mirrored and grey": lambda image: ImageOps.mirror(crop(0.75, 0.1)(image)).convert("L"),
    "less high": lambda image: image.crop((0, 20, image.width, image.height - 30)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_changed_copy_is_found_and_nothing_else(photos: list[Path], tmp_path: Path, change: str) -> None:
    changed = []
    for photo in photos[: PHOTOS // 2]:
        with Image.open(photo) as image:
            CHANGES[change](image).save(tmp_path / f"{photo.stem}.jpg", quality=85)
        changed.append(tmp_path / f"{photo.stem}.jpg")
    assert copies.copies_of(photos, changed) == dict(zip(changed, photos, strict=False))
    assert copies.copies_of(photos[PHOTOS // 2 :], changed) == {}


def test_a_result_is_kept_until_an_image_changes(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "a.png", tmp_path / "b.png"
    for path in (one, other):
        path.write_bytes(photos[0].read_bytes())
    searched: list[object] = []
    monkeypatch.setattr(copies, "_is_copy", lambda a, b: searched.append(a) or a.sha256 == b.sha256)
    for _ in range(2):
        assert copies.copies_of([one], [other], cache=tmp_path / "cache") == {other: one}
    assert len(searched) == 1
    other.write_bytes(photos[1].read_bytes())
    assert copies.copies_of([one], [other], cache=tmp_path / "cache") == {}
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text("damaged")
    assert copies.copies_of([one], [other], cache=tmp_path / "cache") == {}


def test_a_cache_that_cannot_be_written_is_no_error(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "copies").touch()
    assert copies.copies_of(photos[:1], photos[:1], cache=tmp_path) == {photos[0]: photos[0]}


def test_unreadable_and_missing_images_are_no_copies(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(photos[0].read_bytes()[:500])
    assert copies.copies_of(photos[:1], [tmp_path / "half.png", tmp_path / "absent.png"]) == {}


def test_noise_is_no_copy_of_other_noise(tmp_path: Path) -> None:
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).normal(128, 8, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(path)
    assert copies.copies_of(paths[:1], paths[1:]) == {}
