"""The drawn world, whose faces the unmodified InsightFace measures."""

import itertools
import runpy
import sys
import tomllib

import numpy as np
import pytest
from insightface.app import FaceAnalysis
from PIL import Image

from orchestrator.kohya import base_model
from orchestrator.miniature import draw, image_model, pack, scene, world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("miniature") / "world"
    world.write(folder, runs=folder.parent)
    return folder


@pytest.fixture(scope="module")
def faces(folder):
    app = FaceAnalysis(name=str(folder / "pack"), providers=["CPUExecutionProvider"])
    app.prepare(-1, det_size=(256, 256))
    return lambda image: app.get(np.ascontiguousarray(np.asarray(image)[..., ::-1]))


def portrait(identity, seed=0, **pose):
    return draw.photo([(draw.person(identity), draw.Pose(**pose))], draw.Backdrop(seed=seed), px=256)


def test_insightface_tells_a_detector_from_a_recogniser(folder):
    app = FaceAnalysis(name=str(folder / "pack"), providers=["CPUExecutionProvider"])

    assert set(app.models) == {"detection", "recognition"}
    assert type(app.models["detection"]).__name__ in {"RetinaFace", "SCRFD"}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_every_face_is_found(faces, count):
    people = [(draw.person(n), draw.Pose(x=0.27 + 0.46 * n, y=0.5, size=0.4)) for n in range(count)]

    assert len(faces(draw.photo(people, draw.Backdrop(), px=256))) == count


def test_landmarks_are_where_they_were_drawn(faces):
    (face,) = faces(portrait(3, x=0.5, y=0.5, size=0.6))

    unit = 0.6 * 256 / draw.TEMPLATE
    drawn = 128 + (np.array(draw.LANDMARKS) - np.mean(draw.LANDMARKS, axis=0)) * unit
    assert np.abs(face.kps - drawn).max() < 2


def test_persons_resemble_only_themselves(faces):
    seen = [
        faces(portrait(identity, seed, size=0.6 + 0.2 * seed, tilt=10 * seed))[0].normed_embedding
        for identity in range(4)
        for seed in (0, 1)
    ]

    likeness = np.array(seen) @ np.array(seen).T
    same = [likeness[i, i + 1] for i in range(0, 8, 2)]
    others = [likeness[i, j] for i, j in itertools.combinations(range(8), 2) if i // 2 != j // 2]
    assert min(same) > 0.95
    assert max(others) < 0.5


def test_the_similarity_of_drawn_faces_is_known(faces):
    someone, other = draw.person(1), draw.person(2)

    def likeness(share):
        mixed = draw.resembling(someone, other, share)
        image = draw.photo([(mixed, draw.Pose())], draw.Backdrop(), px=256)
        return faces(image)[0].normed_embedding @ faces(portrait(1))[0].normed_embedding

    measured = [likeness(share) for share in (0.0, 0.5, 0.9)]
    assert measured == pytest.approx([0.0, 0.5, 0.9], abs=0.15)


def test_a_swapped_channel_order_finds_no_face(faces):
    assert not faces(portrait(1)[..., ::-1])


def test_a_pack_is_built_once(tmp_path):
    first, second = pack.build(tmp_path / "a"), pack.build(tmp_path / "b")
    before = (first / "detector.onnx").stat().st_mtime_ns

    assert pack.build(first) == first
    assert (first / "detector.onnx").stat().st_mtime_ns == before
    assert [
        (first / name).read_bytes() == (second / name).read_bytes() for name in ("detector.onnx", "recogniser.onnx")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_no_word_occurs_in_two_kinds_of_phrase():
    kinds = [set().union(*(image_model.words(phrase) for phrase in kind)) for kind in scene.PHRASES]

    assert not any(first & second for first, second in itertools.combinations(kinds, 2))


def test_the_world_contains_what_a_sweep_needs(folder, faces):
    images = sorted((folder / "images").glob("*.png"))
    references = sorted((folder / "references").glob("*.png"))
    embeddings = [faces(Image.open(path)) for path in (*images, *references)]

    assert (len(images), len(references)) == (36, 12)
    assert all(len(found) == 1 for found in embeddings)
    centre = np.mean([found[0].normed_embedding for found in embeddings[36:]], axis=0)
    assert min(found[0].normed_embedding @ centre / np.linalg.norm(centre) for found in embeddings[:36]) > 0.85
    assert all("ohwx person" in path.with_suffix(".txt").read_text() for path in images)
    assert len(set((folder / "prompts.txt").read_text().splitlines())) == 8


def test_a_complete_world_is_unchanged_and_a_missing_part_is_written(folder):
    images = sorted((folder / "images").iterdir())
    before = [path.stat().st_mtime_ns for path in images]
    names = sorted(path.name for path in folder.iterdir())
    (folder / "prompts.txt").unlink()

    world.write(folder, runs=folder.parent)

    assert [path.stat().st_mtime_ns for path in images] == before
    assert sorted(path.name for path in folder.iterdir()) == names


def test_two_worlds_are_the_same(folder, tmp_path):
    world.photos(tmp_path / "again", world.PERSONA, count=2, first=0, captions=True)

    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (folder / "images" / path.name).read_bytes()


def test_the_base_model_is_accepted_as_sdxl():
    assert base_model.problems(image_model.WEIGHTS) == []
    assert image_model.WEIGHTS.stat().st_size < 3_000_000


def test_the_base_model_draws_what_the_caption_says(faces):
    model = image_model.load(image_model.WEIGHTS)
    captions = ["portrait, at night", "portrait, on snow", "close-up", "upper body"]

    night, snow, near, far = (
        ((drawn + 1) * 127.5).permute(1, 2, 0).numpy().astype(np.uint8)
        for drawn in image_model.sample(model, image_model.read_captions(captions), [5] * 4, 12)
    )

    assert night[:4].mean() + 60 < snow[:4].mean()
    widths = [np.diff(faces(Image.fromarray(image).resize((256, 256)))[0].bbox[::2])[0] for image in (near, far)]
    assert widths[0] > 1.1 * widths[1]


def test_words_count_not_their_order_or_case():
    same = image_model.read_captions(["photo of ohwx person", "Person, OHWX: of photo of"])
    other = image_model.read_captions(["photo of a person"])

    assert (same[0] == same[1]).all()
    assert not (same[0] == other[0]).all()


def test_the_program_writes_a_world(folder, monkeypatch):
    (folder / "prompts.txt").unlink()
    monkeypatch.setattr(sys, "argv", ["miniature", str(folder)])

    runpy.run_module("orchestrator.miniature", run_name="__main__")

    assert (folder / "prompts.txt").is_file()


def test_the_program_prints_its_usage(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["miniature"])

    with pytest.raises(SystemExit, match=r"usage: python -m orchestrator.miniature FOLDER"):
        runpy.run_module("orchestrator.miniature", run_name="__main__")


def test_tables_can_be_appended_to_the_settings(tmp_path):
    text = world.settings(tmp_path) + '[loras.v2]\npath = "v2.safetensors"\n'
    assert tomllib.loads(text)["loras"]["v2"] == {"path": "v2.safetensors"}
