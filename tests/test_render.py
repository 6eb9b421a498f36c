import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import toml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import settings
from orchestrator.config.schema import Dataset
from orchestrator.errors import InputError
from orchestrator.kohya import config_files
from orchestrator.kohya.toml_writer import TomlWriter, Unwritable
from orchestrator.model import Point

REPO = Path(__file__).parents[1]
SETTINGS = settings.load(REPO / "orchestrate.toml")
BASE = SETTINGS.base_models["realvisxl-v5"]
POINT = Point(id="01234567", name="seed=1-01234567", params={})
OURS = {"output_dir": "/runs/a b/output", "output_name": "lora", "dataset_config": "/runs/a b/dataset.toml"}

NASTY = [
    "",
    '"',
    '""',
    '"""x',
    "'",
    "'''",
    'it\'s "quoted"',
    "\\",
    "C:\\users\\new\\table\\x41",
    "\\u0041",
    '\x01\\u0041"',
    "\\\\U00000041\n",
    "a\nb\rc\td",
    "a = 1\n[b]",
    "\x00\x1f\x7f",
    "\u2028\u2029\x85",
    "漢字 ü 😀",
    "# no comment",
    "[x]",
    "[[x]]",
    "a,b",
    ", a",
    ",",
    " , ",
    "{a|b}",
    "{{ seed }}{% raw %}",
    "../../etc/passwd",
    "/absolute",
    "x" * 300,
    "true",
    "1979-05-27",
    "1e-4",
    "a=b=c",
    " spaces ",
    "${HOME}`ls`",
]


@pytest.fixture
def renderer():
    return config_files.Renderer(REPO / "templates")


@pytest.fixture
def edited(tmp_path):
    """A renderer whose train template is this text."""

    def edited(text):
        for name in config_files.TEMPLATES:
            (tmp_path / name).write_text((REPO / "templates" / name).read_text(encoding="utf-8"), encoding="utf-8")
        (tmp_path / config_files.TRAIN).write_text(text, encoding="utf-8")
        return config_files.Renderer(tmp_path)

    return edited


def train_toml(renderer, params, ours=OURS, **changes):
    return renderer.train_toml(POINT, base=replace(BASE, **changes), ours=ours, trainer=SETTINGS.trainer, params=params)


def as_sd_scripts_reads(text):
    """Sections dropped, as `read_config_from_file` does."""
    return {key: value for section in toml.loads(text).values() for key, value in section.items()}


def both_read(text):
    theirs = toml.loads(f"x = {text}\n")["x"]
    assert theirs == tomllib.loads(f"x = {text}\n")["x"]
    return theirs


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", NASTY)
def test_text_survives_both_parsers(value):
    assert both_read(TomlWriter()(value)) == value
    assert both_read(TomlWriter()((value,))) == [value]
    assert both_read(TomlWriter()((value, "b", value))) == [value, "b", value]


@given(st.text(max_size=30))
def test_any_text_survives(value):
    assert both_read(TomlWriter()(value)) == value


@given(st.text(alphabet="\"'\\uU0041n#[],= \n\x01é", max_size=12))
def test_text_that_toml_0_10_2_misreads_survives(value):
    assert both_read(TomlWriter()(value)) == value


@given(st.lists(st.text(alphabet="\"'\\uU0041n#[],= \n\x01é", max_size=5), max_size=4))
def test_any_list_of_such_text_survives(values):
    assert both_read(TomlWriter()(tuple(values))) == values


@given(st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)))
def test_any_number_survives_with_its_type(value):
    read = both_read(TomlWriter()(value))
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("value", [1e-4, 1e-5, 1e16, 5e-324, 1.0, 0.1, -1e-5])
def test_floats_of_every_notation(value):
    assert both_read(TomlWriter()(value)) == value
    assert both_read(TomlWriter()((value, 2.0))) == [value, 2.0]


def test_values_that_python_takes_for_equal_are_distinguished():
    quoter = TomlWriter()
    assert [quoter(value) for value in (1, True, 1.0, (1,), (True,), (1.0,))] == [
        "1",
        "true",
        "1.0",
        "[1]",
        "[true]",
        "[1.0]",
    ]


