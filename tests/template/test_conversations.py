"""Conversations as Ollama's templates see them. The expected prompts are written by hand."""

import json
from typing import Any

import pytest
from tests.template.go_oracle import Case, Oracle

from puna.errors import InvalidOption, TemplateError
from puna.template.conversation import render_go
from puna.template.go import parse
from puna.template.images import with_image_tags
from puna.template.known import STOPS, template_text

SYSTEM = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello!"}
AGAIN = {"role": "user", "content": "How are you?"}
LEGACY = (
    "{{ if .System }}<s>{{ .System }}</s>{{ end }}{{ if .Prompt }}<u>{{ .Prompt }}</u>{{ end }}"
    "<a>{{ .Response }}</a>\n"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a <city>",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {
                "when": {"type": ["string", "null"], "enum": ["now", "later"]},
                "city": {"description": "its name", "type": "string"},
                "at": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "number"}}]},
                "more": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]},
            },
        },
    },
}
WEATHER_JSON = (
    '{"type":"function","function":{"name":"weather","description":"Weather of a \\u003ccity\\u003e",'
    '"parameters":{"type":"object","required":["city"],"properties":{'
    '"at":{"anyOf":[{"type":"integer"},{"type":"array","items":{"type":"number"}}]},'
    '"city":{"type":"string","description":"its name"},'
    '"more":{"type":"object","properties":{"x":{"type":"boolean"}},"required":["x"]},'
    '"when":{"type":["string","null"],"enum":["now","later"]}}}}}'
)


def render(text: str, *messages: dict[str, Any], **options: Any) -> str:
    return render_go(parse(text), messages, **options)


def test_messages_are_walked_through() -> None:
    text = "{{ range $i, $m := .Messages }}{{ $i }}{{ .Role }}:{{ $m.Content }};{{ end }}"
    assert render(text, SYSTEM, USER, ANSWER) == "0system:Be kind.;1user:Hi;2assistant:Hello!;"


def test_messages_of_one_role_in_a_row_are_one_but_for_tools() -> None:
    tool = {"role": "tool", "content": "1"}
    text = "{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}"
    assert render(text, USER, AGAIN, tool, tool) == "user:Hi\n\nHow are you?;tool:1;tool:1;"


def test_no_message_of_several_loses_its_calls() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    turns = [{"role": "assistant", "content": "a", "tool_calls": [call], "thinking": "x"}] * 2
    text = "{{ range .Messages }}{{ len .ToolCalls }}{{ .Thinking }}{{ end }}"
    assert render(text, *turns) == "2x\n\nx"


def test_system_messages_are_also_given_together() -> None:
    text = "{{ .System }}|{{ range .Messages }}{{ .Role }} {{ end }}"
    assert render(text, SYSTEM, USER, {"role": "system", "content": "Be short."}) == (
        "Be kind.\n\nBe short.|system user system "
    )


def test_tools_print_as_json_in_the_order_of_their_fields() -> None:
    text = "{{ .Tools }}{{ range .Tools }}{{ . }}{{ end }}{{ json .Tools }}{{ .Messages | len }}"
    assert render(text, USER, tools=[WEATHER]) == f"[{WEATHER_JSON}]{WEATHER_JSON}[{WEATHER_JSON}]1"


def test_a_tool_can_be_walked_through() -> None:
    text = (
        "{{ range .Tools }}{{ .Type }} {{ .Function.Name }} {{ .Function.Parameters.Required }}"
        "{{ range $name, $p := .Function.Parameters.Properties }} {{ $name }}:{{ $p.Type }}="
        "{{ toTypeScriptType $p }}"
        "{{ if .Enum }} {{ .Enum }}{{ end }}{{ end }}{{ end }}{{ if .Messages }}{{ end }}"
    )
    assert render(text, USER, tools=[WEATHER]) == (
        "function weather [city] at:=number | any[] city:string=string more:object=Record<string, any> "
        "when:[string null]=string | null [now later]"
    )


def test_a_bare_tool_has_its_description_and_parameters_nevertheless() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    assert render("{{ .Tools }}{{ if .Messages }}{{ end }}", tools=[tool]) == (
        '[{"type":"function","function":{"name":"f","description":"","parameters":{"type":"","properties":null}}}]'
    )


