"""What a request may set of a chat template's variables, and what it may not."""

from typing import Any

import pytest

from puna.chat.variables import MAX_TEXT, RESERVED, check_variables
from puna.errors import InvalidOption
from puna.template.jinja import variables_of

MENTIONED = {"enable_thinking", "style", *RESERVED}


def test_scalars_that_the_template_reads_are_let_through() -> None:
    for value in ("brief", "", 1, -2.5, True, False, None):
        assert check_variables({"style": value}, MENTIONED) == {"style": value}
    assert check_variables({}, ()) == {}


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_refused_though_the_template_reads_them(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"'{name}' cannot be set by a request"):
        check_variables({name: True}, MENTIONED)


@pytest.mark.parametrize(
    "given, reason",
    [
        ({"other": 1}, "has no variable 'other'"),
        ({"_style": 1}, "no name"),
        ({" budget": 1}, "no name"),
        ({"": 1}, "no name"),
        ({"a" * 65: 1}, "no name"),
        ({"stÿle": 1}, "no name"),
        ({1: 1}, "no name"),
        ({"style": []}, "must be a text, a number"),
        ({"style": {"a": 1}}, "must be a text, a number"),
        ({"style": b"x"}, "must be a text, a number"),
        ({"style": "x" * (MAX_TEXT + 1)}, "longer than"),
        ({"style": float("nan")}, "no finite number"),
        ({f"n{i}": 1 for i in range(33)}, "at most 32"),
    ],
)
def test_everything_else_is_refused_by_name(given: dict[Any, Any], reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason):
        check_variables(given, MENTIONED)


def test_the_variables_of_a_template_are_those_it_reads_and_does_not_set() -> None:
    template = (
        "{% set own = 1 %}{% for m in messages %}{{ m.content }}{{ own }}{% endfor %}"
        "{% if enable_thinking is defined and enable_thinking %}{{ style }}{% endif %}"
        "{% macro shown(x) %}{{ x }}{% endmacro %}{{ shown(1) }}"
    )
    assert variables_of(template) >= {"messages", "enable_thinking", "style"}
    assert variables_of(template).isdisjoint({"own", "m", "x", "shown"})
