"""Faces are found and compared by the unmodified InsightFace, on the miniature's pack and on broken ones."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.errors import NotReady, Problem
from orchestrator.miniature import draw, pack
from orchestrator.model import FaceStatus, Image, Score
from orchestrator.scoring import faces
from orchestrator.scoring.faces import insight
from orchestrator.scoring.faces.pack import DetectorPass, Signature, read_signature

PX = 256
ROOT = Path(__file__).parents[1]

# InsightFace calls what scikit-image deprecates; pytest resets the filter that the scorer sets.
pytestmark = pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack.build(tmp_path_factory.mktemp("faces") / "pack")


@pytest.fixture(scope="module")
def model(folder: Path) -> faces.Faces:
    return faces.load(_inspect(folder), device="cpu")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A pack to be broken."""
    return Path(shutil.copytree(folder, tmp_path / "pack"))


# --- the pack, before anything is loaded ------------------------------------------------------------------------------


def test_signature_equals_that_of_onnxruntime(folder: Path) -> None:
    models = list(folder.glob("*.onnx"))
    assert len(models) == 2
    for path in models:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        shapes = [tuple(size if isinstance(size, int) else None for size in one.shape) for one in session.get_inputs()]
        assert read_signature(path) == Signature(inputs=tuple(shapes), outputs=len(session.get_outputs()))


def test_signature_of_an_old_model_excludes_its_weights(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "w")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "old", inputs, [output], [weight])
    onnx.save(helper.make_model(graph), str(tmp_path / "old.onnx"))
    assert read_signature(tmp_path / "old.onnx") == Signature(inputs=((1,),), outputs=1)


def test_a_model_cut_anywhere_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "detector.onnx").read_bytes()
    for share in (0.0, 0.001, 0.5, 0.9, 0.9999):
        (tmp_path / "cut.onnx").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"Error parsing message|no graph"):
            read_signature(tmp_path / "cut.onnx")


def test_models_are_distinguished_by_shape_and_others_ignored(copy: Path) -> None:
    _stray_model(copy / "0-landmarks.onnx", inputs=1, side=192)
    _stray_model(copy / "1-swapper.onnx", inputs=2, side=128)
    found = _inspect(copy)
    assert (found.detector.name, found.recogniser.name) == ("detector.onnx", "recogniser.onnx")
    assert found.detector.is_absolute()


def test_fingerprint_changes_with_whatever_shapes_an_embedding(folder: Path, copy: Path) -> None:
    usual = _inspect(folder).fingerprint
    assert _inspect(copy).fingerprint == usual
    changed = onnx.load(str(copy / "recogniser.onnx"))
    changed.doc_string = "another"
    onnx.save(changed, str(copy / "recogniser.onnx"))
    others = [
        _inspect(copy),
        faces.inspect(folder, det_size=320, decode_rule="rule"),
        faces.inspect(folder, det_size=PX, decode_rule="another rule"),
    ]
    assert len({usual, *(other.fingerprint for other in others)}) == 4


def test_a_missing_pack_says_where_packs_come_from_and_under_which_licence(tmp_path: Path) -> None:
    problem = _refusal(tmp_path / "absent")
    assert problem.where == str(tmp_path / "absent")
    assert problem.key == "score.pack"
    for part in ("buffalo_l.zip", "non-commercial", "AuraFace-v1", "Apache-2.0", str(tmp_path / "absent")):
        assert part in problem.remedy


def test_a_pack_one_folder_deeper_is_suggested(folder: Path) -> None:
    assert str(folder) in _refusal(folder.parent).remedy


@pytest.mark.parametrize("name", ["detector", "recogniser"])
def test_each_model_must_be_there_exactly_once(copy: Path, name: str) -> None:
    shutil.copy(copy / f"{name}.onnx", copy / "second.onnx")
    assert f"exactly one {name}, found: {name}.onnx, second.onnx" in _refusal(copy).what
    for path in (copy / f"{name}.onnx", copy / "second.onnx"):
        path.unlink()
    assert f"exactly one {name}, found: none" in _refusal(copy).what


