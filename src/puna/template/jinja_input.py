"""What a chat template in Jinja gets to see: plain JSON, with messages as HF transformers prepares them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from puna.errors import InvalidOption
from puna.template.fields import MAX_DEPTH, object_of

Json: TypeAlias = Any

# The names under which a message's thinking is known; templates read the first, those of gpt-oss the second.
_THINKING = ("reasoning_content", "thinking", "reasoning")
_DEEPEST = 2 * MAX_DEPTH


def plain_messages(messages: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
    """The messages as templates expect them.

    Fields that are null are left out, for many templates would write "None"; thinking has every name that
    templates know it by; and Ollama's `tool_name` is the `name` of transformers.

    Raises:
        InvalidOption: there is no message, or one is no object, or too deep.
    """
    if not messages:
        raise InvalidOption("a conversation needs at least one message")
    return [_with_thinking(_plain_message(message)) for message in messages]


def plain(value: Json, depth: int = 0) -> Json:
    """A copy of the value made of nothing but JSON's types; other objects become their type's name.

    So no template can reach the methods of an object that a caller left in a message, of bytes for one.

    Raises:
        InvalidOption: it is too deep.
    """
    if depth > _DEEPEST:
        raise InvalidOption(f"a value is nested more than {_DEEPEST} deep; simplify it")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return f"<{type(value).__name__}>"


def plain_variables(variables: Mapping[str, Json]) -> dict[str, Json]:
    """The variables, each made of JSON's types. Raises: InvalidOption."""
    return {name: plain(value) for name, value in variables.items()}


def _plain_message(message: Mapping[str, Json]) -> dict[str, Json]:
    fields = object_of(message, "a message")
    message = {name: plain(value) for name, value in fields.items() if value is not None}
    return {"name": message["tool_name"], **message} if "tool_name" in message else message


def _with_thinking(message: dict[str, Json]) -> dict[str, Json]:
    given = [message[name] for name in _THINKING if name in message]
    return {"thinking": given[0], **message, "reasoning_content": given[0]} if given else message
