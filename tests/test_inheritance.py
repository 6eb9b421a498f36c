"""What points inherit from the settings: tables of optimizers, rivals of the grid's arguments, and unset keys."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from standins.world import World

from orchestrator.cli import main
from orchestrator.config import settings
from orchestrator.config.schema import FallbackStep
from orchestrator.errors import InputError, errors_of
from orchestrator.kohya import inheritance, oom_fallback
from orchestrator.kohya.arguments import schema
from orchestrator.kohya.optimizers import SHORT_NAMES, optimizer_of

SHIPPED = ("Prodigy", "AdamW8bit", "AdamW", "Lion", "Adafactor", "AdamWScheduleFree", "RAdamScheduleFree")


@pytest.fixture
def planned(tmp_path, shared):
    """Plans a grid over the stand-in's settings, with other lines for their length and further sections."""
    world = World.build(tmp_path / "world", shared)

    def planned(grid, length="max_train_steps = 4", sections=""):
        world.settle(length=length, sections=sections)
        world.ask(grid)
        return world.plan()

    return planned


def trained(plan):
    return [point.params for point in plan.points if not point.is_baseline]


def errors(planned, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        planned(*args, **kwargs)
    return errors_of(caught.value.problems)


# --- optimizers -------------------------------------------------------------------------------------------------------


def test_a_grid_of_optimizers_needs_no_rule(planned):
    points = trained(planned('[dims]\noptimizer_type = ["Prodigy", "AdamW8bit", "AdamW"]\nseed = [1, 2]\n'))
    assert [(point["optimizer_type"], point["learning_rate"]) for point in points] == [
        *[("Prodigy", 1.0)] * 2,
        *[("AdamW8bit", 1e-4)] * 2,
        *[("AdamW", 1e-4)] * 2,
    ]
    assert "decouple=True" in points[0]["optimizer_args"]
    assert points[2]["optimizer_args"] == ("weight_decay=0.01",)
    assert "optimizer_args" not in points[4]  # the settings have this optimizer, and give it none


@pytest.mark.parametrize("name", [*SHIPPED, "prodigyplus.ProdigyPlusScheduleFree", "lion8bit", "DAdaptAdam", "NAdam"])
def test_every_shipped_optimizer_is_a_complete_grid(planned, name):
    (point,) = trained(
        planned(f'[dims]\noptimizer_type = ["{name}"]\n', 'max_train_steps = 4\nlr_scheduler = "cosine"')
    )
    assert (point["learning_rate"] == 1.0) == optimizer_of(point).adaptive
    assert ("lr_scheduler" in point) != optimizer_of(point).schedule_free


def test_the_shipped_settings_have_the_built_in_tables():
    shipped = settings.load(Path(__file__).parents[1] / "orchestrate.toml").optimizers
    assert {*SHIPPED, "SGDScheduleFree", "prodigyplus.ProdigyPlusScheduleFree"} == set(shipped)
    for name, table in shipped.items():
        assert inheritance.table_of(name, inheritance.TABLES) == table


def test_built_in_tables_name_optimizers_and_python_literals():
    for name, table in inheritance.TABLES.items():
        assert name in (*SHORT_NAMES, "Adam", "NAdam", "RAdam", "Adamax", "ProdigyPlusScheduleFree")
        for item in table["optimizer_args"]:
            ast.literal_eval(item.partition("=")[2])


def test_a_grid_overrides_a_table_and_a_table_the_arguments(planned):
    table = "[optimizers.adamw]\nlearning_rate = 3e-4\n[optimizers.Prodigy]\nlearning_rate = 0.5\n"
    rule = '[[when]]\nmatch = { optimizer_type = "AdamW8bit" }\nset = { learning_rate = 2e-4 }\n'
    points = trained(planned(f'[dims]\noptimizer_type = ["AdamW", "Prodigy", "AdamW8bit"]\n{rule}', sections=table))
    assert [point["learning_rate"] for point in points] == [3e-4, 0.5, 2e-4]
    assert points[2]["optimizer_args"] == ("weight_decay=0.01",)


@pytest.mark.parametrize(
    "grid",
    [
        '[dims]\nseed = [1]\n[[when]]\nmatch = { seed = 1 }\nset = { optimizer_type = "Prodigy" }\n',
        "[fixed]\noptimizer_type = \"{{ 'Prodigy' if seed == 1 else 'AdamW' }}\"\n",
    ],
)
def test_a_rule_or_an_expression_can_choose_the_optimizer(planned, grid):
    (point,) = trained(planned(grid))
    assert (point["optimizer_type"], point["learning_rate"]) == ("Prodigy", 1.0)


def test_an_optimizer_without_a_table_inherits_no_rate_of_another(planned):
    (problem,) = errors(planned, '[dims]\noptimizer_type = ["RMSprop"]\n')
    assert problem.key == "learning_rate"
    assert planned('[dims]\noptimizer_type = ["RMSprop"]\n[fixed]\nlearning_rate = 1e-4\n')


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("[optimizers.Prodgy]\nlearning_rate = 1.0\n", "optimizers.Prodgy"),
        ("[optimizers.Prodigy]\nlearning_rte = 1.0\n", "optimizers.Prodigy.learning_rte"),
        ('[optimizers.Prodigy]\noptimizer_args = "decouple=True"\n', "optimizers.Prodigy.optimizer_args"),
        ('[optimizers.Prodigy]\noptimizer_type = "Lion"\n', "optimizers.Prodigy.optimizer_type"),
        ('[optimizers.Prodigy]\ndataset = "x"\n', "optimizers.Prodigy.dataset"),
        ("[optimizers.Lion]\n[optimizers.lion]\n", "optimizers.Lion"),
    ],
)
def test_mistakes_in_a_table(planned, table, key):
    assert key in {problem.key for problem in errors(planned, "[dims]\nseed = [1]\n", sections=table)}


