"""Export and prune on real runs of the stand-in trainer, through the command line."""

import hashlib
import json
import re
import shutil
from contextlib import chdir
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file
from standins.world import GRID, World

from orchestrator import cli
from orchestrator.config import settings
from orchestrator.config.schema import Settings
from orchestrator.evidence import summary
from orchestrator.evidence.summary import RunSummary
from orchestrator.kohya import web_ui
from orchestrator.kohya.arguments import values
from orchestrator.kohya.outputs import safetensors_header
from orchestrator.model import State
from orchestrator.report import export, model_card, workflow
from orchestrator.store import records, state

NODES = json.loads((Path(__file__).parent / "fixtures" / "comfyui-nodes.json").read_text(encoding="utf-8"))["nodes"]
"""ComfyUI's definitions of the nodes that we use: inputs with types, bounds and choices; outputs."""

SEVERAL = "[fixed]\nsave_every_n_epochs = 1\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory, shared) -> World:
    """Two runs, each with its last checkpoint and one before it."""
    built = World.build(tmp_path_factory.mktemp("export") / "world", shared)
    built.ask(GRID + SEVERAL)
    built.drive()
    return built


@pytest.fixture
def finished(made, tmp_path) -> World:
    """A copy of them that a test may change."""
    shutil.copytree(made.folder, tmp_path / "world")
    copy = World(folder=tmp_path / "world", shared=made.shared)
    copy.settle()
    return copy


def call(world, *words: str):
    return CliRunner().invoke(cli.main, [words[0], "--settings", str(world.settings), *words[1:]])


