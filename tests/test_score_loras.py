"""`orchestrate score --lora`: LoRA files of any origin."""

import csv
import json
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file
from standins.world import World

from orchestrator import cli, scoring
from orchestrator.errors import InputError
from orchestrator.evidence.lora_files import FileComparison
from orchestrator.evidence.run_metrics import image_value
from orchestrator.evidence.stats import crossed
from orchestrator.evidence.stats.estimates import Interval


def call(world: World, *paths: Path, more: tuple[str, ...] = ()) -> Result:
    named = [word for path in paths for word in ("--lora", str(path))]
    return CliRunner().invoke(cli.main, ["score", "--settings", str(world.settings), *named, *more])


def lora(path: Path, *, rank: int = 2, metadata: dict[str, str] | None = None, **tensors: Any) -> Path:
    """A LoRA as the stand-ins write it; `tensors` are added."""
    weights = {
        "lora_unet_a.lora_down.weight": np.full((rank, 4), 0.5, np.float16),
        "lora_unet_a.lora_up.weight": np.full((4, rank), 0.25, np.float16),
        "lora_unet_a.alpha": np.array(rank, np.float16),
        **{name.replace("__", "."): value for name, value in tensors.items()},
    }
    save_file(weights, path, metadata=metadata)
    return path


def table(folder: Path, name: str) -> list[dict[str, str]]:
    (path,) = folder.glob(f"runs/.scores/loras-*/{name}")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_lora_of_a_sweep_and_a_foreign_one_are_scored_and_compared(world: World) -> None:
    world.drive(only="network_dim=2*")
    swept = next(world.run("network_dim=2*").path.glob("train/*/output/*.safetensors"))
    calibrated = CliRunner().invoke(cli.main, ["calibrate", "--settings", str(world.settings)])
    assert calibrated.exit_code == 0, calibrated.output
    foreign = lora(
        world.folder / "foreign.safetensors",
        rank=5,
        metadata={"ss_network_module": "other.trainer", "ss_sd_model_name": "pony\x1b[2J.safetensors"},
    )
    before = foreign.read_bytes()
    done = call(world, foreign, swept)
    assert done.exit_code == 0, done.output
    assert foreign.read_bytes() == before
    assert "its metadata names the module 'other.trainer'" in done.stderr
    assert "was trained on 'pony?[2J.safetensors'; its images are generated on doll" in done.stderr
    rows = table(world.folder, "loras.csv")
    assert float(rows[0]["gain"]) > float(rows[1]["gain"])
    first, second = sorted(rows, key=lambda row: row["file"] == str(foreign))
    assert (first["made_on"], second["ranks"], second["file"]) == ("doll", "5", str(foreign))
    threshold = float(first["threshold"])
    assert "provisional" in first["threshold_caveat"]
    values = []
    for row in (first, second):
        scores = scoring.read_scores(world.folder / "runs" / ".scores" / row["run"] / "scores.json")
        values.append({(s.image.prompt, s.image.seed): image_value(s) or 0.0 for s in scores})
        passed = np.mean([value >= threshold for value in values[-1].values()])
        assert float(row["pass_rate"]) == pytest.approx(passed)
    own = scoring.read_scores(world.run("network_dim=2*").path / "scores.json")
    assert values[0] == {(s.image.prompt, s.image.seed): s.similarity for s in own}, "as in its sweep"
    (pair,) = table(world.folder, "pairs.csv")
    expected = np.mean([values[0][cell] - values[1][cell] for cell in values[0]])
    assert float(pair["difference"]) == pytest.approx(expected, abs=1e-5)
    assert "Comparison of files, not of training settings" in done.stdout
    record = json.loads((world.folder / "runs" / ".scores" / second["run"] / "lora.json").read_text(encoding="utf-8"))
    assert record["sha256"] == second["sha256"]
    again = call(world, foreign, swept)
    assert again.stdout == done.stdout
    assert len(list(world.folder.glob("runs/.scores/lora-*/generate/*"))) == 2, "nothing was generated again"


def test_another_strength_is_another_run(world: World) -> None:
    path = lora(world.folder / "v2.safetensors", metadata={"ss_network_module": "networks.lora"})
    for strength in ("1.0", "0.7"):
        assert call(world, path, more=("--strength", strength)).exit_code == 0
    plans = sorted(world.folder.glob("runs/.scores/lora-v2-*/generate/1/plan.json"))
    strengths = {json.loads(one.read_text(encoding="utf-8"))["images"][0]["strength"] for one in plans}
    assert strengths == {1.0, 0.7}


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/orchestrate-pickle-was-opened"),))


