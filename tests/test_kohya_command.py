"""The command lines and environments of the trainer, and which prompts a line can contain."""

import os
from pathlib import Path

import pytest

from orchestrator.config.schema import BaseModel, Generation, Launcher, Trainer
from orchestrator.errors import Severity
from orchestrator.kohya import argv as command
from orchestrator.kohya import gen_img_plugin, generate, prompts, train_plugin
from orchestrator.kohya.arguments import values
from orchestrator.model import Image, Value

TRAINER = Trainer(python=Path("/venv/bin/python"), sd_scripts=Path("/vendor/sd scripts"))
BASE = BaseModel(name="sdxl", path=Path("/models/sdxl.safetensors"))
GENERATION = Generation(prompts=Path("/prompts.txt"), seeds=(1, 2))


def test_the_trainers_interpreter_runs_the_script() -> None:
    assert command.train_argv(TRAINER, Path("/run/config.toml"), Path("/runs/.hashes.json")) == [
        "/venv/bin/python",
        str(Path(train_plugin.__file__)),
        "/runs/.hashes.json",
        "/vendor/sd scripts/sdxl_train_network.py",
        "--config_file",
        "/run/config.toml",
    ]


def test_accelerate_gets_all_arguments_and_the_users_last() -> None:
    trainer = Trainer(
        python=Path("/p"),
        sd_scripts=Path("/s"),
        train_script="train.py",
        launcher=Launcher.ACCELERATE,
        accelerate_args=("--num_cpu_threads_per_process", "4"),
    )
    argv = command.train_argv(trainer, Path("/c.toml"), Path("/h.json"))
    assert argv[:3] == ["/p", "-m", "accelerate.commands.launch"]
    assert argv[-7:-5] == ["--num_cpu_threads_per_process", "4"]
    assert argv[-4:] == ["/h.json", "/s/train.py", "--config_file", "/c.toml"]
    for option, value in (("--num_processes", "1"), ("--num_machines", "1"), ("--dynamo_backend", "no")):
        assert argv[argv.index(option) + 1] == value
    assert "--mixed_precision" in argv


def test_the_environment_makes_the_log_readable_and_names_the_gpu() -> None:
    found = command.environment(TRAINER, gpu="GPU-1234")
    assert found["PYTHONUNBUFFERED"] == "1"
    assert int(found["COLUMNS"]) >= 400
    assert found["PYTHONIOENCODING"].startswith("utf-8")
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1234"
    assert "CUDA_VISIBLE_DEVICES" not in command.environment(TRAINER, gpu=None)
    assert "HF_HUB_OFFLINE" not in found


def test_the_settings_environment_takes_precedence() -> None:
    env = {"COLUMNS": "80", "X": "y", "OMP_NUM_THREADS": "1", "USE_TF": "1"}
    trainer = Trainer(python=Path("/p"), sd_scripts=Path("/s"), threads=4, env=env)
    found = command.environment(trainer, gpu=None)
    assert (found["COLUMNS"], found["X"], found["USE_FLAX"]) == ("80", "y", "0")
    assert found["USE_TF"] == "1"
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("1", "4")
    assert not [name for name in command.environment(TRAINER, gpu=None) if name.endswith("_NUM_THREADS")]


def test_the_hub_is_not_used_if_both_tokenizers_are_cached(tmp_path: Path) -> None:
    trainer = Trainer(python=Path("/p"), sd_scripts=Path("/s"), tokenizer_cache_dir=tmp_path)
    for name in command.TOKENIZERS:
        assert tmp_path / name in command.missing_tokenizers(tmp_path)
        assert "HF_HUB_OFFLINE" not in command.environment(trainer, gpu=None)
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").touch()
    assert command.missing_tokenizers(tmp_path) == []
    assert command.environment(trainer, gpu=None)["HF_HUB_OFFLINE"] == "1"


# --- generation -------------------------------------------------------------------------------------------------------


def argv(lora: Path | None = Path("/out/a.safetensors"), merge: bool = True, **params: Value) -> list[str]:
    generation = Generation(prompts=Path("/prompts.txt"), merge=merge)
    outdir = Path("/out/images")
    return generate.generate_argv(
        TRAINER, BASE, generation, plan=Path("/plan.json"), outdir=outdir, lora=lora, params=params
    )


def value_of(line: list[str], option: str) -> str:
    return line[line.index(option) + 1]


