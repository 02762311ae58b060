"""No text of a caller becomes a control token, whatever field it is in and however the template writes it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.tokenizer.vocabularies import CONTROL, USER_DEFINED, Recipe, byte_level, load, recipe_of, write
from tests.tokenizer.vocabularies import sentencepiece_model as trained

from puna.chat.conversation import Message
from puna.chat.events import ToolCall
from puna.chat.prompt import Prompter
from puna.gguf import GGUFFile
from puna.template.go import parse
from puna.template.shield import cut, shield
from puna.tokenizer import Tokenizer, load_tokenizer

SMOLLM2 = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>"),
    *("<filename>", "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>"),
    *("<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>"),
)
GEMMA3 = (
    *("<pad>", "<eos>", "<bos>", "<mask>", "[multimodal]", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", *(f"<unused{number}>" for number in range(12))),
)
# Opens and closes what somebody says.
TURN = {"smollm2": ("<|im_start|>", "<|im_end|>"), "gemma3": ("<start_of_turn>", "<end_of_turn>")}
TURN["llama2"] = ("<|turn>", "<turn|>")

GO = (
    '{{ range .Messages }}OPEN{{ .Role }}:{{ .Content }}{{ printf "%q" .Content }}{{ .Thinking }}'
    "{{ .ToolName }}{{ .ToolCallID }}{{ range .ToolCalls }}{{ .ID }}{{ .Function.Name }}"
    "{{ .Function.Arguments }}{{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }}{{ end }}{{ . }}"
    "{{ end }}CLOSE{{ end }}{{ json .Messages }}{{ js .System }}{{ urlquery .System }}{{ html .System }}"
    "{{ .Tools }}{{ range .Tools }}{{ .Type }}{{ .Function.Name }}{{ .Function.Description }}"
    "{{ .Function.Parameters.Required }}{{ range $n, $p := .Function.Parameters.Properties }}{{ $n }}"
    "{{ $p.Type }}{{ $p.Description }}{{ $p.Enum }}{{ end }}{{ end }}OPEN"
)
GO_SUFFIX = "{{ .Prompt }}OPEN{{ .Suffix }}CLOSE"
JINJA = (
    "{% for m in messages %}{{ 'OPEN' }}{{ m.role }}:{{ m.content }}{{ m.content | upper }}"
    "{{ m.content | lower }}{{ m.content | tojson }}{{ m.content | tojson(ensure_ascii=true) }}"
    "{{ m.content | urlencode }}{{ m.thinking }}{{ m.reasoning_content }}{{ m.name }}{{ m.tool_call_id }}"
    "{{ m.tool_calls }}{{ (m.tool_calls or []) | tojson }}{% for c in m.tool_calls %}{{ c.id }}"
    "{{ c.function.name }}{{ c.function.arguments | tojson | tojson(ensure_ascii=true) }}{% for k, v in "
    "c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}{% endfor %}{{ 'CLOSE' }}{% endfor %}"
    "{{ tools }}{{ tools | tojson(indent=2) }}{% for t in tools or [] %}{{ t.function.name }}"
    "{{ t.function.description }}{% endfor %}{{ 'OPEN' }}"
)
TEMPLATES = {"go": GO, "go-suffix": GO_SUFFIX, "jinja": JINJA, "text": ""}

Call = dict[str, Any]


def user(**fields: Any) -> Call:
    return {"messages": [Message("user", "first"), Message("user", **fields)]}


def called(name: str = "f", arguments: dict[str, Any] | None = None, id: str = "1") -> Call:
    return {"messages": [Message("assistant", tool_calls=(ToolCall(0, name, arguments or {}, id),))]}


def declared(
    name: str = "f", description: str = "", type: str = "object", describes: str = "", **schema: Any
) -> Call:
    properties = {"city": {"type": "string", "description": describes, **schema}}
    return properties_declared(properties, name=name, description=description, type=type)


def properties_declared(properties: dict[str, Any], required: Any = (), **function: Any) -> Call:
    kind = function.pop("type", "object")
    parameters = {"type": kind, "properties": properties, "required": list(required)}
    tool = {"type": "function", "function": {"name": "f", **function, "parameters": parameters}}
    return {"messages": [Message("user", "hi")], "tools": [tool]}


FIELDS: dict[str, Callable[[str], Call]] = {
    "role": lambda text: {"messages": [Message(text, "hi")]},
    "system": lambda text: {"messages": [Message("system", text), Message("user", "hi")]},
    "user": lambda text: user(content=text),
    "alternative text of an image": lambda text: user(content=f"![{text}](a.png)", images=(b"png",)),
    "assistant": lambda text: {"messages": [Message("user", "a"), Message("assistant", text)]},
    "thinking": lambda text: {"messages": [Message("assistant", "a", thinking=text)]},
    "result of a tool": lambda text: {"messages": [Message("tool", text, tool_name="f")]},
    "name of a result's tool": lambda text: {"messages": [Message("tool", "1", tool_name=text)]},
    "id of a result": lambda text: {"messages": [Message("tool", "1", tool_call_id=text)]},
    "name of a call": lambda text: called(name=text),
    "id of a call": lambda text: called(id=text),
    "argument": lambda text: called(arguments={"a": text}),
    "argument's name": lambda text: called(arguments={text: 1}),
    "argument deep inside": lambda text: called(arguments={"a": [{text: [text]}]}),
    "tool's name": lambda text: declared(name=text),
    "tool's description": lambda text: declared(description=text),
    "type of parameters": lambda text: declared(type=text),
    "parameter's name": lambda text: properties_declared({text: {"type": "string"}}, [text]),
    "parameter's description": lambda text: declared(describes=text),
    "parameter's values": lambda text: declared(enum=[text, "b"]),
    "suffix": lambda text: {"messages": [Message("user", "a")], "suffix": text},
    "text before the gap": lambda text: {"messages": [Message("user", text)], "suffix": "b"},
}


@cache
def recipe(style: str) -> Recipe:
    if style == "smollm2":
        made = byte_level("smollm")
        texts = [text for text in SMOLLM2 if text not in made.tokens]
    else:
        native = trained("bpe", byte_fallback=True)
        made = recipe_of(native, "llama", bos_token_id=1, eos_token_id=2)
        made = made if style == "llama2" else made.having(add_space_prefix=False)
        texts = [*GEMMA3, *TURN["llama2"]]
    for text in texts:
        made = made.with_token(text, CONTROL)
    return made.with_token("<table>", USER_DEFINED).with_token("\n\n", USER_DEFINED)


@pytest.fixture(scope="module", params=TURN)
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    path = tmp_path_factory.mktemp("vocabulary") / "tiny.gguf"
    return load(write(recipe(request.param), path)), request.param


def prompter(tokenizer: Tokenizer, style: str, template: str) -> Prompter:
    opening, closing = TURN[style]
    text = TEMPLATES[template].replace("OPEN", opening).replace("CLOSE", closing)
    return Prompter(tokenizer, parse(text) if template.startswith("go") else text or None)


def controls(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    return [id for id in ids if tokenizer.is_special(id)]


def texts_of(tokenizer: Tokenizer) -> list[str]:
    return [text for text, id in tokenizer.special_ids.items() if tokenizer.is_special(id)]


def hostile(texts: list[str]) -> str:
    """All of them, inside each other too, one without its end, and in capital letters."""
    nested = [text[:3] + texts[0] + text[3:] for text in texts[:8]]
    return " ".join([*texts, "".join(texts[:30]), *nested, texts[-1].upper(), texts[0][:-1]])


def assert_harmless(made: Prompter, field: str, text: str) -> list[int]:
    """The text brings no control token into the prompt that another text would not."""
    expected = controls(made.tokenizer, made.encode(made.pieces(**FIELDS[field]("harmless"))))
    ids = made.encode(made.pieces(**FIELDS[field](text)))
    assert controls(made.tokenizer, ids) == expected
    return ids


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_no_field_can_spell_a_control_token(
    vocabulary: tuple[Tokenizer, str], template: str, field: str
) -> None:
    tokenizer, style = vocabulary
    made = prompter(tokenizer, style, template)
    text = hostile(texts_of(tokenizer))
    ids = assert_harmless(made, field, text)
    if field == "user" and template in ("jinja", "text"):
        assert text.split(" ")[-2] in tokenizer.decode(ids, render_special=True)


@pytest.mark.parametrize("template", ["go", "jinja"])
def test_each_control_token_alone(vocabulary: tuple[Tokenizer, str], template: str) -> None:
    tokenizer, style = vocabulary
    made = prompter(tokenizer, style, template)
    for text in texts_of(tokenizer):
        ids = assert_harmless(made, "user", f"a{text}b")
        assert f"a{text}b" in tokenizer.decode(ids, render_special=True)


def test_two_fields_together_cannot_spell_one(vocabulary: tuple[Tokenizer, str]) -> None:
    tokenizer, style = vocabulary
    made = Prompter(tokenizer, parse("{{ .System }}{{ .Prompt }}{{ .Response }}"))
    control = TURN[style][1]
    for size in range(1, len(control)):
        halves = [Message("system", control[:size]), Message("user", control[size:])]
        ids = made.encode(made.pieces(halves))
        assert controls(tokenizer, ids) == controls(tokenizer, made.encode([""]))
        assert control in tokenizer.decode(ids, render_special=True)


def test_a_bare_text_that_is_continued_spells_none_either(vocabulary: tuple[Tokenizer, str]) -> None:
    tokenizer, _ = vocabulary
    made = Prompter(tokenizer, None)
    text = hostile(texts_of(tokenizer))
    tokens = made.encode(made.pieces([Message("user", text)]))
    assert controls(tokenizer, tokens) == controls(tokenizer, made.encode(["a"]))
    whole = tokenizer.encode(text, add_special=True, parse_special=True)
    assert len(controls(tokenizer, whole)) > len(texts_of(tokenizer))


def test_innocent_text_has_the_tokens_that_it_would_have_anyway(vocabulary: tuple[Tokenizer, str]) -> None:
    tokenizer, style = vocabulary
    opening, closing = TURN[style]
    made = Prompter(tokenizer, parse(f"{opening}{{{{ .Prompt }}}}{closing}"))
    for text in ("Why is a < b, and <table> wide?\n\n\n[1] <|x|>", "日本 😀", " spaced "):
        whole = tokenizer.encode(f"{opening}{text}{closing}", parse_special=True)
        assert made.encode(made.pieces([Message("user", text)])) == whole


def test_a_user_defined_token_that_the_template_writes_is_the_template_s(
    vocabulary: tuple[Tokenizer, str],
) -> None:
    tokenizer, _ = vocabulary
    table = tokenizer.special_ids["<table>"]
    for template, count in (("<table>{{ .Prompt }}\n\n", 1), ("{{ .Prompt }}\n\n", 1)):
        made = Prompter(tokenizer, parse(template))
        ids = made.encode(made.pieces([Message("user", "a <table>\n\n")]))
        assert ids.count(table) == count
        # Blanks are no structure, whether a template writes them or not.
        assert ids.count(tokenizer.special_ids["\n\n"]) == 2


def test_a_control_token_of_one_character_stays_text_too(tmp_path: Path) -> None:
    made = byte_level("smollm").with_token("☃", CONTROL)
    tokenizer = load(write(made, tmp_path / "tiny.gguf"))
    prompts = Prompter(tokenizer, parse("☃{{ .Prompt }}☃"))
    ids = prompts.encode(prompts.pieces([Message("user", "a ☃ b☃☃")]))
    assert controls(tokenizer, ids) == [tokenizer.special_ids["☃"]] * 2
    assert tokenizer.decode(ids, render_special=True) == "☃a ☃ b☃☃☃"


def test_breaks_are_found_in_every_spelling() -> None:
    value, mark = shield({"a": "<s>"}, ["<s>"])
    assert value == {"a": f"<{mark}s>"}
    for spelling in (mark, r"\ufdd0", r"\uFDD0", r"\\ufdd0", "%EF%B7%90"):
        assert cut(f"<{spelling}s>", mark) == ["<", "s>"]


def test_someone_who_writes_all_the_breaks_gains_nothing() -> None:
    everything = "".join(chr(code) + rf"\u{code:04x}" for code in range(0xFDD0, 0xFDF0))
    value, mark = shield({"a": everything + "<s>"}, ["<s>"])
    assert not any("<s>" in piece for piece in cut(value["a"], mark))


def test_a_value_that_is_nested_too_deeply_is_refused(vocabulary: tuple[Tokenizer, str]) -> None:
    from puna.errors import InvalidOption

    tokenizer, style = vocabulary
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidOption, match="nested more than"):
        prompter(tokenizer, style, "jinja").pieces(**called(arguments={"a": deep}))


@pytest.mark.parametrize("model", ["smollm2_path", "gemma3_path"])
@pytest.mark.parametrize("template", ["go", "jinja"])
def test_real_vocabularies(request: pytest.FixtureRequest, model: str, template: str) -> None:
    with GGUFFile.open(request.getfixturevalue(model)) as file:
        tokenizer = load_tokenizer(file.metadata)
    made = prompter(tokenizer, model.removesuffix("_path"), template)
    text = " ".join(texts_of(tokenizer))
    for field in FIELDS:
        assert_harmless(made, field, text if field == "user" else text[:2000])