def test_lists_are_of_one_type_as_the_trainers_parser_demands():
    assert both_read(TomlWriter()((1e-5, 0))) == [1e-5, 0.0]
    assert both_read(TomlWriter()(())) == []
    for mixed in (("a", 1), (True, 1), (True, 1.5)):
        with pytest.raises(Unwritable, match="one kind"):
            TomlWriter()(mixed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), (float("-inf"), 1.0), "\ud800", ("a", "\udcff")])
def test_values_without_a_toml_form_are_refused(value):
    with pytest.raises(Unwritable):
        TomlWriter()(value)


# --- train.toml -------------------------------------------------------------------------------------------------------


def test_the_trainer_reads_what_is_meant(renderer):
    params = {
        "base_model": "x",
        "dataset": "y",
        "learning_rate": 1e-4,
        "seed": 1,
        "sdpa": True,
        "network_args": ("a=1",),
    }
    read = as_sd_scripts_reads(train_toml(renderer, params, vae=Path("/vae file")))
    assert read == {
        "pretrained_model_name_or_path": str(BASE.path),
        "vae": "/vae file",
        "tokenizer_cache_dir": str(SETTINGS.trainer.tokenizer_cache_dir),
        **OURS,
        "learning_rate": 1e-4,
        "seed": 1,
        "sdpa": True,
        "network_args": ["a=1"],
    }
    assert [type(read[key]) for key in ("learning_rate", "seed", "sdpa")] == [float, int, bool]


@pytest.mark.parametrize("value", NASTY)
def test_untrusted_text_stays_inside_its_string(renderer, value):
    params = {"network_args": (f"a={value}", value), "caption_prefix": value}
    ours = {"output_dir": value, "training_comment": value}
    read = as_sd_scripts_reads(train_toml(renderer, params, ours))
    assert read.keys() == params.keys() | ours.keys() | {"pretrained_model_name_or_path", "tokenizer_cache_dir"}
    assert read["output_dir"] == read["caption_prefix"] == read["training_comment"] == value
    assert read["network_args"] == [f"a={value}", value]


def test_a_value_that_cannot_be_written_is_refused_by_name(renderer):
    with pytest.raises(InputError) as caught:
        train_toml(renderer, {"good": 1, "caption_prefix": "\udcff", "network_args": ("a", 1)})
    assert [problem.key for problem in caught.value.problems] == ["caption_prefix", "network_args"]


def test_a_point_cannot_set_what_orchestrate_sets(renderer):
    with pytest.raises(InputError, match="orchestrate sets output_dir itself"):
        train_toml(renderer, {"output_dir": "/elsewhere"})


@pytest.mark.parametrize(
    ("template", "key", "words"),
    [
        ("[a]\n{{ 'output_name' }} = 'lora'\n", "seed", "omits seed = 1"),
        ("{% for key, value in arguments.items() %}{{ key }} = {{ value }}\n{% endfor %}", "", "cannot read it"),
        ("[a]\nlowram = true\n", "lowram", "sets lowram, which this point does not"),
        ("[a]\nseed = 2\n", "seed", "sets seed = 2 instead of 1"),
        ("[a]\nseed = true\n", "seed", "sets seed = True instead of 1"),
        ("[a]\nseed = 1\n[b]\nseed = 1\n", "seed", "seed is set in two sections"),
    ],
)
def test_a_template_that_sets_other_values_is_refused(edited, template, key, words):
    renderer = edited(template)
    with pytest.raises(InputError) as caught:
        train_toml(renderer, {"seed": 1, "caption_prefix": "a b"})
    found = {problem.key: problem for problem in caught.value.problems}
    assert words in found[key].what
    assert found[key].where.endswith(config_files.TRAIN)


@pytest.mark.parametrize(
    ("template", "line", "words"),
    [
        ("\n{{ nope }}", 2, "'nope' is undefined"),
        ("\n\n{{ model.nope }}", 3, "has no attribute 'nope'"),
        ("{% if %}", 1, "Expected an expression"),
        ("\n{{ model.__class__.__mro__ }}", 2, "unsafe"),
        ("\n{{ 1 / 0 }}", 2, "division by zero"),
        ("\n{{ 'a' | nope }}", 2, "No filter named 'nope'"),
        ("{% include '../secret' %}", 1, "../secret"),
    ],
)
def test_a_broken_template_is_refused_with_its_line(edited, template, line, words):
    with pytest.raises(InputError) as caught:
        train_toml(edited(template), {})
    assert words in caught.value.problems[0].what
    if "include" not in template:
        assert caught.value.problems[0].where.endswith(f"{config_files.TRAIN}:{line}")


