"""Templates that mean harm, and the errors of templates that mean none."""

import tracemalloc
from datetime import date, timedelta
from typing import Any

import pytest

from puna.errors import TemplateError
from puna.template.go import Struct, Template, parse
from puna.template.go.parser import MAX_LENGTH
from puna.template.go.tags import thinking_tags, tool_call_tag

BIG = "x" * 100_000
DATA: dict[str, Any] = {"Response": "", "X": BIG, "L": list(range(300)), "W": ["a"] * 5000, "S": "s"}
DOUBLING = '{{ $x := "aaaa" }}{{ range .L }}{{ $x = CALL }}{{ end }}'
CALLS_A_B = '{{ define "a" }}{{ template "b" . }}{{ end }}{{ define "b" }}{{ template "a" . }}{{ end }}'
ENDLESS = [
    '{{ template "" . }}',
    CALLS_A_B + '{{ template "a" . }}',
    '{{ define "a" }}{{ template "a" . }}{{ template "a" . }}{{ end }}{{ template "a" }}',
    '{{ define "a" }}{{ range $.L }}{{ template "a" $ }}{{ end }}{{ end }}{{ template "a" . }}',
    "{{ range .L }}" * 10 + "{{ end }}" * 10,
    "{{ range .L }}" * 10 + "x" + "{{ end }}" * 10,
    "{{ range 999999999999 }}{{ end }}",
    "{{ range 9223372036854775807 }}{{ range 9223372036854775807 }}{{ end }}{{ end }}",
    "{{ range .L }}{{ range $.L }}{{ range $.L }}{{ if eq $.X $.X }}{{ end }}{{ end }}{{ end }}{{ end }}",
    "{{ range .L }}{{ range $.L }}{{ range $.L }}{{ $y := slice $.W 1 }}{{ end }}{{ end }}{{ end }}",
    "{{ range .L }}{{ range $.L }}{{ $.X }}{{ end }}{{ end }}",
    "{{ range .L }}{{ range $.L }}{{ $y := print $.X 1 }}{{ end }}{{ end }}",
    "{{ range .L }}{{ range $.L }}{{ $y := json $ }}{{ end }}{{ end }}",
    "{{ range .L }}{{ range $.L }}{{ $.W }}{{ end }}{{ end }}",
    "{{ index .X 1000000000 }}",
    "{{ index .L 1e9 }}",
    "{{ call }}",
    "{{ call .X }}",
    '{{ call "len" }}',
]
HUGE = [
    DOUBLING.replace("CALL", 'printf "%s%s" $x $x'),
    DOUBLING.replace("CALL", "print $x $x"),
    DOUBLING.replace("CALL", "println $x $x $x"),
    DOUBLING.replace("CALL", "html $x $x `<`"),
    DOUBLING.replace("CALL", "urlquery (printf `%q%q` $x $x)"),
    DOUBLING.replace("CALL", "js (printf `%q%q` $x $x)"),
    DOUBLING.replace("CALL", "json (printf `%s%s` $x $x)"),
    DOUBLING.replace("CALL", 'printf "%x" $x'),
    DOUBLING.replace("CALL", 'printf "%# x" $x'),
    '{{ printf "%1000000000d" 1 }}',
    '{{ printf "%.1000000000f" 1.5 }}',
    '{{ printf "%99999999999999999999d" 1 }}',
    '{{ printf "%1000000d" .L }}',
    '{{ printf "%.1000000d" .L }}',
    '{{ printf "%*d" 1000000 .L }}',
    "{{ printf `" + "%1000000d" * 1000 + "` " + "1 " * 1000 + "}}",
    "{{ printf `" + "%[1]s" * 20_000 + "` .X }}",
]


