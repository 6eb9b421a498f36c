"""Importing presets of the kohya_ss GUI, sd-scripts' config files and command lines."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import cli
from orchestrator.errors import InputError, errors_of
from orchestrator.kohya import presets
from orchestrator.kohya.arguments import schema
from orchestrator.plan import import_project, plan

PRESETS = Path(__file__).parent / "fixtures" / "presets"
SCHEMA = schema.read_snapshot()

TOML = """
[a]
epoch = 30
max_train_epochs = 30
noise_offset_type = "Multires"
multires_noise_iterations = 6
multires_noise_discount = 0.3
dynamo_backend = "no"
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
optimizer_type = "AdamW8bit"
learning_rate = 1e-4
mixed_precision = "bf16"
save_precision = "bf16"
max_bucket_reso = 2048
enable_bucket = true
resolution = "1024,1024"
cache_latents = true
cache_latents_to_disk = true
clip_skip = 2
train_batch_size = 6
sdpa = true
seed = 7
pretrained_model_name_or_path = "D:\\\\models\\\\x.safetensors"
train_data_dir = "/data/ohwx"
output_dir = "out"
wandb_api_key = "s3cr3t"
made_up = 1
"""
LINE = {
    "train.sh": "MODEL=/m/x.safetensors\naccelerate launch --num_processes=1 \"./sdxl_train_network.py\" \\\n"
    "  --pretrained_model_name_or_path=\"$MODEL\" --network_module networks.lora \\\n"
    '  --network_dim=8 --optimizer_args "decouple=True" "weight_decay=0.5" --xformers --learning_rate 1 \\\n'
    "  --optimizer_type=Prodigy --max_train_epochs=3\n",
    "train.bat": "set MODEL=C:\\m\\x.safetensors\naccelerate launch sdxl_train_network.py ^\n"
    "  --pretrained_model_name_or_path=%MODEL% --network_module=networks.lora ^\n"
    '  --network_dim 8 --optimizer_args "decouple=True" "weight_decay=0.5" --xformers --learning_rate=1 ^\n'
    "  --optimizer_type Prodigy --max_train_epochs 3\n",
    "train.ps1": '$MODEL = "C:/m/x.safetensors"\naccelerate launch sdxl_train_network.py `\n'
    "  --pretrained_model_name_or_path=$MODEL --network_module=networks.lora `\n"
    '  --network_dim 8 --optimizer_args "decouple=True" "weight_decay=0.5" --xformers --learning_rate=1 `\n'
    "  --optimizer_type Prodigy --max_train_epochs 3\n",
}  # fmt: skip


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def run(*args):
    return CliRunner().invoke(cli.main, [str(one) for one in args])


@pytest.mark.parametrize("name", ["ai-characters-standard", "kudou-reira-prodigy"])
def test_a_published_preset_plans(tmp_path, monkeypatch, name):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    done = run("import", PRESETS / f"{name}.json", tmp_path)
    assert done.exit_code == 0, done.stderr
    settings, grid = done.stdout.split()
    planned = run("plan", "--settings", settings, grid)
    assert planned.exit_code == 0, planned.stderr
    for text in (
        "mapped:",
        "epoch: max_train_epochs",
        "dropped:",
        "clip_skip",
        "the captions and the prompts must contain it",
        "Next: orchestrate plan",
    ):
        assert text in done.stderr


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ai-now-adamw.json", []),
        ("ai-now-prodigy.json", []),
        ("clothing.json", []),
        ("edg-lora-xl.json", []),
        ("face-dogu-cat.json", []),
        ("finetuning-1.json", []),
        ("kudou-reira-dadaptadam.json", []),
        ("malcolmrey.json", []),
        ("loha.json", []),
        ("lokr.json", []),
        ("one-image-lokr.json", []),
        ("adafactor.json", ["unet_lr", "text_encoder_lr"]),  # Adafactor sets its own rate
        ("finetuning-2.json", ["dim_from_weights"]),  # it has no network_weights
        ("locon-dadaptation.json", ["bucket_reso_steps"]),  # 1
        ("two-phases.ps1", []),
    ],
)
def test_a_published_preset_plans_or_has_an_error_that_is_right(tmp_path, monkeypatch, name, wrong):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    files = import_project.write(presets.read(PRESETS / name, SCHEMA), "preset", tmp_path)
    try:
        found = plan.read(*files).warnings
    except InputError as rejected:
        found = rejected.problems
    assert [problem.key for problem in errors_of(found)] == wrong


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loha.json", ("conv_dim=16", "conv_alpha=16", "algo=loha")),
        ("lokr.json",
         ("conv_dim=64", "conv_alpha=64", "rank_dropout=0.1", "module_dropout=0.1", "use_tucker=True", "algo=lokr")),
        ("one-image-lokr.json", ("conv_dim=100000", "conv_alpha=1", "algo=lokr", "preset=full", "factor=6")),
    ],
)  # fmt: skip
def test_a_published_preset_of_lycoris_has_the_guis_network_args(name, expected):
    preset = presets.read(PRESETS / name, SCHEMA)
    assert preset.arguments["network_module"] == "lycoris.kohya"
    assert set(preset.arguments["network_args"]) == set(expected)
    assert "LoRA_type" in preset.mapped


@pytest.mark.parametrize(
    ("table", "module", "expected"),
    [
        ({"LoRA_type": "Kohya LoHa", "conv_dim": 0, "conv_alpha": 1, "use_tucker": True}, "networks.loha", ()),
        ({"LoRA_type": "Kohya LoKr", "conv_dim": 4, "conv_alpha": 1, "factor": 8}, "networks.lokr",
         ("conv_dim=4", "conv_alpha=1", "factor=8")),
        ({"LoRA_type": "LyCORIS/LoCon", "conv_dim": 4, "conv_alpha": 1, "factor": 8, "dora_wd": True,
          "train_norm": True}, "lycoris.kohya", ("conv_dim=4", "conv_alpha=1", "dora_wd=True", "algo=locon")),
        ({"LoRA_type": "Standard", "conv_dim": 4, "use_tucker": True, "rank_dropout": 0.1}, "networks.lora",
         ("rank_dropout=0.1",)),
    ],
)  # fmt: skip
def test_each_type_of_the_gui_has_the_arguments_of_its_module(tmp_path, table, module, expected):
    text = json.dumps({"sdxl": True, "network_dim": 8, **table})
    preset = presets.read(written(tmp_path, "a.json", text), SCHEMA)
    assert preset.arguments["network_module"] == module
    assert set(preset.arguments.get("network_args", ())) == set(expected)
    assert ("cannot verify" in preset.dropped.get("train_norm", "")) == bool(table.get("train_norm"))


def test_additional_parameters_of_the_gui_are_arguments():
    arguments = presets.read(PRESETS / "one-image-lokr.json", SCHEMA).arguments
    assert arguments["lr_scheduler_type"] == "CosineAnnealingLR"
    assert arguments["lr_scheduler_args"] == ("T_max=1000", "eta_min=0e-0")
    assert "lr_scheduler" not in arguments


def test_a_preset_keeps_its_values():
    preset = presets.read(PRESETS / "ai-characters-standard.json", SCHEMA)
    expected = {
        "network_dim": 32, "network_alpha": 32, "learning_rate": 3e-5, "unet_lr": 3e-5, "text_encoder_lr": (3e-5,),
        "optimizer_type": "AdamW", "max_train_epochs": 50, "caption_dropout_rate": 0.05, "xformers": True,
        "no_half_vae": True, "cache_latents": True, "min_snr_gamma": 5.0, "train_batch_size": 3,
    }  # fmt: skip
    assert expected.items() <= preset.arguments.items()
    assert preset.dataset == {"caption_extension": ".txt"}
    assert "cache_latents_to_disk" not in preset.arguments


def test_a_preset_that_would_fail_plans_with_its_error(tmp_path):
    done = run("import", PRESETS / "adafactor.json", tmp_path)
    planned = run("plan", "--settings", *done.stdout.split())
    assert planned.exit_code == 2
    assert "Adafactor sets its own rate (relative_step): unet_lr has no effect" in " ".join(planned.stderr.split())


def test_a_config_file(tmp_path):
    preset = presets.read(written(tmp_path, "a.toml", TOML), SCHEMA)
    assert preset.arguments["max_train_epochs"] == 30
    assert preset.arguments["multires_noise_iterations"] == 6
    assert preset.base_model == {"path": "/mnt/d/models/x.safetensors"}
    assert preset.dataset == {"image_dir": "/data/ohwx"}
    assert {"dynamo_backend", "noise_offset_type", "clip_skip", "output_dir", "wandb_api_key", "made_up"} <= set(
        preset.dropped
    )
    assert "s3cr3t" not in str(preset)


@pytest.mark.parametrize("name", LINE)
def test_a_command_line(tmp_path, name):
    preset = presets.read(written(tmp_path, name, "\ufeff" + LINE[name]), SCHEMA)
    expected = {
        "network_dim": 8, "optimizer_args": ("decouple=True", "weight_decay=0.5"), "xformers": True,
        "learning_rate": 1, "optimizer_type": "Prodigy", "max_train_epochs": 3,
    }  # fmt: skip
    assert expected.items() <= preset.arguments.items()
    assert preset.base_model["path"] in ("/m/x.safetensors", "/mnt/c/m/x.safetensors")


def test_quotes_comments_defaults_and_other_scripts_around_a_command_line(tmp_path):
    text = (
        'ROOT="/data/my photos"\nSET_STEPS=${1:-5}\n'
        "python tools/resize.py --dir x\n"
        "# accelerate launch sdxl_train_network.py --network_module=networks.lora --network_dim=1\n"
        'accelerate launch "./sd scripts/sdxl_train_network.py" --network_module=networks.lora '
        '--network_dim=${DIM:-16} --training_comment="trigger words: " --train_data_dir=$ROOT/img '
        '--caption_prefix="a b, " --learning_rate 1e-4\n'
    )
    preset = presets.read(written(tmp_path, "train.sh", text), SCHEMA)
    expected = {"network_dim": 16, "caption_prefix": "a b,", "learning_rate": 1e-4}
    assert {key: preset.arguments.get(key) for key in expected} == expected
    assert preset.dataset == {"image_dir": "/data/my photos/img"}


@pytest.mark.parametrize("end", [" 2>&1 | tee log.txt", " && echo done", " > log.txt", "; done", "&"])
def test_a_command_line_ends_before_the_next_command(tmp_path, end):
    line = 'python sdxl_train_network.py --network_module=networks.lora --keep_tokens_separator "|||" --sdpa' + end
    arguments = presets.read(written(tmp_path, "a.sh", line), SCHEMA).arguments
    assert (arguments.get("sdpa"), arguments["keep_tokens_separator"]) == (True, "|||")


def test_a_command_line_from_a_log_has_line_breaks(tmp_path):
    text = "@REM accelerate launch sdxl_train_network.py --seed 1\naccelerate launch\n --num_processes=1\n"
    text += ' "./sdxl_train_network.py"\n --network_module=networks.lora\n --optimizer_args a=1 b=2\n --network_dim=8\n'
    arguments = presets.read(written(tmp_path, "a.bat", text), SCHEMA).arguments
    assert (arguments["network_dim"], arguments["optimizer_args"]) == (8, ("a=1", "b=2"))


def test_a_backend_without_torch_compile_is_dropped(tmp_path):
    text = '{"sdxl": true, "LoRA_type": "Standard", "network_dim": 8, "dynamo_backend": "tensorrt"}'
    assert "dynamo_backend" in presets.read(written(tmp_path, "a.json", text), SCHEMA).dropped


def test_a_command_line_whose_config_file_is_elsewhere_names_it(tmp_path):
    script = written(
        tmp_path, "a.sh", "accelerate launch sdxl_train_network.py --config_file /far/away.toml --seed 1\n"
    )
    with pytest.raises(InputError, match=r"reads its arguments from /far/away.toml"):
        presets.read(script, SCHEMA)


def test_a_command_line_reads_the_config_file_beside_it(tmp_path):
    written(tmp_path, "a.toml", TOML)
    line = "accelerate launch sdxl_train_network.py --config_file=./a.toml --network_dim=64 --seed 3\n"
    preset = presets.read(written(tmp_path, "train.sh", line), SCHEMA)
    assert (preset.arguments["network_dim"], preset.arguments["network_alpha"], preset.arguments["seed"]) == (64, 16, 3)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.json", '{"sdxl": true, "LoRA_type": "LyCORIS/iA3"}', "LyCORIS/iA3"),
        ("a.json", '{"sdxl": false, "LoRA_type": "Standard"}', "not a training of SDXL"),
        ("a.json", '{"sdxl": true, "token_string": "zxc", "learning_rate": 1e-4}', "trains no LoRA"),
        ("a.json", "[1]", "it is a list"),
        ("a.json", "{", "cannot be read"),
        ("a.toml", "[[datasets]]\nresolution = 1024\n", "dataset config"),
        ("a.toml", "learning_rate = 1e-5\n", "no network_module"),
        ("a.sh", "accelerate launch flux_train_network.py --network_dim 4\n", "starts flux_train_network.py"),
        ("a.sh", "echo hello\n", "no command line"),
    ],
)
def test_trainings_of_other_models_are_refused(tmp_path, name, text, what):
    with pytest.raises(InputError, match=what):
        presets.read(written(tmp_path, name, text), SCHEMA)


def test_existing_settings_are_the_base_and_files_are_kept(tmp_path):
    assert run("init", "--yes", tmp_path).exit_code == 0
    config = written(tmp_path, "mine.toml.txt", "").with_name("source.toml")
    config.write_text(TOML, encoding="utf-8")
    before = (tmp_path / "orchestrate.toml").read_bytes()
    assert run("import", config, tmp_path / "sub").exit_code == 0
    settings = tomllib.loads((tmp_path / "sub" / "source.settings.toml").read_text(encoding="utf-8"))
    assert settings["arguments"]["learning_rate"] == 1e-4
    assert "optimizers" not in settings
    assert run("import", config, tmp_path / "sub").exit_code == 2
    assert (tmp_path / "orchestrate.toml").read_bytes() == before