def files(world) -> set[str]:
    return {
        str(path.relative_to(world.sweep.path))
        for path in world.sweep.path.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_best_run_is_exported_with_card_workflow_and_prompt(finished):
    best = summary.rank_runs(summary.gather(finished.sweep))[0]
    folder = finished.sweep.path / "export" / export.name_of(best, finished.sweep)
    folder.mkdir(parents=True)
    (folder / f".{folder.name}.safetensors.4194305.tmp").write_bytes(
        b"of a killed export"
    )  # no process has this number
    result = call(finished, "export", "grid")
    assert result.exit_code == 0, result.output
    assert "no result yet" not in result.stderr
    lora, card, comfyui, prompt, samples = map(Path, result.stdout.splitlines())
    assert {path.parent for path in (lora, card, comfyui, prompt, samples)} == {card.parent}
    assert card.parent.parent == finished.sweep.path / "export"
    assert set(card.parent.iterdir()) == {lora, card, comfyui, prompt, samples}, "nothing else is uploaded"
    chosen = next(one for one in best.run.checkpoints() if one.file == best.choice.checkpoint)
    assert hashlib.sha256(lora.read_bytes()).hexdigest() == chosen.sha256
    assert best.run.point.id in lora.name
    assert re.fullmatch(r"[\w.-]+", lora.name)
    text = card.read_text(encoding="utf-8")
    assert "trigger: ohwx person" in text
    assert "no interval" in text
    assert "licence" in text
    nodes = json.loads(comfyui.read_text(encoding="utf-8"))
    assert nodes["2"]["inputs"]["lora_name"] == lora.name
    assert f"<lora:{lora.stem}:1>" in prompt.read_text(encoding="utf-8")
    with Image.open(samples) as image:
        assert image.size == (388, 2 * (388 + 16)), "two prompts, one image seed"
        assert len(image.crop((0, 16, 384, 400)).getcolors(999_999) or []) > 20
        assert not image.getexif()
    assert f"[images]({samples.name})" in text
    assert text.startswith(
        '---\ntags: [text-to-image, lora, stable-diffusion-xl]\ninstance_prompt: "ohwx person"\n---\n'
    )
    assert str(finished.folder) not in text, "no folders of this machine"


def test_an_export_during_a_sweep_says_so(finished):
    worst = summary.rank_runs(summary.gather(finished.sweep))[-1]
    (worst.run.path / "scores.json").unlink()
    result = call(finished, "export", "grid")
    assert result.exit_code == 0, result.output
    assert "note: 1 of 3 runs have no result yet, and one may be better" in result.stderr


def test_the_front_matter_of_a_card_has_no_halves_of_characters(monkeypatch):
    """YAML reads the two escapes that JSON writes for one emoji as two invalid characters."""
    monkeypatch.setattr(model_card, "_trigger", lambda *_: 'ohwx \U0001f600 "x"')
    lines = list(islice(model_card._usage(None, "name", None, ()), 3))
    assert lines[2] == 'instance_prompt: "ohwx \U0001f600 \\"x\\""'


def test_a_command_uses_the_settings_that_the_sweep_was_started_with(finished, tmp_path):
    """As after `make demo`: the settings of the current folder have the same runs and another base model."""
    text = finished.settings.read_text(encoding="utf-8").replace("doll", "other")
    (tmp_path / "orchestrate.toml").write_text(text.replace('"runs"', json.dumps(str(finished.sweep.path.parent))))
    record = finished.sweep.record()
    records.write(finished.sweep.path / "sweep.json", {**record, "settings": str(finished.settings)})
    with chdir(tmp_path):
        done = CliRunner().invoke(cli.main, ["export", finished.sweep.name])
        named = CliRunner().invoke(cli.main, ["export", finished.sweep.name, "--settings", "orchestrate.toml"])
    assert done.exit_code == 0, done.output
    assert named.exit_code == 2
    assert "has no base_model doll" in named.stderr


def test_the_card_has_threshold_caveats_and_the_confirmed_similarity(finished):
    assert call(finished, "calibrate").exit_code == 0
    assert call(finished, "confirm", "grid", "--top", "1").exit_code == 0
    text = Path(call(finished, "export", "grid").stdout.splitlines()[1]).read_text(encoding="utf-8")
    noted = best_of(finished).confirmation.comparison
    assert re.search(r"reach the calibrated threshold of 0\.\d{3} \(provisional: 8 photos\): \d+% \(95 %", text)
    assert f"the number to quote: mean image value {noted.confirmed:.3f} (95 %: " in text


def test_the_card_shows_changed_arguments_as_toml(made):
    (one,) = best_of(made).training
    fallback = {"optimizer_args": ["a|b"], "gradient_checkpointing": True}
    degraded = replace(best_of(made), training=(replace(one, overrides=fallback, degraded=True),))
    text = model_card.text(
        degraded, "lora", replace(summary.read(made.sweep), runs=(degraded,)), settings.load(made.settings)
    )
    assert '`optimizer_args` | sd-scripts\' default, changed after out of memory to `["a\\|b"]` |' in text
    assert "changed after out of memory to `true` |" in text


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("lora-000010", "_10_"), ("lora-step00000300", "_300_"), ("lora", "_"), ("lora-mean-3", "_mean-3_"),
        ("lora-ema-0.8", "_ema-0.8_"),
    ],
)  # fmt: skip
def test_the_exported_file_names_its_epoch_or_average(made, file, part):
    one = best_of(made)
    chosen = replace(one, choice=replace(one.choice, checkpoint=f"train/1/output/{file}.safetensors"))
    name = export.name_of(chosen, made.sweep)
    dims, _, identity = one.run.point.name.rpartition("-")
    assert name == re.sub(r"[^A-Za-z0-9._]+", "-", f"{made.sweep.name}_{dims}{part}{identity}")


def test_the_card_names_the_network():
    dora = {"network_module": "lycoris.kohya", "network_args": ("algo=lokr", "dora_wd=True")}
    assert list(model_card._network({})) == []
    assert list(model_card._network(dora)) == ["- network: lokr with decomposed weights (DoRA) of lycoris.kohya"]


