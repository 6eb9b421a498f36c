import hashlib
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import grid, settings
from orchestrator.errors import InputError
from orchestrator.kohya import networks
from orchestrator.model import Question

REPO = Path(__file__).parents[1]
SETTINGS = replace(settings.load(REPO / "orchestrate.toml"), arguments={"network_dim": 8, "sdpa": True})


@pytest.fixture
def expand(tmp_path):
    """The points of a grid of this text."""

    def expand(text, arguments=SETTINGS.arguments, **files):
        for name, included in files.items():
            (tmp_path / f"{name}.toml").write_text(included, encoding="utf-8")
        (tmp_path / "grid.toml").write_text(text, encoding="utf-8")
        return grid.expand(grid.load(tmp_path / "grid.toml"), replace(SETTINGS, arguments=arguments))

    return expand


@pytest.fixture
def rejected(expand):
    """What is wrong with a grid of this text."""

    def rejected(text, **files):
        with pytest.raises(InputError) as caught:
            expand(text, **files)
        assert all(problem.where and problem.remedy for problem in caught.value.problems)
        return list(caught.value.problems)

    return rejected


def line_of(problem):
    return int(problem.where.rpartition(":")[2])


# --- points -----------------------------------------------------------------------------------------------------------


def test_the_product_of_dims_first_one_slowest(expand):
    points = expand("[dims]\nnetwork_dim = [16, 32]\nseed = [1, 2]\n")
    assert [(point.params["network_dim"], point.params["seed"]) for point in points] == [
        (16, 1),
        (16, 2),
        (32, 1),
        (32, 2),
    ]
    assert points[0].dims == ("network_dim", "seed")
    assert points[0].params == {
        "base_model": "realvisxl-v5",
        "dataset": "persona",
        "network_dim": 16,
        "sdpa": True,
        "seed": 1,
    }


MATCHED = """
match = "parameters"
[dims]
network_module = ["networks.lora", "networks.loha", "networks.lokr", "networks.oft"]
network_dim = [16, 32]
[fixed]
network_alpha = "{{ network_dim / 2 }}"
[[when]]
match = { network_module = "networks.lokr" }
set = { network_args = ["factor=4"] }
"""


def test_networks_are_matched_by_their_number_of_parameters(tmp_path):
    (tmp_path / "grid.toml").write_text(MATCHED, encoding="utf-8")
    asked = grid.load(tmp_path / "grid.toml")
    points = grid.expand(asked, SETTINGS, match_rank=networks.matching_rank)
    ranks = [(point.params["network_dim"], point.params["network_alpha"]) for point in points]
    assert ranks == [(16, 8), (32, 16), (8, 4), (16, 8), (64, 32), (130, 65), (16, 8), (8, 4)]
    assert [point.written["network_dim"] for point in points] == [16, 32] * 4
    reference = {16: 57.0, 32: 114.0}
    for point in points[:-1]:
        counted = networks.trained_numbers(point.params) / 1e6
        assert counted == pytest.approx(reference[point.written["network_dim"]], rel=0.11)


def test_another_match_is_rejected(rejected):
    (problem,) = rejected('match = "rank"\n[dims]\nnetwork_dim = [16, 32]\n')
    assert (problem.key, "parameters" in problem.what + problem.remedy) == ("match", True)


def test_only_fixed_is_one_point(expand):
    (point,) = expand("[fixed]\nnetwork_dim = 4\n")
    assert point.params["network_dim"] == 4
    assert point.name == f"point-{point.id}"


def test_zip_moves_together_and_multiplies_with_dims(expand):
    points = expand(
        '[dims]\nseed = [1, 2]\n[[zip]]\nresolution = ["768,768", "1024,1024"]\ntrain_batch_size = [2, 1]\n'
    )
    assert [(p.params["seed"], p.params["resolution"], p.params["train_batch_size"]) for p in points] == [
        (1, "768,768", 2),
        (1, "1024,1024", 1),
        (2, "768,768", 2),
        (2, "1024,1024", 1),
    ]


def test_values_of_a_dim_may_be_lists(expand):
    points = expand('[dims]\noptimizer_args = [["a=1", "b=2"], []]\n')
    assert [point.params["optimizer_args"] for point in points] == [("a=1", "b=2"), ()]


def test_treatments_are_dims(expand):
    points = expand('[dims]\nbase_model = ["realvisxl-v5", "helloworldxl"]\n')
    assert [point.params["base_model"] for point in points] == ["realvisxl-v5", "helloworldxl"]


