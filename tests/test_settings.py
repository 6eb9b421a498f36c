import json
import os
import tomllib
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from pydantic import TypeAdapter

from orchestrator.cli import main
from orchestrator.config import grid, json_schema, programs, settings
from orchestrator.config.schema import EarlyStop, FallbackStep, Launcher, Limits
from orchestrator.errors import InputError

REPO = Path(__file__).parents[1]

MINIMAL = """
runs = "runs"
templates = "templates"
[trainer]
python = "bin/python"
sd_scripts = "../sd-scripts"
[base_models.base]
path = "/models/base.safetensors"
[datasets.persona]
image_dir = "pictures"
[generate]
prompts = "prompts.txt"
[score]
pack = "pack"
references = "references"
"""


@pytest.fixture
def load(tmp_path):
    """Load settings of this text."""

    def load(text):
        (tmp_path / "orchestrate.toml").write_text(text, encoding="utf-8")
        return settings.load(tmp_path / "orchestrate.toml")

    return load


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("flux_train_network.py", "is for FLUX.1"),
        ("sd3_train.py", "is for Stable Diffusion 3"),
        ("lumina_train_network.py", "is for Lumina"),
        ("hunyuan_image_train_network.py", "is for HunyuanImage"),
        ("anima_train_control_net_lllite.py", "is for Anima"),
        ("../sd-scripts/flux_train_network.py", "is for FLUX.1"),
        ("qwen_image_train_network.py", "is for Qwen-Image"),
        ("new_train_network.py", "is for new"),
        ("train_network.py", "is for Stable Diffusion 1 and 2"),
        ("sdxl_train.py", "trains the whole model"),
        ("sdxl_train_network.py", ""),
        ("/home/me/my_train.py", ""),
        ("/home/me/fluxless_train.py", ""),
    ],
)
def test_programs_of_other_model_families_are_rejected_by_name(load, problems, script, reason):
    text = MINIMAL.replace("[trainer]", f'[trainer]\ntrain_script = "{script}"')
    if not reason:
        assert load(text).trainer.train_script == script
        return
    found = problems(text)["trainer.train_script"]
    assert (reason in found.what, found.value, found.where.endswith(":5")) == (True, script, True)
    assert "sdxl_train_network.py" in found.remedy


def test_every_program_of_the_tested_releases_but_two_is_rejected():
    for name in PROGRAMS.split():
        accepted = name in ("sdxl_train_network.py", "gen_img.py")
        assert (programs.reason_against(name) == "") is accepted, name


PROGRAMS = """
anima_minimal_inference.py anima_minimal_inference_control_net_lllite.py anima_train.py anima_train_network.py
fine_tune.py flux_minimal_inference.py flux_train.py flux_train_control_net.py flux_train_network.py gen_img.py
gen_img_diffusers.py hunyuan_image_minimal_inference.py hunyuan_image_train_network.py inpainting_minimal_inference.py
lumina_minimal_inference.py lumina_train.py lumina_train_network.py sd3_minimal_inference.py sd3_train.py
sd3_train_network.py sdxl_gen_img.py sdxl_minimal_inference.py sdxl_train.py sdxl_train_control_net.py
sdxl_train_control_net_lllite.py sdxl_train_control_net_lllite_old.py sdxl_train_leco.py sdxl_train_network.py
sdxl_train_textual_inversion.py train_control_net.py train_controlnet.py train_db.py train_leco.py train_network.py
train_textual_inversion.py train_textual_inversion_XTI.py
"""


@pytest.fixture
def problems(load):
    """What is wrong with settings of this text, by key."""

    def problems(text):
        with pytest.raises(InputError) as caught:
            load(text)
        assert caught.value.exit_code == 2
        assert all(problem.where and problem.remedy for problem in caught.value.problems)
        return {problem.key: problem for problem in caught.value.problems}

    return problems


def line_of(text, needle):
    return text[: text.index(needle)].count("\n") + 1


