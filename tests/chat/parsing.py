"""What the tests of parsers share: reading a text in pieces, and writing answers as each family does."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.chat.events import Content, Event, Thinking, ToolCall
from puna.chat.parsers.answer import Parser
from puna.chat.parsers.formats.generic import TemplateTags
from puna.chat.parsers.registry import generic_parser, parser_for

Tools = Mapping[str, Mapping[str, Any]]
Written = tuple[str, dict[str, Any]]

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
TOOLS: Tools = {
    "get_weather": {"properties": {"city": STRING, "days": INTEGER}, "required": ["city"]},
    "search": {"properties": {"query": {"type": "object"}, "limit": INTEGER}},
    "note": {"properties": {"text": STRING}},
    "order": {"properties": {"z": INTEGER, "a": INTEGER, "m": INTEGER}},
    "traduci": {"properties": {"città": STRING}},
    "now": {"properties": {}},
}


def joined(events: Sequence[Event]) -> list[Event]:
    """The events, neighbouring texts of one kind joined and empty ones left out."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Content) and isinstance(last, Content):
            found[-1] = Content(last.text + event.text)
        elif isinstance(event, Thinking) and isinstance(last, Thinking):
            found[-1] = Thinking(last.text + event.text)
        elif isinstance(event, ToolCall) or event.text:
            found.append(event)
    return found


def read(parser: Parser, pieces: Sequence[str]) -> list[Event]:
    """All events of an answer that arrives in these pieces."""
    events = [event for piece in pieces for event in parser.feed(piece)]
    return joined(events + parser.finish())


def splits(text: str, seed: int = 0, count: int = 8) -> Iterator[list[str]]:
    """The text in one piece, in two at every place, in characters, and in random pieces."""
    yield [text]
    yield list(text)
    for place in range(1, len(text)):
        yield [text[:place], text[place:]]
    chance = random.Random(seed)
    for _ in range(count):
        places = sorted(chance.sample(range(len(text) + 1), min(len(text), chance.randint(1, 12))))
        yield [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def exactly(events: Sequence[Event]) -> list[Any]:
    """The events in a form whose equality sees the order of arguments and tells 1 from 1.0 and True."""
    return [
        ("call", e.index, e.name, json.dumps(e.arguments, ensure_ascii=False), e.id)
        if isinstance(e, ToolCall)
        else (type(e).__name__, e.text)
        for e in events
    ]


def check(make: Callable[[], Parser], text: str, expected: Sequence[Event]) -> None:
    """The text gives these events, whatever the pieces in which it arrives."""
    for pieces in splits(text):
        assert exactly(read(make(), pieces)) == exactly(expected), pieces


def call(
    name: str, arguments: dict[str, Any] | None = None, *, index: int = 0, id: str | None = None
) -> ToolCall:
    return ToolCall(index, name, arguments or {}, id)


def content_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))


def thinking_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Thinking))


def calls_of(events: Sequence[Event]) -> list[Written]:
    return [(event.name, event.arguments) for event in events if isinstance(event, ToolCall)]


@dataclass(frozen=True)
class Family:
    """How a family's template writes an assistant's turn, as an oracle for its parser.

    Attributes:
        name: of the parser, or of the generic parser's test.
        calls: the text of calls.
        think: what stands around thinking, None if the family does not think.
        say: what stands around content.
        after_text: calls may follow content.
        closing: a tag of the family that must be harmless inside a string.
        tags: for the generic parser.
    """

    name: str
    calls: Callable[[Sequence[Written]], str] | None
    think: tuple[str, str] | None = None
    say: tuple[str, str] = ("", "")
    after_text: bool = True
    closing: str = ""
    tags: TemplateTags | None = field(default=None)

    def parser(self, tools: Tools = TOOLS, *, thinking_open: bool = False) -> Parser:
        if self.tags:
            return generic_parser(self.tags, tools=tools, thinking_open=thinking_open)
        parser = parser_for(self.name, tools=tools, thinking_open=thinking_open)
        assert parser is not None
        return parser

    def write(self, content: str = "", thinking: str = "", calls: Sequence[Written] = ()) -> str:
        thought = f"{self.think[0]}{thinking}{self.think[1]}" if self.think and thinking else ""
        said = f"{self.say[0]}{content}{self.say[1]}" if content else ""
        called = self.calls(calls) if self.calls and calls else ""
        return thought + said + called


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def as_objects(calls: Sequence[Written], name: str = "name", arguments: str = "arguments") -> list[str]:
    return [dumps({name: called, arguments: given}) for called, given in calls]


def each(before: str, after: str, between: str = "\n") -> Callable[[Sequence[Written]], str]:
    """Every call as a JSON object between tags."""
    return lambda calls: between.join(before + text + after for text in as_objects(calls))


def listed(before: str, after: str, name: str = "name", arguments: str = "arguments") -> Callable[..., str]:
    """All calls in a JSON list between tags."""
    return lambda calls: before + "[" + ", ".join(as_objects(calls, name, arguments)) + "]" + after


def bare(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def coder(calls: Sequence[Written]) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        parameters = "".join(
            f"<parameter={key}>\n{bare(value)}\n</parameter>\n" for key, value in arguments.items()
        )
        return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"

    return "\n".join(one(*each) for each in calls)


def glm(calls: Sequence[Written]) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        pairs = "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{bare(value)}</arg_value>\n"
            for key, value in arguments.items()
        )
        return f"<tool_call>{name}\n{pairs}</tool_call>"

    return "\n".join(one(*each) for each in calls)


