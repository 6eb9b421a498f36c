"""The scorer is a child that ends with a score or a reason for every image, and records why it failed."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from orchestrator import scoring
from orchestrator.config.schema import Scoring
from orchestrator.errors import OrchestrateError
from orchestrator.miniature import draw, pack
from orchestrator.model import FaceStatus, Image, Score
from orchestrator.scoring import embedding, faces
from orchestrator.scoring.batch_embedder import BatchEmbedder, InProgressFile

ME = draw.person(1)
STRANGER = draw.person(2)


# --- the child --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face pack, four references, and images of every kind."""
    folder = tmp_path_factory.mktemp("album")
    pack.build(folder / "pack")
    for seed in range(4):
        _photo(folder / f"reference-{seed}.png", draw.resembling(ME, draw.person(20 + seed), 0.93), seed=seed)
    _photo(folder / "me.png", ME, seed=10)
    _photo(folder / "like.png", draw.resembling(ME, STRANGER, 0.5), seed=11)
    _photo(folder / "stranger ünï.png", STRANGER, seed=12)
    _photo(folder / "no-face.png", seed=13)
    _photo(folder / "two.png", ME, STRANGER, seed=14)
    (folder / "me~2.png").write_bytes((folder / "me.png").read_bytes())
    (folder / "half.png").write_bytes((folder / "me.png").read_bytes()[:5000])
    return folder


@pytest.fixture(scope="module")
def job(album: Path) -> scoring.Job:
    names = ["me.png", "like.png", "stranger ünï.png", "no-face.png", "two.png", "half.png", "absent.png"]
    return scoring.Job(
        settings=Scoring(pack=album / "pack", references=album, det_size=256, workers=2),
        cache=album / "cache",
        references=tuple(album / f"reference-{seed}.png" for seed in range(4)),
        training=(album / "me.png", album / "me~2.png", album / "no-face.png"),
        images=tuple(_image(name, seed=seed) for seed, name in enumerate(names)),
        root=album,
        out=album / "scores.json",
    )


def test_a_job_reads_back_equal(job: scoring.Job, tmp_path: Path) -> None:
    clip = scoring.ClipConfig(python=tmp_path / "python", model=tmp_path / "clip", triggers=("ohwx",))
    full = replace(job, skip=("two.png",), alone=("me.png",), clip=clip)
    scoring.write_job(tmp_path, full)
    assert scoring.read_job(tmp_path / "job.json") == full


def test_scores_read_back_equal(tmp_path: Path) -> None:
    scores = tuple(
        Score(image=_image(f"{status}.png"), status=status, similarity=0.1, note="naïve") for status in FaceStatus
    )
    references = scoring.References(leave_one_out={"a": 0.5, "b": None}, rejected={"c": "shows no face"})
    scored = scoring.Scored(fingerprint="f", provider="cpu", references=references, training=3, scores=scores)
    scoring.write_scored(tmp_path / "scores.json", scored)
    assert scoring.read_scored(tmp_path / "scores.json") == scored
    assert scoring.read_scores(tmp_path / "scores.json") == scores


def test_every_image_gets_a_score_or_a_reason_in_order(job: scoring.Job) -> None:
    child = _run(job)
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.splitlines()[-1] == "scored: 7/7"
    scored = scoring.read_scored(job.out)
    assert [score.image for score in scored.scores] == list(job.images)
    assert [score.status for score in scored.scores] == ["ok", "ok", "ok", "no_face", "multi_face"] + ["unreadable"] * 2
    me, like, stranger = (score.similarity for score in scored.scores[:3])
    assert me is not None
    assert like is not None
    assert stranger is not None
    assert me > 0.95 > like > stranger
    assert scored.scores[0].nearest_training == pytest.approx(1.0)
    assert scored.training == 1, "one that is repeated for equal steps is one"
    assert min(value for value in scored.references.leave_one_out.values() if value) > 0.75
    assert scored.references.training == {}, "a single training photo has no next ones"
    assert scored.provider == "CPUExecutionProvider"
    assert not scoring.in_progress_path(job.out).exists()


