"""The files that a training attempt is started from."""

import tomllib

from standins.world import World

from orchestrator.run.stages import train


def rendered(world: World, grid: str) -> dict[str, str]:
    world.ask(grid)
    run = world.plan().runs()[0]
    run.create()
    return train.rendered(run, run.new_attempt("train"), world.context())


def test_previews_are_drawn_only_with_a_sample_argument(world):
    files = rendered(world, "[dims]\nnetwork_dim = [2]\n")
    assert set(files) == {"config.toml", "dataset.toml"}
    assert "sample_prompts" not in files["config.toml"]


def test_previews_use_the_prompts_and_the_size_of_the_settings(world):
    files = rendered(world, "[dims]\nnetwork_dim = [2]\n[fixed]\nsample_every_n_steps = 2\n")
    lines = [line for line in files["prompts.txt"].splitlines() if line and not line.startswith("#")]
    assert lines[0] == "photo of ohwx person --w 1024 --h 1024 --d 1 --s 28 --l 6"
    config = tomllib.loads(files["config.toml"])
    assert config["output"]["sample_prompts"].endswith("train/1/prompts.txt")
    assert config["arguments"]["sample_every_n_steps"] == 2


def test_checkpoints_name_their_attempt(world):
    config = tomllib.loads(rendered(world, "[dims]\nnetwork_dim = [2]\n")["config.toml"])
    point = world.plan().points[0]
    assert config["output"]["training_comment"] == f"orchestrate {point.id} 1"
    assert config["output"]["output_dir"].endswith(f"{point.name}/train/1/output")