def test_calls_and_results() -> None:
    call = {"id": "c1", "function": {"index": 2, "name": "f", "arguments": {"b": 1, "a": "<x>", "n": 1.5e6}}}
    result = {"role": "tool", "content": "42", "tool_name": "f", "tool_call_id": "c1"}
    text = (
        "{{ range .Messages }}{{ range .ToolCalls }}{{ .ID }} {{ .Function.Index }} {{ .Function.Name }} "
        "{{ .Function.Arguments }} {{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }},{{ end }}"
        " {{ . }}"
        '{{ end }}{{ if eq .Role "tool" }} {{ .ToolName }} {{ .ToolCallID }} {{ .Content }}{{ end }}{{ end }}'
    )
    arguments = '{"a":"\\u003cx\\u003e","b":1,"n":1500000}'
    assert render(text, {"role": "assistant", "content": "", "tool_calls": [call]}, result) == (
        f"c1 2 f {arguments} a=<x>,b=1,n=1.5e+06, "
        f'{{"id":"c1","function":{{"index":2,"name":"f","arguments":{arguments}}}}} f c1 42'
    )


def test_pictures_are_only_counted() -> None:
    text = "{{ range .Messages }}{{ len .Images }}{{ if .Images }}!{{ end }}{{ end }}"
    assert render(text, {**USER, "images": ["aGk=", "aG8="]}, ANSWER) == "2!0"


@pytest.mark.parametrize(
    ("think", "text"),
    [(None, "false  false"), (True, "true medium true"), (False, "false  true"), ("low", "true low true")],
)
def test_thinking(think: bool | str | None, text: str) -> None:
    template = "{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}{{ if .Messages }}{{ end }}"
    assert render(template, USER, think=think) == text
    assert (
        render("{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}{{ .Response }}", USER, think=think) == text
    )


def test_a_gap_to_fill() -> None:
    gap = "{{ if .Suffix }}<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>{{ else }}{{ .Prompt }}{{ end }}"
    template = gap + "{{ .Response }}"
    assert render(template, {"role": "user", "content": "def f():"}, suffix="return x") == (
        "<pre>def f():<suf>return x<mid>"
    )
    assert render(template, USER) == "Hi"


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([USER], "<u>Hi</u><a>"),
        ([SYSTEM, USER], "<s>Be kind.</s><u>Hi</u><a>"),
        ([USER, ANSWER, AGAIN], "<u>Hi</u><a>Hello!</a>\n<u>How are you?</u><a>"),
        ([SYSTEM, USER, ANSWER, AGAIN], "<s>Be kind.</s><u>Hi</u><a>Hello!</a>\n<u>How are you?</u><a>"),
        ([USER, ANSWER], "<u>Hi</u><a>Hello!"),
        ([USER, SYSTEM, AGAIN], "<u>Hi</u><a></a>\n<s>Be kind.</s><u>How are you?</u><a>"),
        ([USER, {"role": "tool", "content": "42"}, ANSWER], "<u>Hi</u><a>Hello!"),
        ([], "<a>"),
    ],
)
def test_a_template_of_one_exchange_runs_for_each(messages: list[dict[str, Any]], prompt: str) -> None:
    assert render(LEGACY, *messages) == prompt


def test_all_exchanges_together_are_bounded() -> None:
    text = "{{ range 100000 }}{{ end }}{{ .Response }}"
    assert render(text, USER, ANSWER, AGAIN) == "Hello!"
    with pytest.raises(TemplateError, match="more than 1000000 steps"):
        render(text, *[USER, ANSWER] * 20)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("a {{ .Response }} b {{ .Response }}", "a R"),
        ("{{ if .A }}x{{ .Response }}y{{ else }}z{{ end }}w", "xR"),
        ("{{ if .B }}x{{ else }}{{ range .L }}{{ .B }}{{ $.Response }}y{{ end }}{{ end }}w", "RR"),
        ("{{ if .Response }}x{{ end }}y", "xy"),
        ('{{ printf "<%s>" .Response }}y', "<R>"),
        ("no response {{ .A }} here {{ range .Messages }}{{ end }}", "no response 1 here "),
        ("{{ .A }}", "1R"),
    ],
)
def test_the_prompt_ends_where_the_response_begins(text: str, cut: str) -> None:
    data: dict[str, Any] = {"Response": "R", "A": 1, "L": [{"B": ""}, {"B": ""}]}
    assert parse(text).until_response().execute(data) == cut


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": 1, "content": ""}, "'role' must be a text, but is a number"),
        ({"role": "user", "content": ["a"]}, "'content' must be a text, but is a list"),
        ({"role": "user", "tool_calls": "x"}, "'tool_calls' must be a list, but is a text"),
        ({"role": "user", "tool_calls": ["x"]}, "a tool call must be an object, but is a text"),
        (
            {"role": "user", "tool_calls": [{"function": {"arguments": "{}"}}]},
            "'arguments' must be an object",
        ),
    ],
)
def test_messages_of_another_form_are_refused(message: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidOption, match=problem):
        render("{{ .Messages }}", message)