def _quantise(path: Path) -> None:
    """As OpenCV's SFace: int8 weights with DequantizeLinear, which the graph also lists as inputs."""
    model = onnx.load(str(path))
    graph, nodes = model.graph, []
    for tensor in [one for one in graph.initializer if len(one.dims) > 1]:
        values, scale = numpy_helper.to_array(tensor), float(np.abs(numpy_helper.to_array(tensor)).max()) / 127
        codes = np.round(values / (scale or 1.0)).astype(np.int8)
        parts = {"codes": codes, "scale": np.float32(scale or 1.0), "zero": np.int8(0)}
        graph.initializer.extend(numpy_helper.from_array(np.asarray(v), f"{tensor.name}_{k}") for k, v in parts.items())
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor.name}_{name}" for name in parts], [tensor.name]))
        graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(values.shape)))
        graph.input.append(helper.make_tensor_value_info(f"{tensor.name}_more", TensorProto.FLOAT, [1]))
        graph.initializer.remove(tensor)
    for node in reversed(nodes):
        graph.node.insert(0, node)
    onnx.save(model, str(path))


def test_a_quantised_recogniser_is_written_with_float32_weights(folder: Path, copy: Path) -> None:
    quantised = copy / "recogniser.onnx"
    _quantise(quantised)
    problem = _refusal(copy)
    assert "quantised weights" in problem.what
    command = re.search(r"`python -m ([\w.]+) (\S+) (\S+)`", problem.remedy)
    assert command
    done = subprocess.run(
        [sys.executable, "-m", *command.groups()], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    quantised.unlink()
    crop = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    one, other = (faces.load(_inspect(path), device="cpu").embed([crop])[0] for path in (folder, copy))
    assert float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)) > 0.999
    assert not np.array_equal(one, other)


def test_every_broken_file_is_named(copy: Path) -> None:
    (copy / "detector.onnx").write_bytes(b"<html>log in first</html>")
    (copy / "recogniser.onnx").write_bytes(b"")
    with pytest.raises(NotReady) as caught:
        _inspect(copy)
    assert [problem.where for problem in caught.value.problems] == [
        str(copy / "detector.onnx"),
        str(copy / "recogniser.onnx"),
    ]


def test_a_pack_with_its_own_preprocessing_is_rejected(copy: Path) -> None:
    (copy / "manifest.json").write_text("{}")
    assert "its own preprocessing" in _refusal(copy).what


def test_detector_size_must_suit_the_detector(copy: Path) -> None:
    with pytest.raises(NotReady, match=r"score.det_size: must be a multiple of 32 \(value: 250\)"):
        faces.inspect(copy, det_size=250, decode_rule="rule")
    _fix_size(copy / "detector.onnx", 320)
    with pytest.raises(NotReady, match="accepts only 320 x 320 pixels"):
        _inspect(copy)


# --- the models -------------------------------------------------------------------------------------------------------


def test_faces_come_largest_first_with_their_place(model: faces.Faces) -> None:
    small, large = draw.Pose(x=0.25, y=0.3, size=0.35), draw.Pose(x=0.65, y=0.6, size=0.6)
    sighting = model.find(_photo((draw.person(1), small), (draw.person(2), large)))
    assert len(sighting.faces) == 2
    nose = sighting.faces[0].landmarks[2]
    assert nose == pytest.approx((0.65 * PX, 0.6 * PX), abs=0.06 * PX)
    assert sighting.faces[0].px > 1.4 * sighting.faces[1].px
    assert sighting.fallback == ""


def test_no_face_is_a_finding(model: faces.Faces) -> None:
    sighting = model.find(_photo())
    assert sighting.faces == ()
    assert sighting.crops == ()


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_rotated_face_is_found_with_the_embedding_of_the_upright_one(quarter: int) -> None:
    """Stands in for a detector that finds upright faces only, as real ones do: markers in the image are landmarks."""
    photo = np.zeros((60, 40, 3), np.uint8)
    for number, (x, y) in enumerate(((10, 20), (30, 20), (20, 30), (12, 40), (28, 40)), start=1):
        photo[y, x] = number
    detection = _upright_only().find(np.ascontiguousarray(np.rot90(photo, -quarter)))
    assert detection.rotation == 90 * quarter
    (face,) = detection.faces
    turned = np.rot90(photo, -quarter)
    assert [int(turned[round(y), round(x), 0]) for x, y in face.landmarks] == [1, 2, 3, 4, 5]
    left, top, right, bottom = face.box
    assert left <= min(x for x, _ in face.landmarks) < max(x for x, _ in face.landmarks) <= right
    assert top <= min(y for _, y in face.landmarks) < max(y for _, y in face.landmarks) <= bottom
    assert _upright_only().find(photo).rotation == 0


