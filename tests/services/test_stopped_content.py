"""Stop texts across calls and thinking: the order of events is the model's, whatever is held back."""

import random

from puna.chat.events import Content, Event, Thinking, ToolCall
from puna.services.stopping import StoppedContent

CALL = ToolCall(0, "now", {})
MORE = ToolCall(1, "later", {})


def through(stop: list[str], *events: Event) -> list[Event]:
    content = StoppedContent(stop)
    found = [shown for event in events for shown in content.feed(event)]
    return [*found, *content.flush()]


def test_a_call_after_content_that_is_held_back_comes_after_it() -> None:
    assert through(["END"], Content("a E"), CALL, Content("b")) == [
        Content("a "),
        Content("E"),
        CALL,
        Content("b"),
    ]
    assert through(["END"], Content("a E"), CALL) == [Content("a "), Content("E"), CALL]
    assert through(["END"], Content("E"), CALL, Content("N"), MORE, Content("x")) == [
        Content("E"),
        CALL,
        Content("N"),
        MORE,
        Content("x"),
    ]


def test_nothing_waits_where_nothing_is_held_back() -> None:
    content = StoppedContent(["END"])
    assert [*content.feed(Content("a"))] == [Content("a")]
    assert [*content.feed(CALL)] == [CALL]
    assert [*content.feed(Thinking("t"))] == [Thinking("t")]


def test_a_stop_text_around_a_call_ends_the_answer_with_it() -> None:
    content = StoppedContent(["END"])
    shown = [*content.feed(Content("a E")), *content.feed(CALL), *content.feed(Content("ND b"))]
    assert shown == [Content("a "), CALL]
    assert content.stopped
    assert [*content.feed(MORE), *content.feed(Content("c")), *content.flush()] == []


def test_order_and_text_are_kept_however_the_answer_is_cut() -> None:
    draw = random.Random(4)
    for _ in range(2000):
        pool: list[Event] = [*map(Content, ["a", "E", "N", "EN", "D", "aE"]), CALL, CALL, Thinking("t")]
        events = draw.choices(pool, k=draw.randrange(8))
        text = "".join(event.text if isinstance(event, Content) else "" for event in events)
        found = through(["END"], *events)
        written = "".join(event.text if isinstance(event, Content) else "" for event in found)
        assert written == text.partition("END")[0]
        if "END" not in text:
            assert _places(found) == _places(events)


def _places(events: list[Event]) -> list[tuple[int, Event]]:
    length = 0
    places: list[tuple[int, Event]] = []
    for event in events:
        if isinstance(event, Content):
            length += len(event.text)
        else:
            places.append((length, event))
    return places