def test_the_order_of_rules(expand):
    """settings < fixed < dims < when, a later when over an earlier one; then expressions; then exclude."""
    text = """
    [fixed]
    a = "fixed"
    b = "fixed"
    c = "fixed"
    half = "{{ seed * 10 // 2 }}"
    [dims]
    seed = [1, 2, 3]
    [[when]]
    match = { seed = [1, 2] }
    set = { b = "first", c = "first", new = "{{ half + 1 }}" }
    [[when]]
    match = { c = "first", seed = 2 }
    set = { c = "second" }
    [[exclude]]
    new = 6
    """
    points = expand(text, arguments={"a": "settings", "d": "settings"})
    got = [{key: point.params.get(key) for key in ("seed", "a", "b", "c", "d", "half", "new")} for point in points]
    assert got == [
        {"seed": 2, "a": "fixed", "b": "first", "c": "second", "d": "settings", "half": 10, "new": 11},
        {"seed": 3, "a": "fixed", "b": "fixed", "c": "fixed", "d": "settings", "half": 15, "new": None},
    ]


def test_expressions_anywhere_and_in_any_order(expand):
    text = """
    [fixed]
    network_alpha = "{{ double // 4 }}"
    double = "{{ network_dim * 2 }}"
    network_args = ["conv_dim={{ network_dim }}", "x=1"]
    [dims]
    network_dim = [16]
    unet_lr = ["{{ 1 / network_dim }}", 0.5]
    """
    points = expand(text)
    assert [point.params["unet_lr"] for point in points] == [0.0625, 0.5]
    assert points[0].params["network_alpha"] == 8
    assert points[0].params["network_args"] == ("conv_dim=16", "x=1")
    assert "unet_lr=0.0625" in points[0].name


def test_exclude_needs_all_of_its_keys(expand):
    points = expand('[dims]\na = [1, 2]\nb = ["x", "y"]\n[[exclude]]\na = 2\nb = "x"\n')
    assert [(point.params["a"], point.params["b"]) for point in points] == [(1, "x"), (1, "y"), (2, "y")]


# --- ids and names ----------------------------------------------------------------------------------------------------


def test_the_id_is_of_the_params_as_canonical_json():
    params = {"b": ("x", 1.5), "a": 16.0, "c": True, "d": 'ü"\n'}
    meant = json.dumps({"a": 16, "b": ["x", 1.5], "c": True, "d": 'ü"\n'}, sort_keys=True, separators=(",", ":"))
    assert grid.canonical(params) == meant
    assert grid.point_id(params) == hashlib.sha256(meant.encode()).hexdigest()[:8]


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,5}", fullmatch=True),
        st.one_of(
            st.booleans(), st.integers(-9, 9), st.text(max_size=5), st.tuples(st.booleans(), st.text(max_size=3))
        ),
        max_size=5,
    )
)
def test_canonical_json_is_json_in_any_order(params):
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in params.items()}
    assert grid.canonical(params) == json.dumps(plain, sort_keys=True, separators=(",", ":"))
    assert grid.canonical(dict(reversed(params.items()))) == grid.canonical(params)


def test_equal_values_have_the_same_id():
    def identity(value):
        return grid.point_id({"a": value})

    assert identity(16) == identity(16.0)
    assert len({identity(value) for value in (1, True, "1", (1,), 1.5, "true")}) == 6
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not a finite number"):
            identity(value)


def test_the_id_covers_what_the_settings_and_rules_add(expand):
    text = "[dims]\nseed = [1]\n"
    ids = {expand(text)[0].id, expand(text, arguments={})[0].id, expand(text + "[fixed]\na = 1\n")[0].id}
    assert len(ids) == 3


def test_names_contain_the_dims(expand):
    points = expand('[dims]\nnetwork_dim = [32]\noptimizer_type = ["Prodigy"]\nflag = [true]\nlr = [1e-4]\n')
    assert points[0].name == f"network_dim=32_optimizer_type=Prodigy_flag=true_lr=0.0001-{points[0].id}"