def test_cached_scores_are_equal_and_load_no_model(job: scoring.Job, tmp_path: Path) -> None:
    whole = replace(job, images=job.images[:5], cache=tmp_path / "cache", out=tmp_path / "first.json")
    assert _run(whole).returncode == 0
    again = replace(whole, out=tmp_path / "again.json")
    assert _run(again).returncode == 0
    first, second = scoring.read_scored(whole.out), scoring.read_scored(again.out)
    assert second.scores == first.scores
    assert second.references == first.references
    assert (first.provider, second.provider) == ("CPUExecutionProvider", "")


def test_scores_and_references_are_compared_with_training_images(job: scoring.Job, album: Path, tmp_path: Path) -> None:
    compared = replace(job, training=(album / "me.png", album / "like.png"), out=tmp_path / "scores.json")
    assert _run(compared).returncode == 0
    scored = scoring.read_scored(compared.out)
    me, like = scored.scores[:2]
    assert (me.nearest_training, like.nearest_training) == pytest.approx((1, 1))
    assert me.next_training == pytest.approx(like.next_training), "each is the other's next"
    assert set(scored.references.training) == {str(path) for path in job.references}
    assert scored.references.average_training
    nearest, following = scored.references.average_training
    assert nearest == pytest.approx(following), "the average of two is as close to both"


