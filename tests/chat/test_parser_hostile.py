"""Model output that means harm: work grows with the text and no faster, and what is held back is bounded.

Work is counted, not timed: every line of the parsers that runs counts one. What one line may do is bounded
too: patterns are alternatives of fixed texts or classes of single characters, and what they pass is read.
"""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from tests.chat.parsing import FAMILIES, Family, calls_of, content_of, read

from puna.chat.events import Content, Event, Thinking, ToolCall
from puna.chat.parsers.answer import Parser
from puna.chat.parsers.registry import support
from puna.chat.parsers.stream import CALL_LIMIT, SPACE_LIMIT

HERE = "/puna/chat/parsers/"

# Each repeated until the text is as long as wanted.
REPEATED = {
    "less-than signs": "<",
    "brackets": "[",
    "braces": "{",
    "python calls": "f(a=",
    "declared calls": "now(",
    "white space": " \n",
    "quotes": "\"'",
    "escapes": '\\"',
    "opening tags": "<tool_call>",
    "calls without end": '<tool_call>{"name": "now", "arguments": {"a": "',
    "thinking tags": "<think>",
    "thinking without end": "<think></thin",
    "mistral": "[TOOL_CALLS][",
    "mistral names": "[TOOL_CALLS]now[ARGS]{",
    "coder": "<tool_call><function=now><parameter=a>",
    "coder values": "</parameter> ",
    "glm": "<tool_call>now<arg_key>a</arg_key><arg_value>",
    "glm values": "</arg_value>\n",
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{",
    "cohere": '<|START_ACTION|>[{"tool_name": 1}, ',
    "gemma": '<|tool_call>call:now{a:<|"|>',
    "gemma channels": "<|channel>thought\n",
    "functiongemma": "<start_function_call>call:now{a:<escape>",
    "fences": "```tool_code\nnow(",
    "actions": "Action: ```json\n[",
    "granite": "<|tool_call|>[{",
    "olmo": "<function_calls>now(a='",
    "lfm": "<|tool_call_start|>[now(",
    "harmony": "<|start|>assistant<|channel|>commentary to=functions.now<|message|>{",
    "harmony headers": "<|start|><|channel|>",
    "harmony ends": "<|end|>",
    "glimmer": '<|message|><atem:function_calls><atem:invoke name="now"><atem:parameter name="a">',
    "objects": '{"name": 1}',
    "whole calls": '<tool_call>{"name": "now"}</tool_call>',
}


def ids(family: object) -> str:
    return family.name if isinstance(family, Family) else ""


def hostile(size: int) -> Iterator[tuple[str, str]]:
    for name, unit in REPEATED.items():
        yield name, unit * (size // len(unit))


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def work(parser: Parser, parts: list[str]) -> tuple[int, list[Event]]:
    """How many lines of the parsers ran, and the events."""
    count = 0

    def line(frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        nonlocal count
        count += 1
        return line

    def entered(frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        return line if HERE in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        events = read(parser, parts)
    finally:
        sys.settrace(before)
    return count, events


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_work_grows_as_the_text_does(family: Family) -> None:
    for (name, short), (_, long) in zip(hostile(1_000), hostile(8_000), strict=True):
        once, _ = work(family.parser(), pieces(short, 10))
        eight, _ = work(family.parser(), pieces(long, 10))
        assert eight < 12 * once + 2_000, name


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_any_pieces_of_hostile_text_give_the_same(family: Family) -> None:
    for name, text in hostile(600):
        whole = read(family.parser(), [text])
        assert read(family.parser(), list(text)) == whole, name
        for size in (2, 7, 31):
            assert read(family.parser(), pieces(text, size)) == whole, name


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
@pytest.mark.parametrize(
    "name", ["calls without end", "gemma", "olmo", "coder", "glm", "harmony", "whole calls"]
)
def test_a_call_that_does_not_end_is_let_out_at_the_limit(family: Family, name: str) -> None:
    unit = REPEATED[name]
    text = unit + "x" * (CALL_LIMIT + 1000)
    parser = family.parser()
    events = [event for piece in pieces(text, 50_000) for event in parser.feed(piece)]
    if not calls_of(events):
        shown = sum(len(event.text) for event in events if not isinstance(event, ToolCall))
        # All but the header of a message, and what was fed after the limit and may still become a call.
        assert shown >= CALL_LIMIT - len(unit)
    events += parser.finish()
    assert content_of(events).count("x") + sum(
        event.text.count("x") for event in events if isinstance(event, Thinking)
    ) >= text.count("x") - unit.count("x")


def test_the_limit_counts_the_whole_call() -> None:
    text = '<tool_call>{"name": "now", "arguments": {"a": [' + '"bcdefghijklmnopqrst", ' * (CALL_LIMIT // 20)
    parser = FAMILIES[0].parser()
    shown = content_of([event for piece in pieces(text, 50_000) for event in parser.feed(piece)])
    assert len(shown) >= CALL_LIMIT
    assert text.startswith(shown)


def test_white_space_is_held_back_to_a_limit_only() -> None:
    parser = FAMILIES[0].parser()
    assert parser.feed("a" + " " * SPACE_LIMIT) == [Content("a")]
    assert content_of(parser.feed(" ")) == " " * (SPACE_LIMIT + 1)
    assert content_of(parser.feed(" ")) == " "
    assert calls_of(parser.feed('<tool_call>{"name": "now"}')) == [("now", {})]


def test_a_limit_falls_on_the_same_character_in_any_pieces() -> None:
    call = '<tool_call>{"name": "now", "arguments": {"a": "'
    text = call + "x" * CALL_LIMIT + '"}}</tool_call><tool_call>{"name": "now"}</tool_call>'
    whole = read(FAMILIES[0].parser(), [text])
    assert calls_of(whole) == [("now", {})]
    for size in (99_991, 65_536):
        assert read(FAMILIES[0].parser(), pieces(text, size)) == whole


def reader_of(name: str) -> Family:
    """The family that takes most of this text for its own."""

    def tags(family: Family) -> int:
        known = support(family.name)
        return sum(len(tag) for tag in known.tokens if tag in REPEATED[name]) if known else 0

    return max(FAMILIES, key=tags)


@pytest.mark.parametrize(
    "name",
    [
        "white space",
        "less-than signs",
        "gemma",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("calls without end", "harmony")),
    ],
)
def test_little_is_held_while_much_arrives(name: str) -> None:
    unit = REPEATED[name]
    parser = reader_of(name).parser()
    tracemalloc.start()
    held = 0
    for _ in range(20):
        parser.feed(unit * (100_000 // len(unit)))
        held = max(held, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    # A call that may still end, as parts of a few characters; never the two million that have arrived.
    assert held < 40 * CALL_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("name", REPEATED)
def test_ten_million_characters(name: str) -> None:
    unit = REPEATED[name]
    parser = reader_of(name).parser()
    for _ in range(100):
        parser.feed(unit * (100_000 // len(unit)))
    parser.finish()
    assert parser.finish() == []
