"""Existing LoRA files as points of a grid: `lora = [...]` in [dims], [loras.NAME] in the settings."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from standins.world import World
from test_score_loras import lora

from orchestrator import cli
from orchestrator.config import settings
from orchestrator.errors import Conflict, InputError, NotReady
from orchestrator.evidence import configurations, lora_files, summary
from orchestrator.evidence.lora_files import FileComparison, compare
from orchestrator.evidence.stats.contrast import TestSettings
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.summary import SweepSummary
from orchestrator.kohya import lora_file
from orchestrator.model import LORA, Question, State
from orchestrator.plan import preflight
from orchestrator.report import answers, html, model_card, overview
from orchestrator.report.answers import files as file_answers
from orchestrator.store.hashes import sha256
from orchestrator.store.layout import Sweep

QUESTION = '[[question]]\nid = "V"\nask = "Is v3 better?"\ncontrast = { lora = ["v2", "v3"] }\n'
BOTH = f'[dims]\nnetwork_dim = [2]\nlora = ["v2", "v3"]\n{QUESTION}'
SEEDS = "seeds = [1, 2, 3]"


def settle(world: World, **files: Path | str) -> None:
    """[loras.NAME] for each file, or for lines of TOML, and three image seeds."""
    tables = {name: one if isinstance(one, str) else f"path = {json.dumps(str(one))}" for name, one in files.items()}
    world.settle(sections="".join(f"[loras.{name}]\n{lines}\n" for name, lines in tables.items()))
    text = world.settings.read_text(encoding="utf-8").replace("seeds = [1]", SEEDS)
    world.settings.write_text(text, encoding="utf-8")


@pytest.fixture
def files(world: World) -> World:
    """v2 with foreign metadata and its own trigger, v3 of an earlier sweep."""
    lora(world.folder / "v2.safetensors", rank=5, metadata={"ss_network_module": "other.trainer"})
    hash_of_base = sha256(_base(world))
    lora(
        world.folder / "v3.safetensors",
        rank=3,
        metadata={"ss_network_module": "networks.lora", "ss_new_sd_model_hash": hash_of_base},
    )
    settle(
        world,
        v2='path = "v2.safetensors"\ntrigger = "sks woman"\nstrength = 0.8',
        v3='path = "v3.safetensors"\nbase_model = "doll"',
    )
    return world


def _base(world: World) -> Path:
    match = re.search(r"path = \"(.*base\.safetensors)\"", world.settings.read_text(encoding="utf-8"))
    assert match
    return Path(match[1])


def test_files_are_generated_scored_ranked_and_compared_beside_trainings(files: World) -> None:
    files.ask(BOTH)
    planned = files.plan()
    assert [point.params.get(LORA) for point in planned.points] == [None, "v2", "v3", None]
    shown = CliRunner().invoke(cli.main, ["plan", str(files.grid), "--settings", str(files.settings)])
    assert "1 training, 2 LoRA files and 1 baseline" in shown.output
    files.drive()
    assert set(files.states().values()) == {State.FINISHED}
    assert len([line for line in files.ledger() if "start" in line]) <= 1, "files are not trained"
    read = summary.read(files.sweep)
    v2, v3 = (next(one for one in read.runs if one.run.point.params.get(LORA) == name) for name in ("v2", "v3"))
    assert {score.image.text for score in v2.scores} == {"photo of sks woman", "sks woman outside"}
    assert {score.image.strength for score in v2.scores} == {0.8}
    assert {score.image.text for score in v3.scores} == {"photo of ohwx person", "ohwx person outside"}
    assert v3.gain is not None
    row = files.rows()["lora=v2"]
    origin = json.loads((v2.run.path / "lora.json").read_text(encoding="utf-8"))
    assert row["checkpoint_sha256"] == origin["sha256"]
    assert (origin["module"], origin["trigger"], origin["path"]) == (
        "other.trainer",
        "sks woman",
        str(files.folder / "v2.safetensors"),
    )
    ranked = configurations.group(read.runs)
    assert {one.label for one in ranked} >= {"lora v2", "lora v3", "baseline doll"}
    assert all(one.interval for one in ranked if one.is_file), "over prompts and image seeds"
    (answer,) = answers.answer_questions([read])[0]
    assert "a comparison of files, not of training settings" in answer.sentence
    expected = compare([v2.scores, v3.scores], [(), ()], ["", ""])[0]
    assert answer.difference == pytest.approx(expected.difference)
    assert answer.interval == expected.interval
    assert "`other.trainer`" in dict(answer.facts)["File v2"]
    card = model_card.text(v2, "v2", read, settings.load(files.settings))
    assert "trigger: sks woman" in card
    assert "not trained here: the file v2.safetensors" in card
    assert "training seed" not in card
    assert str(files.folder) not in card
    assert "lora.json" in html.write(read, [answer]).read_text(encoding="utf-8")
    assert overview.best(ranked)


@pytest.mark.parametrize(
    ("interval", "verdict", "sentence"),
    [
        (
            (0.02, 0.06),
            "yes",
            "v3 is better than v2: +0.040 similarity (95 % interval +0.020 to +0.060) on 8 prompts and 2 ",
        ),
        ((-0.06, -0.02), "no", "v3 is worse than v2: -0.040 similarity"),
        ((-0.015, 0.015), "no", "No relevant difference between v2 and v3: +0.000 similarity"),
        ((-0.03, 0.05), "undecided", "Not decided whether v3 is better than v2: +0.010 similarity"),
        (None, "undecided", "Not decided whether v3 is better than v2: too few common images are scored."),
    ],
)
def test_the_sentence_about_two_files_names_the_verdict(
    monkeypatch: pytest.MonkeyPatch, interval: tuple[float, float] | None, verdict: str, sentence: str
) -> None:
    found = interval and FileComparison(
        first=0,
        second=1,
        difference=sum(interval) / 2,
        interval=Interval(low=interval[0], high=interval[1]),
        prompts=8,
        seeds=2,
        by_gain=False,
    )
    monkeypatch.setattr(lora_files, "compare", lambda *_, **__: [found] if found else [])
    question = Question(id="V", ask="Is v3 better?", dim=LORA, levels=("v2", "v3"))
    answer = file_answers.answer(
        SweepSummary(sweep=Sweep(Path("v")), questions=(question,), runs=()), question, TestSettings()
    )
    assert answer.verdict == verdict
    assert answer.sentence.startswith(sentence)


@pytest.mark.nightly
def test_two_files_alone_make_a_sweep_and_their_lead_is_that_of_files(files: World) -> None:
    files.ask(f'[dims]\nlora = ["v2", "v3"]\n{QUESTION}')
    assert [point.params.get(LORA) for point in files.plan().points] == ["v2", "v3", None]
    files.drive()
    text = overview.best(configurations.group(summary.read(files.sweep).runs))
    assert "a comparison of files, not of training settings" in text or "better than the baseline" in text


def test_a_changed_file_or_strength_is_another_sweep(files: World) -> None:
    files.ask(BOTH)
    files.context()
    text = files.settings.read_text(encoding="utf-8")
    files.settings.write_text(text.replace("strength = 0.8", "strength = 0.9"), encoding="utf-8")
    with pytest.raises(Conflict, match=r"loras\.v2: has changed"):
        files.context()
    files.settings.write_text(text, encoding="utf-8")
    lora(files.folder / "v3.safetensors", rank=4)
    with pytest.raises(Conflict, match="lora v3: has changed"):
        files.context()


@pytest.mark.nightly
def test_a_file_beside_finished_trainings_adds_no_seed(files: World) -> None:
    files.ask("[dims]\nnetwork_dim = [2]\n")
    files.context()
    run = files.run("network_dim*")
    run.create()
    run.finish("score", {})
    files.ask(BOTH)
    files.context()
    assert not files.sweep.seeds_extended()


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def _broken(path: Path) -> None:
    path.write_bytes(lora(path).read_bytes()[:-10])


def _other(path: Path) -> None:
    lora(path, metadata={"ss_base_model_version": "sd_v1"})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_pickled, "not a safetensors file"),
        (_broken, "cannot be read"),
        (_other, "ss_base_model_version is 'sd_v1'"),
        (Path.mkdir, "cannot be read"),
        (lambda _: None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_before_anything_starts(world: World, make: Any, reason: str) -> None:
    path = world.folder / "bad.safetensors"
    make(path)
    settle(world, bad=path)
    world.ask('[dims]\nlora = ["bad"]\n')
    with pytest.raises(NotReady, match=r"loras\.bad\.path: ") as refused:
        world.session().preflight()
    assert reason in str(refused.value)
    assert not world.sweep.path.exists()


def test_another_base_model_than_that_of_the_metadata_is_a_warning(files: World) -> None:
    files.ask(BOTH)
    found = [str(one) for one in files.session().missing()]
    assert found == []
    session = files.session()
    problems = [
        one for one in preflight.findings(session.settings, session.plan.points, session.gpus) if "loras" in one.key
    ]
    assert [(one.key, one.what) for one in problems] == [
        ("loras.v2.path", "its metadata names the module 'other.trainer'; it is loaded as networks.lora"),
        ("loras.v2.base_model", "its metadata names no base model; its images are generated on doll"),
    ]


TENSORS = {
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"),
    "dora": ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale"),
    "lokr": ("lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"),
    "oft": ("oft_blocks", "alpha"),
}


def network(path: Path, kind: str, **metadata: str) -> Path:
    prefix = "oft_unet" if kind == "oft" else "lora_unet"
    weights = {f"{prefix}_a.{name}": np.full((2, 2), 0.5, np.float16) for name in TENSORS[kind]}
    save_file(weights, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("kind", "metadata", "expected"),
    [
        ("loha", {"ss_network_module": "lycoris.kohya"}, {"network_module": "lycoris.kohya"}),
        ("dora", {"ss_network_module": "lycoris.kohya"}, {"network_module": "lycoris.kohya"}),
        (
            "lokr",
            {"ss_network_module": "networks.lokr", "ss_network_args": '{"factor": "4"}'},
            {"network_module": "networks.lokr", "network_args": ("factor=4",)},
        ),
        ("lokr", {"ss_network_module": "networks.lokr", "ss_network_args": "["}, {"network_module": "networks.lokr"}),
        ("oft", {"ss_network_module": "networks.oft"}, {"network_module": "networks.oft"}),
        ("loha", {}, None),
        ("dora", {"ss_network_module": "networks.lora"}, None),
        ("oft", {"ss_network_module": "lycoris.kohya"}, None),
    ],
)
def test_the_network_is_read_from_the_metadata(tmp_path: Path, kind: str, metadata: Any, expected: Any) -> None:
    file, problems = lora_file.read(network(tmp_path / "a.safetensors", kind, **metadata))
    assert (file and file.network) == expected
    if expected is None:
        assert "cannot generate" in problems[0].what


def test_a_lycoris_file_is_generated_by_its_own_module(world: World) -> None:
    network(world.folder / "loha.safetensors", "loha", ss_network_module="lycoris.kohya")
    settle(world, loha=world.folder / "loha.safetensors")
    world.ask('[dims]\nlora = ["loha"]\n')
    world.drive(only="lora=loha*")
    commands = [json.loads(path.read_text(encoding="utf-8"))["argv"] for path in world.sweep.path.rglob("command.json")]
    (words,) = [command for command in commands if "--network_module" in command]
    assert words[words.index("--network_module") + 1] == "lycoris_network", "lycoris.kohya with flags"
    assert "--network_pre_calc" not in words
    assert world.states()["lora=loha"] is State.FINISHED


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ('[dims]\nlora = ["v4"]\n', r'"v4" is not among the LoRAs.*\n.*known here: v2, v3'),
        (
            '[fixed]\nlora = "v2"\n',
            r'fixed\.lora: a LoRA file is a point of its own.*\n.*lora = \["NAME"\] in \[dims\]',
        ),
        ('[[zip]]\nlora = ["v2"]\nnetwork_dim = [2]\n', "a LoRA file is a point of its own"),
        ('[dims]\nlora = ["v2", "v2"]\n', "make the same point|twice|different"),
        (f'[dims]\nlora = ["v2"]\n{QUESTION}', '"v3" is not a value of lora'),
    ],
)
def test_mistakes_in_grids_are_named(files: World, grid: str, message: str) -> None:
    files.ask(grid)
    with pytest.raises(InputError) as refused:
        files.plan()
    assert re.search(message, str(refused.value))


def test_an_unknown_base_model_is_an_error_of_the_settings(world: World) -> None:
    settle(world, v2='path = "a.safetensors"\nbase_model = "dol"')
    with pytest.raises(
        InputError, match=r"loras\.v2\.base_model: there is no \[base_models\.dol\].*\n.*did you mean doll"
    ):
        world.plan()
