"""The miniature generator, started with the plan and the command line that orchestrator.kohya makes for gen_img.py."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from insightface.app import FaceAnalysis
from PIL import Image
from standins.jobs import given

from orchestrator.config.schema import BaseModel, Generation, Trainer
from orchestrator.kohya import generate
from orchestrator.kohya.outputs import log
from orchestrator.miniature import generation, image_model, pack, training, world
from orchestrator.model import Image as Picture

TRAINER = Trainer(
    python=Path(sys.executable), sd_scripts=Path(generation.__file__).parent, generate_script="generate.py"
)
BASE = BaseModel(name="miniature", path=image_model.WEIGHTS)


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """A run's folder with three LoRAs: `sure` has learned the persona, `slight` and `other` hardly anything."""
    folder = tmp_path_factory.mktemp("run")
    world.photos(folder / "images", world.PERSONA, count=12, first=0, captions=True, px=64)
    for name, steps, alpha in (("sure", 40, 8), ("slight", 2, 8), ("other", 2, 2)):
        (folder / "dataset.toml").write_text(
            f"[[datasets]]\nbatch_size = 6\n[[datasets.subsets]]\ncaption_extension = '.txt'\n"
            f"image_dir = {json.dumps(str(folder / 'images'))}\n"
        )
        said = {
            "pretrained_model_name_or_path": str(image_model.WEIGHTS),
            "dataset_config": str(folder / "dataset.toml"),
            "output_dir": str(folder / "output"),
            "output_name": name,
            "network_dim": 8,
            "network_alpha": alpha,
            "learning_rate": 3e-3,
            "max_train_steps": steps,
            "seed": 3,
        }
        (folder / "config.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items()))
        training.main(["--config_file", str(folder / "config.toml")])
    return folder


def draw(folder, out, images, *, px=128, steps=8):
    """The images of a plan, drawn in this process: file -> pixels."""
    settings = Generation(prompts=Path(), width=px, height=px, steps=steps, batch_size=4)
    plan = folder / "plan.json"
    plan.write_text(json.dumps(generate.plan(images, folder=folder, negative="blurry")))
    first = next((folder / image.checkpoint for image in images if image.checkpoint), None)
    argv = generate.generate_argv(TRAINER, BASE, settings, plan=plan, outdir=out, lora=first, params={})
    assert Path(argv[1]).is_file()
    generation.main(argv[2:])
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in out.iterdir()}


def picture(number, checkpoint="", strength=1.0, seed=1, text=world.PROMPTS[0]):
    file = f"output/{checkpoint}.safetensors" if checkpoint else ""
    return Picture(file=f"images/{number}.png", checkpoint=file, strength=strength, prompt=0, seed=seed, text=text)


def far(first, second):
    return np.abs(first - second).mean()


def test_the_program_draws_what_the_plan_asks_for(loras, tmp_path):
    plan, lora = tmp_path / "plan.json", loras / "output/sure.safetensors"
    images = [picture(n, "sure", seed=n) for n in (1, 2, 3)]
    plan.write_text(json.dumps(generate.plan(images, folder=loras, negative="")))
    settings = Generation(prompts=Path(), width=160, height=96, steps=3, batch_size=2)
    argv = generate.generate_argv(
        TRAINER, BASE, settings, plan=plan, outdir=tmp_path / "out", lora=lora, params={"v_parameterization": True}
    )

    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert {path.name: Image.open(path).size for path in (tmp_path / "out").iterdir()} == {
        f"{n}.png": (160, 96) for n in (1, 2, 3)
    }
    progress = log.read_images(done.stderr)
    assert (progress.step, progress.total) == (3, 3)
    assert log.classify(done.stdout + done.stderr, 0) is None


def test_a_resident_generator_draws_the_same_files_as_one_process_per_run(loras, tmp_path):
    runs = {
        "sure": [picture(n, "sure", seed=n) for n in range(3)],
        "slight": [picture(1, "slight"), picture(2, "other")],
    }
    jobs = []
    for name, images in runs.items():
        draw(loras, tmp_path / "alone" / name, images)
        plan = tmp_path / f"{name}.json"
        plan.write_text((loras / "plan.json").read_text())
        jobs.append({"plan": str(plan), "outdir": str(tmp_path / "resident" / name)})
    settings = Generation(prompts=Path(), width=128, height=128, steps=8, batch_size=4)
    first = loras / "output/sure.safetensors"
    folder = tmp_path / "generator"
    argv = generate.generate_argv(TRAINER, BASE, settings, plan=folder, outdir=tmp_path, lora=first, params={})

    with given(folder, jobs), pytest.raises(SystemExit) as ended:
        generation.main(argv[2:])

    assert not ended.value.code
    files = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.png"))
    assert len(files) == 5
    assert [(tmp_path / "alone" / one).read_bytes() for one in files] == [
        (tmp_path / "resident" / one).read_bytes() for one in files
    ]


