"""A report's columns and its verdict, recomputed from images.csv and embeddings.npz with NumPy and SciPy only."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from scipy import stats
from standins.world import World

from orchestrator import cli
from orchestrator.store import records

FloatArray = npt.NDArray[np.float64]
Row = Mapping[str, str]

GRID = """
[dims]
network_dim = [2, 4]
seed = [1, 2, 3]
[[question]]
id = "Q1"
ask = "Is rank 2 too low?"
contrast = { network_dim = [2, 4] }
"""


def call(world: World, command: str, *arguments: str) -> None:
    done = CliRunner().invoke(cli.main, [command, "--settings", str(world.settings), *arguments])
    assert done.exit_code == 0, done.output


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def values(rows: Sequence[Row]) -> FloatArray:
    """(prompts,): mean image value of each prompt; an image without a face counts -1."""
    prompts = sorted({row["prompt"] for row in rows})
    value = {id(row): float(row["similarity"]) if row["similarity"] else -1.0 for row in rows}
    return np.array([np.mean([value[id(row)] for row in rows if row["prompt"] == prompt]) for prompt in prompts])


def spread(rows: Sequence[Row]) -> FloatArray:
    """(prompts,): mean distance between the faces of the seeds of each prompt."""
    prompts = sorted({row["prompt"] for row in rows})
    return np.array(
        [np.mean([float(row["seed_distance"]) for row in rows if row["prompt"] == prompt]) for prompt in prompts]
    )


def diversity(embeddings: Path, rows: Sequence[Row]) -> float:
    """Mean over the images of the distance of their face to the other seeds' faces of the same prompt."""
    with np.load(embeddings) as arrays:
        faces = arrays["faces"] / np.linalg.norm(arrays["faces"], axis=1, keepdims=True)
    distances = 1 - faces @ faces.T
    same = np.array([[a["prompt"] == b["prompt"] and a is not b for b in rows] for a in rows])
    return float(np.mean([line[others].mean() for line, others in zip(distances, same, strict=True)]))


@pytest.fixture
def reported(world: World, request: pytest.FixtureRequest) -> Path:
    """The report folder of a sweep whose scores are random around the given difference of the ranks."""
    text = world.settings.read_text(encoding="utf-8").replace("seeds = [1]", "seeds = [1, 2]")
    world.settings.write_text(text, encoding="utf-8")
    world.ask(GRID)
    world.drive()
    rng = np.random.default_rng(3)
    for run in world.sweep.runs():
        record = records.read(run.path / "scores.json")
        rank = 0.0 if run.point.is_baseline else 0.4 + request.param * (run.point.params["network_dim"] == 4)
        mean = rank + rng.normal(0, 0.01)
        for number, score in enumerate(record["scores"]):
            score["similarity"] = float(mean + 0.05 * score["image"]["prompt"] + rng.normal(0, 0.02))
            if number == 0 and run.point.params.get("seed") == 2:
                score |= {"similarity": None, "status": "no_face", "faces": 0}
        records.write(run.path / "scores.json", record)
    call(world, "calibrate")
    call(world, "report", "grid")
    call(world, "answer", "grid")
    return world.sweep.report


@pytest.mark.parametrize("reported", [0.3], indirect=True)
def test_the_columns_follow_from_the_images(reported: Path) -> None:
    images, results = read(reported / "images.csv"), read(reported / "results.csv")
    (baseline,) = [row["run"] for row in results if row["is_baseline"] == "True"]
    by_run = {row["run"]: [one for one in images if one["run"] == row["run"]] for row in results}
    assert len(by_run) == 7
    assert sum(not row["similarity"] for row in images) == 2
    for row in results:
        own = by_run[row["run"]]
        faces = [float(one["similarity"]) for one in own if one["similarity"]]
        passed = sum(one >= float(row["threshold"]) for one in faces)
        interval = stats.binomtest(passed, len(own)).proportion_ci(0.95, method="wilson")
        expected = {
            "images": len(own),
            "similarity_median": np.median(faces),
            "similarity_mean": np.mean(faces),
            "similarity_p25": np.quantile(faces, 0.25),
            "no_face_rate": 1 - len(faces) / len(own),
            "pass_rate": passed / len(own),
            "pass_low": interval.low,
            "pass_high": interval.high,
        }
        if len(faces) == len(own):  # a face that the fixture removed is still in embeddings.npz
            expected["diversity"] = diversity(reported.parent / row["run"] / "embeddings.npz", own)
        if row["run"] != baseline:
            expected["gain"] = (values(own) - values(by_run[baseline])).mean()
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("reported", [0.3, 0.0], indirect=True)
def test_the_contrast_and_its_verdict_follow_from_the_images(reported: Path) -> None:
    images, results = read(reported / "images.csv"), read(reported / "results.csv")
    trained = {(row["params_network_dim"], row["params_seed"]): row["run"] for row in results if row["params_seed"]}
    per_run = {key: values([one for one in images if one["run"] == run]) for key, run in trained.items()}
    table = np.array([per_run["4", seed] - per_run["2", seed] for seed in ("1", "2", "3")])
    low, high, p = contrast(table)
    (answer,) = read(reported / "answers.csv")
    found = [float(answer[name]) for name in ("difference", "low", "high")]
    assert found == pytest.approx([table.mean(), low, high], rel=1e-3, abs=1e-4)
    per_run = {key: spread([one for one in images if one["run"] == run]) for key, run in trained.items()}
    spreads = np.array([per_run["4", seed] - per_run["2", seed] for seed in ("1", "2", "3")])
    assert float(answer["diversity"]) == pytest.approx(spreads.mean(), abs=1e-6)
    expected = "yes" if low > 0 and table.mean() >= 0.02 else "no" if high < 0.02 else "undecided"
    assert answer["verdict"] == expected
    if expected != "no":
        assert float(answer["p"]) == pytest.approx(p, rel=0.02)


def contrast(table: FloatArray) -> tuple[float, float, float]:
    """The wider of the two t intervals of a (seeds, prompts) table of differences, and the p-value of no difference."""
    seeds, prompts = table.shape
    rows, columns, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    residual = table - rows[:, None] - columns + mean
    ms_residual = (residual**2).sum() / ((seeds - 1) * (prompts - 1))
    own, of_prompts = rows.var(ddof=1) / seeds, (seeds * columns.var(ddof=1) - ms_residual) / (seeds * prompts)
    fixed = stats.ttest_1samp(rows, 0)
    ends, p = [fixed.confidence_interval(0.95)], [fixed.pvalue]
    if of_prompts > 0:
        error = math.sqrt(own + of_prompts)
        df = error**4 / (own**2 / (seeds - 1) + of_prompts**2 / (prompts - 1))
        ends.append(stats.t.interval(0.95, df, mean, error))
        p.append(2 * stats.t.sf(abs(mean) / error, df))
    widest = max(ends, key=lambda end: end[1] - end[0])
    return float(widest[0]), float(widest[1]), float(max(p))
