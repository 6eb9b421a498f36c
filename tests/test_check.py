"""`orchestrate check`: problems of the machine and the inputs, each with a remedy."""

import json
import shutil
import sys
import tempfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from standins.world import GPU, Probe, World, blind_pack

from orchestrator.cli import main
from orchestrator.config import settings
from orchestrator.config.schema import Dataset
from orchestrator.datasets import validate
from orchestrator.errors import Problem, Severity, errors_of
from orchestrator.kohya import prompts
from orchestrator.miniature import draw
from orchestrator.plan import check as checks
from orchestrator.plan import forecast, plan, preflight
from orchestrator.plan.check import configurations, dataset_images, gpus, interpreter, persona, token_counts, tokenizers
from orchestrator.plan.vram_estimate import Estimate
from orchestrator.store import shim


def check(world: World, *more: str) -> Result:
    return CliRunner().invoke(main, ["check", "--settings", str(world.settings), *more])


def joined(problems: object) -> str:
    return "\n".join(str(problem) for problem in problems)


def quick(world: World, folder: Path) -> None:
    """A trainer's interpreter that reports its imports without importing anything."""
    stand_in = program(folder / "python", """echo '{"python": "3.11.0", "torch": "2.6.0", "built for": "CUDA 12.4"}'""")
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace(f'python = "{sys.executable}"', f'python = "{stand_in}"'), encoding="utf-8")


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def album(folder: Path, *names: str, source: Path) -> Dataset:
    """A dataset with copies of real images."""
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, folder / name)
    return Dataset(name="album", image_dir=folder)


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_ready_machine_exits_with_0_and_prints_facts(world):
    done = check(world, "--grid", str(world.grid))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith("ready\n")
    assert "torch 2." in done.stdout
    assert "pack on CPUExecutionProvider" in done.stdout


def test_a_check_leaves_no_temporary_files(world, tmp_path, monkeypatch):
    (tmp_path / "system" / "tmp").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system" / "tmp"))
    quick(world, tmp_path)
    assert check(world).exit_code == 0
    assert [path.name for path in (tmp_path / "system").rglob("*")] == ["tmp"]


def test_json_output_has_every_finding(world, tmp_path):
    quick(world, tmp_path)
    next((world.folder / "images").glob("*.txt")).write_text("no trigger here", encoding="utf-8")
    done = check(world, "--json")
    record = json.loads(done.stdout)
    assert (record["schema"], record["ready"], done.exit_code) == (1, True, 0)
    assert set(record["facts"]) == {"orchestrate", "sd-scripts", "trainer", "torch sees", "face pack"}
    finding = next(finding for finding in record["findings"] if finding["what"] == "lacks the trigger")
    assert finding["severity"] == "warning"
    assert finding["remedy"]
    assert set(finding) == {"severity", "what", "where", "key", "value", "remedy"}


def test_all_missing_things_are_reported_at_once_with_exit_code_4(world, tmp_path):
    quick(world, tmp_path)
    images = sorted((world.folder / "images").glob("*.png"))
    images[0].write_bytes(images[0].read_bytes()[:100])
    images[1].with_suffix(".txt").write_text(" ", encoding="utf-8")
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace("base.safetensors", "nowhere.safetensors"), encoding="utf-8")
    done = check(world, "--grid", str(world.grid))
    assert done.exit_code == 4
    for what in ("cannot be read", "is empty: sd-scripts stops at an empty caption", "there is no such file"):
        assert what in done.stderr
    assert "not ready" in done.stdout


def test_a_pickled_vae_is_reported(world, tmp_path):
    quick(world, tmp_path)
    (world.folder / "vae.pt").touch()
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace('base.safetensors"', 'base.safetensors"\nvae = "vae.pt"'), encoding="utf-8")
    done = check(world, "--grid", str(world.grid))
    assert done.exit_code == 4
    assert "base_models.doll.vae: .pt is not .safetensors: sd-scripts would open it as a pickle" in done.stderr