@pytest.mark.parametrize("text", ENDLESS, ids=range(len(ENDLESS)))
def test_a_template_cannot_run_for_ever(text: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text).execute(DATA)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", HUGE, ids=range(len(HUGE)))
def test_a_template_cannot_fill_the_memory(text: str) -> None:
    template = parse(text)
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            template.execute(DATA)
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "{{ if .S }}" * 100_000,
        "{{ if .S }}" * 20_000,
        "{{ if .S }}" * 12_000 + "{{ end }}" * 12_000,
        "{{ if .S }}a" + "{{ else if .S }}a" * 14_000 + "{{ end }}",
        "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
        '{{ block "a" . }}' * 14_000,
        "{{ $x := 1 }}" * 20_000,
        "x" * (10 << 20),
        "{{" * 100_000,
        "{{/*" * 60_000,
        '{{ "' * 60_000,
        "{{ `" * 60_000,
        "{{ " + "1" * 250_000 + "}}",
        "{{ " + "1_" * 120_000 + " }}",
        "{{ " + "1.1e" * 60_000 + " }}",
        "{{ ." + "a" * 250_000 + "é! }}",
        "{{ $" + "a" * 250_000 + " }}",
        "{{ nofunc" + "a" * 250_000 + " }}",
        "{{ break }}" * 20_000,
        "{{-" * 80_000,
    ],
    ids=range(20),
)
def test_a_template_beyond_the_bounds_is_refused_at_once(text: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert len(caught.value.excerpt) < 300


@pytest.mark.parametrize(
    "piece",
    [
        "{{ .S }}",
        "{{- .S -}} \n",
        "text {{/* c */}} ",
        "{{ print 1 (len .S) `a` | printf `%v` }}",
        "{{ if .S }}a{{ end }}",
        "}}{ {",
    ],
)
def test_reading_takes_a_time_that_grows_with_the_length(piece: str) -> None:
    # Quadratic work on so long a text would not end within the suite's patience; no time is measured.
    assert parse(piece * (MAX_LENGTH // len(piece))).vars() >= {"response"}


def test_long_names_and_lines_are_cut_in_messages() -> None:
    with pytest.raises(TemplateError) as caught:
        parse("a" * 10_000 + "{{ nope }}" + "b" * 10_000)
    assert (caught.value.line, caught.value.column) == (1, 10_004)
    first, second = caught.value.excerpt.split("\n")
    assert first[second.index("^") :].startswith("nope }}bbb")


@pytest.mark.parametrize(
    ("text", "line", "column", "problem", "marked"),
    [
        ("{{ nope }}", 1, 4, "there is no function 'nope'", "nope }}"),
        ("a\nbé {{ nope }}", 2, 7, "there is no function 'nope'", "nope }}"),
        ("{{ if .A }}\n{{ if .B }}{{ end }}", 1, 4, "this 'if' has no 'end'", "if .A }}"),
        ("x {{ end }}", 1, 6, "'end' is not expected here", "end }}"),
        ("x {{ .A", 1, 3, "an action begins here and has no closing braces", "{{ .A"),
        ('{{ "a }}', 1, 4, "no closing quote", '"a }}'),
        ("{{ .A }} {{/* x", 1, 12, "comment begins here and is not closed", "/* x"),
        ("{{ $x }}", 1, 4, "the variable '$x' is not declared", "$x }}"),
        ("{{ 08 }}", 1, 4, "the number '08' cannot be read", "08 }}"),
        ("{{ break }}", 1, 4, "'break' is outside of a 'range'", "break }}"),
        ("{{ os.Exit 1 }}", 1, 4, "there is no function 'os'", "os.Exit 1 }}"),
        ("{{ .A ; .B }}", 1, 7, "'; .B }}' is not understood here", "; .B }}"),
        (
            '{{ define "a" }}{{ end }}\n{{ define "a" }}b{{ end }}{{ define "a" }}c{{ end }}',
            2,
            30,
            "defined twice",
            "define",
        ),
    ],
)
def test_errors_of_reading(text: str, line: int, column: int, problem: str, marked: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text)
    error = caught.value
    assert (error.line, error.column) == (line, column)
    assert str(error).startswith(f"template, line {line}, column {column}: ")
    assert problem in str(error)
    shown, caret = error.excerpt.split("\n")
    assert shown[caret.index("^") :].startswith(marked)


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("{{ .S.b }}", 4, "there is no 'b' in a value of type string"),
        ("{{ .none.b }}", 4, "there is no 'b' in nil"),
        ("{{ print 1 | len }}", 14, None),
        ("{{ len 1 }}", 4, "a value of type int has no length"),
        ("{{ index .L 999 }}", 4, "the index 999 is out of range"),
        ("{{ eq 1 `a` }}", 4, "a int and a string cannot be compared"),
        ("{{ not }}", 4, "'not' does not take 0 arguments"),
        ('{{ template "t" }}', 4, "there is no template 't'"),
        ("{{ range .S }}{{ end }}", 4, "'range' cannot go through a value of type string"),
        ("{{ call .S }}", 4, "no value is a function"),
    ],
)
def test_errors_of_running(text: str, column: int, problem: str | None) -> None:
    if problem is None:
        assert parse(text).execute(DATA) == "1"
        return
    with pytest.raises(TemplateError) as caught:
        parse(text).execute(DATA)
    assert str(caught.value) == f"template, line 1, column {column}: {problem}"


@pytest.mark.parametrize(
    "name", ["__class__", "fields", "type", "json", "keys", "__len__", "append", "upper"]
)
def test_nothing_of_python_can_be_reached(name: str) -> None:
    value = Struct("T", {"A": 1})
    for data in (value, "text", [1], 1, 1.5, True):
        with pytest.raises(TemplateError, match=f"there is no '{name}'"):
            parse("{{ .X." + name + " }}").execute({"X": data, "Response": ""})
    assert parse("{{ .X." + name + " }}").execute({"X": {}}) == "<no value><no value>"


def test_a_hostile_name_does_not_reach_the_message_whole() -> None:
    with pytest.raises(TemplateError) as caught:
        parse("{{ .X." + "a" * 5000 + " }}").execute({"X": 1})
    assert len(str(caught.value)) < 300


def test_half_characters_are_replaced_and_lone_surrogates_are_bearable() -> None:
    assert parse('{{ slice "é" 1 }}{{ .Response }}').execute({"Response": ""}) == "\ufffd"
    assert parse("{{ .Response }}{{ len .Response }}{{ printf `%q` .Response }}").execute(
        {"Response": "\ud800"}
    )


def test_dates() -> None:
    text = "{{ currentDate }} {{ currentDate 1 2 }} {{ yesterdayDate }}{{ .Response }}"
    before = date.today()
    found = parse(text).execute({"Response": ""}).split()
    assert found in [[f"{day}", f"{day}", f"{day - timedelta(days=1)}"] for day in (before, date.today())]


@pytest.mark.parametrize(
    ("value", "type"),
    [
        ("string", "string"),
        ("number", "number"),
        ("integer", "number"),
        ("boolean", "boolean"),
        ("array", "any[]"),
        ("object", "Record<string, any>"),
        ("null", "null"),
        ("other", "any"),
        (["string", "null"], "string | null"),
        ([], "any"),
        (None, "any"),
        (7, "any"),
    ],
)
def test_types_of_type_script(value: Any, type: str) -> None:
    assert parse("{{ toTypeScriptType .V }}{{ .Response }}").execute({"V": value, "Response": ""}) == type


def test_what_go_added_later() -> None:
    def run(text: str) -> str:
        return parse(text + "{{ .Response }}").execute({**DATA, "Z": ""})

    assert run("{{ range 3 }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}") == "01201"
    assert run("{{ range 0 }}x{{ else }}none{{ end }}") == "none"
    assert run("{{ with .Z }}a{{ else with .S }}b{{ . }}{{ else }}c{{ end }}") == "bs"
    assert run("{{ $x := 9 }}{{ range $x = .W }}{{ break }}{{ end }}{{ $x }}") == "a"
    assert run("{{ $i := 9 }}{{ $x := 9 }}{{ range $i, $x = .L }}{{ end }}{{ $i }} {{ $x }}") == "299 299"


def test_names_are_collected_in_lower_case_from_all_parts() -> None:
    template = parse(
        '{{ define "t" }}{{ .Suffix }}{{ end }}{{ with (index .A 0).Bee }}{{ $.Tools }}{{ end }}'
        "{{ range .Messages }}{{ if and .x (not .Y) }}{{ else }}{{ .Z | len }}{{ end }}{{ end }}"
    )
    assert template.vars() == {"suffix", "a", "bee", "tools", "messages", "x", "y", "z"}


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("a", "aR"),
        ("{{ .Prompt }}", "<no value>R"),
        ("{{ .Response }}!", "R!"),
        ("{{ range .Messages }}{{ end }}", ""),
        ("{{ .response }}", "<no value>"),
    ],
)
def test_a_template_without_messages_and_response_gets_the_response(text: str, out: str) -> None:
    assert parse(text).execute({"Response": "R"}) == out