def test_the_required_keys_are_enough_and_the_rest_has_defaults(load, tmp_path):
    loaded = load(MINIMAL)
    assert loaded.runs == tmp_path / "runs"
    assert loaded.trainer.sd_scripts == tmp_path.parent / "sd-scripts"
    assert loaded.base_models["base"].path == Path("/models/base.safetensors")
    assert (loaded.base_model, loaded.dataset) == ("base", "persona")
    assert loaded.limits == Limits()
    assert loaded.oom_fallback == ()


def test_the_table_turns_early_stopping_on(load):
    assert load(MINIMAL).early_stop is None
    assert load(f"{MINIMAL}[early_stop]\n").early_stop == EarlyStop()
    asked = load(f"{MINIMAL}[early_stop]\nafter = 0.5\np = 0.001\nmargin = 0.2\npictures = 24\n").early_stop
    assert asked == EarlyStop(after=0.5, p=0.001, margin=0.2, pictures=24)


def test_paths_are_relative_to_the_file_and_keep_symbolic_links(load, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "bin").symlink_to(tmp_path / "real")
    monkeypatch.chdir("/")
    assert load(MINIMAL).trainer.python == tmp_path / "bin" / "python"


def test_units_and_enums(load):
    loaded = load(
        MINIMAL.replace("[base_models", 'launcher = "accelerate"\nenv = { A = "b" }\n[base_models', 1)
        + "[limits]\nwall_hours = 1.5\nstall_minutes = 2\ngrace_seconds = 3\nlog_mib = 1\n"
        + "[vram]\npoll_seconds = 0.1\nbudget_gib = 24\n"
    )
    assert (loaded.limits.wall_s, loaded.limits.stall_s, loaded.limits.grace_seconds) == (5400, 120, 3)
    assert (loaded.vram.poll_seconds, loaded.vram.budget_gib) == (0.1, 24.0)
    assert loaded.trainer.launcher is Launcher.ACCELERATE
    assert loaded.trainer.env == {"A": "b"}


def test_arguments_and_fallback_steps_keep_their_types(load):
    loaded = load(
        MINIMAL
        + '[arguments]\nseed = 1\nlr = 1.0\nsdpa = true\nnetwork_args = ["a=1", "b=2"]\n'
        + '[[oom_fallback]]\nname = "x"\nwhen = { seed = [1, 2] }\nset = { sdpa = false }\nkeeps_result = true\n'
    )
    assert loaded.arguments == {"seed": 1, "lr": 1.0, "sdpa": True, "network_args": ("a=1", "b=2")}
    assert [type(value) for value in loaded.arguments.values()] == [int, float, bool, tuple]
    assert loaded.oom_fallback == (
        FallbackStep(name="x", when={"seed": (1, 2)}, set={"sdpa": False}, keeps_result=True),
    )


def test_all_mistakes_at_once_with_line_key_value_and_remedy(problems):
    text = (
        MINIMAL.replace('image_dir = "pictures"', 'image_dri = "pictures"\nnum_repeats = "3"')
        .replace('python = "bin/python"', "python = 3")
        .replace("[score]", "[scroe]")
        + "[limits]\nwall_hours = 0\n[arguments]\nday = 1979-05-27\nnested = [[1]]\nbad = nan\n"
    )
    found = problems(text)
    assert found["datasets.persona.image_dri"].where.endswith(f":{line_of(text, 'image_dri')}")
    assert found["datasets.persona.image_dri"].remedy == "did you mean image_dir?"
    assert found["datasets.persona.image_dir"].what == '"image_dir" is missing'
    assert found["datasets.persona.num_repeats"].what == "must be a whole number, not text"
    assert found["datasets.persona.num_repeats"].value == '"3"'
    assert found["trainer.python"].what == "must be text in quotes, not a whole number"
    assert found["scroe"].remedy == "did you mean score?"
    assert found["limits.wall_hours"].what == "must be a finite number above 0"
    assert found["limits.wall_hours"].where.endswith(f":{line_of(text, 'wall_hours')}")
    assert {"arguments.day", "arguments.nested", "arguments.bad", "score.pack", "score.references"} <= found.keys()