def test_embeddings_are_the_same_bits_as_faceanalysis_gives(folder: Path, model: faces.Faces) -> None:
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=-1, det_size=(PX, PX))
    photos = [_photo((draw.person(number), draw.Pose(size=0.5 + 0.05 * number))) for number in range(4)]
    ours = model.embed([model.find(photo).crops[0] for photo in photos])
    theirs = [app.get(photo[..., ::-1])[0].embedding for photo in photos]
    np.testing.assert_array_equal(ours, theirs)


def test_a_face_that_the_first_pass_misses_is_found_smaller(folder: Path, model: faces.Faces, copy: Path) -> None:
    photo = _photo((draw.person(1), draw.Pose(size=1.0)))
    whole = model.find(photo).faces[0]
    _blind_to_large_faces(copy / "detector.onnx")
    _assert_found(photo, copy, "128 px", whole)
    _fix_size(copy / "detector.onnx", PX)
    _assert_found(photo, copy, "256 px, padded", whole)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_an_unknown_device_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(NotReady, match="is not a device"):
        faces.load(_inspect(folder), device=device)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this machine has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_silent_fallback_to_the_cpu_is_refused(folder: Path) -> None:
    with pytest.raises(NotReady, match=r"score.device: onnxruntime fell back to CPUExecutionProvider \(value: cuda"):
        faces.load(_inspect(folder), device="cuda:1")


def test_a_model_that_does_not_load_is_refused(copy: Path) -> None:
    broken = onnx.load(str(copy / "recogniser.onnx"))
    broken.graph.node[-1].op_type = "NoSuchOperator"
    _assert_not_run(broken, copy / "recogniser.onnx", why="NoSuchOperator")


def test_a_model_that_loads_and_does_not_run_is_refused_before_any_image(copy: Path) -> None:
    broken = onnx.load(str(copy / "recogniser.onnx"))
    last = broken.graph.node[-1]
    last.output[0] = "square"
    broken.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [1000, 512]))
    broken.graph.node.append(helper.make_node("Reshape", ["square", "shape"], ["embedding"]))
    _assert_not_run(broken, copy / "recogniser.onnx", why="Reshape")


