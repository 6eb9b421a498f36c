"""Images are decoded by one rule; everything that is not a complete image is rejected with a reason."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator import images


@pytest.fixture
def gradient() -> Image.Image:
    """8 wide, 4 high; every pixel is different."""
    values = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(4, 8, 3)
    return Image.fromarray(values)


def test_pixels_come_as_rgb_rows(tmp_path: Path, gradient: Image.Image) -> None:
    gradient.save(tmp_path / "a.png")
    pixels = images.load(tmp_path / "a.png")
    assert pixels.shape == (4, 8, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(gradient))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path: Path, gradient: Image.Image, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    path = tmp_path / f"a.{suffix}"
    gradient.save(path, exif=exif, quality=100)
    assert images.load(path).shape == (8, 4, 3)
    assert images.size(path) == (4, 8)


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = images.load(tmp_path / "a.png")
    assert loaded[0, 0].tolist() == [10, 20, 30]
    assert loaded[1, 1].tolist() == [255, 255, 255]


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert images.load(tmp_path / "a.png").tolist() == [[[255, 255, 255], [0, 0, 200]]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert images.load(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_every_common_mode_becomes_rgb(tmp_path: Path, gradient: Image.Image, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "YCbCr") else "a.png")
    gradient.convert(mode).save(path)
    assert images.load(path).shape == (4, 8, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_a_truncated_file_is_rejected(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(images.Unreadable):
        images.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"<html>please log in</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_files_that_are_no_images_are_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(images.Unreadable, match="is not an image"):
        images.load(path)


def test_only_regular_files_of_a_limited_size_are_decoded(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")  # opening it without O_NONBLOCK waits for a writer for ever
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # a sparse file
    for name, reason in (("fifo", "not a regular file"), ("device", "not a regular file"), ("huge", "more than")):
        for read in (images.load, images.size):
            with pytest.raises(images.Unreadable, match=reason):
                read(tmp_path / f"{name}.png")


def test_a_missing_file_is_rejected_by_every_reader(tmp_path: Path) -> None:
    for read in (images.load, images.size):
        with pytest.raises(images.Unreadable, match="no such file"):
            read(tmp_path / "absent.png")


@pytest.mark.parametrize(("width", "height"), [(8193, 8192), (100_000, 100_000), (2**31 - 1, 1)])
def test_too_many_pixels_are_rejected_from_the_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(width, height))
    for read in (images.load, images.size):
        with pytest.raises(images.Unreadable, match="pixels"):
            read(path)


def test_32_bit_samples_are_rejected(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(images.Unreadable, match="32 bits"):
        images.load(tmp_path / "a.tiff")


def test_only_images_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "a.txt", "c.webp.part"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.png").mkdir()
    assert [path.name for path in images.list_images(tmp_path).paths] == ["a.jpg", "b.PNG"]


def test_a_link_out_of_the_folder_is_ignored_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "secret.png").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "real.png").touch()
    (folder / "inside.png").symlink_to(folder / "real.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    listing = images.list_images(folder)
    assert [path.name for path in listing.paths] == ["inside.png", "real.png"]
    assert [problem.where for problem in listing.problems] == [str(folder / "outside.png")]


def test_names_of_images_that_are_not_files_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "itself.png").symlink_to("itself.png")
    (tmp_path / "nowhere.png").symlink_to("nothing.png")
    os.mkfifo(tmp_path / "pipe.png")
    listing = images.list_images(tmp_path)
    assert listing.paths == ()
    assert [Path(problem.where).stem for problem in listing.problems] == ["folder", "itself", "nowhere", "pipe"]
    assert all("not a file" in problem.what for problem in listing.problems)


def test_a_missing_folder_is_a_problem(tmp_path: Path) -> None:
    assert "not a folder" in str(images.list_images(tmp_path / "absent").problems[0])


def _png_header(width: int, height: int) -> bytes:
    """A PNG with a large size in its header and almost no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 64))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_huge_file_is_no_image_and_is_not_hashed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    os.truncate(tmp_path / "a.png", 200 * 2**30)
    (problem,) = images.list_images(tmp_path).problems
    assert "is ignored: it has more than" in problem.what