def test_one_process_makes_all_images_with_one_network_slot() -> None:
    line = argv()
    assert line[:5] == ["/venv/bin/python", "/vendor/sd scripts/gen_img.py", "--sdxl", "--bf16", "--sdpa"]
    assert value_of(line, "--ckpt") == "/models/sdxl.safetensors"
    assert value_of(line, "--network_module") == "networks.lora"
    assert value_of(line, "--network_weights") == "/out/a.safetensors"
    assert "--network_pre_calc" in line
    assert value_of(line, "--prompter_module_args") == "/plan.json"
    assert Path(value_of(line, "--from_module")).is_file()
    assert (value_of(line, "--batch_size"), value_of(line, "--vae_batch_size")) == ("4", "1")
    assert value_of(line, "--images_per_prompt") == "1"
    assert "--vae" not in line
    assert "--tokenizer_cache_dir" not in line


def test_the_base_alone_has_no_network() -> None:
    assert not [option for option in argv(lora=None) if option.startswith("--network")]


def test_the_network_of_the_point_is_generated_with() -> None:
    line = argv(network_module="networks.lokr", network_args=("factor=4", "rank_dropout=0.1"))
    assert value_of(line, "--network_module") == "networks.lokr"
    assert value_of(line, "--network_args") == "factor=4"
    assert "--network_pre_calc" in line
    dora = {"network_module": "lycoris.kohya", "network_args": ("dora_wd=True",)}
    assert "--network_pre_calc" not in argv(**dora)
    module, path = value_of(argv(**dora), "--network_module"), generate.environment(dora, {"PYTHONPATH": "/x"})
    folder, _, rest = path["PYTHONPATH"].partition(os.pathsep)
    assert (rest, (Path(folder) / f"{module}.py").is_file()) == ("/x", True)
    assert generate.environment({"network_module": "networks.lokr"}, {}) == {}


def test_hooks_instead_of_merging() -> None:
    assert "--network_pre_calc" not in argv(merge=False)


def test_a_v_prediction_model_is_sampled_as_it_was_trained() -> None:
    assert "--v_parameterization" not in argv()
    assert {"--v_parameterization", "--zero_terminal_snr"} <= set(argv(v_parameterization=True, zero_terminal_snr=True))


def test_vae_and_tokenizers_of_the_settings_are_used() -> None:
    trainer = Trainer(python=Path("/p"), sd_scripts=Path("/s"), tokenizer_cache_dir=Path("/tok"))
    base = BaseModel(name="b", path=Path("/b.safetensors"), vae=Path("/v.safetensors"))
    line = generate.generate_argv(
        trainer, base, GENERATION, plan=Path("/plan"), outdir=Path("/o"), lora=None, params={}
    )
    assert (value_of(line, "--vae"), value_of(line, "--tokenizer_cache_dir")) == ("/v.safetensors", "/tok")


def image(checkpoint: str, strength: float = 1.0, seed: int = 1) -> Image:
    name = f"images/{checkpoint or 'base'}-{strength}-{seed}.png"
    return Image(file=name, checkpoint=checkpoint, strength=strength, prompt=0, seed=seed, text="a photo")


def test_the_plan_names_each_lora_once_and_each_image_by_its_file() -> None:
    wanted = [image("output/a"), image("output/a", 0.5), image("output/b")]
    plan = generate.plan(wanted, folder=Path("/run"), negative="blurry")
    assert plan["schema"] == gen_img_plugin.SCHEMA
    assert plan["loras"] == ["/run/output/a", "/run/output/b"]
    assert plan["images"][2] == {
        "file": "b-1.0-1.png",
        "text": "a photo",
        "negative": "blurry",
        "seed": 1,
        "lora": 1,
        "strength": 1.0,
    }


def test_the_plan_of_the_base_alone() -> None:
    plan = generate.plan([image("", 0.0)], folder=Path("/run"), negative="")
    assert plan["loras"] == []
    assert plan["images"][0]["lora"] is None


def test_a_plan_is_not_mixed() -> None:
    with pytest.raises(ValueError, match="not both"):
        generate.plan([image(""), image("a")], folder=Path("/run"), negative="")


def test_valid_generation_settings_are_accepted() -> None:
    assert generate.check(GENERATION, where="orchestrate.toml") == []


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"sampler": "eular_a"}, "sampler"),
        ({"width": 1000}, "width"),
        ({"height": 0}, "height"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": (-1,)}, "seeds"),
        ({"strengths": (1.0, 1.0)}, "strengths"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"negative_prompt": "bad --s 10"}, "negative_prompt"),
        ({"negative_prompt": "bad\nworse"}, "negative_prompt"),
    ],
)
def test_generation_settings_that_gen_img_would_misread_are_refused(change: dict[str, object], key: str) -> None:
    generation = Generation(prompts=Path("/prompts.txt"), **change)  # type: ignore[arg-type]
    (problem,) = generate.check(generation, where="orchestrate.toml")
    assert (problem.where, problem.key) == ("orchestrate.toml", f"generate.{key}")