def test_two_onnxruntimes_are_noticed(tmp_path: Path) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        assert faces.runtime_problems([str(tmp_path)]) == []
        (tmp_path / f"{name.replace('-', '_')}-1.0.dist-info").mkdir()
        (tmp_path / f"{name.replace('-', '_')}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    assert "onnxruntime and onnxruntime-gpu" in faces.runtime_problems([str(tmp_path)])[0].what


# --- the cache --------------------------------------------------------------------------------------------------------

KEY = "ab" * 32
FACE = faces.Face(box=(1.5, 2.0, 30.25, 41.0), landmarks=((1.0, 2.0),) * 5, det_score=0.875)
VECTOR = np.linspace(-3, 3, 512, dtype=np.float32)
FINDING = faces.FaceRecord(faces=(FACE,), embeddings=(VECTOR,), fallback="320 px", rotation=90)


def test_a_stored_value_is_read_back(tmp_path: Path) -> None:
    faces.Cache(tmp_path, "f" * 64).put(KEY, FINDING)
    found = faces.Cache(tmp_path, "f" * 64).get(KEY)
    assert found is not None
    assert (found.faces, found.fallback, found.rotation, found.status) == ((FACE,), "320 px", 90, FaceStatus.OK)
    assert found.embedding is not None
    np.testing.assert_array_equal(found.embedding, VECTOR)


def test_a_missing_face_is_cached(tmp_path: Path) -> None:
    faces.Cache(tmp_path, "f").put(KEY, faces.FaceRecord(faces=(), embeddings=()))
    found = faces.Cache(tmp_path, "f").get(KEY)
    assert found is not None
    assert found.status is FaceStatus.NO_FACE


def test_a_damaged_or_misplaced_entry_is_no_entry(tmp_path: Path) -> None:
    cache = faces.Cache(tmp_path, "f" * 64)
    cache.put(KEY, FINDING)
    (path,) = tmp_path.rglob("*.json")
    whole = path.read_bytes()
    for damaged in (b"", whole[:-9], b"[]", b"\xff\xfe", whole.replace(b"0.875", b"0.876")):
        path.write_bytes(damaged)
        assert cache.get(KEY) is None
    path.write_bytes(whole)
    shutil.copy(path, path.with_name(f"{KEY[:-1]}0.json"))
    assert cache.get(f"{KEY[:-1]}0") is None
    assert faces.Cache(tmp_path, "f" * 16 + "0" * 48).get(KEY) is None
    assert cache.get(KEY) is not None


def test_a_cache_that_cannot_be_written_is_reported_and_leaves_no_file(tmp_path: Path) -> None:
    cache = faces.Cache(tmp_path, "f" * 64)
    cache.put(KEY, FINDING)
    (path,) = tmp_path.rglob("*.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=r"(?i)directory"):
        cache.put(KEY, FINDING)
    assert list(tmp_path.rglob("*.tmp")) == []


# --- the person -------------------------------------------------------------------------------------------------------


def test_similarity_is_to_the_centroid_of_directions_not_of_lengths() -> None:
    someone = faces.persona([_vector(1, 0), _vector(0, 100)], [_vector(0.6, -0.8)])
    score = _score(_found(_vector(5, 0)), someone)
    assert score.similarity == pytest.approx(np.sqrt(0.5))
    assert score.nearest_reference == pytest.approx(1.0)
    assert score.nearest_training == pytest.approx(0.6)


def test_leave_one_out_compares_with_the_others_only() -> None:
    someone = faces.persona([_vector(1, 0), _vector(1, 0), _vector(0, 1)])
    assert faces.leave_one_out(someone) == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 0.0])
    assert faces.leave_one_out(faces.persona([_vector(1, 0)])) == [None]


def test_a_score_describes_the_face_that_was_scored() -> None:
    two = faces.FaceRecord(faces=(FACE, FACE), embeddings=(_vector(1, 0), _vector(0, 1)), fallback="320 px")
    score = _score(two, faces.persona([_vector(1, 0)]))
    assert (score.status, score.faces, score.face_px, score.det_score) == (FaceStatus.MULTI_FACE, 2, 28.75, 0.875)
    assert score.nearest_training is None
    assert "320 px" in score.note


@pytest.mark.parametrize("status", [FaceStatus.UNREADABLE, FaceStatus.ERROR, FaceStatus.NO_FACE])
def test_without_a_face_there_is_no_similarity(status: FaceStatus) -> None:
    outcome: faces.Outcome = faces.ReadError(status=status, note="why")
    if status is FaceStatus.NO_FACE:
        outcome = faces.FaceRecord(faces=(), embeddings=())
    score = _score(outcome, faces.persona([_vector(1, 0)]))
    assert (score.status, score.similarity, score.nearest_reference, score.faces) == (status, None, None, 0)


def test_the_face_most_similar_to_the_persona_is_scored() -> None:
    other = faces.Face(box=(0.0, 0.0, 20.0, 20.0), landmarks=((1.0, 2.0),) * 5, det_score=0.75)
    record = faces.FaceRecord(faces=(FACE, other), embeddings=(_vector(0.6, 0.8), _vector(1, 0)))
    score = _score(record, faces.persona([_vector(1, 0)]))
    assert (score.similarity, score.largest_similarity) == (pytest.approx(1.0), pytest.approx(0.6))
    assert (score.face_px, score.det_score) == (20.0, 0.75)
    assert [one.tolist() for one in faces.embeddings([record])] == [pytest.approx([0.6, 0.8])]
    assert [one.tolist() for one in faces.embeddings([record], faces.persona([_vector(1, 0)]))] == [[1.0, 0.0]]


