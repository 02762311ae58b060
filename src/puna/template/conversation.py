"""From a conversation to the data that Ollama's templates expect, and to the prompt.

Messages and tools are those of Ollama's native API, as JSON gives them. Source: Ollama's
template documentation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from puna.template.continued import cut_at_tag, tagged
from puna.template.fields import Json, in_order, list_field, object_field, object_of, text_of
from puna.template.go import Budget, Stringer, Struct, Template, Value
from puna.template.go.values import to_json
from puna.template.tools import tools_value


def render_go(
    template: Template,
    messages: Sequence[Mapping[str, Json]],
    *,
    tools: Sequence[Mapping[str, Json]] = (),
    suffix: str = "",
    think: bool | str | None = None,
    continue_final_message: bool = False,
) -> str:
    """The prompt of a conversation.

    Args:
        template: the model's.
        messages: each with `role` and `content`, and with `thinking`, `images`, `tool_calls`, `tool_name` and
            `tool_call_id` where there are such.
        tools: the functions that the model may call.
        suffix: the text after the gap that the model is to fill; the last message is the text before it.
        think: whether to think, or how hard (`low` …); None leaves it to the model.
        continue_final_message: whether to end with the last message's content.

    Raises:
        TemplateError: the template fails.
        ModelError: it leaves out what is to be continued.
        InvalidOption: a message or a tool is not of the form above.
    """
    common = {"Response": "", **_thinking(think)}
    if suffix:
        prompt = text_of(messages[-1], "content") if messages else ""
        return template.execute({**common, "Prompt": prompt, "Suffix": suffix})
    if continue_final_message:
        content = text_of(messages[-1], "content")
        return cut_at_tag(render_go(template, tagged(messages), tools=tools, think=think), content)
    turns = _collated(messages)
    if "messages" not in template.vars():
        return _legacy(template, turns, common)
    system = "\n\n".join(text_of(m, "content") for m in messages if text_of(m, "role") == "system")
    return template.execute(
        {
            **common,
            "System": system,
            "Messages": [turn.value() for turn in turns],
            "Tools": tools_value(tools),
        }
    )


def _thinking(think: bool | str | None) -> dict[str, Value]:
    level = think if isinstance(think, str) else "medium" if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


# Messages


@dataclass(frozen=True, slots=True)
class _Turn:
    """One message, or several of one role in a row."""

    role: str
    content: str
    thinking: str
    images: tuple[Json, ...]
    calls: tuple[Struct, ...]
    tool_name: str
    tool_call_id: str

    def value(self) -> Struct:
        fields: dict[str, Value] = {
            "Role": self.role,
            "Content": self.content,
            "Thinking": self.thinking,
            # What a picture holds is no text; a template may only ask whether there are any.
            "Images": ["image"] * len(self.images),
            "ToolCalls": self.calls,
            "ToolName": self.tool_name,
            "ToolCallID": self.tool_call_id,
        }
        calls = [call.json for call in self.calls]
        optional = {"thinking": self.thinking, "tool_calls": calls, "tool_name": self.tool_name}
        present = {name: value for name, value in optional.items() if value}
        return Struct("Message", fields, json={"role": self.role, "content": self.content, **present})


def _collated(messages: Iterable[Mapping[str, Json]]) -> list[_Turn]:
    """The turns: messages of one role in a row are one, except for the results of tools."""
    turns: list[_Turn] = []
    for message in messages:
        turn = _turn(message)
        if turns and turns[-1].role == turn.role != "tool":
            turns[-1] = _joined(turns[-1], turn)
        else:
            turns.append(turn)
    return turns


def _joined(first: _Turn, second: _Turn) -> _Turn:
    return replace(
        first,
        content=f"{first.content}\n\n{second.content}",
        thinking="\n\n".join(filter(None, (first.thinking, second.thinking))),
        images=first.images + second.images,
        calls=first.calls + second.calls,
    )


def _turn(message: Mapping[str, Json]) -> _Turn:
    return _Turn(
        text_of(message, "role"),
        text_of(message, "content"),
        text_of(message, "thinking"),
        tuple(list_field(message, "images")),
        tuple(_call(call) for call in list_field(message, "tool_calls")),
        text_of(message, "tool_name"),
        text_of(message, "tool_call_id"),
    )


def _call(call: Json) -> Struct:
    function = object_field(object_of(call, "a tool call"), "function")
    index, name, arguments = (
        function.get("index") or 0,
        text_of(function, "name"),
        object_field(function, "arguments"),
    )
    identifier = text_of(call, "id")
    json = {"index": index, "name": name, "arguments": in_order(arguments)}
    fields: dict[str, Value] = {
        "Index": index,
        "Name": name,
        "Arguments": Stringer("Arguments", arguments, to_json),
    }
    value = Struct("ToolCallFunction", fields, json=json, prints_json=True)
    return Struct(
        "ToolCall",
        {"ID": identifier, "Function": value},
        json={**({"id": identifier} if identifier else {}), "function": json},
        prints_json=True,
    )


def _legacy(template: Template, turns: Sequence[_Turn], common: Mapping[str, Value]) -> str:
    """The prompt of a template that knows one exchange only: it runs once for each."""
    pieces: list[str] = []
    budget = Budget()
    exchange: dict[str, Value] = {"System": "", "Prompt": "", "Response": ""}
    for turn in turns:
        if turn.role not in _EXCHANGE:
            continue
        name, later = _EXCHANGE[turn.role]
        if any(exchange[other] for other in later):
            pieces.append(template.execute({**common, **exchange}, budget))
            exchange = dict.fromkeys(exchange, "")
        exchange[name] = turn.content
    pieces.append(template.until_response().execute({**common, **exchange}, budget))
    return "".join(pieces)


# The variable of each role, and those that come after it in an exchange.
_EXCHANGE = {
    "system": ("System", ("Prompt", "Response")),
    "user": ("Prompt", ("Response",)),
    "assistant": ("Response", ()),
}