@pytest.mark.parametrize(
    "kind", ["broken", "pickle", "pickle.pt", "lycoris", "unknown", "sd1", "flux", "width", "nan", "absent"]
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(world: World, kind: str) -> None:
    path, zeros = world.folder / f"{kind}.safetensors", np.zeros((2, 2), np.float16)
    opened = Path("/tmp/orchestrate-pickle-was-opened")
    opened.unlink(missing_ok=True)
    if kind == "broken":
        content = lora(path).read_bytes()
        path.write_bytes(content[:-10])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(_Evil()))
    elif kind == "pickle.pt":
        path = world.folder / "file.pt"
        path.write_bytes(pickle.dumps(_Evil()))
    elif kind == "lycoris":
        save_file({"lora_unet_a.hada_w1_a": zeros}, path, metadata={"ss_network_module": "lycoris.kohya"})
    elif kind == "unknown":
        save_file({"lora_unet_a.hada_w1_a": zeros}, path)
    elif kind == "sd1":
        lora(path, metadata={"ss_base_model_version": "sd_v1"})
    elif kind == "flux":
        lora(path, lora_unet_double_blocks_0_img_attn_qkv__lora_down__weight=zeros)
    elif kind == "width":
        name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
        extra: dict[str, Any] = {f"{name}__lora_down__weight": np.zeros((2, 768), np.float16)}
        lora(path, **extra, **{f"{name}__lora_up__weight": cast("Any", zeros)})
    elif kind == "nan":
        lora(path, lora_unet_a__lora_up__weight=np.full((4, 2), np.nan, np.float16))
    reasons = {
        "broken": "cannot be read",
        "pickle": "not a safetensors file",
        "pickle.pt": "as a pickle",
        "lycoris": "1 of its modules lack tensors, the first is 'lora_unet_a'",
        "unknown": "is of another program and has hada_w1_a",
        "sd1": "ss_base_model_version is 'sd_v1'",
        "flux": "another architecture",
        "width": "its text width is 768, not 2048",
        "nan": "contain NaN or infinity",
        "absent": "there is no such file",
    }
    done = call(world, path)
    assert done.exit_code == InputError.exit_code, done.output
    assert reasons[kind] in done.stderr
    assert path.name in done.stderr
    assert not opened.exists()
    assert not list(world.folder.glob("runs/.scores/*")), "nothing was started"


def test_the_same_content_twice_is_an_error(world: World) -> None:
    paths = [lora(world.folder / f"{name}.safetensors") for name in "ab"]
    assert load_file(paths[0]).keys() == load_file(paths[1]).keys()
    done = call(world, *paths)
    assert done.exit_code == InputError.exit_code
    assert "has the same content as" in done.stderr


def test_files_of_one_name_have_different_names_in_the_sentence(world: World) -> None:
    (world.folder / "v2").mkdir()
    paths = [lora(world.folder / "a.safetensors"), lora(world.folder / "v2" / "a.safetensors", rank=3)]
    done = call(world, *paths)
    names = {row["file"]: row["run"] for row in table(world.folder, "loras.csv")}
    assert f"{names[str(paths[1])]} minus {names[str(paths[0])]}: " in done.stdout


def test_images_and_loras_exclude_each_other(world: World) -> None:
    assert call(world).exit_code == 2
    assert call(world, world.folder / "a.safetensors", more=("--images", str(world.folder))).exit_code == 2


@pytest.mark.parametrize(("prompt_sd", "seed_sd"), [(0.05, 0.0), (0.05, 0.02), (0.0, 0.0)])
def test_intervals_over_prompts_and_seeds_contain_the_truth(prompt_sd: float, seed_sd: float) -> None:
    rng, inside, trials = np.random.default_rng(1), 0, 1000
    for _ in range(trials):
        effects = rng.normal(0, prompt_sd, (8, 1)) + rng.normal(0, seed_sd, (1, 4)) + rng.normal(0, 0.05, (8, 4))
        found = crossed.interval(0.1 + effects)
        assert found
        inside += found.low <= 0.1 <= found.high
    assert inside / trials > 0.93


@pytest.mark.parametrize(("difference", "better"), [(0.1, 1), (-0.1, 0), (0.001, None)])
def test_a_file_is_better_by_a_certain_and_visible_difference(difference: float, better: int | None) -> None:
    """Files that do the same differ by rounding errors, however certain these are."""
    interval = Interval(low=difference - 0.0005, high=difference + 0.0005)
    found = FileComparison(
        first=0, second=1, difference=difference, interval=interval, prompts=8, seeds=4, by_gain=False
    )
    assert found.better == better
