"""Detection of copied training images, on simulated people and on plain numbers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import real_faces
from orchestrator.evidence import run_metrics
from orchestrator.evidence.calibration import statistics
from orchestrator.evidence.stats import copying
from orchestrator.evidence.stats.copying import FloatArray
from orchestrator.model import FaceStatus, Image, Score
from orchestrator.scoring import References
from orchestrator.scoring.faces import similarity

PEOPLE = {
    "tight": (512, 0.9, 0.0),
    "loose": (128, 0.6, 0.0),
    "with bursts": (128, 0.75, 0.3),
}
"""Width of the embedding, median cosine to the own centre, share of photos that are one of a burst."""


def person(width: int, centre: float, bursts: float, *, photos: int = 60, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    along = np.clip(rng.normal(centre, 0.25 * (1 - centre), photos), 0.1, 0.98)
    across = statistics.unit(rng.normal(size=(photos, width - 1)) * np.r_[np.ones(25), np.full(width - 26, 0.35)])
    faces = np.column_stack([along, np.sqrt(1 - along**2)[:, None] * across])
    for number in np.flatnonzero(rng.random(photos) < bursts)[1:]:
        faces[number] = turned(faces[rng.integers(number)], 0.93, rng)
    return faces


def turned(face: FloatArray, cosine: float, rng: np.random.Generator) -> FloatArray:
    noise = rng.normal(size=face.shape)
    return cosine * face + np.sqrt(1 - cosine**2) * statistics.unit(noise - (noise @ face) * face)


@pytest.mark.parametrize("kind", PEOPLE)
@pytest.mark.parametrize(("references", "training"), real_faces.SETTINGS)
def test_copies_are_found_and_photos_and_averages_are_not_flagged(kind: str, references: int, training: int) -> None:
    faces, rng = person(*PEOPLE[kind]), np.random.default_rng(1)
    flagged = []
    for _ in range(40):
        known, trained, unseen = np.split(faces[rng.permutation(60)], [references, references + training])
        runs = unseen[:12], real_faces.blends(trained, rng, 12), real_faces.copies(trained, rng, 12)
        doubled = np.concatenate([known, known[:1]])
        flagged.append([real_faces.is_copying(run, known, trained) for run in runs])
        assert real_faces.is_copying(runs[2], doubled, trained) == flagged[-1][2]
    unseen_flagged, blends_flagged, copies_flagged = np.mean(flagged, axis=0)
    assert unseen_flagged <= 0.05
    assert blends_flagged <= 0.05
    assert copies_flagged >= (0.8 if references == 8 else 0.9)


def test_averages_near_a_typical_photo_are_not_copies() -> None:
    """One training photo lies at the centre, so every average is close to it and to no other."""
    faces, rng = person(128, 0.6, 0.0), np.random.default_rng(2)
    trained = np.concatenate([faces[:23], turned(statistics.centroid(faces[:23]), 0.93, rng)[None]])
    averages = real_faces.blends(trained, rng, 12, of=20)
    nearest, following = similarity.closeness(averages, trained)
    assert np.median((nearest - following) / (1 - following)) > copying.COPY_LEAD, "else the test proves nothing"
    assert not real_faces.is_copying(averages, faces[30:42], trained)
    assert real_faces.is_copying(real_faces.copies(trained, rng, 12), faces[30:42], trained)


def closeness(nearest: list[float], following: float = 0.5) -> copying.Closeness:
    return copying.closeness([(value, following) for value in nearest])


AVERAGE = closeness([0.6])
PHOTOS = [0.60, 0.61, 0.62, 0.63, 0.64, 0.65, 0.66, 0.67]


def test_references_that_are_training_images_are_ignored() -> None:
    copies = closeness([0.95 + 0.001 * n for n in range(8)])
    clean = copying.detect_copying(copies, closeness(PHOTOS), AVERAGE)
    leaked = copying.detect_copying(copies, closeness([*PHOTOS, 0.99, 1.0]), AVERAGE)
    assert clean
    assert clean.copying
    assert clean.near_copies == 8
    assert clean.lead == pytest.approx(0.907)
    assert leaked == clean


def test_too_few_images_or_references_give_no_verdict() -> None:
    assert copying.detect_copying(closeness([0.97]), closeness(PHOTOS), AVERAGE) is None
    assert copying.detect_copying(closeness([0.97] * 12), closeness([0.6]), AVERAGE) is None
    mostly_leaked = closeness([*PHOTOS, *[0.99] * 8])
    assert copying.detect_copying(closeness([0.97] * 12), mostly_leaked, AVERAGE) is None


def test_a_minority_of_copies_is_counted_but_not_flagged() -> None:
    found = copying.detect_copying(closeness([0.95] * 4 + [0.68] * 8), closeness(PHOTOS), AVERAGE)
    assert found
    assert (found.copying, found.near_copies) == (False, 4)


def test_a_run_is_compared_with_the_references_of_its_scores() -> None:
    image = Image(file="x.png", checkpoint="", strength=1.0, prompt=0, seed=0)
    scores = [
        Score(image=image, status=FaceStatus.OK, similarity=0.7, nearest_training=0.95, next_training=0.5)
        for _ in range(8)
    ]
    references = References(
        leave_one_out={},
        training={str(number): (value, 0.5) for number, value in enumerate(PHOTOS)},
        average_training=(0.6, 0.5),
    )
    found = run_metrics.summary(scores, references=references)
    assert (found.copying, found.near_copies) == (True, 8)
    assert run_metrics.summary(scores, references=References(leave_one_out={})).copying is None


def test_the_benchmark_prints_one_flat_json_object(tmp_path: Path) -> None:
    arrays = {"person_0": person(128, 0.7, 0.0, photos=37), "person_1": person(128, 0.7, 0.0, photos=36)}
    np.savez(tmp_path / "faces.npz", **arrays, person_0_turn=np.zeros(37), person_0_face_px=np.zeros((37, 1)))
    command = [sys.executable, "-m", "benchmarks.real_faces", "--json", str(tmp_path / "faces.npz")]
    shares = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)
    assert {key for key in shares if key.startswith("false_copying_person")} == {"false_copying_person_0_8_24"}
    assert {key.removesuffix("_person_0_8_24") for key in shares} >= {
        *("false_copying", "false_copying_blends", "copies_found", "copies_found_doubled"),
        *("genuine_pass", "impostor_pass", "above_band"),
    }
    assert all(0 <= share <= 1 for share in shares.values())