@pytest.mark.parametrize(
    "value",
    [
        "../../etc",
        "/abs/olute",
        "a\\nb\\t",
        "x" * 300,
        "ü 漢字" * 60,
        ".",
        "..",
        "",
        "-rf",
        "a'b$(c)`d`",
        "*?[",
    ],
)
def test_names_of_points_are_safe_file_names(expand, tmp_path, value):
    (point,) = expand(f'[dims]\nnetwork_module = ["{value}"]\n')
    assert "/" not in point.name
    assert point.name.isprintable()
    assert not set("\\*?[]<>|:'\"$` ") & set(point.name)
    assert not point.name.startswith((".", "-"))
    assert len(point.name.encode()) <= 200
    assert (tmp_path / point.name).parent == tmp_path
    (tmp_path / point.name).mkdir()


def test_names_of_points_are_valid_for_any_value(expand):
    @given(st.text(max_size=400))
    def check(value):
        name = grid.point_name({"a": value, "b": (value, value)}, ("a", "b"), "01234567")
        assert len(name.encode()) <= 200
        assert name.isprintable()
        assert "/" not in name
        assert name.endswith("-01234567")

    check()


def test_braces_in_the_value_of_an_expression_are_data(expand):
    (point,) = expand("""[fixed]\na = "{{ '{{ seed }}' }}"\nb = "{{ a }}"\n[dims]\nseed = [1]\n""")
    assert point.params["a"] == point.params["b"] == "{{ seed }}"


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("[dmis]\na = [1]", 1, "dmis", "unknown key"),
        ("[dims]\na = 3", 2, "dims.a", "needs a list"),
        ("[dims]\na = []", 2, "dims.a", "at least one value"),
        ("[dims]\na = [1, 2, 1.0]", 2, "dims.a", "1 occurs twice"),
        ("[dims]\na = [[[1]]]", 2, "dims.a", "flat list"),
        ("[dims]\na = [nan]", 2, "dims.a", "finite"),
        ("[dims]\n\n'a b' = [1]", 3, "dims.a b", "argument's name"),
        ("[dims]\n'../x' = [1]", 2, "dims.../x", "argument's name"),
        ("[fixed]\na = 1\n[dims]\na = [1]", 4, "dims.a", "already set at"),
        ("[dims]\na = [1]\n[[zip]]\na = [1]\nb = [2]", 4, "zip[0].a", "already set at"),
        ("[[zip]]\na = [1, 2]\nb = [1]", 1, "zip[0]", "a has 2, b has 1"),
        ("[[zip]]\na = [1]\n[[zip]]\na = [2]", 4, "zip[1].a", "already set at"),
        ("[zip]\na = [1]", 1, "zip", "array of tables"),
        ("[dims]\na=[1]\n[[when]]\nmatch={a=1}", 3, "when[0]", "must set or unset something"),
        ("[dims]\na=[1]\n[[when]]\nset={b=1}", 3, "when[0].match", "is missing"),
        ("[dims]\na=[1]\n[[when]]\nmatch={a=1}\nset={b=1}\nnote=1", 6, "when[0].note", "unknown key"),
        ("[dims]\na=[1]\n[[exclude]]", 3, "exclude[0]", "every point"),
        ("[dims]\na=[1]\n[[when]]\nmatch={a=2}\nset={b=1}", 3, "when", "no point has a = 2"),
        ("[dims]\na=[1]\n[[exclude]]\na=2", 3, "exclude", "no point has a = 2"),
        ("[dims]\na=[1,2]\n[[when]]\nmatch={a=1}\nset={a=2}", 3, "when.set.a", "the dim a is 1"),
        ("[dims]\na=[1]\n[[exclude]]\na=1", 3, "exclude", "the grid is empty"),
        ("[fixed]\na='{{ b }}'\nb='{{ c }}'\nc='{{ b }}'", 3, "b", "b -> c -> b"),
        ("[fixed]\na='{{ a }}'", 2, "a", "a -> a"),
        ("[fixed]\na='{{ netwrok_dim }}'", 2, "a", "netwrok_dim is not set"),
        ("[fixed]\na='{{ 1 / 0 }}'", 2, "a", "division by zero"),
        ("[dims]\na=[1]\n[[when]]\nmatch={a=1}\nset={b='{{ x y }}'}", 3, "b", "cannot be computed"),
        ("[fixed]\ne='{{ 1 + 1 }}'\n[[when]]\nmatch={e=2}\nset={b=1}", 3, "when.match.e", "is an expression"),
        ("[dims]\nbase_model = ['relvisxl-v5']", 2, "base_model", "not among the base_models"),
        ("[fixed]\ndataset = 3", 2, "dataset", "not among the datasets"),
        ("[dims]\na=[1]\n[[question]]\nid='Q'\nask='?'", 3, "question[0].contrast", "one dim with two"),
        ("[dims]\na=[1,2]\n[[question]]\nid='Q'\nask='?'\ncontrast={a=[1,3]}", 6, "question[0].contrast.a", "3 is not"),
        ("[dims]\na=[1,2]\n[[question]]\nid='Q'\nask='?'\ncontrast={b=[1,2]}", 6, "question[0].contrast.b", "not a"),
        ("[dims]\na=[1,2]\n[[question]]\nid='Q'\nask=''\ncontrast={a=[1,1.0]}", 6,
         "question[0].contrast.a", "must differ"),
        ("[dims]\na=[1,2]\n[[question]]\nid='Q'\nask='?'\nkind='memroy'\ncontrast={a=[1,2]}", 6,
         "question[0].kind", "is not known"),
        ("[fixed]\na=1\n[[question]]\nid='Q'\nask='?'\nkind='memory'\ncontrast={a=[1,2]}", 7,
         "question[0].contrast", "no values"),
        ("[fixed]\na=1\n[[question]]\nid='Q'\nask='?'\nkind='memory'\nwithin_gib=0", 7,
         "question[0].within_gib", "above 0"),
        ("[fixed]\na=1\n[[question]]\nid='Q'\nask='?'\nkind='threshold'\nwithin_gib=9", 7,
         "question[0].within_gib", "no mem"),
        ("include = ['nothing.toml']", 1, "include", "there is no file"),
        ("include = ['../grid.toml']", 1, "include", "is outside"),
        ("include = ['/etc/passwd']", 1, "include", "is outside"),
        ("include = ['a\\u0000b']", 1, "include", "U+0000"),
        ("include = ['grid.toml']", 1, "include", "a cycle"),
    ],
)  # fmt: skip
def test_mistakes_have_their_line_key_and_message(rejected, text, line, key, words):
    text = text.replace("'a\\u0000b'", '"a\\u0000b"')
    problems = rejected(text)
    assert [problem.key for problem in problems] == [key]
    assert words in problems[0].what
    assert line_of(problems[0]) == line


