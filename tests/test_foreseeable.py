"""Problems that are known before a run starts: GUI names, launcher arguments, trackers, VAEs, v-prediction."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from standins.world import BASE, World

from orchestrator.config import grid
from orchestrator.errors import InputError, errors_of
from orchestrator.kohya import base_model, prompts
from orchestrator.kohya.arguments import schema
from orchestrator.plan import preflight

SCHEMA = schema.read_snapshot()


@pytest.fixture
def errors(world):
    """The errors of a grid over the stand-in's settings."""

    def errors(fixed, **settle):
        world.settle(**settle)
        world.ask(f"[fixed]\n{fixed}\n")
        try:
            world.plan()
        except InputError as refused:
            return errors_of(refused.problems)
        return []

    return errors


# --- names of GUIs ----------------------------------------------------------------------------------------------------


def test_the_case_of_gui_names_is_one_message_for_each(errors):
    fixed = (
        'epoch = 10\nnoise_offset_type = "Original"\ndynamo_backend = "no"\nmax_token_length = 75\n'
        'vae_batch_size = 0\nnum_repeats = 10\nclass_tokens = "ohwx woman"'
    )
    found = {problem.key: problem.remedy for problem in errors(fixed)}
    assert set(found) == {line.split(" = ")[0] for line in fixed.splitlines()}
    for key, words in {
        "epoch": "write max_train_epochs",
        "num_repeats": "set num_repeats in [datasets.NAME]",
        "class_tokens": "set trigger in [datasets.NAME]",
        "noise_offset_type": "remove it",
        "dynamo_backend": "remove it",
        "max_token_length": "remove it",
        "vae_batch_size": "remove it",
    }.items():
        assert words in found[key], found[key]
    assert errors("max_train_epochs = 10") == []


# --- --only -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ("network_dim=2", 2),
        ("network_dim=2_seed=1", 1),
        ("network_dim=2,seed=2", 1),
        ("seed=1_network_dim=4", 1),
        ("resolution=1024,1024", 4),
        ("network_dim=*_seed=1-*", 2),
        ("learning_rate=1e-4", 4),
        ("network_dim=2_learning_rate=1e-04", 2),
    ],
)
def test_an_argument_selects_runs_without_a_wildcard(world, only, count):
    world.ask("[dims]\nnetwork_dim = [2, 4]\nseed = [1, 2]\n")
    assert len(world.plan().runs(only)) == count


def test_a_text_that_looks_like_a_number_is_selected_as_written(world):
    world.ask('[dims]\nmetadata_title = ["1.10", "1.1"]\n')
    assert len(world.plan().runs("metadata_title=1.10")) == 1


def test_a_part_of_an_argument_selects_no_run(world):
    world.ask("[dims]\nnetwork_dim = [16, 1]\n")
    plan = world.plan()
    assert [point.params["network_dim"] for point in plan.points if grid.selects("network_dim=1", point)] == [1]
    assert not any(grid.selects("network_dim=", point) or grid.selects("network", point) for point in plan.points)


def test_a_mistake_in_the_table_of_an_optimizer_is_one_message(errors):
    found = errors('optimizer_type = "Lion"', sections="[optimizers.Lion]\nlr = 1e-4\n")
    assert [problem.remedy for problem in found] == ["write learning_rate instead of lr"]


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("shuffle_caption = True", "lower case"),
        ("max_grad_norm = None", "remove the line"),
        ("noise_offset = .5", "both sides of the point"),
        ("seed: 1", "equals sign"),
        ("seed = 1,", "remove the comma"),
        ("optimizer_type = AdamW", "text in quotes"),
        ('noise_offset = ".05"', "write 0.05 without quotes"),
    ],
)
def test_a_line_as_other_programs_write_it_has_its_own_remedy(errors, line, remedy):
    (found,) = errors(line)
    assert remedy in found.remedy


@pytest.mark.parametrize("fixed", ["network_dim = 0", 'network_dim = "8"\nnetwork_alpha = "{{ network_dim }}"'])
def test_a_wrong_rank_is_not_reported_for_the_alpha_that_follows_it(world, fixed):
    world.ask(f"[fixed]\n{fixed}\n")
    with pytest.raises(InputError) as refused:
        world.plan()
    assert [problem.key for problem in refused.value.problems] == ["network_dim"]


def test_an_argument_at_the_top_of_a_grid_belongs_below_a_table(world):
    world.ask("network_dim = [4, 8]\n")
    with pytest.raises(InputError, match=r"below \[dims\]"):
        world.plan()


