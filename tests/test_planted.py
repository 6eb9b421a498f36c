"""Effects planted in real trainings of the miniature are found, and no effect is found where there is none.

`python -m benchmarks.planted FOLDER` is the long form, through the whole program.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from orchestrator import scoring
from orchestrator.config.schema import Scoring
from orchestrator.evidence import choice, run_metrics
from orchestrator.evidence.stats.contrast import TestSettings
from orchestrator.evidence.summary import RunSummary, SweepSummary
from orchestrator.kohya import generate
from orchestrator.miniature import generation, image_model, pack, training, world
from orchestrator.model import Image, Params, Point, Question, Score, State
from orchestrator.report import answers
from orchestrator.report.answers.answer import Answer
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status

LORA = "lora.safetensors"
STEPS, SEEDS, PROMPTS = 30, (1, 2, 3), world.PROMPTS[:4]
MIDDLE: Params = {"network_dim": 8, "learning_rate": 1e-3, "dataset": "pictures"}
ARMS: tuple[Params, ...] = (
    MIDDLE,
    {**MIDDLE, "network_dim": 1},
    {**MIDDLE, "learning_rate": 1e-4},
    {**MIDDLE, "dataset": "renamed"},
)
QUESTIONS = (
    Question(id="rank", ask="Is network_dim 1 too low?", dim="network_dim", levels=(1, 8)),
    Question(id="rate", ask="Is a learning rate of 1e-4 too low?", dim="learning_rate", levels=(1e-4, 1e-3)),
    Question(id="null", ask="Are other names better?", dim="dataset", levels=("pictures", "renamed")),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Twelve LoRAs, trained, drawn with and scored; the answers by question."""
    folder = tmp_path_factory.mktemp("planted")
    world.photos(folder / "pictures", world.PERSONA, count=8, first=0, captions=True, px=64)
    world.photos(folder / "references", world.PERSONA, count=8, first=1000, captions=False, px=128)
    _renamed(folder / "pictures", folder / "renamed")
    pack.build(folder / "pack")
    threads = torch.get_num_threads()
    points = [_point({**arm, "seed": seed}) for arm in ARMS for seed in SEEDS]
    images = {point.name: _made(point, folder) for point in points}
    torch.set_num_threads(threads)
    scores = _scored([image for of_run in images.values() for image in of_run], folder)
    runs = tuple(_facts(point, [s for s in scores if s.image in images[point.name]], folder) for point in points)
    read = SweepSummary(sweep=Sweep(Path("planted")), questions=QUESTIONS, runs=runs)
    return {one.id: one for one in answers.answer_questions([read], TestSettings())[0]}


def test_too_low_a_rank_is_found(found: dict[str, Answer]) -> None:
    assert (found["rank"].verdict, found["rank"].pairs) == ("yes", 3)


def test_too_low_a_learning_rate_is_found(found: dict[str, Answer]) -> None:
    assert (found["rate"].verdict, found["rate"].pairs) == ("yes", 3)


def test_the_same_images_under_other_names_leave_it_undecided(found: dict[str, Answer]) -> None:
    null = found["null"]
    assert null.verdict == "undecided"
    assert null.interval
    assert null.difference != 0.0, "other names must change the shuffle"
    assert null.interval.low < 0 < null.interval.high


# --- helpers ----------------------------------------------------------------------------------------------------------


def _renamed(source: Path, folder: Path) -> None:
    """In another order, so that a seed deals them out otherwise."""
    folder.mkdir()
    images = sorted(source.glob("*.png"))
    for number, image in enumerate(reversed(images)):
        for path in (image, image.with_suffix(".txt")):
            shutil.copyfile(path, folder / f"{number}{path.suffix}")


def _point(params: Params) -> Point:
    name = "_".join(str(value) for value in params.values())
    return Point(id="0" * 8, name=name, params=params, dims=tuple(params))


def _made(point: Point, folder: Path) -> list[Image]:
    """Train the point, and draw every prompt with two seeds; files are relative to `folder`."""
    run = folder / point.name
    run.mkdir()
    pictures = json.dumps(str(folder / str(point.params["dataset"])))
    given = {
        **{key: value for key, value in point.params.items() if key != "dataset"},
        "pretrained_model_name_or_path": str(image_model.WEIGHTS),
        "dataset_config": str(run / "dataset.toml"),
        "output_dir": str(run),
        "output_name": "lora",
        "network_module": "networks.lora",
        "network_alpha": point.params["network_dim"],
        "optimizer_type": "AdamW",
        "train_batch_size": 2,
        "max_train_steps": STEPS,
    }
    dataset = f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = {pictures}\ncaption_extension = ".txt"\n'
    (run / "dataset.toml").write_text(dataset, encoding="utf-8")
    config = "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())
    (run / "config.toml").write_text(config, encoding="utf-8")
    training.main(["--config_file", str(run / "config.toml")])
    images = [
        Image(file=f"{point.name}/{p}_{s}.png", checkpoint=LORA, strength=1.0, prompt=p, seed=s, text=text)
        for p, text in enumerate(PROMPTS)
        for s in (1, 2)
    ]
    plan = generate.plan(images, folder=run, negative="")
    (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    asked = {"ckpt": image_model.WEIGHTS, "outdir": run, "prompter_module_args": run / "plan.json"}
    asked |= {"network_weights": run / LORA}
    sizes = {"W": 128, "H": 128, "steps": 10, "batch_size": 8}
    generation.main([text for key, value in {**asked, **sizes}.items() for text in (f"--{key}", str(value))])
    return images


def _scored(images: list[Image], folder: Path) -> tuple[Score, ...]:
    job = scoring.Job(
        settings=Scoring(pack=folder / "pack", references=folder / "references", det_size=128, workers=1),
        cache=folder / "cache",
        references=tuple((folder / "references").glob("*.png")),
        images=tuple(images),
        root=folder,
        out=folder / "scored.json",
    )
    subprocess.run(scoring.write_job(folder, job), check=True, capture_output=True)
    return scoring.read_scores(job.out)


def _facts(point: Point, scores: list[Score], folder: Path) -> RunSummary:
    return RunSummary(
        run=Run(folder / point.name, point),
        status=Status(state=State.FINISHED),
        training=(),
        scores=tuple(scores),
        choice=choice.choose(scores, choice.split({choice.cell(score) for score in scores})),
        metrics=run_metrics.summary(scores),
    )