def test_all_mistakes_of_a_file_at_once(rejected):
    problems = rejected("tpyo = 1\n[dims]\na = 3\nb = []\n[[zip]]\nc = [1]\nd = [1, 2]\n[[exclude]]\n")
    assert {problem.key for problem in problems} == {"tpyo", "dims.a", "dims.b", "zip[0]", "exclude[0]"}


def test_an_expression_that_fails_in_every_point_is_reported_once(rejected):
    problems = rejected("[fixed]\na = '{{ nope }}'\nb = '{{ a }}'\nc = '{{ 1 / 0 }}'\n[dims]\nseed = [1, 2, 3]\n")
    assert [problem.key for problem in problems] == ["a", "c"]


def test_remedies_suggest_similar_names(rejected):
    assert rejected("[dims]\na = [1]\n[[excldue]]\na = 1\n")[0].remedy == "did you mean exclude?"
    assert rejected("[fixed]\na = '{{ netwrok_dim }}'\n")[0].remedy == "did you mean network_dim?"
    assert rejected("[dims]\nbase_model = ['relvisxl-v5']\n")[0].remedy == "did you mean realvisxl-v5?"
    assert rejected("[dims]\nsedd = [1]\n[[exclude]]\nseed = 1\n")[0].remedy == "did you mean sedd?"


def test_two_points_that_become_the_same_are_named(rejected):
    (problem,) = rejected("[fixed]\nb = 8\n[dims]\na = [8, '{{ b }}']\n")
    assert problem.what == '(a = 8) and (a = "{{ b }}") make the same point'


def test_questions_about_memory_and_the_threshold_are_read(tmp_path):
    text = "id = 'M'\nask = 'fits?'\nkind = 'memory'"
    (tmp_path / "grid.toml").write_text(
        f"[fixed]\na = 1\n[[question]]\n{text}\nwithin_gib = 24\n[[question]]\n{text.replace('M', 'N')}\n"
        "[[question]]\nid = 'T'\nask = 'passes?'\nkind = 'threshold'\n"
    )
    assert grid.load(tmp_path / "grid.toml").questions == (
        Question(id="M", ask="fits?", kind="memory", within_gib=24.0),
        Question(id="N", ask="fits?", kind="memory"),
        Question(id="T", ask="passes?", kind="threshold"),
    )