def test_a_template_that_joins_a_secret_in_a_comment_is_refused(edited):
    renderer = edited("{% set a = 'ghp_abcd1234EFGH5678' %}# {{ a ~ 'ijkl9012MNOP3456qrst' }}")
    with pytest.raises(InputError, match=r"train\.toml\.j2: writes a token, key or password into a comment") as caught:
        train_toml(renderer, {})
    assert "qrst" not in str(caught.value)


def test_a_missing_template_is_named(tmp_path):
    with pytest.raises(InputError, match=r"the template train\.toml\.j2 does not exist"):
        train_toml(config_files.Renderer(tmp_path), {})


# --- dataset.toml, prompts.txt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [value for value in NASTY if "\0" not in value and value])
def test_the_dataset_of_any_folder_and_trigger(renderer, value):
    dataset = Dataset(name="d", image_dir=Path("/x"), num_repeats=3, trigger=value, subset={"flip_aug": False})
    text = renderer.dataset_toml(POINT, dataset=dataset, folders=[Path("/pictures") / value])
    assert toml.loads(text) == {
        "datasets": [
            {
                "subsets": [
                    {
                        "image_dir": str(Path("/pictures") / value),
                        "caption_extension": ".txt",
                        "num_repeats": 3,
                        "class_tokens": value,
                        "flip_aug": False,
                    }
                ]
            }
        ]
    }


def test_a_dataset_of_several_sizes_is_one_dataset_each(renderer):
    sizes = (
        {"resolution": "768"},
        {"resolution": "1024,832", "train_batch_size": 2, "skip_image_resolution": "768,768"},
    )
    dataset = Dataset(name="d", image_dir=Path("/x"), resolutions=sizes)
    read = toml.loads(renderer.dataset_toml(POINT, dataset=dataset, folders=[Path("/x")]))["datasets"]
    assert [one.pop("subsets")[0]["image_dir"] for one in read] == ["/x", "/x"]
    assert read == [
        {"resolution": [768, 768]},
        {"resolution": [1024, 832], "batch_size": 2, "skip_image_resolution": [768, 768]},
    ]


def test_keys_of_the_config_file_are_not_in_the_dataset_file():
    """sd-scripts silently prefers the dataset file to the config file."""
    text = (REPO / "templates" / config_files.DATASET).read_text(encoding="utf-8").partition("#}")[2]
    assert not any(key in text for key in ("batch_size", "resolution", "bucket", "[general]"))


def test_masks_leave_no_room_for_class_tokens(renderer):
    dataset = Dataset(name="d", image_dir=Path("/x"), trigger="ohwx", subset={"conditioning_data_dir": "/masks"})
    (subset,) = toml.loads(renderer.dataset_toml(POINT, dataset=dataset, folders=[Path("/x")]))["datasets"][0][
        "subsets"
    ]
    assert subset.keys() == {"image_dir", "caption_extension", "num_repeats", "conditioning_data_dir"}


def test_prompts_are_one_line_each(renderer):
    lines = ["photo of {{ ohwx }} --n blurry --d 1 --f a.png", "b --d 2 --f b.png"]
    text = renderer.prompts_txt(POINT, lines)
    assert [line for line in text.split("\n") if line and not line.startswith("#")] == lines
    for bad in ("a\nb", "a\x0bb", "a\u2028b", "# a", ""):
        with pytest.raises(InputError, match="do not read back"):
            renderer.prompts_txt(POINT, [bad])


# --- scale ------------------------------------------------------------------------------------------------------------


def test_ten_thousand_points_render_in_about_a_second(renderer):
    params = {f"argument_{number}": number if number % 2 else f"text {number}" for number in range(30)}
    start = time.process_time()
    for number in range(1000):
        ours = {**OURS, "output_dir": f"/runs/{number}/output"}
        renderer.train_toml(
            POINT, base=BASE, ours=ours, trainer=SETTINGS.trainer, params=params | {"seed": number}, verify=False
        )
    assert time.process_time() - start < 0.25  # 0.07 s where nothing else runs
