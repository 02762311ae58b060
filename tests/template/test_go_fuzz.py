"""Random templates against Go itself.

Left out is what Go 1.19 does not know (`range 3`, `else with`) or does otherwise than later versions
(`range $x =`).
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.template.go_oracle import Case, Oracle, ours
from tests.template.test_go_engine import DATA

_FIELDS = [
    ".",
    "$",
    *(f".{name}" for name in DATA),
    ".missing",
    ".map.a",
    ".map.b",
    ".nested.x.y",
    "$.s",
    "$.map.a",
]
_VARIABLES = ["$x", "$y", "$i"]
_LITERALS = [
    "0",
    "1",
    "2",
    "-1",
    "1.5",
    "1e6",
    "3i",
    "'a'",
    '"a"',
    '""',
    '"é日"',
    "`r\\n`",
    "true",
    "false",
    "nil",
]
_FUNCTIONS = [
    *("and", "or", "not", "len", "index", "slice", "eq", "ne", "lt", "le", "gt", "ge", "call"),
    *("print", "println", "html", "js", "urlquery", "json"),
]
_VERBS = "vTdsqxXtfFgGeEcUboOz%"
_RANGED = [
    ".list",
    ".nums",
    ".mixed",
    ".empty",
    ".map",
    ".emptymap",
    ".s",
    ".missing",
    ".nested",
    ".jl",
    ".messages",
]


@st.composite
def _printf(draw: st.DrawFn) -> str:
    directives = draw(
        st.lists(
            st.builds(
                "{}%{}{}{}{}".format,
                st.sampled_from(["", " ", "é"]),
                st.text("-+# 0", max_size=3),
                st.sampled_from(["", "", "1", "7", "12", "*", "[1]", "[2]", "[1]*"]),
                st.sampled_from(["", "", ".0", ".1", ".3", ".", ".*"]),
                st.sampled_from(_VERBS),
            ),
            max_size=3,
        )
    )
    arguments = draw(st.lists(st.deferred(lambda: _operand), max_size=4))
    return f"printf `{''.join(directives)}` {' '.join(arguments)}"


_operand: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(_FIELDS),
        st.sampled_from(_FIELDS),
        st.sampled_from(_LITERALS),
        st.sampled_from(_VARIABLES),
        st.builds("({})".format, _pipe),
        st.builds("({}){}".format, _pipe, st.sampled_from([".a", ".b", ".x.y"])),
    )
)
_command: st.SearchStrategy[str] = st.one_of(
    _operand,
    _printf(),
    st.builds(
        lambda name, arguments: " ".join((name, *arguments)),
        st.sampled_from(_FUNCTIONS),
        st.lists(_operand, max_size=3),
    ),
)
_pipe: st.SearchStrategy[str] = st.builds(" | ".join, st.lists(_command, min_size=1, max_size=2))
_left = st.sampled_from(["{{", "{{ ", "{{- "])
_right = st.sampled_from(["}}", " }}", " -}}"])


def _action(*words: str | st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    made = [st.just(word) if isinstance(word, str) else word for word in words]
    return st.builds(lambda left, right, *inner: left + " ".join(inner) + right, _left, _right, *made)


_body: st.SearchStrategy[str] = st.deferred(lambda: st.builds("".join, st.lists(_piece, max_size=4)))
_target = st.sampled_from(["$x :=", "$y :=", "$x =", "$y ="])
_loop_target = st.sampled_from(["", "", "$x :=", "$i, $x :=", "$i , $y :="])
_otherwise = st.one_of(st.just(""), st.builds("{}{}".format, _action("else"), _body))
_piece: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(["text", " ", "\n", " a \n", "}}", "{{/* c */}}"]),
    _action(_pipe),
    _action(_pipe),
    _action(_target, _pipe),
    st.builds(
        "{}{}{}{}".format,
        _action(st.sampled_from(["if", "with", "if $x :="]), _pipe),
        _body,
        _otherwise,
        _action("end"),
    ),
    st.builds(
        "{}{}{}{}".format,
        _action("range", _loop_target, st.sampled_from(_RANGED)),
        _body,
        _otherwise,
        _action("end"),
    ),
    st.builds(
        "{}{}{}{}{}{}".format,
        _action("if", _pipe),
        _body,
        _action("else if", _pipe),
        _body,
        _otherwise,
        _action("end"),
    ),
    _action(st.sampled_from(["break", "continue", 'template "t"', 'template "t" .', "end", "else", "nope"])),
)
_template = st.builds(
    lambda body, declared: (
        declared + '{{ $x := 1 }}{{ $y := "y" }}{{ $i := nil }}'.replace("nil", ".nil") + body
    ),
    _body,
    st.sampled_from(["", '{{ define "t" }}<{{ . }}>{{ end }}']),
)


def _compare(oracle: Oracle, templates: list[str], data: Any) -> None:
    cases = [Case(template, data) for template in templates]
    for case, expected in zip(cases, oracle.run(cases), strict=True):
        got = ours(case)
        assert got.what == expected.what, f"{case.template}\n{expected}\n{got}"


_SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=12)


@_SETTINGS
@given(st.lists(_template, min_size=10, max_size=10))
def test_random_templates_come_out_as_in_go(oracle: Oracle, templates: list[str]) -> None:
    _compare(oracle, templates, DATA)


@_SETTINGS
@given(
    st.lists(_action(_printf()), min_size=20, max_size=20), st.floats(allow_nan=False, allow_infinity=False)
)
def test_random_formats_come_out_as_in_go(oracle: Oracle, templates: list[str], number: float) -> None:
    _compare(
        oracle, ["{{ $x := 1 }}{{ $y := 2 }}{{ $i := 3 }}" + t for t in templates], {**DATA, "f": number}
    )


@settings(_SETTINGS, max_examples=300)
@given(
    st.lists(
        st.text(st.sampled_from(list("{{}}--. \"$x:=|()\n`'ae01")), max_size=40), min_size=20, max_size=20
    )
)
def test_random_characters_are_read_as_in_go(oracle: Oracle, texts: list[str]) -> None:
    _compare(
        oracle, ["{{ $x := 1 }}" + text for text in texts] + ["{{ " + text + "}}" for text in texts], DATA
    )


@pytest.mark.slow
@settings(_SETTINGS, max_examples=2000)
@given(st.lists(_template, min_size=10, max_size=10))
def test_many_random_templates_come_out_as_in_go(oracle: Oracle, templates: list[str]) -> None:
    _compare(oracle, templates, DATA)