def test_a_template_is_not_changed_by_its_use() -> None:
    template = parse("{{ .Response }} more")
    assert template.until_response().execute({"Response": "R"}) == "R"
    assert template.execute({"Response": "R"}) == "R more"
    assert isinstance(template, Template)


THINK = "<think>{{ .Thinking }}</think>"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("{{ range .Messages }}{{ if .Thinking }}" + THINK + "{{ end }}{{ end }}", ("<think>", "</think>")),
        (
            "{{ range $i, $m := .Messages }}{{ if .A }}\n[T]\n{{ $m.Thinking }}\n[/T]\n\n{{ end }}{{ end }}",
            ("[T]", "[/T]"),
        ),
        (
            "{{ range .Messages }}x{{ if and .Thinking .A }}" + THINK + "{{ end }}y{{ end }}",
            ("<think>", "</think>"),
        ),
        ("{{ range .Messages }}{{ .Thinking }}{{ end }}", None),
        ("{{ range .Messages }}<a>{{ .Thinking }}{{ end }}", None),
        ("{{ range .Other }}" + THINK + "{{ end }}{{ .Messages }}", None),
        (THINK, None),
        ("{{ range .Messages }}{{ range .Other }}" + THINK + "{{ end }}{{ end }}", None),
        (
            "{{ range .Messages }}{{ if .A }}{{ else }}" + THINK + "{{ end }}{{ end }}",
            ("<think>", "</think>"),
        ),
    ],
)
def test_tags_of_thinking(text: str, tags: tuple[str, str] | None) -> None:
    assert thinking_tags(parse(text)) == tags


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        (
            "{{ range .Messages }}{{ if .ToolCalls }}<tool_call>\n{{ .ToolCalls }}{{ end }}{{ end }}",
            "<tool_call>",
        ),
        (
            '{{ if .ToolCalls }} {{ range .ToolCalls }}\n[CALL] {"name": "{{ .Name }}"}{{ end }}{{ end }}',
            "[CALL]",
        ),
        ('{{ if .A }}no{{ else if .ToolCalls }}{"name": 1}{{ end }}', "{"),
        ('{{ if .ToolCalls }}[{"name": 1}]{{ end }}', "["),
        ("{{ if .ToolCalls }}{{ end }}", "{"),
        ("plain", "{"),
    ],
)
def test_the_tag_of_tool_calls(text: str, tag: str) -> None:
    assert tool_call_tag(parse(text)) == tag


def test_a_long_conversation_is_within_the_bounds() -> None:
    messages: list[Any] = [{"Role": "user", "Content": "word " * 2000} for _ in range(2000)]
    last = "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
    text = "{{ range $i, $m := .Messages }}" + last + "{{ .Content }}{{ end }}"
    assert len(parse(text).execute({"Messages": messages})) == 20_000_000