def test_a_reference_that_is_there_twice_counts_once(job: scoring.Job, album: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.png").write_bytes((album / "reference-1.png").read_bytes())
    doubled = replace(job, references=(*job.references, tmp_path / "copy.png"), out=tmp_path / "scores.json")
    assert _run(doubled).returncode == 0
    assert _run(replace(job, out=tmp_path / "single.json")).returncode == 0
    found, single = scoring.read_scored(doubled.out), scoring.read_scored(tmp_path / "single.json")
    assert found.references.rejected == {str(tmp_path / "copy.png"): "is the same photo as reference-1.png"}
    assert found.scores == single.scores


def test_a_missing_pack_ends_with_4_and_names_the_remedy(job: scoring.Job, tmp_path: Path) -> None:
    absent = replace(job.settings, pack=tmp_path / "absent")
    child = _run(replace(job, settings=absent, out=tmp_path / "scores.json"))
    assert child.returncode == 4
    assert str(tmp_path / "absent") in child.stderr
    assert "AuraFace" in child.stderr
    assert not (tmp_path / "scores.json").exists()


def test_references_with_no_face_or_two_are_rejected_by_name(job: scoring.Job, album: Path, tmp_path: Path) -> None:
    bad = (album / "no-face.png", album / "two.png", album / "half.png")
    some = replace(job, references=job.references + bad, images=(), out=tmp_path / "scores.json")
    child = _run(some)
    assert child.returncode == 0
    assert all(str(path) in child.stderr for path in bad)
    references = scoring.read_scored(some.out).references
    assert set(references.leave_one_out) == {str(path) for path in job.references}
    assert references.rejected[str(album / "no-face.png")] == "shows no face"
    assert references.rejected[str(album / "two.png")] == "shows 2 faces"
    assert _run(replace(some, references=bad, out=tmp_path / "none.json")).returncode == 4


def test_a_damaged_job_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(OrchestrateError, match="cannot be read"):
        scoring.read_job(tmp_path / "job.json")
    child = _child("-m", "orchestrator.scoring", str(tmp_path / "job.json"))
    assert child.returncode == 1
    assert "cannot be read" in child.stderr


@pytest.mark.parametrize(("errors", "too_many"), [(0, False), (1, False), (2, True)])
def test_more_than_five_in_a_hundred_errors_are_too_many(errors: int, too_many: bool) -> None:
    statuses = [FaceStatus.ERROR] * errors + [FaceStatus.OK] * (20 - errors)
    scores = tuple(Score(image=_image("a.png"), status=status) for status in statuses)
    references = scoring.References(leave_one_out={})
    scored = scoring.Scored(fingerprint="f", provider="", references=references, training=0, scores=scores)
    assert scored.too_many_errors is too_many


# --- one image that kills the scorer --------------------------------------------------------------------------------

_CRASHING = """
import os, sys
from pathlib import Path
from orchestrator.scoring import embedding, faces
from orchestrator.scoring.batch_embedder import BatchEmbedder, InProgressFile
from tests.test_scorer import Fake

class Crashing(Fake):
    def find(self, image):
        if image[0, 0, 0] == 66:
            os.abort()
        return super().find(image)

folder, skip, alone = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
embedder = BatchEmbedder(
    load=Crashing, cache=faces.Cache(folder / "cache", "f"), workers=2, skip=[Path(skip)],
    in_progress=InProgressFile(folder / "o.in_progress"), alone=[Path(name) for name in alone],
)
print(*(outcome.status for outcome in embedder.embed(sorted(folder.glob("*.png")))))
"""


def test_the_image_that_killed_the_scorer_is_found_and_skipped(tmp_path: Path) -> None:
    for colour in (63, 64, 65, 66, 67):
        _plain(tmp_path / f"{colour}.png", colour)
    out = tmp_path / "o"
    assert _child("-c", _CRASHING, str(tmp_path), "").returncode < 0
    suspects = scoring.in_progress(out)
    assert str(tmp_path / "66.png") in suspects
    assert _child("-c", _CRASHING, str(tmp_path), "", *suspects).returncode < 0
    assert scoring.in_progress(out) == (str(tmp_path / "66.png"),)
    last = _child("-c", _CRASHING, str(tmp_path), *scoring.in_progress(out))
    assert last.stdout.split() == ["ok", "ok", "ok", "error", "ok"]
    assert scoring.in_progress(out) == ()


# --- the embedder -----------------------------------------------------------------------------------------------------


class Fake:
    """Stands in for the models: the image's colour defines the result. The embedding is the colour."""

    provider = "fake"

    def __init__(self) -> None:
        self.found: list[int] = []
        self.batches: list[int] = []
        self.threads: set[int] = set()

    def find(self, picture: faces.Pixels) -> faces.Detection:
        colour = int(picture[0, 0, 0])
        self.found.append(colour)
        self.threads.add(threading.get_ident())
        if colour == 1:
            raise RuntimeError("the detector does not like it\nat all")
        face = faces.Face(box=(0.0, 0.0, 1.0, 1.0), landmarks=(), det_score=1.0)
        return faces.Detection(faces=(face,) if colour else (), crops=(picture,) if colour else ())

    def embed(self, crops: Sequence[faces.Pixels]) -> list[faces.Embedding]:
        colours = [float(crop[0, 0, 0]) for crop in crops]
        self.batches.append(len(crops))
        if 2 in colours:
            raise ValueError("the recogniser does not like it")
        return [np.array([np.nan if colour == 3 else colour], np.float32) for colour in colours]


def test_an_image_that_fails_does_not_affect_others(tmp_path: Path) -> None:
    paths = [_plain(tmp_path / f"{colour}.png", colour) for colour in (0, 1, 2, 3, 4, 5, 6)]
    outcomes = _embedder(tmp_path, Fake(), workers=1).embed(paths)
    assert [outcome.status for outcome in outcomes] == ["no_face", "error", "error", "error", "ok", "ok", "ok"]
    assert [_note(outcome) for outcome in outcomes[1:3]] == [
        "RuntimeError: the detector does not like it",
        "ValueError: the recogniser does not like it",
    ]


def test_outcomes_are_in_order_however_many_work(tmp_path: Path) -> None:
    paths = [_plain(tmp_path / f"{colour}.png", colour) for colour in range(10, 60)]
    done: list[int] = []
    fake = Fake()
    outcomes = _embedder(tmp_path, fake, workers=4).embed(paths, done.append)
    found = [outcome.embedding[0] for outcome in outcomes if isinstance(outcome, faces.FaceRecord) and outcome.faces]
    assert found == list(range(10, 60))
    assert done == sorted(done)
    assert done[-1] == 50
    assert max(fake.batches) > 1


def test_only_findings_are_kept_and_kept_ones_need_no_model(tmp_path: Path) -> None:
    good = [_plain(tmp_path / f"{colour}.png", colour) for colour in (0, 10)]
    bad = _plain(tmp_path / "bad.png", 1)
    _embedder(tmp_path, Fake(), workers=1).embed([*good, bad])
    second = Fake()
    embedder = _embedder(tmp_path, second, workers=1)
    embedder.embed(good)
    assert embedder.provider == ""
    embedder.embed([*good, bad])
    assert second.found == [1]


def test_the_same_image_under_two_names_is_scored_once(tmp_path: Path) -> None:
    paths = [_plain(tmp_path / name, 10) for name in ("a.png", "b.png")]
    fake = Fake()
    a, b = _embedder(tmp_path, fake, workers=2).embed(paths)
    assert a is b
    assert fake.found == [10]


def test_images_that_are_scored_alone_are_never_batched(tmp_path: Path) -> None:
    paths = [_plain(tmp_path / f"{colour}.png", colour) for colour in range(10, 16)]
    fake = Fake()
    _embedder(tmp_path, fake, workers=4, alone=paths).embed(paths)
    assert fake.batches == [1] * 6
    assert len(fake.threads) == 1


def test_scores_do_not_depend_on_a_writable_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    (outcome,) = _embedder(tmp_path, Fake(), workers=1).embed([_plain(tmp_path / "a.png", 10)])
    assert outcome.status is FaceStatus.OK
    assert "not cached" in capsys.readouterr().err


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_embeddings_are_written_beside_the_scores(job: scoring.Job, tmp_path: Path) -> None:
    with_file = replace(job, images=job.images[:4], out=tmp_path / "scored.json", embeddings=tmp_path / embedding.NAME)
    assert _run(with_file).returncode == 0
    found = embedding.read(tmp_path / embedding.NAME)
    assert found
    assert (found.faces.shape, found.clip.shape) == ((4, 512), (4, 0))
    assert np.isfinite(found.faces).all(axis=1).tolist() == [True, True, True, False]
    (tmp_path / embedding.NAME).write_bytes(b"PK\x03\x04 damaged")
    assert embedding.read(tmp_path / embedding.NAME) is None
    assert embedding.read(tmp_path / "absent.npz") is None


def test_seed_distance_is_the_mean_distance_to_the_other_seeds_of_the_same_prompt() -> None:
    cells = [("a", 0, 0.5), ("a", 0, 0.4), ("a", 0, None), ("a", 0, 0.1), ("a", 1, 0.5), ("b", 0, 0.5)]
    scores = [
        Score(image=replace(_image("x.png"), checkpoint=file, prompt=p), status=FaceStatus.OK, similarity=cosine)
        for file, p, cosine in cells
    ]
    rows = np.array([[1, 0], [0, 2], [np.nan] * 2, [0.6, 0.8], [1, 0], [1, 0]], np.float32)
    found = [one.seed_distance for one in faces.with_seed_distances(scores, rows)]
    assert found == [pytest.approx(0.7), pytest.approx(0.6), None, pytest.approx(0.3), None, None]


# --- helpers ----------------------------------------------------------------------------------------------------------


def _embedder(folder: Path, fake: Fake, *, workers: int, alone: Sequence[Path] = ()) -> BatchEmbedder:
    return BatchEmbedder(
        load=lambda: fake,
        cache=faces.Cache(folder / "cache", "f"),
        workers=workers,
        in_progress=InProgressFile(folder / "in_progress"),
        alone=alone,
    )


def _note(outcome: faces.Outcome) -> str:
    assert isinstance(outcome, faces.ReadError)
    return outcome.note


def _run(job: scoring.Job) -> subprocess.CompletedProcess[str]:
    return _child(*scoring.write_job(job.out.parent, job)[1:])


def _child(*argv: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True, check=False)


def _image(file: str, seed: int = 0) -> Image:
    return Image(file=file, checkpoint="output/a.safetensors", strength=1.0, prompt=0, seed=seed, text="a “photo”")


def _photo(path: Path, *people: draw.Array, seed: int) -> None:
    places = (draw.Pose(x=0.3, y=0.35, size=0.5), draw.Pose(x=0.75, y=0.75, size=0.4))
    pixels = draw.photo(list(zip(people, places, strict=False)), draw.Backdrop(seed=seed), px=256)
    Picture.fromarray(pixels).save(path)


def _plain(path: Path, colour: int) -> Path:
    Picture.new("RGB", (8, 8), (colour, 0, 0)).save(path)
    return path