@pytest.mark.parametrize(
    ("more", "key", "what"),
    [
        ("[defaults]\nbase_model = 'bsae'", "defaults.base_model", "there is no [base_models.bsae]"),
        ("[base_models.two]\npath = 'b'", "defaults.base_model", '"base_model" is missing'),
        ("[arguments]\nbase_model = 'base'", "arguments.base_model", "base_model is not an sd-scripts argument"),
        ("[arguments]\nalpha = '{{ dim'", "arguments.alpha", "not an expression"),
        ("[arguments]\n'a b' = 1", "arguments.a b", "cannot be an argument's name"),
        ("[arguments]\nbig = 99999999999999999999", "arguments.big", "must be text, a finite number"),
        ("[datasets.persona.subset]\nresolution = 512", "datasets.persona.subset.resolution", "does not belong here"),
        ("[[oom_fallback]]\nname = 'x'", "oom_fallback[0].set", '"set" is missing'),
        (
            "[[oom_fallback]]\nname = 'x'\nset = {dataset='d'}",
            "oom_fallback[0].set",
            "a fallback cannot change dataset",
        ),
        (
            "[[oom_fallback]]\nname='x'\nset={a=1}\n[[oom_fallback]]\nname='x'\nset={a=2}",
            "oom_fallback[1].name",
            "two fallbacks are called x",
        ),
        ("[[oom_fallback]]\nname='x'\nset={a=1}\nkeep_result=true", "oom_fallback[0].keep_result", "unknown key"),
        ("[vram]\nbudget_gib = true", "vram.budget_gib", "must be a number, not true or false"),
        ("[vram]\nbudget_gib = inf", "vram.budget_gib", "must be a finite number"),
        ("[limits]\ncrashes = 0", "limits.crashes", "must be at least 1"),
        ("[limits]\ncrashes = 10000000000", "limits.crashes", "must be at most 1000000"),
    ],
)
def test_invalid_settings_are_rejected(problems, more, key, what):
    assert what in problems(MINIMAL + more)[key].what


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("launcher = 'bash'", "trainer.launcher"),
        ("env = { A = 1 }", "trainer.env.A"),
        ("env = { 'A=B' = 'x' }", "trainer.env"),
        ('tokenizer_cache_dir = "a\\u0000b"', "trainer.tokenizer_cache_dir"),
    ],
)
def test_wrong_values_of_the_trainer(problems, line, key):
    assert key in problems(MINIMAL.replace("[base_models", f"{line}\n[base_models", 1))


@pytest.mark.parametrize(
    "line", ["seeds = []", "seeds = [1, 1]", "seeds = [-1]", "strengths = [0.0]", "checkpoints = 'first'", "steps = 0"]
)
def test_wrong_values_of_generation(problems, line):
    key = "generate." + line.split(" ")[0]
    assert key in problems(MINIMAL.replace("[generate]", f"[generate]\n{line}"))


@pytest.mark.parametrize(
    ("text", "line"),
    [(b"runs = \n", 1), (b"a = 1\n\nb = [1,\n", 3), (b"a = 1\na = 2\n", 2), (b"a = 1\nb = '\xff'\n", 2)],
)
def test_syntax_errors_have_a_line(tmp_path, text, line):
    path = tmp_path / "orchestrate.toml"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        settings.load(path)
    where = caught.value.problems[0].where
    assert where in (f"{path}:{line}", str(path))
    if b"[1," not in text:  # for a text that stops too early, tomllib names no line
        assert where == f"{path}:{line}"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a = 1\nb = " + "[" * 5000 + "]" * 5000, 2, "nests brackets too deeply"),
        ("a = 1\nb = " + "9" * 5000, 2, "has a number with thousands of digits"),
        ("[arguments]\nb = " + "[" * 300 + "]" * 300, 2, "flat list"),
        ("[arguments]\nb = 0x" + "f" * 9000, 2, "beyond 64 bits"),
        ("[arguments]\nresolution = '" + "9" * 5000 + "'", 2, "has 5,000 characters, more than 4,000"),
        ("[" + ".".join("a" * 5000) + "]", 1, "unknown key"),
    ],
)
def test_extreme_values_are_rejected_with_their_line(problems, text, line, what):
    found = [problem for problem in problems(text).values() if what in problem.what]
    assert [problem.where.rpartition(":")[2] for problem in found] == [str(line)]