# --- launcher and trackers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ('["--num_processes", "2"]', True),
        ('["--num_processes=2"]', True),
        ('["--num-processes=4"]', True),
        ('["--multi_gpu"]', True),
        ('["--num_machines=2"]', True),
        ('["--gpu_ids", "0,1"]', True),
        ('["--num_processes", "1"]', False),
        ('["--num_cpu_threads_per_process", "2"]', False),
    ],
)
def test_one_run_is_one_process(errors, arguments, refused):
    found = errors("seed = 1", trainer=f"accelerate_args = {arguments}")
    assert [problem.key for problem in found] == ["trainer.accelerate_args"] * refused


def test_wandb_needs_a_key(errors, monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert [problem.key for problem in errors('log_with = "wandb"')] == ["log_with"]
    assert [problem.key for problem in errors('wandb_api_key = "secret"')] == ["wandb_api_key"]
    assert errors('log_with = "tensorboard"') == []
    assert errors('log_with = "wandb"', env={"WANDB_MODE": "offline"}) == []
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k\n", encoding="utf-8")
    assert errors('log_with = "wandb"') == []  # after `wandb login`
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert errors('log_with = "wandb"') == []


# --- subsets ----------------------------------------------------------------------------------------------------------


def test_a_wrong_key_of_a_subset_is_named_once_with_its_line(world):
    crops = (
        '[defaults]\ndataset = "portraits"\n[datasets.crops]\nsource = "portraits"\ncrop = { crop_region = "face" }\n'
    )
    text = world.settings.read_text(encoding="utf-8")
    text = text.replace('trigger = "ohwx person"', 'trigger = "ohwx person"\nsubset = { flip_aug = "true", seed = 3 }')
    world.settings.write_text(text + crops, encoding="utf-8")
    world.ask('[dims]\ndataset = ["crops", "portraits"]\n')
    with pytest.raises(InputError) as refused:
        world.plan()
    line = text[: text.index("subset =")].count("\n") + 1
    found = {problem.key: problem.where for problem in errors_of(refused.value.problems)}
    assert found == dict.fromkeys(
        ("datasets.portraits.subset.flip_aug", "datasets.portraits.subset.seed"), f"{world.settings}:{line}"
    )


# --- base models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"decoder.conv_in.weight": (512, 4, 3, 3)}, ""),
        ({"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}, ""),
        ({"decoder.conv_in.weight": (512, 16, 3, 3)}, "16 channels"),
        ({"lora_unet_x.lora_down.weight": (4, 4)}, "no decoder"),
    ],
)
def test_a_vae_has_a_decoder_of_four_channels(tmp_path, tensors, what):
    save_file({name: np.zeros(shape, np.float16) for name, shape in tensors.items()}, tmp_path / "v.safetensors")
    found = base_model.vae_problems(tmp_path / "v.safetensors")
    assert (what in found[0].what) if what else found == []


@pytest.mark.parametrize(
    ("tensors", "metadata", "needed"),
    [
        (["v_pred"], {}, "v_parameterization = true"),
        (["v_pred", "ztsnr"], {}, "v_parameterization = true and zero_terminal_snr = true"),
        ([], {"modelspec.prediction_type": "v"}, "v_parameterization = true"),
        ([], {"modelspec.prediction_type": "epsilon"}, ""),
    ],
)
def test_a_base_model_that_predicts_v(tmp_path, tensors, metadata, needed):
    path = tmp_path / "base.safetensors"
    save_file({name: np.zeros(0, np.float16) for name in [*tensors, "x"]}, path, metadata)
    found = base_model.prediction(path, [{}])
    assert [needed in problem.remedy for problem in found] == ([True] if needed else [])
    found = base_model.prediction(path, [{"v_parameterization": True, "zero_terminal_snr": True}])
    assert ["remove v_parameterization" in problem.remedy for problem in found] == ([] if needed else [True])


def test_check_warns_of_the_prediction_once(world):
    world.settle()
    path = world.folder / "v.safetensors"
    save_file({"v_pred": np.zeros(0, np.float16)}, path)
    world.settings.write_text(
        world.settings.read_text(encoding="utf-8").replace(str(BASE), str(path)), encoding="utf-8"
    )
    plan = world.plan()
    found = preflight.findings(plan.settings, plan.points, world.session().gpus)
    assert len([problem for problem in found if "v-prediction" in problem.what]) == 1


# --- byte order marks -------------------------------------------------------------------------------------------------


def test_files_with_a_byte_order_mark(world: World):
    for path in (world.settings, world.grid):
        path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert world.plan().points


def test_prompts_with_a_byte_order_mark_and_windows_line_ends(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# first\r\nphoto of ohwx person\r\n\r\nohwx person, smiling\r\n".encode())
    assert prompts.read_prompts(path) == (("photo of ohwx person", "ohwx person, smiling"), [])