def test_measured_similarities_have_the_right_order(model: faces.Faces) -> None:
    me, other = draw.person(1), draw.person(2)
    someone = faces.persona([_embedding(model, me, seed) for seed in range(3)])
    likeness = []
    for share in (0.0, 0.5, 0.9, 1.0):
        embedding = _embedding(model, draw.resembling(me, other, share), seed=9)
        likeness.append(_score(_found(embedding), someone).similarity)
    assert likeness == sorted(likeness)
    assert likeness[0] < 0.4
    assert likeness[-1] > 0.95


# --- helpers ----------------------------------------------------------------------------------------------------------


def _upright_only() -> faces.Faces:
    class Detector:
        def detect(self, image: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            points = np.array([np.argwhere(image[..., 0] == number)[0][::-1] for number in range(1, 6)], float)
            upright = points[3, 1] > points[0, 1] + 10 and points[1, 0] > points[0, 0] + 10
            box = [*(points.min(axis=0) - 2), *(points.max(axis=0) + 2), 0.9 if upright else 0.6]
            return np.array([box]), points[None]

    class Recogniser:
        input_shape, input_size = ("N", 3, 112, 112), (112, 112)

    return insight.InsightFace(Detector(), Recogniser(), [DetectorPass(size=640)])


def _inspect(folder: Path) -> faces.Pack:
    return faces.inspect(folder, det_size=PX, decode_rule="rule")


def _refusal(folder: Path) -> Problem:
    with pytest.raises(NotReady) as caught:
        _inspect(folder)
    (problem,) = caught.value.problems
    return problem


def _photo(*shown: tuple[draw.Array, draw.Pose], seed: int = 0) -> faces.Pixels:
    return draw.photo(shown, draw.Backdrop(seed=seed), px=PX)


def _embedding(model: faces.Faces, who: draw.Array, seed: int) -> faces.Embedding:
    return model.embed(model.find(_photo((who, draw.Pose()), seed=seed)).crops)[0]


def _vector(*values: float) -> faces.Embedding:
    return np.array(values, np.float32)


def _found(embedding: faces.Embedding) -> faces.FaceRecord:
    return faces.FaceRecord(faces=(FACE,), embeddings=(embedding,))


def _score(outcome: faces.Outcome, someone: faces.Persona) -> Score:
    return faces.score(Image(file="a.png", checkpoint="", strength=1.0, prompt=0, seed=0), outcome, someone)


def _assert_found(photo: faces.Pixels, folder: Path, fallback: str, whole: faces.Face) -> None:
    """By this fallback, in the image's own pixels: where the full pack finds it at once."""
    sighting = faces.load(_inspect(folder), device="cpu").find(photo)
    assert sighting.fallback == fallback
    np.testing.assert_allclose(sighting.faces[0].landmarks, whole.landmarks, atol=3)
    np.testing.assert_allclose(sighting.faces[0].box, whole.box, atol=8)


def _assert_not_run(broken: onnx.ModelProto, path: Path, *, why: str) -> None:
    onnx.save(broken, str(path))
    found = _inspect(path.parent)
    with pytest.raises(NotReady, match=f"does not run .*{why}"):
        faces.load(found, device="cpu")


def _stray_model(path: Path, *, inputs: int, side: int) -> None:
    sources = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, 3, side, side]) for i in range(inputs)]
    sink = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, side, side])
    graph = helper.make_graph([helper.make_node("Identity", ["x0"], ["y"])], "stray", sources, [sink])
    onnx.save(helper.make_model(graph), str(path))


def _fix_size(path: Path, side: int) -> None:
    model = onnx.load(str(path))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = side
    onnx.save(model, str(path))


def _blind_to_large_faces(path: Path) -> None:
    """Switches the coarse strides off: what is left sees eyes up to 64 pixels apart."""
    model = onnx.load(str(path))
    for node in list(model.graph.node):
        if node.output[0] in ("out_1_16", "out_1_32"):
            name = node.output[0]
            node.output[0] = f"{name}_seen"
            model.graph.node.append(helper.make_node("Sub", [f"{name}_seen", f"{name}_seen"], [name]))
    onnx.save(model, str(path))
