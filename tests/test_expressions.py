import time

import pytest

from orchestrator.config.expressions import ExpressionError, Expressions, is_expression
from orchestrator.errors import Problem

POINT = {"network_dim": 16, "seed": 1, "lr": 1e-4, "flag": True, "name": "x {{ seed }} y", "many": ("a", "b")}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{{ network_dim // 2 }}", 8),
        ("  {{ network_dim / 2 }} ", 8.0),
        ("{{ 8 // 2 }}", 4),
        ("{{ lr * 10 }}", 1e-3),
        ("{{ '16' }}", "16"),
        ("{{ network_dim }},{{ network_dim }}", "16,16"),
        ("{{ flag }}", True),
        ("decouple={{ flag }}", "decouple=True"),
        ("{{ many }}", ("a", "b")),
        ("{{ [seed, 2.5] }}", (1, 2.5)),
        ("{{ 'big' if network_dim > 8 else 'small' }}", "big"),
        ("{% if flag %}on{% else %}off{% endif %}", "on"),
        ("{{ [network_dim, 32] | max }}", 32),
        ("{{ (network_dim / 3) | round(2) }}", 5.33),
    ],
)
def test_result_and_its_type(written, meant):
    result = Expressions().evaluate(written, POINT)
    assert result == meant
    assert type(result) is type(meant)


@pytest.mark.parametrize("literal", ["a", "{a|b}", "50%", "} }", "{# no #}", 3, True, ("x", 1.5)])
def test_other_text_stays_unchanged(literal):
    assert not is_expression(literal)
    assert Expressions().evaluate(literal, POINT) == literal


def test_an_expression_inside_a_list():
    assert Expressions().evaluate(("d={{ network_dim }}", "b"), POINT) == ("d=16", "b")
    with pytest.raises(ExpressionError, match="one value"):
        Expressions().evaluate(("{{ many }}",), POINT)


def test_values_of_params_are_data():
    assert Expressions().evaluate("{{ name }}", POINT) == "x {{ seed }} y"
    assert Expressions().evaluate("<{{ name }}>", POINT) == "<x {{ seed }} y>"


def test_inputs_of_different_types_are_distinct():
    expressions = Expressions()
    results = [expressions.evaluate("{{ a }}", {"a": value}) for value in (1, True, 1.0, "1", 1)]
    assert [(type(result), result) for result in results] == [
        (int, 1),
        (bool, True),
        (float, 1.0),
        (str, "1"),
        (int, 1),
    ]


def test_names_of_the_params_used():
    assert Expressions().names(("{{ a + b }}", "{% if c %}{{ a }}{% endif %}", "d")) == {"a", "b", "c"}


def test_a_missing_param_is_named():
    with pytest.raises(ExpressionError, match="netwrok_dim is not set") as caught:
        Expressions().evaluate("{{ netwrok_dim }}", POINT)
    assert caught.value.missing == "netwrok_dim"


def test_an_expression_that_joins_a_secret_is_refused():
    with pytest.raises(ExpressionError, match="yields a token, key or password"):
        Expressions().evaluate("{{ ['ghp_abcd1234EFGH5678' ~ 'ijkl9012MNOP3456qrst'] }}", POINT)


def test_a_wrong_expression_is_compiled_once(monkeypatch):
    expressions, wrong = Expressions(), "{{ network_dim + }}"
    for _ in range(2):
        with pytest.raises(ExpressionError, match="unexpected"):
            expressions.evaluate(wrong, POINT)
        monkeypatch.setattr("orchestrator.config.expressions._guarded", None)


def test_a_long_value_is_shortened_in_a_message():
    assert len(str(Problem(what="is wrong", value="x" * 2000))) < 300


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ name['__class__'] }}",
        "{{ name['upper'] }}",
        "{{ name.upper() }}",
        "{{ range(9) }}",
        "{{ self.__init__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in many %}{{ i }}{% endfor %}",
        "{% set a = 1 %}{{ a }}",
        "{% include 'secret' %}",
        "{% macro m() %}{% endmacro %}{{ m() }}",
        "{{ 'a' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ 9**9**9**9 }}",
        "{{ 2.0**99999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'a' | center(999999999) }}",
        "{{ network_dim | round(30000000, 'ceil') }}",
        "{{ 10 | round(30000000) }}",
        "{{ 10 | round(-400) }}",
        "{{ 'a' | round }}",
        "{{ 1 / 0 }}",
        "{{ 1e308 * 10 }}",
        "{{ 1e999 }}",
        "{{ 'nan' | float }}",
        "{{ 2**200 }}",
        "{{ none }}",
        "{{ {'a': 1} }}",
        "{{ [[1]] }}",
        "{{ 1 if not flag }}",
        "{{ many[9] }}",
        "{{ network_dim",
        "{{ " + "(" * 800 + "1" + ")" * 800 + " }}",
        "{{ network_dim | " + " | ".join(["string"] * 200) + " }}",
        "{{ " + "-" * 190 + "network_dim }}",
        "{{ network_dim" + " + 1" * 190 + " }}",
        "{{ 1 }}" + " " * 2000,
        "{{ '" + "a" * 1900 + "' ~ name ~ '" + "a" * 70 + "' ~ '{}' }}".replace("{}", "b" * 20),
    ],
)
def test_hostile_or_wrong_expressions_are_refused_quickly(hostile):
    start = time.process_time()
    with pytest.raises(ExpressionError):
        Expressions().evaluate(hostile, POINT)
    assert time.process_time() - start < 0.5
