"""Adherence: measured by a program in the trainer's interpreter; empty without `score.clip`."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from standins.world import Probe, World

from orchestrator import scoring
from orchestrator.errors import Conflict, NotReady
from orchestrator.model import FaceStatus, Image, Score
from orchestrator.plan import preflight
from orchestrator.scoring import prompt_adherence

PROGRAM = """#!{python}
import array, base64, json, os, sys
if not sys.argv[1].endswith("adherence.py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
job = json.load(open(sys.argv[2], encoding="utf-8"))
cosines = [len(pair["text"]) / 100 for pair in job["pairs"] if os.path.isfile(pair["image"])]
embeddings = [base64.b64encode(array.array("f", [1.0, 0.0])).decode() for _ in cosines]
output = {{"schema": job["schema"], "cosines": cosines, "embeddings": embeddings}}
json.dump(output, open(sys.argv[3], "w", encoding="utf-8"))
"""
"""An interpreter whose CLIP finds an image the nearer to its prompt the longer that is."""


def interpreter(path: Path, text: str = PROGRAM) -> Path:
    path.write_text(text.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


def with_clip(world: World, python: Path) -> Path:
    """Settings that name a model, and an interpreter that stands in for the trainer's; the model's folder."""
    model = world.folder / "clip"
    model.mkdir()
    for name in prompt_adherence.FILES:
        (model / name).write_text(name, encoding="utf-8")
    text = world.settings.read_text(encoding="utf-8").replace("[score]", '[score]\nclip = "clip"')
    world.settings.write_text(text.replace(f'python = "{sys.executable}"', f'python = "{python}"'), encoding="utf-8")
    return model


def image_rows(world: World) -> list[dict[str, str]]:
    with (world.sweep.report / "images.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def asked(python: Path, *triggers: str) -> scoring.ClipConfig:
    return scoring.ClipConfig(python=python, model=Path("clip"), triggers=triggers)


def score(text: str, status: FaceStatus = FaceStatus.OK) -> Score:
    return Score(image=Image(file="a.png", checkpoint="", strength=1.0, prompt=0, seed=1, text=text), status=status)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("photo of ohwx person, outside", "photo of , outside"),
        ("ohwx person at a cafe", "at a cafe"),
        ("ohwx on a hill", "on a hill"),
        ("a personage, ohwxy", "a personage, ohwxy"),
        ("ohwx person", ""),
    ],
)
def test_triggers_are_left_out_as_whole_words_and_the_longest_first(text: str, left: str) -> None:
    assert prompt_adherence.without(["ohwx", "", "ohwx person"], text) == left


def test_each_image_and_each_run_gets_its_adherence(world: World) -> None:
    with_clip(world, interpreter(world.folder / "python"))
    world.drive(only="network_dim=2*")
    row = world.rows()["network_dim=2"]
    expected = {"photo of ohwx person": len("photo of") / 100, "ohwx person outside": len("outside") / 100}
    images = [one for one in image_rows(world) if one["run"].startswith("network_dim=2")]
    assert {one["text"]: float(one["adherence"]) for one in images} == expected
    assert float(row["adherence"]) == pytest.approx(sum(expected.values()) / 2)


def test_drift_is_measured_on_prompts_without_a_trigger(world: World) -> None:
    """The stand-in embeds the first images scored after a change of its program at another angle."""
    prompts = world.folder / "prompts.txt"
    prompts.write_text("photo of ohwx person\na quiet street\n", encoding="utf-8")
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(re.sub(r'prompts = ".*"', 'prompts = "prompts.txt"', text), encoding="utf-8")
    with_clip(world, interpreter(world.folder / "python"))
    world.drive(only="baseline*")
    turned = PROGRAM.replace("[1.0, 0.0]", "[0.6, 0.8]")
    interpreter(world.folder / "python", turned)
    world.drive(only="network_dim=2*")
    row = world.rows()["network_dim=2"]
    assert float(row["drift"]) == pytest.approx(0.4)
    counted = [
        one for one in image_rows(world) if one["run"].startswith("network_dim=2") and one["drift_only"] == "False"
    ]
    others = [
        one for one in image_rows(world) if one["run"].startswith("network_dim=2") and one["drift_only"] == "True"
    ]
    assert {one["text"] for one in counted} == {"photo of ohwx person"}
    assert {one["text"] for one in others} == {"a quiet street"}
    assert int(row["images"]) == len(counted) == len(others)
    assert float(row["adherence"]) == pytest.approx(len("photo of") / 100)
    found = [float(one["similarity"]) for one in counted if one["similarity"]]
    assert float(row["similarity_mean"]) == pytest.approx(sum(found) / len(found), abs=1e-5)
    assert float(row["no_face_rate"]) == pytest.approx(1 - len(found) / len(counted))


def test_prompts_that_all_lack_the_trigger_are_reported(world: World) -> None:
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace('trigger = "ohwx person"', 'trigger = "sks person"'), encoding="utf-8")
    (found,) = [one for one in world.plan().warnings if one.key == "generate.prompts"]
    assert (found.value, found.where) == ("sks person", str(world.shared / "prompts.txt"))
    assert found.remedy == "write the trigger into the prompts, or correct datasets.portraits.trigger"


def test_prompts_without_a_trigger_need_clip(world: World) -> None:
    prompts = world.folder / "prompts.txt"
    prompts.write_text("photo of ohwx person\na quiet street\n", encoding="utf-8")
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(re.sub(r'prompts = ".*"', 'prompts = "prompts.txt"', text), encoding="utf-8")
    (found,) = [one for one in world.plan().warnings if one.key == "generate.prompts"]
    assert found.what == "1 prompt without a trigger: their images measure drift only, which needs CLIP"


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["photo of ohwx", "a street"], {"a street"}),
        (["a hill", "a street"], set()),
        (["photo of ohwx"], set()),
    ],
)
def test_prompts_measure_drift_if_others_have_a_trigger(prompts: list[str], expected: set[str]) -> None:
    assert prompt_adherence.drift_prompts(["ohwx", ""], prompts) == expected
    assert prompt_adherence.drift_prompts([""], prompts) == set()


def test_without_a_model_the_column_is_empty(world: World) -> None:
    world.drive(only="network_dim=2*")
    row = world.rows()["network_dim=2"]
    assert (row["adherence"], row["drift"]) == ("", "")
    assert {one["adherence"] for one in image_rows(world)} == {""}
    assert "CLIP model" not in world.sweep.record()["fingerprint"]


def test_another_model_is_refused_by_a_sweep_that_was_made_with_one(world: World) -> None:
    model = with_clip(world, Path(sys.executable))
    world.context()
    (model / "model.safetensors").write_text("other weights", encoding="utf-8")
    with pytest.raises(Conflict, match="CLIP model: has changed"):
        world.context()


def test_unreadable_images_and_prompts_of_triggers_alone_have_no_adherence(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    scores = [score("a hill", FaceStatus.ERROR), score("ohwx"), score("ohwx on a hill", FaceStatus.NO_FACE)]
    scores.append(score(" a  hill"))
    python = interpreter(tmp_path / "python")
    found, embeddings = prompt_adherence.measure(scores, asked(python, "ohwx"), root=tmp_path, folder=tmp_path)
    assert [one.adherence for one in found] == [None, None, len("on a hill") / 100, len("a hill") / 100]
    assert np.isnan(embeddings[:3]).all()
    assert embeddings[3].tolist() == [1.0, 0.0]


def test_a_program_that_fails_is_reported_with_its_last_output(tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", "#!/bin/sh\necho first >&2; echo no torch here >&2; exit 1\n")
    with pytest.raises(NotReady, match=r"clip: score\.clip: CLIP failed: no torch here"):
        prompt_adherence.measure([score("a hill")], asked(python), root=tmp_path, folder=tmp_path)


def test_missing_parts_of_a_folder_are_reported_before_anything_starts(world: World) -> None:
    model = with_clip(world, Path(sys.executable))
    assert not _findings(world)
    (model / "model.safetensors").unlink()
    (message,) = _findings(world)
    assert message.startswith(f"{world.settings}: score.clip: lacks model.safetensors (value: {model})")


def _findings(world: World) -> list[str]:
    asked = world.plan()
    found = preflight.findings(asked.settings, asked.points, Probe())
    return [str(problem) for problem in found if problem.key == "score.clip"]