def test_two_questions_of_one_id(rejected):
    question = "[[question]]\nid = 'Q'\nask = '?'\ncontrast = {a=[1,2]}\n"
    (problem,) = rejected("[dims]\na = [1, 2]\n" + question * 2)
    assert problem.key == "question[1].id"


def test_a_grid_that_is_too_large_is_rejected_quickly(rejected):
    start = time.process_time()
    (problem,) = rejected("[dims]\n" + "".join(f"a{n} = {list(range(100))}\n" for n in range(6)))
    assert "1,000,000,000,000 points" in problem.what
    assert time.process_time() - start < 1


def test_an_empty_file_is_an_empty_grid(rejected):
    assert "is empty" in rejected("")[0].what


@pytest.mark.parametrize("reverse", [False, True])
def test_chains_of_expressions_cost_linear_time(expand, reverse):
    lines = [f'a{n} = "{{{{ a{n - 1} + 1 }}}}"' for n in range(1, 1001)]
    start = time.process_time()
    (point,) = expand("[fixed]\na0 = 0\n" + "\n".join(reversed(lines) if reverse else lines))
    assert point.params["a1000"] == 1000
    assert time.process_time() - start < 2.5  # quadratic cost took 4.7 s; compiling takes 0.5 s


# --- include ----------------------------------------------------------------------------------------------------------


def test_a_grid_overrides_the_files_that_it_includes(expand):
    points = expand(
        'include = ["base"]\n[fixed]\nseed = 7\n[dims]\nnetwork_dim = [4, 8]\n'.replace('"base"', '"base.toml"'),
        base="[fixed]\nnetwork_dim = 1\nalpha = 2\n[dims]\nseed = [1, 2]\nlr = [0.1]\n",
    )
    assert [point.params["network_dim"] for point in points] == [4, 8]
    assert {(point.params["seed"], point.params["alpha"], point.params["lr"]) for point in points} == {(7, 2, 0.1)}
    assert points[0].dims == ("lr", "network_dim")


def test_rules_of_an_included_file_come_first_and_once(expand, tmp_path):
    text = 'include = ["a.toml", "b.toml"]\n[dims]\nseed = [1]\n[[when]]\nmatch = {seed = 1}\nset = {x = "grid"}\n'
    rule = "[[when]]\nmatch = {seed = 1}\nset = {%s = '%s'}\n"
    points = expand(text, a='include = ["b.toml"]\n' + rule % ("x", "a"), b=rule % ("y", "b"))
    assert (points[0].params["x"], points[0].params["y"]) == ("grid", "b")
    loaded = grid.load(tmp_path / "grid.toml")
    assert [path.name for path in loaded.files] == ["b.toml", "a.toml", "grid.toml"]
    assert len(loaded.whens) == 3


def test_mistakes_of_an_included_file_carry_its_name(rejected):
    (problem,) = rejected('include = ["base.toml"]\n[dims]\na = [1]\n', base="[fixed]\n\nb = 1979-05-27\n")
    assert problem.where.endswith("base.toml:3")


def test_a_cycle_of_includes_is_named(rejected):
    problems = rejected('include = ["a.toml"]\n[dims]\nx = [1]\n', a='include = ["grid.toml"]\n')
    assert problems[0].what == "a cycle: grid.toml includes a.toml includes grid.toml"


# --- docs -------------------------------------------------------------------------------------------------------------

EXAMPLES = re.findall(
    r"^```toml\n(.*?)^```", (REPO / "docs" / "grid.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_docs_run_as_written(expand, example):
    arguments = settings.load(REPO / "orchestrate.toml").arguments
    assert expand(example, arguments, base="[dims]\nseed = [1, 2]\n")


# --- scale ------------------------------------------------------------------------------------------------------------


def test_ten_thousand_points_in_well_under_a_second(expand):
    text = """
    [fixed]
    network_alpha = "{{ network_dim // 2 }}"
    [dims]
    network_dim = [4, 8, 16, 32]
    optimizer_type = ["Prodigy", "AdamW8bit"]
    seed = [%s]
    [[when]]
    match = { optimizer_type = "AdamW8bit" }
    set = { learning_rate = 1e-4 }
    """
    arguments = {f"argument_{number}": f"value {number}" for number in range(30)} | {"optimizer_args": ("a", "b")}
    start = time.process_time()
    points = expand(text % ", ".join(map(str, range(1250))), arguments=arguments)
    assert time.process_time() - start < 1.5  # 0.5 s where nothing else runs
    assert len({point.name for point in points}) == 10_000