def test_a_schema_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(500):
        schema = {"type": "object", "properties": {"a": schema}, "items": schema, "anyOf": [schema]}
        schema = {
            "type": "object",
            "properties": {"a": {"type": "object", "properties": schema["properties"]}},
        }
    with pytest.raises(InvalidOption, match="nested more than"):
        render("{{ .Tools }}{{ .Messages }}", tools=[{"function": {"name": "f", "parameters": schema}}])
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidOption, match="nested more than"):
        render("{{ .Messages }}", {"role": "a", "tool_calls": [{"function": {"arguments": {"a": deep}}}]})


def test_a_field_that_messages_do_not_have_is_an_error() -> None:
    with pytest.raises(
        TemplateError, match="line 2, column 26: there is no 'Name' in a value of type Message"
    ):
        render(
            "\n{{- range .Messages }}{{ .Role }}{{ .Name }}{{ end }}".replace("{{ .Role }}", "{{.R}}"[:0]),
            USER,
        )


def test_text_of_a_message_is_no_template() -> None:
    text = "{{ range .Messages }}{{ .Content }}{{ end }}"
    assert render(text, {"role": "user", "content": "{{ .System }}"}) == "{{ .System }}"


CONVERSATIONS = [
    [USER],
    [SYSTEM, USER],
    [USER, ANSWER, AGAIN],
    [SYSTEM, USER, ANSWER, AGAIN],
    [SYSTEM, {"role": "user", "content": "é <日本> \n{{ x }}\n"}, ANSWER, AGAIN, ANSWER, USER],
]


def test_the_known_templates_come_out_as_in_go(oracle: Oracle) -> None:
    pairs = [(name, conversation) for name in STOPS for conversation in CONVERSATIONS]
    cases = []
    for name, conversation in pairs:
        messages = [{"Role": m["role"], "Content": m["content"]} for m in conversation]
        cases.append(Case(template_text(name), {"Messages": messages, "Response": ""}))
    for (name, conversation), expected in zip(pairs, oracle.run(cases), strict=True):
        assert render(template_text(name), *conversation) == expected.text, name


def test_arguments_may_hold_any_json() -> None:
    arguments = json.loads('{"a": null, "b": [1, {"c": 0.5}], "d": "\\ud83d\\ude00"}')
    call = {"function": {"name": "f", "arguments": arguments}}
    text = "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments }}{{ end }}{{ end }}"
    assert (
        render(text, {"role": "assistant", "tool_calls": [call]}) == '{"a":null,"b":[1,{"c":0.5}],"d":"😀"}'
    )


@pytest.mark.parametrize(
    ("contents", "tagged"),
    [
        ([("look", 1)], ["[img-0]look"]),
        ([("a [img] b [img]", 2), ("c", 1)], ["a [img-0] b [img-1]", "[img-2]c"]),
        ([("[img]", 2)], ["[img-1][img-0]"]),
        ([("[img] [img]", 1), ("[img]", 0), ("", 2)], ["[img-0] [img]", "[img]", "[img-1][img-2]"]),
    ],
)
def test_pictures_get_tags_in_their_order(contents: list[tuple[str, int]], tagged: list[str]) -> None:
    messages = [{"role": "user", "content": text, "images": ["aGk="] * count} for text, count in contents]
    assert [message["content"] for message in with_image_tags(messages)] == tagged
    assert with_image_tags([USER]) == [USER]
