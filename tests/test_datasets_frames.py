"""Duplicates, and stills from videos that PyAV has written."""

import struct
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import recipe_world
from PIL import Image, ImageFilter
from recipe_world import drawn

from orchestrator import images
from orchestrator.config.recipe import Dedupe, Frames
from orchestrator.datasets import video
from orchestrator.errors import NotReady
from orchestrator.miniature import world
from orchestrator.miniature.draw import Pose

pytestmark = pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning")

RATE = 4
STRANGER = 4711


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three portraits."""
    world.photos(tmp_path / "images", world.PERSONA, count=3, first=0, captions=True, px=128)
    return tmp_path / "images"


@pytest.fixture
def recipes(tmp_path, photos, scoring):
    return recipe_world.RecipeWorld(tmp_path, photos, scoring)


def film(path: Path, *pictures: Image.Image, rate: int = RATE) -> Path:
    """A video of these images, without loss."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "rgb24"
        stream.options = {"crf": "0"}
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def scenes(count: int, *, person: int = world.PERSONA) -> list[Image.Image]:
    """As many quite different photos."""
    poses = [Pose(x=0.35 + 0.3 * (n % 2), y=0.4 + 0.2 * (n % 3) / 2, size=0.4 + 0.08 * n) for n in range(count)]
    return [drawn(pose, seed=100 + n, person=person) for n, pose in enumerate(poses)]


def whys(record: dict) -> str:
    return "; ".join(one["why"] for one in record["dropped"])


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_of_duplicates_the_largest_stays(recipes, photos):
    (first, *_) = sorted(photos.glob("*.png"))
    original = Image.open(first)
    original.resize((200, 200)).save(photos / "larger.png")
    original.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "turned.png")
    _, record = recipes.build_here(recipes.dataset("once", dedupe=Dedupe()))
    assert set(record["pictures"]) == {"0001.png", "0002.png", "larger.png"}
    assert {(Path(one["origin"]).name, one["why"]) for one in record["dropped"]} == {
        ("0000.png", "a duplicate of larger"),
        ("turned.png", "a duplicate of larger"),
    }


def test_a_mirrored_image_counts_only_on_request(recipes, photos):
    original = Image.open(photos / "0000.png")
    original.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "turned.png")
    _, record = recipes.build_here(recipes.dataset("once", dedupe=Dedupe(mirror=False)))
    assert "turned.png" in record["pictures"]


# --- stills -----------------------------------------------------------------------------------------------------------


def test_the_sharpest_of_each_window_is_taken(tmp_path):
    sharp = drawn(Pose(size=0.5))
    soft = sharp.filter(ImageFilter.GaussianBlur(3))
    stills = list(
        video.sharpest(film(tmp_path / "a.mp4", soft, soft, sharp, soft, soft, sharp, soft, soft), window_s=1)
    )
    assert [still.time_s for still in stills] == [0.5, 1.25]
    assert np.abs(stills[0].picture.astype(int) - np.asarray(sharp).astype(int)).mean() < 3


def test_stills_are_upright(tmp_path):
    """A phone that is held upright stores a rotated film, with the rotation in the file's header."""
    upright = drawn(Pose(x=0.3, size=0.4))
    path = film(tmp_path / "a.mp4", upright.rotate(90, expand=True))
    whole, one = path.read_bytes(), 0x10000
    flat = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 0x40000000)
    clockwise = struct.pack(">9i", 0, one, 0, -one, 0, 0, 256 * one, 0, 0x40000000)
    place = whole.index(flat, whole.index(b"tkhd"))
    path.write_bytes(whole[:place] + clockwise + whole[place + len(flat) :])
    (still,) = video.sharpest(path, window_s=1)
    assert np.abs(still.picture.astype(int) - np.asarray(upright).astype(int)).mean() < 3