def test_a_wrong_grid_exits_with_2(world):
    world.ask("[dims]\nnetwrk_dim = [2]\n")
    assert check(world, "--grid", str(world.grid)).exit_code == 2


def test_an_unexpected_number_of_images_is_reported(world, tmp_path):
    quick(world, tmp_path)
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(
        text.replace('image_dir = "images"', 'image_dir = "images"\npictures = 4'), encoding="utf-8"
    )
    assert "contains 3 images, not 4" in check(world).stderr


# --- the trainer's interpreter ----------------------------------------------------------------------------------------


def trainer(world: World, *, script: str = "train.py", python: Path | None = None, card: str = "none"):
    used = settings.load(world.settings)
    changed = replace(used.trainer, train_script=script, python=python or used.trainer.python)
    return replace(used, trainer=changed, vram=replace(used.vram, card=card))


def test_libraries_that_cannot_be_imported_are_named(world, tmp_path):
    bare = program(tmp_path / "python", f'exec {sys.executable} -S "$@"')
    found = interpreter.check_interpreter(trainer(world, python=bare), [])
    assert "cannot import torch: ModuleNotFoundError" in joined(found.problems)
    assert "-> set trainer.python to the interpreter of your sd-scripts" in joined(found.problems)
    assert {problem.severity for problem in found.problems} == {Severity.ERROR}


def test_a_missing_package_of_an_oom_fallback_is_a_warning(world):
    world.settle(
        sections='[[oom_fallback]]\nname = "a"\nset = { optimizer_type = "AdamW8bit", learning_rate = 1e-4 }\n'
    )
    used = trainer(world, script="sdxl_train_network.py")
    missing = {
        problem.what.split()[2].strip(":,"): problem.severity
        for problem in interpreter.check_interpreter(used, []).problems
    }
    assert missing["accelerate"] is Severity.ERROR
    assert missing["bitsandbytes"] is Severity.WARNING
    asked = interpreter.check_interpreter(used, [{"optimizer_type": "PagedAdamW8bit"}])
    assert {problem.what.split()[2].strip(":,"): problem.severity for problem in asked.problems}[
        "bitsandbytes"
    ] is Severity.ERROR


def test_the_version_of_an_installed_optimizer_is_a_fact(world):
    used = trainer(world, script="sdxl_train_network.py")
    assert "prodigyopt 1." in interpreter.check_interpreter(used, [{"optimizer_type": "Prodigy"}]).facts["trainer"]


def test_a_package_that_an_argument_needs_is_named_with_its_installation(world):
    used = trainer(world, script="sdxl_train_network.py")
    found = interpreter.check_interpreter(used, [{"optimizer_type": "AdamW", "xformers": True}])
    (problem,) = [problem for problem in found.problems if "xformers" in problem.what]
    assert problem.severity == "error"
    assert "which xformers needs" in problem.what
    assert f"`{used.trainer.python} -m pip install xformers`" in problem.remedy


@pytest.mark.parametrize("text", ["exit 3", "echo no JSON", "kill -9 $$"])
def test_a_broken_interpreter_is_reported(world, tmp_path, text):
    (problem,) = interpreter.check_interpreter(trainer(world, python=program(tmp_path / "python", text)), []).problems
    assert "does not run" in problem.what


def test_torch_without_a_gpu_is_an_error_where_one_is_asked_for(world):
    (problem,) = interpreter.check_interpreter(trainer(world, card=""), []).problems
    assert "sees no GPU (torch 2." in problem.what


# --- tokenizers -------------------------------------------------------------------------------------------------------


def tokenizer_problems(world: World, **env: str) -> str:
    used = trainer(world, script="sdxl_train_network.py")
    return joined(tokenizers.problems(replace(used, trainer=replace(used.trainer, env=env))))


