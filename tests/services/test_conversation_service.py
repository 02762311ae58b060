"""Conversations with whole (scripted) models: from messages to the prompt, from tokens to events."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.chat.parsing import exactly, joined
from tests.scripted_llama import END, START, write_scripted_llama

from puna.chat.conversation import Conversation, Message, NamedTool, ToolChoice
from puna.chat.events import Content, Event, Thinking, ToolCall
from puna.engine.events import Done, TextChunk
from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions
from puna.errors import ContextLengthExceeded, InvalidOption, MissingCapability
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import SamplingParameters
from puna.services.conversation import Chat, Finished, ModelFacts, Reading

GREEDY = SamplingParameters(temperature=0.0)
HI = (Message("user", "hi"),)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
PING = {
    "type": "function",
    "function": {
        "name": "ping",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
OSLO = ToolCall(0, "weather", {"city": "Oslo"})
# What a family's template must say for the family to be known by it, which it then need not print.
HERMES = "{# <tool_call> arguments <think></think> #}"
JINJA = (
    "{{ bos_token }}{% if tools %}TOOLS{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "[{{ m.role }}]{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined %}({{ enable_thinking }}{{ reasoning_effort }}){% endif %}"
)
GO = (
    "<s>{{ range .Messages }}[{{ .Role }}]{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
    "{{ .Content }}{{ if .ToolCalls }}<tool_call>{{ . }}{{ end }}{{ end }}{{ if .Tools }}TOOLS{{ .Tools }}"
    "{{ end }}{{ if .IsThinkSet }}({{ .Think }}{{ .ThinkLevel }}){{ end }}" + START
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@contextmanager
def scripted(
    folder: Path,
    *script: str,
    control: Sequence[str] = (),
    jinja: str | None = None,
    context: int = 512,
    **facts: Any,
) -> Iterator[tuple[Chat, LoadedModel]]:
    """A model that says this, and its conversations."""
    path = folder / "scripted.gguf"
    keys = {} if jinja is None else {"tokenizer.chat_template": jinja}
    write_scripted_llama(path, script, control=control, metadata=keys, context=context)
    with load_model(path, LoadOptions(num_threads=1)) as model:
        told = ModelFacts("tiny", "registry.ollama.ai/library/tiny:latest", **facts)
        yield Chat.of(model.metadata, model.tokenizer, model.num_ctx, told), model


def answer(
    chat: Chat, model: LoadedModel, conversation: Conversation, **options: Any
) -> tuple[list[Event], Finished]:
    events = list(chat.answer(chat.prepare(conversation), model, GREEDY, **options))
    finished = events.pop()
    assert isinstance(finished, Finished)
    return joined([event for event in events if not isinstance(event, Finished)]), finished


def prompt(chat: Chat, conversation: Conversation) -> str:
    return chat.prompter.tokenizer.decode(chat.prepare(conversation).prompt, render_special=True)


# Prompts


def test_the_store_s_template_goes_before_the_file_s(folder: Path) -> None:
    with scripted(folder, "a", jinja="jinja {{ messages[0].content }}", template="go {{ .Prompt }}") as (
        chat,
        _,
    ):
        assert prompt(chat, Conversation(HI)) == "go hi"
    with scripted(folder, "a", jinja="jinja {{ messages[0].content }}") as (chat, _):
        assert prompt(chat, Conversation(HI)) == "jinja hi"
    with scripted(folder, "a") as (chat, _):
        assert prompt(chat, Conversation((Message("system", "s"), *HI))) == "hi"


TOOL_JSON = (
    '{"type":"function","function":{"name":"now","description":"",'
    '"parameters":{"type":"","properties":null}}}'
)


@pytest.mark.parametrize("language", ["go", "jinja"])
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "({}medium)"),
        ({"think": True}, "({}medium)"),
        ({"think": False}, "(false)"),
        ({"think": "low"}, "({}low)"),
        ({"think": "max"}, "({}max)"),
    ],
)
def test_thinking_and_tools_reach_the_template(
    folder: Path, language: str, asked: dict[str, Any], told: str
) -> None:
    given: dict[str, Any] = {"jinja": HERMES + JINJA} if language == "jinja" else {"template": GO}
    if language == "jinja":
        # Python's spelling; a level only where one is asked for, and only those that the family knows.
        told = told.replace("{}", "True").replace("false", "False")
        told = told.replace("medium", "").replace("max", "high")
    with scripted(folder, "a", **given) as (chat, _):
        text = prompt(chat, Conversation(HI, tools=(NOW,), **asked))
        assert told.format("true") in text
        expected = TOOL_JSON if language == "go" else json.dumps(NOW)
        assert f"TOOLS[{expected}]" in text
        assert "TOOLS" not in prompt(chat, Conversation(HI, tools=(NOW,), tool_choice="none", **asked))
        assert "TOOLS" not in prompt(chat, Conversation(HI, **asked))


def test_a_model_that_does_not_think_is_told_nothing_of_it(folder: Path) -> None:
    with scripted(folder, "a", jinja=JINJA.replace("think>", "thought>")) as (chat, _):
        assert prompt(chat, Conversation(HI)) == "<s>[user]hi"
        assert "(False)" in prompt(chat, Conversation(HI, think=False))


@pytest.mark.parametrize("language", ["go", "jinja"])
def test_earlier_thinking_is_given_apart(folder: Path, language: str) -> None:
    given: dict[str, Any] = {"jinja": HERMES + JINJA} if language == "jinja" else {"template": GO}
    with scripted(folder, "a", **given) as (chat, _):
        for spelled in ("<think>\nhmm\n</think>\n\nblue", " hmm</think>blue"):
            turns = (*HI, Message("assistant", spelled))
            apart = (*HI, Message("assistant", "blue", thinking="hmm"))
            assert prompt(chat, Conversation(turns)) == prompt(chat, Conversation(apart))
            assert "[assistant]<think>hmm</think>blue" in prompt(chat, Conversation(turns))
        # What a user writes stays where it is.
        assert "[user]a</think>b" in prompt(chat, Conversation((Message("user", "a</think>b"),)))


def test_the_text_around_a_gap(folder: Path) -> None:
    with scripted(folder, "a", template="<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>") as (chat, _):
        asked = Conversation((Message("user", "def f("),), suffix="return x")
        assert prompt(chat, asked) == "<pre>def f(<suf>return x<mid>"


@pytest.mark.parametrize(
    ("given", "asked", "error"),
    [
        ({}, {"suffix": "b"}, "registry.ollama.ai/library/tiny:latest does not support insert"),
        ({}, {"tools": (NOW,)}, "registry.ollama.ai/library/tiny:latest does not support tools"),
        ({}, {"think": True}, '"tiny" does not support thinking'),
        ({}, {"think": "high"}, '"tiny" does not support thinking'),
        ({}, {"messages": (Message("user", "a", images=(b"png",)),)}, '"tiny" does not support vision'),
    ],
)
def test_what_the_model_cannot_do(
    folder: Path, given: dict[str, Any], asked: dict[str, Any], error: str
) -> None:
    with scripted(folder, "a", template="{{ .Prompt }}", **given) as (chat, _):
        with pytest.raises(MissingCapability) as caught:
            chat.prepare(Conversation(**{"messages": HI, **asked}))
        assert str(caught.value) == error
        assert chat.prepare(Conversation(HI, think=False)).thinking is None


def test_a_model_of_embeddings_does_not_chat(folder: Path) -> None:
    path = write_scripted_llama(folder / "m.gguf", ["a"], metadata={"llama.pooling_type": 1})
    with load_model(path, LoadOptions(num_threads=1)) as model:
        chat = Chat.of(model.metadata, model.tokenizer, 64, ModelFacts("m"))
        with pytest.raises(MissingCapability, match=r'^"m" does not support chat$'):
            chat.prepare(Conversation(HI))


def test_pictures_are_numbered_in_the_prompt(folder: Path) -> None:
    with scripted(folder, "a", template=GO, capabilities=("vision",)) as (chat, model):
        seeing = Chat.of(model.metadata, model.tokenizer, 512, chat.facts, image_tokens=lambda content: 3)
        turns = (Message("user", "a [img] b", images=(b"1", b"2")), Message("assistant", "c"))
        prepared = seeing.prepare(Conversation((*turns, Message("user", "d", images=(b"3",)))))
        decode = model.tokenizer.decode
        before = [decode(prepared.prompt[: image.at]) for image in prepared.images]
        assert decode(prepared.prompt).endswith("[user]a  b[assistant]c[user]d(truemedium)")
        assert [text.rpartition("]")[2] for text in before] == ["", "a ", ""]
        assert before[0].endswith("[user]") and before[2].endswith("[assistant]c[user]")
        assert [image.content for image in prepared.images] == [b"2", b"1", b"3"]
        assert prepared.numbers == (1, 0, 2)
        # The same model, where the engine cannot be given any.
        with pytest.raises(MissingCapability):
            chat.prepare(Conversation(turns))


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"messages": ()}, "there are no messages"),
        ({"think": "very"}, 'invalid think value: "very" \\(must be "high", "medium", "low", "max", true'),
        ({"tools": (NOW, NOW)}, "two tools have the name 'now'"),
        ({"tools": ({"name": "now"},)}, "a tool must be"),
        ({"tools": ({"type": "function", "function": {"name": "a b"}},)}, "a tool's name must be"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": (NOW,), "tool_choice": NamedTool("then")}, "'then', which is none of the tools"),
        ({"tool_choice": NamedTool("then")}, "there are no tools"),
        ({"tools": (NOW,), "tool_choice": "some"}, "tool_choice must be"),
    ],
)
def test_what_makes_no_sense(asked: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidOption, match=error):
        Conversation(**{"messages": HI, **asked})


def test_what_does_not_fit_the_context(folder: Path) -> None:
    turns = [Message("system", "Be kind.")]
    for number in range(30):
        turns += [Message("user", f"question {number}"), Message("assistant", "answer")]
    turns.append(Message("user", "and now?"))
    with scripted(folder, "fine", template=GO, context=128) as (chat, model):
        with pytest.raises(ContextLengthExceeded) as caught:
            chat.prepare(Conversation(tuple(turns)))
        assert caught.value.limit == 128
        assert caught.value.length > 1000
        asked = Conversation(tuple(turns), truncate=True)
        events, finished = answer(chat, model, asked)
        assert events == [Content("fine")]
        prepared = chat.prepare(asked)
        assert finished.dropped_tokens == caught.value.length - len(prepared.prompt) > 0
        assert prompt(chat, asked).count("[assistant]") < 30
        text = prompt(chat, asked)
        assert text.startswith("<s>[system]Be kind.[user]question")
        assert text.endswith(f"[user]and now?(truemedium){START}")
        # A quarter is free, but one more turn would not have fitted.
        assert 0 <= 96 - len(prepared.prompt) < len("[user]question 29[assistant]answer")


# Answers

THOUGHT = ("<think>", "\nHmm", "…\n", "</think>", "\n\n", "Bl", "ue", ".")


@pytest.mark.parametrize("hidden", [False, True], ids=["written", "control tokens"])
def test_thinking_comes_apart_from_the_answer(folder: Path, hidden: bool) -> None:
    control = ("<think>", "</think>") if hidden else ()
    with scripted(folder, *THOUGHT, control=control, template=GO) as (chat, model):
        events, finished = answer(chat, model, Conversation(HI))
        assert events == [Thinking("Hmm…\n"), Content("Blue.")]
        assert finished.reason == "stop"
        assert finished.counts.generated_tokens == len(THOUGHT)
        assert finished.dropped_tokens == 0
        again, finished = answer(chat, model, Conversation(HI))
        assert again == events
        assert finished.counts.cached_tokens == finished.counts.prompt_tokens - 1


def test_thinking_may_begin_in_the_prompt(folder: Path) -> None:
    jinja = HERMES + "{{ messages[0].content }}<think>\n"
    # The script begins after the line end, so it needs no tag.
    script = ("Hmm", "</think>", "Blue")
    with scripted(folder, *script, jinja=jinja) as (chat, model):
        prepared = chat.prepare(Conversation(HI))
        assert prepared.thinking is not None
        go = [model.tokenizer.special_ids[START]]
        events = Reading(prepared).events(model.generate(go, GREEDY, shown=prepared.shown))
        found = [event for event in events if not isinstance(event, Finished)]
        assert joined(found) == [Thinking("Hmm"), Content("Blue")]


@pytest.mark.parametrize(
    ("parser", "script", "control"),
    [
        ("qwen3", ["Let me see.", "<tool_call>", "\n", CALL, "</tool_call>"], []),
        (
            "qwen3",
            ["Let me see.", "<tool_call>", "\n", CALL, "</tool_call>"],
            ["<tool_call>", "</tool_call>"],
        ),
        ("mistral", ["Let me see.", "[TOOL_CALLS]", f"[{CALL}]"], ["[TOOL_CALLS]"]),
        (
            "ministral",
            ["Let me see.", "[TOOL_CALLS]", "weather", "[ARGS]", '{"city": "Oslo"}'],
            ["[TOOL_CALLS]", "[ARGS]"],
        ),
        (
            "deepseek3",
            [
                *("Let me see.", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "weather"),
                *("<｜tool▁sep｜>", '{"city": "Oslo"}', "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
            ],
            [
                *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
                *("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
            ],
        ),
        (
            "harmony",
            [
                *("<|channel|>", "final", "<|message|>", "Let me see.", "<|start|>", "assistant"),
                *("<|channel|>commentary to=functions.weather <|message|>", '{"city": "Oslo"}'),
            ],
            ["<|channel|>", "<|message|>", "<|start|>"],
        ),
        (None, ["Let me see.", "<tool_call>", CALL], ["<tool_call>"]),
    ],
)
def test_calls_of_the_families(
    folder: Path, parser: str | None, script: list[str], control: list[str]
) -> None:
    with scripted(folder, *script, control=control, template=GO, parser=parser) as (chat, model):
        asked = Conversation(HI, tools=(WEATHER, NOW))
        events, finished = answer(chat, model, asked)
        assert exactly(events) == exactly([Content("Let me see."), OSLO])
        assert finished.reason == "stop"


def test_control_tokens_that_no_parser_names_stay_hidden(folder: Path) -> None:
    with scripted(folder, "a", "<|other|>", "b", control=["<|other|>"], template=GO) as (chat, model):
        assert answer(chat, model, Conversation(HI))[0] == [Content("ab")]


@pytest.mark.parametrize(
    ("options", "text", "reason", "tokens"),
    [
        ({}, "onetwothreefour", "stop", 4),
        ({"num_predict": 2}, "onetwo", "length", 2),
        ({"stop": ["twothr"]}, "one", "stop", 3),
        ({"stop": ["wo", "four"]}, "onet", "stop", 2),
        ({"stop": ["fourth"]}, "onetwothreefour", "stop", 4),
        ({"stop": ["", "x"]}, "onetwothreefour", "stop", 4),
    ],
)
def test_why_an_answer_ends(
    folder: Path, options: dict[str, Any], text: str, reason: str, tokens: int
) -> None:
    with scripted(folder, "one", "two", "three", "four", template="{{ .Prompt }}" + START) as (chat, model):
        events, finished = answer(chat, model, Conversation(HI), **options)
        assert events == [Content(text)]
        assert finished.reason == reason
        # What a control token says counts; what comes after the stop text was never generated.
        assert finished.counts.generated_tokens == tokens


STOPPED = ("<think>", "no S", "</think>", "TOP here S", "<tool_call>", CALL, "</tool_call>", "TOP", " more")


def test_a_stop_text_that_comes_about_across_a_call_does_not_show(folder: Path) -> None:
    with scripted(folder, *STOPPED, template=GO, parser="qwen3-thinking") as (chat, model):
        asked = Conversation(HI, tools=(WEATHER,))
        whole, _ = answer(chat, model, asked)
        assert whole == [Thinking("no S"), Content("TOP here S"), OSLO, Content("TOP more")]
        events, finished = answer(chat, model, asked, stop=["STOP"])
        assert events == [Thinking("no S"), Content("TOP here "), OSLO]
        assert finished.reason == "stop"
        # The engine was told at once.
        assert finished.counts.generated_tokens == len(STOPPED) - 1


def test_answers_do_not_depend_on_the_pieces_they_come_in(folder: Path) -> None:
    text = "".join(STOPPED)
    chance = random.Random(4)
    with scripted(folder, "a", template=GO) as (chat, _):
        for stop in ([], ["STOP"], ["here", "more"], ["S\n"]):
            expected: list[Any] | None = None
            for _ in range(60):
                places = sorted(chance.sample(range(len(text) + 1), chance.randint(0, 30)))
                pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
                reading = Reading(chat.prepare(Conversation(HI, tools=(WEATHER,))), stop)
                events = list(reading.events([*map(TextChunk, pieces), Done("stop", 1, 0.0, 1, 0.0)]))
                assert isinstance(events[-1], Finished)
                found = exactly(joined([event for event in events if not isinstance(event, Finished)]))
                expected = expected or found
                by_kind = [sorted(found, key=lambda e: e[0]), sorted(expected, key=lambda e: e[0])]
                assert by_kind[0] == by_kind[1], pieces
                content = "".join(event[1] for event in found if event[0] == "Content")
                assert not any(one in content for one in stop)


# Formats and choices

SCHEMA = Grammar.json_schema('{"const": {"sky": "blue"}}')


def test_a_format_begins_after_thinking(folder: Path) -> None:
    with scripted(folder, *THOUGHT, template=GO) as (chat, model):
        events, finished = answer(chat, model, Conversation(HI, format=SCHEMA))
        assert [type(event) for event in events] == [Thinking, Content]
        assert events[0] == Thinking("Hmm…\n")
        assert isinstance(events[1], Content)
        assert json.loads(events[1].text) == {"sky": "blue"}
        assert finished.reason == "stop"


def test_without_thinking_a_format_holds_at_once(folder: Path) -> None:
    with scripted(folder, *THOUGHT, template=GO) as (chat, model):
        events, _ = answer(chat, model, Conversation(HI, think=False, format=SCHEMA))
        assert [type(event) for event in events] == [Content]


def test_a_format_in_the_message_for_the_user(folder: Path) -> None:
    with scripted(folder, "a", control=["<|channel|>", "<|message|>"], template=GO, parser="harmony") as (
        chat,
        model,
    ):
        asked = Conversation(HI, format=SCHEMA)
        assert prompt(chat, asked).endswith(START + "<|channel|>final<|message|>")
        events, _ = answer(chat, model, asked)
        assert [json.loads(event.text) for event in events if isinstance(event, Content)] == [{"sky": "blue"}]
        assert len(events) == 1


@pytest.mark.parametrize(
    ("parser", "control"),
    [
        ("qwen3", []),
        ("qwen3", ["<tool_call>", "</tool_call>"]),
        ("qwen3-thinking", []),
        ("llama3", []),
        ("mistral", ["[TOOL_CALLS]"]),
        ("ministral", ["[TOOL_CALLS]", "[ARGS]"]),
        # Of these no grammar says how they write calls.
        ("deepseek3", []),
        ("harmony", ["<|channel|>", "<|message|>"]),
        (None, []),
    ],
)
def test_a_call_that_must_be_made_is_made(folder: Path, parser: str | None, control: list[str]) -> None:
    script = ("I", " would", " rather", " talk.")
    template = GO if parser else GO.replace("<tool_call>", "CALL")
    with scripted(folder, *script, control=control, template=template, parser=parser) as (chat, model):
        choices: list[tuple[ToolChoice, set[str]]] = [
            ("required", {"weather", "ping"}),
            (NamedTool("weather"), {"weather"}),
        ]
        for choice, names in choices:
            asked = Conversation(HI, tools=(WEATHER, PING), tool_choice=choice, think=False)
            events, finished = answer(chat, model, asked, num_predict=200)
            assert events, (parser, choice)
            assert all(isinstance(event, ToolCall) for event in events) or finished.reason == "length", events
            first = events[0]
            assert isinstance(first, ToolCall)
            assert first.name in names
            if first.name == "weather":
                assert first.arguments["city"] in ("Oslo", "Rome")


def test_thinking_before_a_call_that_must_be_made(folder: Path) -> None:
    with scripted(folder, "<think>", "hm", "</think>", "No.", template=GO, parser="qwen3-thinking") as (
        chat,
        model,
    ):
        asked = Conversation(HI, tools=(WEATHER,), tool_choice=NamedTool("weather"))
        events, _ = answer(chat, model, asked)
        assert events[0] == Thinking("hm")
        assert [type(event) for event in events] == [Thinking, ToolCall]


@pytest.mark.parametrize("token", [True, False])
def test_no_call_is_made_where_none_may_be(folder: Path, token: bool) -> None:
    begin = ["<tool_call>"] if token else ["<tool", "_call>"]
    script = ["Well, ", *begin, CALL, "</tool_call>"]
    with scripted(folder, *script, template=GO, parser="qwen3") as (chat, model):
        free = Conversation(HI, tools=(WEATHER,))
        assert answer(chat, model, free)[0] == [Content("Well,"), OSLO]
        events, _ = answer(
            chat, model, Conversation(HI, tools=(WEATHER,), tool_choice="none"), num_predict=20
        )
        assert isinstance(events[0], Content)
        assert events[0].text.startswith("Well, ")
        assert len(events) == 1
        assert "<tool_call>" not in events[0].text


@pytest.mark.parametrize("script", [["<tool_call>", "\n", CALL, "</tool_call>"], ["{"]])
def test_an_answer_is_a_call_or_of_the_format(folder: Path, script: list[str]) -> None:
    with scripted(folder, *script, template=GO, parser="qwen3") as (chat, model):
        events, _ = answer(chat, model, Conversation(HI, tools=(WEATHER,), format=SCHEMA, think=False))
        assert len(events) == 1
        if script[0] == "<tool_call>":
            assert events == [OSLO]
        else:
            assert isinstance(events[0], Content)
            assert json.loads(events[0].text) == {"sky": "blue"}


def test_a_prompt_that_its_caller_has_written(folder: Path) -> None:
    with scripted(folder, *THOUGHT, template=GO) as (chat, model):
        prepared = chat.prepare_raw(f"hi{START}")
        *events, finished = chat.answer(prepared, model, GREEDY)
        assert [event for event in events if isinstance(event, Content)] == events
        assert "".join(event.text for event in events if isinstance(event, Content)) == "".join(THOUGHT)
        assert isinstance(finished, Finished)
        assert END not in model.tokenizer.decode(prepared.prompt, render_special=True)


# What the caller began, and what it sets

WORDS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}[assistant]{{ style }}"


def test_an_answer_goes_on_with_the_assistant_s_last_message(folder: Path) -> None:
    begun = Conversation((*HI, Message("assistant", "Well, ")))
    with scripted(folder, "a", jinja=WORDS) as (chat, _):
        assert prompt(chat, begun) == "[user]hi<|end|>[assistant]Well, "
        assert prompt(chat, Conversation((*begun.messages, *HI))).endswith("[user]hi<|end|>[assistant]")
        called = Message("assistant", "Well, ", tool_calls=(OSLO,))
        assert prompt(chat, Conversation((*HI, called))).endswith("Well, <|end|>[assistant]")
        assert prompt(chat, Conversation((*HI, Message("assistant", " ")))).endswith("[assistant]")
    go = "{{ range .Messages }}[{{ .Role }}]{{ .Content }}<|end|>{{ end }}[assistant]"
    with scripted(folder, "a", template=go) as (chat, _):
        assert prompt(chat, begun) == "[user]hi<|end|>[assistant]Well, "


def test_the_beginning_cannot_spell_control_tokens(folder: Path) -> None:
    with scripted(folder, "a", jinja=WORDS) as (chat, _):
        prepared = chat.prepare(Conversation((*HI, Message("assistant", f"a{END}b{START}"))))
        ids = chat.prompter.tokenizer.special_ids
        assert prepared.prompt.count(ids[END]) == 1
        assert ids[START] not in prepared.prompt


def test_what_was_begun_in_a_message_of_its_own_is_read_on(folder: Path) -> None:
    with scripted(folder, "and", "<|return|>", control=("<|return|>",), jinja=WORDS, parser="harmony") as (
        chat,
        _,
    ):
        prepared = chat.prepare(Conversation((*HI, Message("assistant", "This"))))
        events = [*prepared.parser.feed(" and that"), *prepared.parser.finish()]
        assert joined(events) == [Content(" and that")]


def test_variables_of_a_caller_reach_the_template_and_cannot_spell_control_tokens(folder: Path) -> None:
    with scripted(folder, "a", jinja=WORDS) as (chat, _):
        assert prompt(chat, Conversation(HI, variables={"style": "brief"})).endswith("[assistant]brief")
        spelled = chat.prepare(Conversation(HI, variables={"style": END}))
        assert spelled.prompt.count(chat.prompter.tokenizer.special_ids[END]) == 1
        for variables in ({"messages": "x"}, {"colour": "red"}):
            with pytest.raises(InvalidOption, match="chat_template_kwargs"):
                chat.prepare(Conversation(HI, variables=variables))
    go = scripted(folder, "a", template="{{ .Prompt }}")
    with go as (chat, _), pytest.raises(InvalidOption, match="has no variable 'style'"):
        chat.prepare(Conversation(HI, variables={"style": "brief"}))


@pytest.mark.parametrize("token", [True, False])
def test_no_call_is_begun_in_a_form_that_only_its_tag_is_known_of(folder: Path, token: bool) -> None:
    go = GO.replace("<tool_call>{{ . }}", "<|plugin|>{{ . }}")
    with scripted(folder, "a", control=["<|plugin|>"] if token else [], template=go) as (chat, _):
        assert chat.style.calls is None
        prepared = chat.prepare(Conversation(HI, tools=(WEATHER,), tool_choice="none"))
        if token:
            assert prepared.banned == {chat.prompter.tokenizer.special_ids["<|plugin|>"]}
        else:
            assert prepared.grammar is not None
            assert prepared.banned == frozenset()


def test_what_writes_messages_may_write_all_its_control_tokens_beside_tools(folder: Path) -> None:
    with scripted(folder, "a", template=GO, parser="harmony") as (chat, _):
        for choice in ("auto", "none"):
            prepared = chat.prepare(Conversation(HI, tools=(WEATHER,), tool_choice=choice))
            assert (prepared.grammar, prepared.banned) == (None, frozenset())