def test_a_file_that_is_not_a_video_is_refused_with_a_reason(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(images.Unreadable):
        list(video.sharpest(tmp_path / "a.mp4", window_s=1))


def test_stills_of_the_persona_are_added_with_caption_and_provenance(recipes, tmp_path, photos):
    path = film(tmp_path / "videos" / "walk.mp4", *scenes(3), rate=1)
    made, record = recipes.build_here(
        recipes.dataset("more", frames=Frames(videos=path.parent, caption="still of ohwx person", smallest_face=32))
    )
    stills = [one for one in record["made"] if one["time_s"] is not None]
    assert [(one["origin"], one["time_s"]) for one in stills] == [(str(path), float(n)) for n in range(3)]
    assert len(record["made"]) == 6
    for one in stills:
        assert (made / one["name"]).with_suffix(".txt").read_text().strip() == "still of ohwx person"
        assert "similarity" in one["notes"][0]


def test_stills_with_another_face_no_face_or_a_small_one_are_left_out(recipes, tmp_path):
    film(tmp_path / "videos" / "a-stranger.mp4", *scenes(2, person=STRANGER), rate=1)
    film(tmp_path / "videos" / "b-no-face.mp4", drawn(seed=3), rate=1)
    film(tmp_path / "videos" / "c-far.mp4", drawn(Pose(size=0.2)), rate=1)
    film(tmp_path / "videos" / "d-persona.mp4", *scenes(1), rate=1)
    (tmp_path / "videos" / "e-broken.mp4").write_bytes(b"no video")
    _, record = recipes.build_here(
        recipes.dataset("more", frames=Frames(videos=tmp_path / "videos", caption="x", smallest_face=64))
    )
    assert [Path(one["origin"]).stem for one in record["made"] if one["time_s"] is not None] == ["d-persona"]
    reasons = {Path(one["origin"]).stem: one["why"] for one in record["dropped"]}
    assert ", below 0.4" in reasons["a-stranger"]
    assert reasons["b-no-face"] == "no face found"
    assert "of 64 pixels" in reasons["c-far"]
    assert "cannot be read" in reasons["e-broken"]


def test_similar_stills_are_added_once_and_up_to_their_share(recipes, tmp_path):
    two = scenes(2)
    path = film(tmp_path / "v.mp4", two[0], two[0], two[1], two[1], *scenes(5)[2:], rate=1)
    _, record = recipes.build_here(
        recipes.dataset("more", frames=Frames(videos=path, caption="x", share=0.4, smallest_face=32))
    )
    assert sum(one["time_s"] is not None for one in record["made"]) == 2
    assert "bits from another image, below 8" in whys(record) or "above the share" in whys(record)
    _, all_of_them = recipes.build_here(
        recipes.dataset("more", frames=Frames(videos=path, caption="x", share=0.9, smallest_face=32))
    )
    assert sum(one["time_s"] is not None for one in all_of_them["made"]) <= 5
    assert whys(all_of_them).count("below 8") >= 2


@pytest.mark.parametrize(("share", "most"), [(0.35, 1), (0.4, 2), (0.6, 4)])
def test_stills_are_never_more_than_their_share(recipes, tmp_path, share, most):
    """Of three images: 0.35 are 1.6 stills, 0.6 are 4.5."""
    path = film(tmp_path / "v.mp4", *scenes(5), rate=1)
    asked = Frames(videos=path, caption="x", share=share, smallest_face=32, duplicates=0)
    _, record = recipes.build_here(recipes.dataset("more", frames=asked))
    assert sum(one["time_s"] is not None for one in record["made"]) == most


def test_two_videos_of_one_name_keep_their_own_stills(recipes, tmp_path):
    first, second = scenes(2)
    film(tmp_path / "videos" / "walk.mov", first, rate=1)
    film(tmp_path / "videos" / "walk.mp4", second, rate=1)
    made, record = recipes.build_here(
        recipes.dataset("more", frames=Frames(videos=tmp_path / "videos", caption="x", smallest_face=32))
    )
    stills = {Path(one["origin"]).name: made / one["name"] for one in record["made"] if one["time_s"] is not None}
    for name, image in (("walk.mov", first), ("walk.mp4", second)):
        assert np.abs(images.load(stills[name]).astype(int) - np.asarray(image).astype(int)).mean() < 3
    assert all(one["face"] for one in record["made"] if one["time_s"] is not None), "the sheet shows whose face it was"


def test_stills_that_are_not_used_are_not_kept(recipes, tmp_path):
    path = film(tmp_path / "v.mp4", *scenes(2), *scenes(2, person=STRANGER), rate=1)
    made, record = recipes.build_here(
        recipes.dataset("more", frames=Frames(videos=path, caption="x", smallest_face=32))
    )
    kept = {still.name for still in (made.parent / "stills").iterdir()}
    assert kept == {one["name"] for one in record["made"] if one["time_s"] is not None}


def test_without_references_frames_are_rejected(recipes, tmp_path):
    (tmp_path / "no-face").mkdir()
    recipes.scoring = replace(recipes.scoring, references=tmp_path / "no-face")
    path = film(tmp_path / "v.mp4", *scenes(1), rate=1)
    with pytest.raises(NotReady, match="no reference photo shows exactly one face"):
        recipes.build_here(recipes.dataset("more", frames=Frames(videos=path, caption="x", smallest_face=32)))