def test_special_files_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    for path in (Path("/dev/zero"), tmp_path / "fifo.toml"):
        with pytest.raises(InputError, match="is not a regular file"):
            settings.load(path)
    (tmp_path / "large.toml").write_bytes(b"#" * (10 * 1024**2 + 1))
    with pytest.raises(InputError, match="more than"):
        settings.load(tmp_path / "large.toml")


def test_a_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "orchestrate.toml"
    path.write_text(MINIMAL, encoding="utf-8-sig")
    assert settings.load(path).base_model == "base"


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        (r'"C:\models\x.safetensors"', "single quotes or with forward slashes"),
        (r'"C:\Users\x.safetensors"', "single quotes or with forward slashes"),
        (r'"C:\tmp\x.safetensors"', "single quotes or with forward slashes"),
        (r"'C:\models\x.safetensors'", "under WSL: /mnt/c/models/x.safetensors"),
        ('"D:/models/x.safetensors"', "under WSL: /mnt/d/models/x.safetensors"),
    ],
)
def test_windows_paths_are_explained(problems, written, remedy):
    (problem,) = problems(MINIMAL.replace('"/models/base.safetensors"', written)).values()
    assert remedy in problem.remedy
    assert problem.where.endswith(":8")


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("$HOME/models/x.safetensors", "contains $HOME"),
        ("/data/${USER}/x.safetensors", "contains ${USER}"),
        ("~no-such-user/x.safetensors", "begins with ~no-such-user, and there is no such user"),
    ],
)
def test_what_no_shell_replaces_in_a_path_is_an_error(problems, written, what):
    (problem,) = problems(MINIMAL.replace('"/models/base.safetensors"', f'"{written}"')).values()
    assert problem.what.startswith(what)


@pytest.mark.parametrize("name", ["a\\nb", "a\\u202eb", "../x", "-x", ".x", "x.", "calibration.json", "x" * 61, ""])
def test_names_follow_one_rule(problems, name):
    more = f'[base_models."{name}"]\npath = "b"\n[defaults]\nbase_model = "base"\n'
    (problem,) = problems(MINIMAL + more).values()
    assert problem.what.startswith("the name ")
    assert problem.where.endswith(f":{line_of(MINIMAL + more, 'base_models.' + chr(34))}")


def test_fields_that_only_records_have_are_unknown_keys(problems):
    text = MINIMAL.replace('path = "/models', 'name = "x"\npath = "/models') + "[datasets.d]\nsource = 'persona'\n"
    found = problems(text + "choose = { n = 1, draw = 2 }\n[defaults]\ndataset = 'd'\n")
    assert {"base_models.base.name", "datasets.d.choose.draw"} == found.keys()
    assert "draw" not in found["datasets.d.choose.draw"].remedy


def test_settings_survive_json(load, tmp_path):
    loaded = load(MINIMAL + '[vram]\ncard = ["0", "1"]\n')
    for part in (
        loaded.trainer,
        loaded.base_models["base"],
        loaded.datasets["persona"],
        loaded.generation,
        loaded.vram,
    ):
        record = json.loads(json.dumps(asdict(part), default=str))
        assert TypeAdapter(type(part)).validate_python(record) == part


