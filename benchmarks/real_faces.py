"""Thresholds and copying on embeddings of real photos:  python -m benchmarks.real_faces [--json] EMBEDDINGS.npz

EMBEDDINGS.npz contains an array `person_K` of shape (photos, width) for each person; other arrays are ignored. For each
person and each number of references and training images, 200 random splits into references, training images and unseen
photos give these shares (docs/statistics.md):

false_copying         runs of up to twelve unseen photos that are flagged as copies
false_copying_blends  runs of averages of six training faces that are flagged
copies_found          runs of copies that are flagged: training embeddings, turned in a random direction to cosine 0.97
copies_found_doubled  the same with one reference twice
near_copies_found     less exact copies, as crops and re-encoded images are: turned to cosines from 0.90 to 0.95
averaged_copies_found the same, turned towards the average training face
genuine_pass          unseen photos that reach the calibrated threshold
impostor_pass         photos of the other persons that reach it (absent if there is only one person)
above_band            unseen photos above the natural band of the references
above_band_copies, above_band_blends   the same for copies and blends

A setting is omitted if it leaves fewer than five unseen photos.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from orchestrator.evidence.calibration import statistics
from orchestrator.evidence.stats import copying
from orchestrator.evidence.stats.copying import FloatArray
from orchestrator.scoring.faces import similarity

SETTINGS = ((8, 24), (8, 36), (12, 24), (20, 20))
"""(references, training images)"""
SPLITS = 200
RUN = 12
MIN_UNSEEN = 5
BLENDED = 6
COPY_COSINE = (0.97, 0.97)
NEAR_COPY_COSINE = (0.90, 0.95)

People = Mapping[str, FloatArray]


def read(path: Path) -> People:
    """Name -> (photos, width) unit vectors of every array `person_K`. Rows that are no directions are left out."""
    with np.load(path, allow_pickle=False) as arrays:
        people = {name: arrays[name].astype(float) for name in arrays if re.fullmatch(r"person_[A-Za-z0-9]+", name)}
    lengths = {name: np.linalg.norm(faces, axis=-1) for name, faces in people.items() if faces.ndim == 2}
    return {name: statistics.unit(people[name][np.isfinite(length) & (length > 0)]) for name, length in lengths.items()}


def measure(people: People, *, splits: int = SPLITS, seed: int = 0) -> Iterator[tuple[str, int, int, dict[str, float]]]:
    """(person, references, training images, share of each metric) for every setting with enough photos."""
    for name, faces in people.items():
        others = [other for other_name, other in people.items() if other_name != name]
        impostors = np.concatenate(others) if others else np.empty((0, faces.shape[1]))
        for references, training in SETTINGS:
            if len(faces) - references - training >= MIN_UNSEEN:
                rng = np.random.default_rng([seed, references, training])
                found: dict[str, list[float]] = defaultdict(list)
                for _ in range(splits):
                    for metric, value in _split(faces, impostors, references, training, rng):
                        found[metric].append(value)
                yield name, references, training, {metric: float(np.mean(values)) for metric, values in found.items()}


def _split(
    faces: FloatArray, impostors: FloatArray, references: int, training: int, rng: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Each metric of one random split."""
    order = rng.permutation(len(faces))
    known, trained, unseen = np.split(faces[order], [references, references + training])
    run = unseen[:RUN]
    blended, copied = blends(trained, rng, len(run)), copies(trained, rng, len(run))
    yield "false_copying", is_copying(run, known, trained)
    yield "false_copying_blends", is_copying(blended, known, trained)
    yield "copies_found", is_copying(copied, known, trained)
    yield "copies_found_doubled", is_copying(copied, np.concatenate([known, known[:1]]), trained)
    for metric, towards in (("near_copies_found", None), ("averaged_copies_found", statistics.centroid(trained))):
        yield metric, is_copying(copies(trained, rng, len(run), NEAR_COPY_COSINE, towards), known, trained)
    calibration = statistics.calibrate({str(number): face for number, face in enumerate(known)})
    centroid = statistics.centroid(known)
    yield "genuine_pass", float((unseen @ centroid >= calibration.threshold).mean())
    if len(impostors):
        yield "impostor_pass", float((impostors @ centroid >= calibration.threshold).mean())
    for metric, images in (("above_band", unseen), ("above_band_copies", copied), ("above_band_blends", blended)):
        yield metric, float((images @ centroid > calibration.band.high).mean())


def is_copying(run: FloatArray, references: FloatArray, training: FloatArray) -> bool:
    """The product's verdict on a run, from embeddings. "Too few to tell" is not a copy."""
    kept = references[similarity.distinct(references)]
    trained = training[similarity.distinct(training)]
    average = statistics.centroid(trained)[None]
    tested = copying.detect_copying(*(_closeness(faces, trained) for faces in (run, kept, average)))
    return tested is not None and tested.copying


def _closeness(faces: FloatArray, training: FloatArray) -> copying.Closeness:
    nearest, following = similarity.closeness(faces, training)
    return copying.Closeness(nearest=nearest, following=following)


def blends(training: FloatArray, rng: np.random.Generator, count: int, of: int = BLENDED) -> FloatArray:
    """(count, width): each the mean direction of some random training faces."""
    return np.array([statistics.centroid(rng.choice(training, of, replace=False)) for _ in range(count)])


def copies(
    training: FloatArray,
    rng: np.random.Generator,
    count: int = RUN,
    cosine: tuple[float, float] = COPY_COSINE,
    towards: FloatArray | None = None,
) -> FloatArray:
    """(count, width): random training faces, each turned to a cosine in this range, in a random direction or towards
    the face (width,)."""
    faces = rng.choice(training, count, replace=False)
    target = rng.normal(size=faces.shape) if towards is None else towards
    across = statistics.unit(target - (target * faces).sum(axis=1, keepdims=True) * faces)
    along = rng.uniform(*cosine, (count, 1))
    return along * faces + np.sqrt(1 - along**2) * across


def main() -> None:
    """Print a Markdown table, or one flat JSON object with keys like `false_copying_person_0_8_36`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path, metavar="EMBEDDINGS.npz")
    parser.add_argument("--json", action="store_true", help="print one flat JSON object and nothing else")
    arguments = parser.parse_args()
    rows = list(measure(read(arguments.embeddings)))
    if arguments.json:
        shares = {
            f"{metric}_{name}_{references}_{training}": share
            for name, references, training, found in rows
            for metric, share in found.items()
        }
        sys.stdout.write(json.dumps(shares) + "\n")
        return
    metrics = list(dict.fromkeys(metric for *_, found in rows for metric in found))
    sys.stdout.write(f"| person | references/training | {' | '.join(metrics)} |\n|{'---|' * (len(metrics) + 2)}\n")
    for name, references, training, found in rows:
        cells = (f"{found[metric]:.3f}" if metric in found else "" for metric in metrics)
        sys.stdout.write(f"| {name} | {references}/{training} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