def test_an_oft_is_exported_with_key_names_that_comfyui_knows(finished, tmp_path):
    """Its rotations are constrained in the file, because ComfyUI reads another constraint from alpha."""
    one = best_of(finished)
    chosen = next(item for item in one.run.checkpoints() if item.file == one.choice.checkpoint)
    blocks = np.zeros((2, 3, 3), np.float32)
    blocks[0, 0, 1] = 3.0
    tensors = {f"oft_unet_{name}.oft_blocks": blocks for name in "ab"}
    alphas = {"oft_unet_a.alpha": np.float32(0.1), "oft_unet_b.alpha": np.float32(9)}
    save_file({**tensors, **{name: np.asarray(alpha) for name, alpha in alphas.items()}}, one.run.path / chosen.file)
    replaced = replace(chosen, sha256=hashlib.sha256((one.run.path / chosen.file).read_bytes()).hexdigest())
    checkpoints = [replaced if item == chosen else item for item in one.run.checkpoints()]
    run = mock.Mock(wraps=one.run, path=one.run.path, point=one.run.point, checkpoints=lambda: checkpoints)
    lora, copy, card, comfyui, prompt, _ = export.export(
        replace(one, run=run), summary.read(finished.sweep), settings.load(finished.settings)
    )
    assert copy.name == f"{lora.stem}-lycoris.safetensors"
    assert json.loads(comfyui.read_text(encoding="utf-8"))["2"]["inputs"]["lora_name"] == copy.name
    assert f"<lora:{copy.stem}:1>" in prompt.read_text(encoding="utf-8")
    assert "ComfyUI does not know the key names" in card.read_text(encoding="utf-8")
    written = load_file(copy)
    assert set(written) == {"lora_unet_a.oft_blocks", "lora_unet_b.oft_blocks"}
    limited = written["lora_unet_a.oft_blocks"]
    assert np.linalg.norm(limited - limited.transpose(0, 2, 1)) == pytest.approx(0.1 * 6)
    assert np.array_equal(written["lora_unet_b.oft_blocks"], blocks), "its norm is below the limit"


@pytest.mark.parametrize(
    ("tensors", "strength", "said"),
    [
        ({"lora_unet_a.lora_up.weight": (4, 2)}, 0.5, []),
        ({"lora_unet_a.hada_w1_a": (4, 2), "lora_unet_a.lokr_w1": (4, 4)}, 0.5, []),
        ({"lora_unet_a.hada_t1": (4, 4, 3, 3)}, 1.0, []),
        ({"lora_unet_a.lokr_t2": (4, 4, 3, 3)}, 1.0, ["train without use_tucker"]),
        ({"lora_unet_a.dora_scale": (1, 3)}, 1.0, []),
        ({"lora_unet_a.dora_scale": (4, 1)}, 1.0, ["A1111 applies this DoRA wrongly"]),
        ({"oft_unet_a.oft_blocks": (2, 3, 3)}, 1.0, []),
        ({"oft_unet_a.oft_blocks": (2, 3, 3)}, 0.64, ["use 0.8 instead of 0.64 there"]),
    ],
)
def test_deviations_of_comfyui_and_a1111_are_named(tmp_path, tensors, strength, said):
    save_file({name: np.zeros(shape, np.float16) for name, shape in tensors.items()}, tmp_path / "a.safetensors")
    found = list(web_ui.deviations(safetensors_header.read_header(tmp_path / "a.safetensors"), strength))
    assert [words in sentence for words, sentence in zip(said, found, strict=True)] == [True] * len(said)


def test_the_card_shows_hostile_text_as_text(made):
    settings_ = settings.load(made.settings)
    trigger = "<img src=x> [a](http://b) *c*\n# d `e` | f"
    datasets = {name: replace(one, trigger=trigger) for name, one in settings_.datasets.items()}
    text = model_card.text(best_of(made), "lora", summary.read(made.sweep), replace(settings_, datasets=datasets))
    assert r"- trigger: \<img src=x\> \[a\](http://b) \*c\* \# d \`e\` \| f" in text.splitlines()


@pytest.mark.parametrize("sampler", values.SAMPLERS)
def test_the_workflow_fits_comfyui_s_node_definitions(made, sampler):
    nodes = workflow.comfyui(best_of(made), "lora", with_vae(made, sampler))
    for node in nodes.values():
        asked = NODES[node["class_type"]]["inputs"]
        assert node["inputs"].keys() == asked.keys()
        for name, value in node["inputs"].items():
            assert fits(value, asked[name], nodes), f"{node['class_type']}.{name}: {value}"


def fits(value: Any, asked: dict[str, Any], nodes: dict[str, Any]) -> bool:
    """As ComfyUI's validate_inputs checks it, except which files exist."""
    if isinstance(value, list):
        source, output = value
        return NODES[nodes[source]["class_type"]]["outputs"][output] == asked["type"]
    if asked["type"] in ("INT", "FLOAT"):
        whole = asked["type"] == "FLOAT" or (isinstance(value, int) and value % asked.get("step", 1) == 0)
        return whole and asked["min"] <= value <= asked["max"]
    return isinstance(value, str) and (asked["type"] == "STRING" or value in asked.get("choices", [value]))