def atem(calls: Sequence[Written]) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        parameters = "".join(
            f'<atem:parameter name="{key}">{bare(value)}</atem:parameter>\n'
            for key, value in arguments.items()
        )
        body = f'<atem:function_calls>\n<atem:invoke name="{name}">\n{parameters}</atem:invoke>\n'
        return f" to={name}<|message|>{body}</atem:function_calls><|eom|>"

    return "<|start|>assistant".join(one(*each) for each in calls)


def deepseek_fenced(calls: Sequence[Written]) -> str:
    bodies = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumps(arguments)}\n```<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{bodies}<｜tool▁calls▁end｜>"


def deepseek_plain(calls: Sequence[Written]) -> str:
    bodies = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumps(arguments)}<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{bodies}<｜tool▁calls▁end｜>"


def ministral(calls: Sequence[Written]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{dumps(arguments)}" for name, arguments in calls)


def gemma(opening: str, closing: str, quote: str) -> Callable[[Sequence[Written]], str]:
    def value(given: Any) -> str:
        match given:
            case str():
                return f"{quote}{given}{quote}"
            case dict():
                return "{" + ",".join(f"{key}:{value(item)}" for key, item in given.items()) + "}"
            case list():
                return "[" + ",".join(map(value, given)) + "]"
        return dumps(given)

    return lambda calls: "".join(f"{opening}call:{name}{value(given)}{closing}" for name, given in calls)


def python_call(name: str, arguments: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def python(before: str, after: str, between: str) -> Callable[[Sequence[Written]], str]:
    return lambda calls: before + between.join(python_call(*each) for each in calls) + after


def harmony(calls: Sequence[Written]) -> str:
    return "<|start|>assistant".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{dumps(arguments)}<|call|>"
        for name, arguments in calls
    )


THINK = ("<think>\n", "\n</think>\n\n")
HERMES = each("<tool_call>\n", "\n</tool_call>")
FAMILIES = (
    Family("qwen3", HERMES, closing="</tool_call>"),
    Family("qwen3-thinking", HERMES, THINK, closing="</tool_call>"),
    Family("qwen3-coder", coder, closing="</parameter>"),
    Family("qwen3.5", coder, THINK, closing="</function>"),
    Family("glm-ocr", glm, closing="</arg_value>"),
    Family("glm-4.7", glm, THINK, closing="</arg_key>"),
    Family("deepseek-r1", deepseek_fenced, THINK, closing="```<｜tool▁call▁end｜>"),
    Family("deepseek3.1", deepseek_plain, ("<think>", "</think>"), closing="<｜tool▁call▁end｜>"),
    Family("mistral", listed("[TOOL_CALLS] ", ""), closing="[/TOOL_CALLS]"),
    Family("ministral", ministral, ("[THINK]", "[/THINK]"), closing="[TOOL_CALLS]"),
    Family(
        "cohere",
        listed("<|START_ACTION|>", "<|END_ACTION|>", "tool_name", "parameters"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        closing="<|END_ACTION|>",
    ),
    Family("command-r", listed("Action: ```json\n", "\n```", "tool_name", "parameters"), closing="```"),
    Family(
        "functiongemma",
        gemma("<start_function_call>", "<end_function_call>", "<escape>"),
        closing="<end_function_call>",
    ),
    Family(
        "gemma4",
        gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
        ("<|channel>thought\n", "<channel|>"),
        closing="<tool_call|>",
    ),
    Family("gemma3", python("```tool_code\n", "\n```", "\n"), closing="```"),
    Family("granite", listed("<|tool_call|>", ""), ("<think>", "</think>"), ("<response>", "</response>")),
    Family("olmo3", python("<function_calls>\n", "\n</function_calls>", "\n"), closing="</function_calls>"),
    Family("olmo3-think", None, ("<think>", "</think>")),
    Family("lfm2", python("<|tool_call_start|>[", "]<|tool_call_end|>", ", "), closing="<|tool_call_end|>"),
    Family("lfm2-thinking", python("<|tool_call_start|>[", "]<|tool_call_end|>", ", "), THINK, closing=")]"),
    Family(
        "llama3",
        lambda calls: "; ".join(as_objects(calls, "name", "parameters")),
        after_text=False,
        closing="<|eom_id|>",
    ),
    Family("llama4", python("[", "]", ", "), after_text=False, closing=")]"),
    Family(
        "harmony",
        harmony,
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant"),
        closing="<|call|>",
    ),
    Family(
        "glimmer",
        atem,
        (" to=self<|message|>", "<|eom|><|start|>assistant"),
        (" to=user<|message|>", "<|eom|><|start|>assistant"),
        closing="</atem:parameter>",
    ),
    Family("thinking", None, ("<think>\n", "</think>\n\n")),
    Family(
        "generic with a tag",
        HERMES,
        ("<think>", "</think>"),
        closing="</tool_call>",
        tags=TemplateTags(("<think>", "</think>"), "<tool_call>"),
    ),
    Family(
        "generic in place",
        lambda calls: "\n".join(as_objects(calls, "name", "parameters")),
        after_text=False,
        closing="}}",
        tags=TemplateTags(tool="{"),
    ),
    Family(
        "generic list",
        listed("[TOOL_CALLS] ", ""),
        closing="[TOOL_CALLS]",
        tags=TemplateTags(tool="[TOOL_CALLS]"),
    ),
)