def test_known_samplers_are_accepted() -> None:
    for sampler in values.SAMPLERS:
        assert generate.check(Generation(prompts=Path("/p"), sampler=sampler), where="") == []


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_a_prompts_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(
        "\ufeff# those of Q3\r\n a photo, (smiling:1.2) -- yes?\r\n\r\nein Foto, Kücher\n".encode()
    )
    found, problems = prompts.read_prompts(tmp_path / "p.txt")
    assert found == ("a photo, (smiling:1.2) -- yes?", "ein Foto, Kücher")
    assert [problem.where for problem in problems] == [f"{tmp_path}/p.txt:2"]
    _, (missing,) = prompts.read_prompts(tmp_path / "P.text")
    assert missing.key == "generate.prompts"
    assert missing.what.endswith("did you mean p.txt?")


@pytest.mark.parametrize(
    "text",
    [
        *("a --s 10", "a\t--n b", "--w 512", "{a|b}", "a {b}", "a } b", "a\0b", "a\x1b[0m", "a\u2028b", "a\nb"),
        *("in a BLACK AND WHITE film still", "a BREAK b", "BREAKFAST at a window", "an OUTBREAK"),
        *("(version:1.5.2)", "(a, (b:.))", "(a:+.)"),
    ],
)
def test_gen_img_syntax_in_a_prompt_is_an_error(text: str) -> None:
    found = prompts.unusable(text, where="p.txt:1")
    assert [problem.severity for problem in found] == [Severity.ERROR]
    assert all(problem.remedy and problem.where == "p.txt:1" for problem in found)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ohwx person smiling, <lora:detail:0.6>", "<lora:...>"),
        ("a <LyCORIS:x:1>", "<lora:...>"),
        ("a <lyco:x:1>", "<lora:...>"),
        ("a photo, embedding:EasyNegative", "embedding:..."),
        ("a __color__ coat", "__wildcard__"),
        ("a [red:blue:0.5] coat", "[a:b:0.5]"),
        ("a [red|blue] coat", "[a:b:0.5]"),
        ("a photo (aspect ratio 16:9)", "the weight 9"),
        ("a photo (blurry:-5)", "the weight -5"),
    ],
)
def test_syntax_of_other_programs_is_a_warning(text: str, what: str) -> None:
    found = prompts.unusable(text, where="p.txt:1")
    assert [problem.severity for problem in found] == [Severity.WARNING]
    assert all(what in problem.what for problem in found)


def test_a_negative_prompt_is_not_split_into_regions() -> None:
    assert prompts.unusable("BLACK AND WHITE", where="s", key="generate.negative_prompt") == []
    assert prompts.unusable("a BREAK b", where="s", key="generate.negative_prompt") != []


@pytest.mark.parametrize(
    "text",
    [
        *("a well-lit photo", "a photo - smiling", "50% (a:1.2) [b] c", "日本 'x' \"y\" \\(z\\)", "a [b:c] d"),
        *("black and white", "BLACK-AND-WHITE", "AND so on", "(a:1.5)", "\\(16:9\\)", "at 10:30) yes", "a :) (b)"),
    ],
)
def test_plain_words_are_accepted(text: str) -> None:
    assert prompts.unusable(text, where="") == []


def test_a_missing_an_empty_and_a_foreign_file_are_reported(tmp_path: Path) -> None:
    for content, what in ((None, "no such file"), (b"# none\n", "no prompt"), (b"caf\xe9", "not UTF-8")):
        path = tmp_path / "p.txt"
        if content is not None:
            path.write_bytes(content)
        found, problems = prompts.read_prompts(path)
        assert found == ()
        assert what in problems[0].what
        assert str(path) in problems[0].where


def test_repeated_and_endless_prompts_are_warned_about() -> None:
    _, problems = prompts.parse_prompts("a\nb\na\n" + "word, " * 60, where="p.txt")
    assert [(problem.where, problem.severity) for problem in problems] == [
        ("p.txt:3", Severity.WARNING),
        ("p.txt:4", Severity.WARNING),
    ]