def test_an_image_does_not_depend_on_its_neighbours(loras, tmp_path):
    images = [picture(n, "sure", seed=n) for n in (1, 2, 3)]

    together = draw(loras, tmp_path / "a", images)
    alone = draw(loras, tmp_path / "b", images[1:2])

    assert far(together["2.png"], alone["2.png"]) < 0.1
    assert far(together["1.png"], together["2.png"]) > 3


def test_each_image_gets_its_own_lora_and_strength(loras, tmp_path):
    images = [
        picture(1, "sure"), picture(2, "sure", 0.5), picture(3, "slight"), picture(4, "other"), picture(5, "sure"),
    ]  # fmt: skip

    drawn = draw(loras, tmp_path / "a", images)
    alone = {name: draw(loras, tmp_path / name, [picture(9, name)])["9.png"] for name in ("sure", "slight", "other")}

    assert far(drawn["1.png"], alone["sure"]) < 0.1
    assert far(drawn["5.png"], alone["sure"]) < 0.1
    assert far(drawn["3.png"], alone["slight"]) < 0.1
    assert far(drawn["4.png"], alone["other"]) < 0.1
    assert far(drawn["1.png"], drawn["2.png"]) > 0.5
    assert far(drawn["1.png"], drawn["3.png"]) > 1


def test_no_strength_is_no_lora(loras, tmp_path):
    without = draw(loras, tmp_path / "a", [picture(1)])
    with_none = draw(loras, tmp_path / "b", [picture(1, "sure", 0.0)])

    assert far(without["1.png"], with_none["1.png"]) < 0.1


def test_the_prompt_changes_the_image(loras, tmp_path):
    night, snow = "photo of ohwx person, portrait, at night", "photo of ohwx person, portrait, on snow"

    drawn = draw(loras, tmp_path / "a", [picture(1, "sure", text=night), picture(2, "sure", text=snow)])

    assert drawn["1.png"][:8].mean() + 60 < drawn["2.png"][:8].mean()


def test_a_trained_lora_draws_the_persona_and_the_base_does_not(loras, tmp_path):
    app = FaceAnalysis(name=str(pack.build(tmp_path / "pack")), providers=["CPUExecutionProvider"])
    app.prepare(-1, det_size=(256, 256))
    world.photos(tmp_path / "references", world.PERSONA, count=4, first=1000, captions=False)

    def embedded(pixels):
        faces = app.get(np.ascontiguousarray(np.asarray(pixels).astype(np.uint8)[..., ::-1]))
        assert len(faces) == 1
        return faces[0].normed_embedding

    centre = np.mean([embedded(Image.open(path)) for path in (tmp_path / "references").iterdir()], axis=0)
    prompts = world.PROMPTS[:4]

    def likeness(out, checkpoint):
        asked = [picture(n, checkpoint, seed=n, text=text) for n, text in enumerate(prompts)]
        drawn = draw(loras, tmp_path / out, asked, px=256, steps=16)
        return np.mean([embedded(pixels) @ centre for pixels in drawn.values()]) / np.linalg.norm(centre)

    assert likeness("base", "") < 0.35
    assert likeness("sure", "sure") > 0.55


def test_prompt_lines_are_read_as_gen_img_reads_them(loras, tmp_path):
    lines = "# a comment\nphoto of ohwx person, at night --n blurry --d 7 --am 0.5 --f dark.png\n\nportrait --d 8\n"
    (tmp_path / "prompts.txt").write_text(lines)
    lora = loras / "output/sure.safetensors"

    generation.main(
        [
            *("--ckpt", str(BASE.path), "--from_file", str(tmp_path / "prompts.txt"), "--outdir", str(tmp_path / "a")),
            *("--network_module", "networks.lora", "--network_weights", str(lora), "--network_mul", "1.0"),
            *("--W", "128", "--H", "128", "--steps", "8", "--sdxl"),
        ]
    )

    planned = draw(loras, tmp_path / "b", [picture(1, "sure", 0.5, 7, "photo of ohwx person, at night")])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["dark.png", "im_000002.png"]
    assert far(np.asarray(Image.open(tmp_path / "a/dark.png")).astype(int), planned["1.png"]) < 0.1


def test_a_lora_of_another_rank_is_refused(loras, tmp_path):
    shutil.copytree(loras / "output", tmp_path / "output")
    config = (loras / "config.toml").read_text().replace("network_dim = 8", "network_dim = 4")
    config = config.replace(str(loras / "output"), str(tmp_path / "output")).replace('"other"', '"small"')
    (tmp_path / "config.toml").write_text(config)
    training.main(["--config_file", str(tmp_path / "config.toml")])

    with pytest.raises(RuntimeError, match="size"):
        draw(tmp_path, tmp_path / "out", [picture(1, "sure"), picture(2, "small")])