@pytest.mark.parametrize(
    "address",
    [
        "ftp://a.b",
        "http://[::1",
        "http://a b/",
        "http://",
        "http://a:x/",
        "http://a\\n/",
        "http://a:0/",
        "http://*/",
        "http://<b>/",
    ],
)
def test_addresses_of_webhooks_are_checked(problems, address):
    assert "notify.url" in problems(f'{MINIMAL}[notify]\nurl = "{address}"\n')


def test_a_missing_key_of_an_array_is_to_be_added_to_the_array(problems):
    found = problems(MINIMAL + "[[oom_fallback]]\nname = 'x'")["oom_fallback[0].set"]
    assert found.remedy == "add `set = ...` to [[oom_fallback]] number 1"


def test_a_grid_and_settings_in_the_place_of_each_other_are_one_problem(problems, tmp_path):
    assert problems("[dims]\nseed = [1]\n")[""].what == "this is a grid, not a settings file"
    (tmp_path / "swapped.toml").write_text(MINIMAL, encoding="utf-8")
    with pytest.raises(InputError, match="these are settings, not a grid"):
        grid.read(tmp_path / "swapped.toml")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("orchestrate.toml", "work in the folder of a project, or name its settings with --settings FILE"),
        ("grids/nothing.toml", "check the path; it is relative to /"),
        ("folder", "name a file with TOML text"),
    ],
)
def test_a_missing_file_is_named_with_a_remedy_for_it(tmp_path, name, remedy):
    (tmp_path / "folder").mkdir()
    with chdir(tmp_path), pytest.raises(InputError, match="cannot be read: ") as raised:
        settings.load(Path(name))
    assert raised.value.problems[0].remedy.startswith(remedy)


def test_the_shipped_settings_load():
    loaded = settings.load(REPO / "orchestrate.toml")
    assert loaded.templates == REPO / "templates"
    assert set(loaded.base_models) == {"realvisxl-v5", "juggernautxl-v9", "helloworldxl"}
    assert all(model.url.startswith("https://") for model in loaded.base_models.values())
    assert loaded.arguments["optimizer_type"] == "Prodigy"
    assert loaded.oom_fallback[-1].set == {"optimizer_type": "AdamW8bit"}
    assert not loaded.oom_fallback[-1].keeps_result


def test_schema_describes_settings_and_grids(tmp_path):
    result = CliRunner().invoke(main, ["schema", str(tmp_path / "schemas")])
    assert result.exit_code == 0, result.output
    of_settings = json.loads((tmp_path / "schemas" / "orchestrate.schema.json").read_text(encoding="utf-8"))
    assert set(of_settings["required"]) == {
        "runs", "templates", "trainer", "base_models", "datasets", "generate", "score",
    }  # fmt: skip
    trainer = of_settings["$defs"]["Trainer"]
    assert (trainer["required"], trainer["additionalProperties"]) == (["python", "sd_scripts"], False)
    launcher = trainer["properties"]["launcher"]
    assert (launcher["$ref"], launcher["default"]) == ("#/$defs/Launcher", "python")
    assert "name" not in of_settings["$defs"]["BaseModel"]["properties"]
    assert "description" in of_settings["$defs"]["Generation"]["properties"]["merge"]
    of_grids = json.loads((tmp_path / "schemas" / "grid.schema.json").read_text(encoding="utf-8"))
    assert "network_dim" in of_grids["properties"]["dims"]["properties"]
    assert of_grids["$defs"]["QuestionTable"]["properties"]["kind"]["enum"] == ["contrast", "memory", "threshold"]


def test_schemas_accept_the_files_of_this_repository():
    found = json_schema.schemas(["seed"])
    jsonschema.validate(
        tomllib.loads((REPO / "orchestrate.toml").read_text(encoding="utf-8")), found["orchestrate.schema.json"]
    )
    for path in (REPO / "grids").glob("*.toml"):
        jsonschema.validate(tomllib.loads(path.read_text(encoding="utf-8")), found["grid.schema.json"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"question": [{"id": "Q", "ask": "?", "kind": "memroy"}]}, found["grid.schema.json"])
