"""Every family's answers, written as its template writes them, are read back whatever the pieces."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.chat.parsing import (
    FAMILIES,
    TOOLS,
    Family,
    Written,
    call,
    calls_of,
    check,
    content_of,
    exactly,
    glm,
    read,
    splits,
)

from puna.chat.events import Content, Event, Thinking, ToolCall

BOUND = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CALLING = [family for family in FAMILIES if family.calls]
THINKING = [family for family in FAMILIES if family.think]
BOTH = [family for family in FAMILIES if family.calls and family.think]

WEATHER: Written = ("get_weather", {"city": "Paris", "days": 3})
NESTED: Written = (
    "search",
    {"query": {"all": [{"field": "a", "in": [1, 2.5, -3, True, None]}, {}], "note": "x, y"}, "limit": 2},
)
UNICODE: Written = ("traduci", {"città": "Zürich 🦙 日本 \u00a0e\u0301"})
ORDER: Written = ("order", {"z": 1, "a": 2, "m": 3})
TAGS = '</tool_call> </think> ``` <|end|> [f(x=1)] {"a": \']} \\ \\n <|\\| </s> '


def ids(family: object) -> str:
    return family.name if isinstance(family, Family) else ""


def calls(*written: Written) -> list[Event]:
    return [call(name, arguments, index=index) for index, (name, arguments) in enumerate(written)]


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_plain_text(family: Family) -> None:
    text = "Hello, wörld 🦙.\n\n1 < 2, a[0] and {b}: `code`"
    check(family.parser, family.write(text), [Content(text)])


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_an_empty_answer(family: Family) -> None:
    check(family.parser, "", [])


@pytest.mark.parametrize("family", THINKING, ids=ids)
def test_thinking_then_text(family: Family) -> None:
    text = family.write("Yes.", "Is it so?\nIt < is. 🦙")
    check(family.parser, text, [Thinking("Is it so?\nIt < is. 🦙"), Content("Yes.")])


@pytest.mark.parametrize("family", THINKING, ids=ids)
def test_thinking_only(family: Family) -> None:
    text = family.write(thinking="On and on")
    check(family.parser, text, [Thinking("On and on")])


@pytest.mark.parametrize("family", THINKING, ids=ids)
def test_thinking_that_the_prompt_opens(family: Family) -> None:
    assert family.think
    text = family.write("Yes.", "It is.").removeprefix(family.think[0])
    expected: list[Event] = [Thinking("It is."), Content("Yes.")]
    check(lambda: family.parser(thinking_open=True), text, expected)


@pytest.mark.parametrize("family", THINKING, ids=ids)
def test_thinking_that_does_not_end(family: Family) -> None:
    check(lambda: family.parser(thinking_open=True), "On and </thi", [Thinking("On and </thi")])


@pytest.mark.parametrize("family", CALLING, ids=ids)
@pytest.mark.parametrize(
    "written",
    [[WEATHER], [NESTED], [UNICODE], [ORDER], [("now", {})], [WEATHER, ("now", {}), ORDER]],
    ids=["one", "nested", "unicode", "order", "empty", "several"],
)
def test_calls(family: Family, written: list[Written]) -> None:
    check(family.parser, family.write(calls=written), calls(*written))


@pytest.mark.parametrize("family", CALLING, ids=ids)
def test_tags_and_quotes_inside_a_string(family: Family) -> None:
    note: Written = ("note", {"text": TAGS + family.closing + " end"})
    check(family.parser, family.write(calls=[note]), calls(note))


@pytest.mark.parametrize("family", [family for family in CALLING if family.after_text], ids=ids)
def test_text_then_calls(family: Family) -> None:
    check(
        family.parser, family.write("Let me see.", calls=[WEATHER]), [Content("Let me see."), *calls(WEATHER)]
    )


@pytest.mark.parametrize("family", BOTH, ids=ids)
def test_thinking_then_calls(family: Family) -> None:
    text = family.write(thinking="I need a tool", calls=[WEATHER, ORDER])
    check(family.parser, text, [Thinking("I need a tool"), *calls(WEATHER, ORDER)])


@pytest.mark.parametrize("family", BOTH, ids=ids)
def test_thinking_then_text_then_calls(family: Family) -> None:
    text = family.write("Now:", "I need a tool", [NESTED])
    check(family.parser, text, [Thinking("I need a tool"), Content("Now:"), *calls(NESTED)])


@pytest.mark.parametrize("family", CALLING, ids=ids)
def test_without_declared_tools_nothing_is_a_call(family: Family) -> None:
    text = family.write(calls=[WEATHER])
    for pieces in splits(text):
        events = read(family.parser({}), pieces)
        assert not calls_of(events)
        assert "Paris" in content_of(events)


@pytest.mark.parametrize("family", CALLING, ids=ids)
def test_an_answer_cut_off_anywhere_makes_whole_calls_or_none(family: Family) -> None:
    written = [WEATHER, NESTED]
    text = family.write(calls=written)
    for size in range(len(text)):
        whole = read(family.parser(), [text[:size]])
        made = calls_of(whole)
        if family.calls is glm and made:
            # Its last call may lack the closing tag, and is taken if it has all that the tool requires.
            made[-1] = (made[-1][0], written[len(made) - 1][1] | made[-1][1])
        assert made == written[: len(made)]
        assert exactly(read(family.parser(), list(text[:size]))) == exactly(whole)
        if not calls_of(whole) and "Paris" in text[:size]:
            assert "Paris" in content_of(whole)


@pytest.mark.parametrize("family", CALLING, ids=ids)
def test_a_call_comes_out_as_soon_as_it_is_complete(family: Family) -> None:
    parser = family.parser()
    text = family.write(calls=[WEATHER])
    events = [event for char in text for event in parser.feed(char)]
    assert calls_of(events) == [WEATHER]


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
def test_text_comes_out_at_once(family: Family) -> None:
    parser = family.parser()
    parser.feed(family.say[0])
    assert content_of(parser.feed("Hello")) == "Hello"
    assert content_of(parser.feed(" world")) == " world"


def strings() -> st.SearchStrategy[str]:
    """Texts of all characters but those that begin the tags of formats without escapes."""
    safe = st.characters(exclude_categories=["Cs"], exclude_characters="<")
    return st.text(safe, max_size=20).filter(lambda text: text.strip().lower() != "null")


def json_values() -> st.SearchStrategy[Any]:
    numbers = st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9).filter(lambda x: not x.is_integer())
    keys = st.text("abcdefgh_é", min_size=1, max_size=5)
    return st.recursive(
        st.none() | st.booleans() | numbers | strings(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    )


@pytest.mark.parametrize("family", CALLING, ids=ids)
@given(data=st.data())
@settings(BOUND, max_examples=25)
def test_any_arguments_are_read_back(family: Family, data: st.DataObject) -> None:
    keys = st.text("abcdefgh_é", min_size=1, max_size=5).filter(lambda key: key not in ("é",))
    query = data.draw(st.dictionaries(keys, json_values(), min_size=1, max_size=3))
    text = data.draw(strings())
    written: list[Written] = [("search", {"query": query}), ("note", {"text": text})]
    answer = family.write(calls=written)
    expected = exactly(calls(*written))
    assert exactly(read(family.parser(), [answer])) == expected
    assert exactly(read(family.parser(), list(answer))) == expected


def visible(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
@given(text=st.text())
@settings(BOUND, max_examples=50)
def test_any_text_comes_back_whole(family: Family, text: str) -> None:
    if any(tag in text for tag in ("<", "[", "{")):
        return
    for pieces in ([text], list(text)):
        events = read(family.parser(), [family.say[0], *pieces, family.say[1]])
        assert content_of(events) == text


@pytest.mark.parametrize("family", FAMILIES, ids=ids)
@given(data=st.data())
@settings(BOUND, max_examples=60)
def test_pieces_of_formats_in_any_order_are_never_lost(family: Family, data: st.DataObject) -> None:
    # Fragments of the family's own writing, cut anywhere and shuffled: few make a call, none may get lost.
    whole = family.write("text", "thought", [WEATHER, NESTED])
    sizes = st.integers(0, len(whole))
    cuts = st.tuples(sizes, sizes).map(lambda ends: whole[min(ends) : max(ends)][:40])
    words = st.text("Ω \n{}[]()<>|\"'\\:,=`", max_size=8)
    text = "".join(data.draw(st.lists(cuts | words, max_size=8)))
    events = read(family.parser(), [text])
    place = data.draw(st.integers(0, len(text)))
    assert exactly(read(family.parser(), [text[:place], text[place:]])) == exactly(events)
    assert exactly(read(family.parser(), list(text))) == exactly(events)
    if not calls_of(events):
        shown = "".join(event.text for event in events if not isinstance(event, ToolCall))
        assert is_subsequence(visible(shown), visible(text))
        # Of headers nothing is shown, and the words may have got into one.
        assert shown.count("Ω") == text.count("Ω") or family.name in ("harmony", "glimmer")


def is_subsequence(part: str, whole: str) -> bool:
    rest = iter(whole)
    return all(char in rest for char in part)


def test_the_oracles_write_what_the_tests_think() -> None:
    assert json.loads(FAMILIES[0].write(calls=[NESTED])[12:-13])["arguments"] == NESTED[1]
    assert set(TOOLS) == {name for name, _ in (WEATHER, NESTED, UNICODE, ORDER, ("note", {}), ("now", {}))}