def test_the_oom_fallback_uses_the_tables():
    step = FallbackStep(name="other", set={"optimizer_type": "AdamW8bit"})
    point = {"optimizer_type": "Prodigy", "learning_rate": 1.0, "unet_lr": 1.0, "optimizer_args": ("decouple=True",)}
    (built_in,) = oom_fallback.fallbacks(point, [step])
    assert built_in.overrides == {
        "optimizer_type": "AdamW8bit", "learning_rate": 1e-4, "unet_lr": 1e-4, "optimizer_args": ("weight_decay=0.01",),
    }  # fmt: skip
    (own,) = oom_fallback.fallbacks(point, [step], {"adamw8bit": {"learning_rate": 5e-5}})
    assert (own.overrides["learning_rate"], own.overrides["optimizer_args"]) == (5e-5, ())
    explicit = replace(step, set={**step.set, "learning_rate": 2e-4})
    assert next(oom_fallback.fallbacks(point, [explicit])).overrides["learning_rate"] == 2e-4


def test_a_misspelt_optimizer_is_one_message(planned):
    found = errors(planned, '[dims]\noptimizer_type = ["Prodgy"]\nseed = [1, 2]\n')
    assert [(problem.key, problem.remedy) for problem in found] == [("optimizer_type", "did you mean Prodigy?")]


def test_one_message_for_all_values_of_a_dim(planned):
    found = errors(planned, "[dims]\nmax_train_epochs = [1, 2, 3]\n[fixed]\nmax_train_steps = 4\n")
    assert [problem.key for problem in found] == ["max_train_steps"]
    assert "2 cases more" in found[0].what


# --- rivals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings_line", "grid_line", "gone"),
    [
        ("max_train_steps = 4", "max_train_epochs = 1", "max_train_steps"),
        ("max_train_epochs = 1", "max_train_steps = 4", "max_train_epochs"),
        ('lr_scheduler = "cosine"', 'lr_scheduler_type = "torch.optim.lr_scheduler.ConstantLR"', "lr_scheduler"),
        ('lr_scheduler_type = "torch.optim.lr_scheduler.ConstantLR"', 'lr_scheduler = "cosine"', "lr_scheduler_type"),
        ("sdpa = true", "xformers = true", "sdpa"),
        ("sdpa = true", "mem_eff_attn = true", "sdpa"),
        ("lr_warmup_steps = 1", 'lr_scheduler = "constant"', "lr_warmup_steps"),
        ('lr_scheduler_args = ["T_max=4"]', 'lr_scheduler = "cosine"', "lr_scheduler_args"),
        ('lr_scheduler = "cosine"', 'optimizer_type = "AdamWScheduleFree"', "lr_scheduler"),
        ("lr_warmup_steps = 1", 'optimizer_type = "AdamWScheduleFree"', "lr_warmup_steps"),
        ('lr_scheduler = "cosine"', 'optimizer_type = "Adafactor"\noptimizer_args = ["relative_step=True"]',
         "lr_scheduler"),
        ("full_bf16 = true", 'mixed_precision = "fp16"\nno_half_vae = true', "full_bf16"),
        ("cache_latents = true", "random_crop = true\nenable_bucket = true", "cache_latents"),
        ("color_aug = true", "cache_latents = true", "color_aug"),
        ("text_encoder_lr = 1e-5", "network_train_unet_only = true", "text_encoder_lr"),
        ("shuffle_caption = true", "cache_text_encoder_outputs = true\nnetwork_train_unet_only = true",
         "shuffle_caption"),
        ("save_n_epoch_ratio = 2", "save_every_n_epochs = 1", "save_n_epoch_ratio"),
        ("v_pred_like_loss = 0.1", "v_parameterization = true", "v_pred_like_loss"),
        ("unet_lr = 1e-4", 'optimizer_type = "Prodigy"', "unet_lr"),
    ],
)  # fmt: skip
def test_an_argument_of_the_grid_replaces_its_rivals(planned, settings_line, grid_line, gone):
    length = settings_line if "max_train" in settings_line else f"max_train_steps = 4\n{settings_line}"
    if settings_line in ("sdpa = true", "cache_latents = true"):
        length = "max_train_steps = 4"  # the stand-in's settings have it
    made = planned(f"[fixed]\n{grid_line}\n", length)
    (point,) = trained(made)
    assert gone not in point
    assert any(gone in keys for keys in made.replaced.values())