def test_the_vae_of_a_base_model_is_loaded(made):
    one, asked = best_of(made), with_vae(made, "ddim")
    nodes = workflow.comfyui(one, "lora", asked)
    source, _ = nodes["7"]["inputs"]["vae"]
    assert nodes[source] == {"class_type": "VAELoader", "inputs": {"vae_name": "fixed.safetensors"}}
    assert workflow.a1111(one, "lora", asked).endswith(", VAE: fixed.safetensors")


@pytest.mark.parametrize(
    ("sampler", "theirs", "noted"),
    [
        ("k_dpm_2_a", "Sampler: DPM2 a,", False),
        ("pndm", "Sampler: Euler a,", True),
    ],
)
def test_the_card_names_a_replaced_sampler(made, sampler, theirs, noted):
    one, asked = best_of(made), with_vae(made, sampler)
    assert theirs in workflow.a1111(one, "lora", asked)
    text = model_card.text(one, "lora", summary.read(made.sweep), asked)
    assert f"steps of {sampler}, scale" in text
    assert (f"ComfyUI and A1111 have no {sampler}" in text) is noted


def best_of(world: World) -> RunSummary:
    return summary.rank_runs(summary.gather(world.sweep))[0]


def with_vae(world: World, sampler: str) -> Settings:
    asked = settings.load(world.settings)
    bases = {name: replace(base, vae=Path("vae/fixed.safetensors")) for name, base in asked.base_models.items()}
    return replace(asked, base_models=bases, generation=replace(asked.generation, sampler=sampler))


def test_a_run_is_named_by_a_glob_of_its_name_or_id(finished):
    (one, *_rest) = [run for run in finished.sweep.runs() if not run.point.is_baseline]
    assert one.point.id in call(finished, "export", "grid", "--run", one.point.id).stdout
    several = call(finished, "export", "grid", "--run", "network_dim=*")
    assert several.exit_code == 2
    assert one.point.id in several.stderr
    assert call(finished, "export", "grid", "--run", "no-such-run").exit_code == 3


def test_a_changed_checkpoint_is_not_exported(finished):
    one = summary.rank_runs(summary.gather(finished.sweep))[0]
    (one.run.path / one.choice.checkpoint).write_bytes(b"another")
    result = call(finished, "export", "grid")
    assert result.exit_code == 2
    assert "is not the file that was scored" in result.stderr
    assert not list((finished.sweep.path / export.FOLDER).rglob("*.safetensors"))


def test_prune_only_lists_files_without_yes(finished):
    before = files(finished)
    shown = call(finished, "prune", "grid", "--keep-best", "1")
    assert shown.exit_code == 0, shown.output
    assert files(finished) == before
    assert len(shown.stdout.splitlines()) == 1
    assert "--yes" in shown.stderr


def test_prune_deletes_unselected_files_and_the_report_stays(finished):
    _best, other = summary.rank_runs(summary.gather(finished.sweep))
    training_state = other.run.path / "train/1/output/lora-000001-state"
    training_state.mkdir()
    (training_state / "optimizer.bin").write_bytes(b"0" * 1000)
    table, before = call(finished, "report", "grid").stdout.splitlines()[-1], files(finished)
    rows = Path(table).read_text(encoding="utf-8")
    assert call(finished, "prune", "grid", "--keep-best", "1", "--yes").exit_code == 0
    gone = before - files(finished)
    folder = f"{other.run.path.name}/train/1/output"
    assert gone == {f"{folder}/lora-000001.safetensors", f"{folder}/lora-000001-state/optimizer.bin"}
    assert (other.run.path / other.choice.checkpoint).exists()
    call(finished, "report", "grid")
    assert Path(table).read_text(encoding="utf-8") == rows
    assert all(state.status(run).state is State.FINISHED for run in finished.sweep.runs())


def test_prune_keeps_unfinished_runs(finished):
    run = summary.rank_runs(summary.gather(finished.sweep))[-1].run
    (run.path / "scores.json").unlink()
    assert run.path.name not in call(finished, "prune", "grid", "--keep-best", "0").stdout


def test_a_running_sweep_is_not_pruned(finished):
    with finished.sweep.lock():
        assert call(finished, "prune", "grid", "--keep-best", "0").exit_code == 5