def test_tokenizers_neither_cached_nor_reachable_are_an_error(world, tmp_path):
    found = tokenizer_problems(world, HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    assert "openai_clip-vit-large-patch14 and laion_CLIP-ViT-bigG-14-laion2B-39B-b160k: not cached" in found
    assert "refused" in found
    assert "HF_HUB_OFFLINE is set" in tokenizer_problems(world, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")


def test_tokenizers_in_the_hubs_cache_are_enough(world, tmp_path):
    for name in ("openai--clip-vit-large-patch14", "laion--CLIP-ViT-bigG-14-laion2B-39B-b160k"):
        snapshot = tmp_path / "hub" / f"models--{name}" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "vocab.json").write_text("{}", encoding="utf-8")
    assert tokenizer_problems(world, HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9") == ""


def test_offline_no_warning_promises_a_download_of_tokenizers(world, tmp_path, monkeypatch):
    monkeypatch.setattr(interpreter, "check_interpreter", lambda *_: checks.CheckReport())
    used = trainer(world, script="sdxl_train_network.py")
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    used = replace(used, trainer=replace(used.trainer, env=env, tokenizer_cache_dir=tmp_path))
    found = [one for one in checks.inspect(used, Probe()).problems if one.key == "trainer.tokenizer_cache_dir"]
    assert [one.severity for one in found] == [Severity.ERROR]


@pytest.mark.parametrize(("code", "what"), [(200, ""), (503, "it answers 503")])
def test_a_reachable_hub_is_enough(world, tmp_path, code, what):
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        found = tokenizer_problems(world, HF_HOME=str(tmp_path), HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    assert bool(found) is bool(what)
    assert what in found


# --- images ---------------------------------------------------------------------------------------------------------


def test_resized_and_mirrored_copies_are_found(world, tmp_path):
    images = world.folder / "images"
    one, other, third = sorted(path.name for path in images.glob("*.png"))
    dataset = album(tmp_path / "album", one, other, third, source=images)
    assert "the same image" not in joined(dataset_images.problems(dataset, {"resolution": "64,64"}))
    with Image.open(images / one) as image:
        image.resize((96, 96)).save(tmp_path / "album" / "small.jpg", quality=80)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "album" / "turned.png")
        image.save(tmp_path / "album" / "twin.png")
    found = joined(dataset_images.problems(dataset, {"resolution": "64,64"}))
    assert f"{one} and small.jpg, twin.png are the same image\n" in found
    assert f"{one} and turned.png are the same image, one mirrored" in found
    assert found.count("the same image") == 2, "one message for all copies"


def test_images_below_the_resolution_are_counted(world, tmp_path):
    images = world.folder / "images"
    names = sorted(path.name for path in images.glob("*.png"))
    dataset = album(tmp_path / "album", *names, source=images)
    (problem,) = dataset_images.problems(dataset, {"resolution": "1024,1024"})
    assert problem.what.startswith(f"3 of 3 images have fewer pixels than the resolution: {names[0]} (128 x 128)")
    assert list(dataset_images.problems(dataset, {"resolution": "128,128"})) == []


def test_references_in_the_dataset_are_found_and_reported_once(world, shared, tmp_path):
    references = shared / "references"
    one, other = (path.name for path in sorted(references.glob("*.png"))[2:4])
    dataset = album(tmp_path / "album", one, other, source=references)
    (problem,) = dataset_images.trained_on(dataset, references)
    assert problem.where == str(references)
    assert problem.what.endswith(f": {one} as {one}, {other} as {other}")


def test_images_without_or_with_several_faces_and_copies_of_references_are_found(world, shared, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    places = (draw.Pose(x=0.3, y=0.35, size=0.5), draw.Pose(x=0.75, y=0.75, size=0.4))
    for name, people in {"two.png": (1, 2), "empty.png": ()}.items():
        faces = list(zip(map(draw.person, people), places, strict=False))
        Image.fromarray(draw.photo(faces, draw.Backdrop(seed=1), px=256)).save(folder / name)
    with Image.open(sorted((shared / "references").glob("*.png"))[0]) as image:
        image.save(folder / "again.jpg", quality=95)
    found = persona.check_persona(settings.load(world.settings), [Dataset(name="album", image_dir=folder)])
    text = joined(found.problems)
    assert "1 of 3 images show no face: empty.png" in text
    assert "1 of 3 images show more than one face: two.png" in text
    assert "again.jpg" in next(problem.what for problem in found.problems if "identical to a reference" in problem.what)
    assert found.facts == {"face pack": "pack on CPUExecutionProvider"}


def test_a_face_pack_that_does_not_run_on_its_device_is_an_error(world):
    used = settings.load(world.settings)
    on_gpu = replace(used, scoring=replace(used.scoring, device="cuda"))
    (problem,) = persona.check_persona(on_gpu, list(used.datasets.values())).problems
    assert problem.severity is Severity.ERROR
    assert "scoring does not work" in problem.what
    assert "CPUExecutionProvider" in problem.what


def test_a_pack_that_does_not_separate_people_and_unsupported_references_are_named(world, shared, tmp_path):
    quick(world, tmp_path)
    blind_pack(shared / "pack", tmp_path / "blind")
    shutil.copytree(shared / "references", tmp_path / "photos")
    for name in ("phone.HEIC", "web.jfif", "new.jxl"):
        (tmp_path / "photos" / name).touch()
    text = world.settings.read_text(encoding="utf-8")
    blind = f'pack = "{tmp_path}/blind"'
    text = text.replace(f'pack = "{shared}/pack"', f"{blind}\nsecond_{blind}")
    world.settings.write_text(
        text.replace(f'references = "{shared}/references"', f'references = "{tmp_path}/photos"'), encoding="utf-8"
    )
    done = check(world)
    said = " ".join(done.stderr.split())
    assert done.exit_code == 4, said
    for key in ("score.pack", "score.second_pack"):
        assert f"{key}: the face pack does not separate people: the references score 0." in said
    assert "use another recogniser" in said
    assert "3 files look like images and are not used: new.jxl, phone.HEIC, web.jfif" in said


# --- the GPU and the disk --------------------------------------------------------------------------------------------


def test_the_gpu_its_driver_and_its_processes_are_reported(world, tmp_path):
    busy = replace(GPU, used_mib=2048, processes={4711: 2048})
    quick(world, tmp_path)
    found = checks.inspect(settings.load(_with_gpu(world)), Probe(gpu=busy))
    assert found.facts["GPU"] == "a GPU, 24.0 GiB, 2.0 in use, GPU-1"
    assert found.facts["driver"] == "1"
    assert "process 4711 (2048 MiB)" in joined(found.problems)


def _with_gpu(world: World) -> Path:
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace('card = "none"', 'card = ""'), encoding="utf-8")
    return world.settings


def test_a_memory_profile_that_does_not_fit_is_a_warning(world):
    asked = plan.read(world.settings, world.grid)
    planned = forecast.forecast(asked.sweep, asked.runs(), asked.settings, prompts=2, gpus=[GPU])
    small, large = planned.profiles
    fits, tight, never = (Estimate(gib=gib, error_gib=0.6) for gib in (18.0, 23.5, 30.0))
    assert list(gpus.too_small(replace(planned, profiles=(replace(small, peak=fits),)))) == []
    first, second = gpus.too_small(replace(planned, profiles=(replace(small, peak=never), replace(large, peak=tight))))
    assert first.what == "network_dim = 2: about 30 GiB of 24: does not fit"
    assert second.what == "network_dim = 4: about 24 GiB of 24: tight"
    assert {first.severity, second.severity} == {Severity.WARNING}
    (applied,) = gpus.too_small(replace(planned, profiles=(replace(small, fallbacks=("AdamW8bit",), origin="probe"),)))
    assert applied.what == "network_dim = 2: out of memory (probe); it fitted with the fallbacks AdamW8bit"


def test_a_restricted_proc_is_an_error(world, monkeypatch):
    def unreadable(_pid):
        raise FileNotFoundError(2, "No such file or directory", "/proc/sys/kernel/random/boot_id")

    monkeypatch.setattr(shim, "identity", unreadable)
    (found, *_rest) = preflight.findings(world.plan().settings, (), Probe())
    assert str(found).startswith(
        "/proc/sys/kernel/random/boot_id: cannot be read: No such file or directory\n    -> mount"
    )


def test_a_sweep_that_does_not_fit_the_disk_is_an_error(world):
    asked = plan.read(world.settings, world.grid)
    planned = forecast.forecast(asked.sweep, asked.runs(), asked.settings, prompts=2)
    assert forecast.shortage(planned) == []
    (problem,) = forecast.shortage(replace(planned, free_bytes=1024))
    assert isinstance(problem, Problem)
    assert "0.0 GiB are free" in problem.what


# --- sd-scripts itself ------------------------------------------------------------------------------------------------

SD_SCRIPTS = {
    "torch.py": "from types import SimpleNamespace\nnn = SimpleNamespace(Parameter=list)\nzeros = range\n",
    "library/__init__.py": "",
    "library/sdxl_train_util.py": "",
    "library/train_util.py": "get_optimizer = lambda args, _: (0, 0, 0)\nget_scheduler_fix = lambda *_: 0\n",
    "library/strategy_base.py": """
from types import SimpleNamespace
def tokenizer1(text):
    return SimpleNamespace(input_ids=["start", *text.split(), "end"])
tokenizer1.model_max_length = 77
TokenizeStrategy = SimpleNamespace(get_strategy=lambda: SimpleNamespace(tokenizer1=tokenizer1))
""",
    "library/custom_train_functions.py": "parse_prompt_attention = lambda text: [(text, 1.0)]\n",
    "networks/lora.py": "",  # without __init__.py, as in sd-scripts: a module of that name elsewhere would hide it
    "generate.py": "",
    "train.py": """
import os, sys, tomllib
from types import SimpleNamespace
from library import sdxl_train_util, train_util
if __name__ == "__main__":
    tables = tomllib.load(open(sys.argv[2], "rb"))
    args = {"unet_lr": None, "weighted_captions": False, "max_token_length": None}
    args |= {key: value for table in tables.values() for key, value in table.items()}
    images = os.listdir(tomllib.load(open(args["dataset_config"], "rb"))["datasets"][0]["subsets"][0]["image_dir"])
    print(len(images), "files", os.environ["CUDA_VISIBLE_DEVICES"] or "no GPU")
    if args["network_dim"] == 3:
        raise ValueError(f"rank three is odd, with {len(images)} files")
    if args["network_dim"] == 5:
        print("No data found. Please verify arguments")
        sys.exit()
    if args["network_dim"] == 7:
        os.kill(os.getpid(), 9)
    subset = SimpleNamespace(caption_prefix=None, caption_suffix="end", enable_wildcard=False)
    info = SimpleNamespace(absolute_path="/data/a.png", caption="word " * 75 + "\\nline")
    dataset = SimpleNamespace(image_data={"a": info}, image_to_subset={"a": subset})
    train_dataset_group = SimpleNamespace(datasets=[dataset])
    train_util.prepare_accelerator(SimpleNamespace(**args))
    open(__file__ + ".trained", "w")
""",
}


@pytest.fixture
def sources(world: World, tmp_path: Path) -> Path:
    """Sources that are laid out like sd-scripts, for the stand-in's settings."""
    for name, text in SD_SCRIPTS.items():
        (tmp_path / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sources" / name).write_text(text, encoding="utf-8")
    python = f"""case "$1" in -c) echo '{{"torch": "2.6.0"}}';; *) exec {sys.executable} "$@";; esac"""
    used = settings.load(world.settings).trainer
    text = world.settings.read_text(encoding="utf-8")
    text = text.replace(f'python = "{used.python}"', f'python = "{program(tmp_path / "python", python)}"')
    text = text.replace(f'sd_scripts = "{used.sd_scripts}"', f'sd_scripts = "{tmp_path / "sources"}"')
    world.settings.write_text(text, encoding="utf-8")
    return tmp_path / "sources"


def test_a_deep_check_starts_the_trainer_on_each_distinct_configuration(world, sources):
    world.ask("[dims]\nnetwork_dim = [2, 3, 5, 7]\nseed = [1, 2]\n")
    done = check(world, "--deep", "--json", "--grid", str(world.grid))
    record = json.loads(done.stdout)
    errors = [one for one in record["findings"] if one["severity"] == "error"]
    found = {one["where"].partition("_seed")[0]: one["what"] for one in errors}
    assert record["facts"]["deep check"] == "1 of 4 configurations accepted by sd-scripts"
    assert found == {
        "network_dim=3": "sd-scripts rejects 1 configuration: ValueError: rank three is odd, with 6 files",
        "network_dim=5": "sd-scripts rejects 1 configuration: No data found. Please verify arguments",
        "network_dim=7": "sd-scripts rejects 1 configuration: killed by SIGKILL",
    }
    assert done.exit_code == 4
    assert not list(sources.glob("*.trained"))


def test_a_deep_check_also_starts_the_trainer_on_the_oom_fallbacks(world, sources):
    step = '[[oom_fallback]]\nname = "rank three"\nset = { network_dim = 3 }\n'
    world.settings.write_text(world.settings.read_text(encoding="utf-8") + step, encoding="utf-8")
    plan = world.plan()
    found = configurations.check_configurations(plan.settings, plan.points[:1], plan.prompts)
    [wrong] = errors_of(found.problems)
    assert wrong.where == f"{plan.points[0].name} after the OOM fallback rank three"
    assert "rank three is odd" in wrong.what


def test_counted_tokens_replace_the_estimate(world, sources):
    plan = world.plan()
    found = configurations.check_configurations(plan.settings, plan.points[:1], plan.prompts)
    assert found.facts["tokens"] == "76 in the longest caption, 4 in the longest prompt"
    [cut] = found.problems
    assert "cuts 1 of 1 caption after 75 tokens: a.png (76)" in cut.what
    dataset = plan.settings.datasets["portraits"]
    for picture in dataset.image_dir.glob("*.png"):
        picture.with_suffix(".txt").write_text(f"{dataset.trigger} {'word ' * 75}", encoding="utf-8")
    estimates = [*prompts.parse_prompts("word " * 76, where="p")[1], *validate.validate_dataset(dataset, "")]
    assert len(estimates) == 2
    assert token_counts.without_estimates([*estimates, cut], found) == [cut]
    (sources / "library" / "strategy_base.py").unlink()
    found = configurations.check_configurations(plan.settings, plan.points[:1], plan.prompts)
    assert found.facts["tokens"].startswith("estimated")
    assert token_counts.without_estimates(estimates, found) == estimates


def test_a_deep_check_names_sources_that_cannot_be_imported(world, sources):
    (sources / "library" / "sdxl_train_util.py").write_text("import no_such_package", encoding="utf-8")
    plan = world.plan()
    [found] = configurations.check_configurations(plan.settings, plan.points[:1], plan.prompts).problems
    assert found.what == "sd-scripts cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"
    assert found.key == "trainer.sd_scripts"


def test_a_deep_check_waits_until_other_errors_are_corrected(world, sources):
    text = world.settings.read_text(encoding="utf-8")
    world.settings.write_text(text.replace("/references", "/nowhere"), encoding="utf-8")
    done = check(world, "--deep", "--json", "--grid", str(world.grid))
    assert json.loads(done.stdout)["facts"]["deep check"] == "not done: correct the errors first"
    assert check(world, "--deep").exit_code == 2