def test_a_false_flag_replaces_nothing_and_two_rivals_in_a_grid_are_an_error(planned):
    (point,) = trained(planned("[fixed]\nxformers = false\n"))
    assert point["sdpa"] is True
    assert [one.key for one in errors(planned, "[fixed]\nmax_train_steps = 4\nmax_train_epochs = 1\n")]


def test_rivals_are_arguments_of_sd_scripts():
    known = schema.read_snapshot().by_name
    assert [key for key in inheritance._DECIDING if key not in known] == []


def test_plan_lists_what_was_replaced(planned, capsys):
    made = planned("[fixed]\nmax_train_epochs = 1\n")
    with pytest.raises(SystemExit):
        main(["plan", "--settings", str(made.settings.path), str(made.settings.path.with_name("grid.toml"))])
    assert "max_train_epochs replaces max_train_steps of the settings" in capsys.readouterr().out


# --- unset ------------------------------------------------------------------------------------------------------------


def test_unset_removes_an_argument_of_the_settings_and_of_an_optimizer(planned):
    length = "max_train_steps = 4\nsave_every_n_epochs = 1"
    (point,) = trained(planned('unset = ["save_every_n_epochs"]\n', length))
    assert "save_every_n_epochs" not in point
    (point,) = trained(planned('unset = ["optimizer_args"]\n[fixed]\noptimizer_type = "Prodigy"\n'))
    assert "optimizer_args" not in point


def test_unset_in_a_rule(planned):
    rule = '[[when]]\nmatch = { seed = 2 }\nunset = ["save_precision"]\n'
    one, two = trained(planned(f"[dims]\nseed = [1, 2]\n{rule}"))
    assert "save_precision" in one
    assert "save_precision" not in two


@pytest.mark.parametrize(
    ("grid", "what"),
    [
        ('unset = ["seed"]\n[fixed]\nseed = 1\n', "seed is set at"),
        ('unset = ["dataset"]\n', "every point needs a dataset"),
        ('unset = ["save_precison"]\n', "save_precison is not an argument"),
        ('[dims]\nseed = [1]\n[[when]]\nmatch = { seed = 1 }\n', "must set or unset"),
        ('[dims]\nseed = [1]\n[[when]]\nmatch = { seed = 1 }\nunset = ["seed"]\n', "removes the dim seed"),
        ('[dims]\nseed = [1]\n[[when]]\nmatch = { seed = 1 }\nset = { sdpa = true }\nunset = ["sdpa"]\n', "sets sdpa"),
        ('unset = [1]\n', "must be text"),
    ],
)  # fmt: skip
def test_mistakes_in_unset(planned, grid, what):
    assert any(what in problem.what for problem in errors(planned, grid))


def test_unset_removes_what_an_included_file_sets(planned, tmp_path):
    (tmp_path / "world" / "base.toml").write_text("[fixed]\nsave_every_n_epochs = 1\n", encoding="utf-8")
    (point,) = trained(planned('include = ["base.toml"]\nunset = ["save_every_n_epochs"]\n'))
    assert "save_every_n_epochs" not in point


def test_check_without_a_grid_uses_the_table_of_the_optimizer():
    shipped = settings.load(Path(__file__).parents[1] / "orchestrate.toml")
    assert inheritance.Inheritance(shipped).params({})["learning_rate"] == 1.0


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "warned"),
    [
        ("[fixed]\nseed = 1\n", False),
        ("[fixed]\ngradient_accumulation_steps = 2\n", False),
        ("[fixed]\ngradient_accumulation_steps = 2\nmax_train_steps = 3\n", True),
        ("[fixed]\nsave_every_n_epochs = 2\n", True),
        ("[fixed]\nsave_every_n_steps = 2\n", True),
        ("[fixed]\nmax_train_epochs = 1\n", False),
        ("[fixed]\nmax_train_epochs = 1\ngradient_accumulation_steps = 2\n", False),
        ("[fixed]\nmax_train_epochs = 2\nsave_every_n_steps = 1\n", False),
        ("[fixed]\nmax_train_epochs = 2\nsave_every_n_steps = 2\n", True),
    ],
)
def test_plan_says_when_resume_has_no_effect(world, grid, warned):
    """The settings train 4 steps, and an epoch has 3."""
    world.settle(trainer="resume = true")
    world.ask(grid)
    found = [problem for problem in world.plan().warnings if problem.key == "trainer.resume"]
    assert len(found) == warned
    world.settle()
    assert not [problem for problem in world.plan().warnings if problem.key == "trainer.resume"]
