"""The miniature trainer: its output is read by the orchestrator's readers for sd-scripts."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from orchestrator.kohya import previews
from orchestrator.kohya.outputs import files, log, safetensors_header, verify
from orchestrator.miniature import image_model, memory, optimizer, photos, training, world
from orchestrator.miniature.arguments import Arguments
from orchestrator.model import Failure

PROGRAM = Path(training.__file__).with_name("train.py")
PRODIGY = {"optimizer_type": "Prodigy", "learning_rate": 1.0, "optimizer_args": ["weight_decay=0.01", "decouple=True"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "images"
    world.photos(folder, world.PERSONA, count=6, first=0, captions=True, px=64)
    return folder


@dataclass
class Workshop:
    """Writes configs and trains on them, in this process unless said otherwise."""

    folder: Path
    images: Path
    capsys: pytest.CaptureFixture

    def config(self, name, *, subset="", **arguments):
        dataset = self.folder / f"{name}.dataset.toml"
        dataset.write_text(
            f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = {json.dumps(str(self.images))}\n"
            f'caption_extension = ".txt"\n{subset}\n'
        )
        given = {
            "pretrained_model_name_or_path": str(image_model.WEIGHTS),
            "dataset_config": str(dataset),
            "output_dir": str(self.folder / "out"),
            "output_name": name,
            "network_module": "networks.lora",
            "network_dim": 4,
            "network_alpha": 2,
            "learning_rate": 1e-3,
            "optimizer_type": "AdamW",
            "train_batch_size": 3,
            "max_train_steps": 2,
            "seed": 1,
            "training_comment": f"point {name}",
            **arguments,
        }
        path = self.folder / f"{name}.toml"
        path.write_text("[all]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items()))
        return path, given

    def train(self, name, **arguments):
        """The log of a training that returns."""
        path, _ = self.config(name, **arguments)
        training.main(["--config_file", str(path)])
        output = self.capsys.readouterr()
        return output.out + output.err

    def file(self, name, suffix=""):
        return self.folder / "out" / f"{name}{suffix}.safetensors"


@pytest.fixture
def workshop(tmp_path, images, capsys):
    return Workshop(tmp_path, images, capsys)


def run(config, **environment):
    """The program by its path, from a folder that has nothing of ours."""
    return subprocess.run(
        [sys.executable, PROGRAM, "--config_file", config],
        cwd=config.parent, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_a_training_is_verified_as_one_of_sd_scripts_is(workshop):
    path, params = workshop.config("a", max_train_epochs=3, save_every_n_epochs=1, optimizer_type="AdamW8bit")

    done = run(path)

    output = done.stdout + done.stderr
    assert (done.returncode, log.classify(output, 0)) == (0, None)
    progress = log.read_progress(output)
    assert (progress.step, progress.total, log.total_steps(output)) == (6, 6, 6)
    assert 0 < progress.loss < 1
    found = verify.verify(workshop.folder / "out", "a", params, output, training_comment="point a")
    assert found.problems == ()
    assert [(checkpoint.file, checkpoint.step) for checkpoint in found.checkpoints] == [
        ("a-000001.safetensors", 2), ("a-000002.safetensors", 4), ("a.safetensors", 6),
    ]  # fmt: skip


def test_too_little_memory_raises_torchs_out_of_memory_error(workshop):
    path, _ = workshop.config("a", gradient_checkpointing=True, **PRODIGY)

    done = run(path, ORCHESTRATE_VRAM_BUDGET_GIB="9")

    assert done.returncode == 1
    assert "\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has" in done.stderr
    assert log.classify(done.stdout + done.stderr, 1)[0] is Failure.OOM
    assert not workshop.file("a").exists()


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (8.59, {"optimizer_type": "AdamW8bit", "network_dim": 16}),
        (9.40, {"optimizer_type": "Prodigy", "network_dim": 16}),
        (9.17, {"optimizer_type": "AdamW8bit", "network_dim": 32}),
        (10.23, {"optimizer_type": "Prodigy", "network_dim": 32}),
        (11.25, {"optimizer_type": "Prodigy", "network_dim": 32, "train_batch_size": 2}),
    ],
)
def test_memory_is_what_full_size_sdxl_was_measured_to_take(measured, said):
    arguments = Arguments(values={"gradient_checkpointing": True, **said})
    dataset = photos.Dataset(batch_size=arguments["train_batch_size"], resolution=(1024, 1024), subsets=())

    assert memory.needed_gib(arguments, [dataset]) == pytest.approx(measured, abs=0.05)


def test_memory_savings_of_sdxl_are_reproduced():
    dataset = photos.Dataset(batch_size=2, resolution=(1024, 1024), subsets=())

    def needed(dataset=dataset, **said):
        return memory.needed_gib(Arguments(values=said), [dataset])

    assert needed(gradient_checkpointing=True) < needed() - 5
    assert needed(network_train_unet_only=True) < needed()
    assert needed(photos.Dataset(batch_size=1, resolution=(1024, 1024), subsets=())) < needed() - 5
    assert needed(photos.Dataset(batch_size=2, resolution=(512, 512), subsets=())) < needed() - 5


def test_a_seed_gives_the_same_weights_and_another_seed_others(workshop):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        workshop.train(name, seed=seed)

    first, second, third = (load_file(workshop.file(name)) for name in "abc")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], third[key]) for key in first)


def test_the_weights_have_kohyas_names_and_layout(workshop):
    workshop.train("a", network_dim=8, network_alpha=4, save_precision="fp16")

    weights = load_file(workshop.file("a"))
    assert weights["lora_unet_mid_1_conv_1.lora_down.weight"].shape == (8, 80, 3, 3)
    assert weights["lora_unet_mid_1_conv_1.lora_up.weight"].shape == (80, 8, 1, 1)
    assert weights["lora_te1_0.lora_down.weight"].shape == (8, 64)
    assert {float(weights[key]) for key in weights if key.endswith(".alpha")} == {4.0}
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_the_text_encoder_can_be_left_out(workshop):
    workshop.train("a", network_train_unet_only=True)

    assert not [key for key in load_file(workshop.file("a")) if not key.startswith("lora_unet_")]


def test_metadata_is_all_strings_with_none_spelt_out(workshop):
    workshop.train("a", **PRODIGY)

    output = metadata(workshop.file("a"))
    assert output["ss_optimizer"] == "prodigyopt.prodigy.Prodigy(weight_decay=0.01,decouple=True)"
    assert (output["ss_unet_lr"], output["ss_steps"], output["ss_network_alpha"]) == ("None", "2", "2")
    assert json.loads(output["ss_dataset_dirs"]) == {"images": {"n_repeats": 1, "img_count": 6}}


def test_accumulation_makes_fewer_steps_of_as_many_images(workshop):
    output = workshop.train(
        "a", max_train_epochs=2, train_batch_size=1, gradient_accumulation_steps=4, subset="num_repeats = 2"
    )

    assert "num train images * repeats / 学習画像の数×繰り返し回数: 12" in output
    assert log.total_steps(output) == 6
    assert metadata(workshop.file("a"))["ss_num_batches_per_epoch"] == "12"


def test_steps_are_saved_under_their_number_also_the_last(workshop):
    workshop.train("a", max_train_steps=2, save_every_n_steps=1)

    assert metadata(workshop.file("a", "-step00000001"))["ss_steps"] == "1"
    assert torch.equal(
        load_file(workshop.file("a", "-step00000002"))["lora_unet_shrink.lora_up.weight"],
        load_file(workshop.file("a"))["lora_unet_shrink.lora_up.weight"],
    )


def test_a_training_continues_from_its_state(workshop):
    workshop.train("whole", max_train_epochs=2)
    workshop.train("half", max_train_epochs=2, save_every_n_epochs=1, save_state=True)
    (first, last) = files.states(workshop.folder / "out", "half")

    output = workshop.train("rest", max_train_epochs=2, resume=str(first))

    assert (first.name, last.name) == ("half-000001-state", "half-state")
    assert "epoch 2/2" in output
    assert "epoch 1/2" not in output
    whole, rest = load_file(workshop.file("whole")), load_file(workshop.file("rest"))
    assert all(torch.equal(whole[key], rest[key]) for key in whole)
    assert metadata(workshop.file("rest"))["ss_steps"] == "2"


def test_no_images_is_no_error(workshop, tmp_path):
    workshop.images = tmp_path / "nowhere"

    output = workshop.train("a")

    assert log.classify(output, 0)[0] is Failure.DATASET
    assert not workshop.file("a").exists()


def test_a_training_with_nan_ends_normally_and_is_saved(workshop):
    output = workshop.train("a", learning_rate=1e30, max_train_steps=4)

    assert math.isnan(log.read_progress(output).loss)
    assert log.classify(output, 0)[0] is Failure.NAN
    assert safetensors_header.not_finite(workshop.file("a"), safetensors_header.read_header(workshop.file("a")))


def test_a_missing_config_and_an_unknown_option_have_argparses_codes(tmp_path, capsys):
    for argv, code in ((["--config_file", str(tmp_path / "no.toml")], 1), (["--confg"], 2)):
        with pytest.raises(SystemExit) as ended:
            training.main(argv)
        assert ended.value.code == code


@pytest.mark.parametrize("said", [{"optimizer_type": "AdaWm"}, {"learning_rate": "1e-4"}, {"lr_scheduler": "square"}])
def test_captions_that_stop_sd_scripts_are_errors(workshop, said):
    with pytest.raises((AttributeError, TypeError, ValueError)):
        workshop.train("a", **said)


def test_alpha_excludes_the_background_from_the_loss(workshop, images):
    half = workshop.folder / "half"
    half.mkdir()
    for path in images.glob("*.png"):
        image = Image.open(path)
        image.putalpha(Image.new("L", image.size, 128))
        image.save(half / path.name)
        shutil.copy(path.with_suffix(".txt"), half)
    plain = workshop.train("a", max_train_steps=1)
    workshop.images = half

    ignored = workshop.train("b", max_train_steps=1)
    masked = workshop.train("c", max_train_steps=1, subset="alpha_mask = true")

    losses = [log.read_progress(output).loss for output in (plain, ignored, masked)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[2] == pytest.approx(losses[0] / 2, rel=0.02)


def test_mask_files_count_only_with_masked_loss(workshop, images):
    masks = workshop.folder / "masks"
    masks.mkdir()
    for path in images.glob("*.png"):
        Image.new("RGB", (64, 64), (0, 255, 255)).save(masks / path.name)
    subset = f"conditioning_data_dir = {json.dumps(str(masks))}"

    plain = workshop.train("a", max_train_steps=1, subset=subset)
    masked = workshop.train("b", max_train_steps=1, subset=subset, masked_loss=True)

    assert log.read_progress(plain).loss > 0
    assert log.read_progress(masked).loss == 0


def test_a_dataset_overrules_the_config_file(workshop):
    output = workshop.train("a", train_batch_size=6, max_train_epochs=1)
    dataset = workshop.folder / "b.dataset.toml"
    path, _ = workshop.config("b", train_batch_size=6, max_train_epochs=1)
    dataset.write_text(dataset.read_text().replace("[[datasets]]", "[[datasets]]\nbatch_size = 2", 1))
    training.main(["--config_file", str(path)])

    assert log.total_steps(output) == 1
    assert log.total_steps(workshop.capsys.readouterr().out) == 3


def test_warmup_and_cosine_change_the_rate():
    moved = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = optimizer.schedule(Arguments(values={"lr_scheduler": "cosine", "lr_warmup_steps": 0.25}), moved, 8)

    seen = []
    for _ in range(8):
        seen.append(round(moved.param_groups[0]["lr"], 2))
        moved.step()
        rates.step()
    assert seen == [0.0, 0.5, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]


# --- previews ---------------------------------------------------------------------------------------------------------


def previews_of(workshop, name, **arguments):
    """The names of the previews, less the time; and the weights, which they leave as they are."""
    lines = workshop.folder / "prompts.txt"
    lines.write_text("# a comment\nphoto of ohwx person --w 48 --h 32 --d 5 --s 2\nsomeone --n bad --d 6 --s 2\n")
    shutil.rmtree(workshop.folder / "out", ignore_errors=True)
    workshop.train(name, sample_prompts=str(lines), max_train_steps=4, **arguments)
    names = [path.stem.split("_") for path in sorted((workshop.folder / "out" / "sample").glob("*.png"))]
    return ["_".join((*parts[:-2], parts[-1])) for parts in names], load_file(workshop.file(name))


def test_previews_are_drawn_when_and_named_as_sd_scripts_does(workshop):
    by_step, drawn = previews_of(workshop, "a", sample_every_n_steps=3)
    assert by_step == ["a_000003_00_5", "a_000003_01_6"]
    assert len(previews.files_at_step(workshop.folder / "out", 3, 2)) == 2
    assert Image.open(previews.files_at_step(workshop.folder / "out", 3, 2)[0]).size == (48, 32)
    both, _ = previews_of(workshop, "b", sample_every_n_steps=3, sample_every_n_epochs=1, sample_at_first=True)
    assert [name.rpartition("_")[0] for name in both[::2]] == ["b_e000000_00", "b_e000001_00", "b_e000002_00"]

    workshop.train("c", max_train_steps=4)
    alone = load_file(workshop.file("c"))
    assert all(torch.equal(drawn[key], alone[key]) for key in alone)
