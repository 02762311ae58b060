"""Calls of tools, in the notations that several formats share: JSON objects and Python calls."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puna.chat.events import Content
from puna.chat.parsers.balanced import JSON, PYTHON, group
from puna.chat.parsers.stream import Body, Kind, Malformed, Schema, Steps, Stream
from puna.chat.parsers.values import Literals, load_json, parameter_names, well_formed

NAME_LIMIT = 256
_NAME = re.compile(r"[\w.\-]*")
_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters")
_ID_KEYS = ("id", "tool_call_id", "call_id")
_FIRST_KEYS = tuple(f'"{key}"' for key in ("type", *_NAME_KEYS, *_ARGUMENT_KEYS, *_ID_KEYS))


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's name, its arguments, and the model's own name for the call."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


def attempt(stream: Stream, opening: str, body: Body, kind: Kind = Content) -> Steps[bool]:
    """Read what follows the tag `opening` as calls; what makes no call comes back as text of this kind.

    Returns:
        Whether it made a call.
    """
    before = stream.calls
    malformed = False
    stream.begin(opening, kind)
    try:
        yield from body(stream)
    except Malformed:
        malformed = True
    rest = stream.end()
    made = stream.calls > before
    if not made or (malformed and rest.strip()):
        stream.text(kind, rest)
    return made


def declared(name: str, tools: Mapping[str, Schema]) -> str:
    """The declared tool that the model means: models put `functions.` before names they were told without."""
    short = name.removeprefix("functions.")
    return short if name not in tools and short in tools else name


def call_from(value: Any) -> Call | None:
    """The call that a JSON value describes; None if it describes none.

    The name is in `name`, `tool_name` or `function`; the arguments are in `arguments` or `parameters`, an
    object, the text of one, or missing for none. An object under `function` may hold both.
    """
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    described = inner if isinstance(inner, dict) else value
    name = next((described[key] for key in _NAME_KEYS if isinstance(described.get(key), str)), "")
    stated = next((described[key] for key in _ARGUMENT_KEYS if key in described), None)
    arguments = {} if stated is None else as_arguments(stated)
    if not name.strip() or len(name) > NAME_LIMIT or arguments is None:
        return None
    id = next((value[key] for key in _ID_KEYS if isinstance(value.get(key), str)), None)
    return Call(name.strip(), arguments, id or None)


def as_arguments(value: Any) -> dict[str, Any] | None:
    """The arguments that `value` is, or is the JSON text of; None if it is neither."""
    if isinstance(value, str):
        try:
            value = load_json(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def json_value(stream: Stream, opening: str = "{") -> Steps[Any]:
    """The JSON value that begins with this bracket, which was read already. Raises: Malformed."""
    text = yield from group(stream, opening, JSON)
    try:
        return load_json(text)
    except ValueError:
        raise Malformed from None


def make_call(stream: Stream, call: Call | None, *, only_declared: bool = False) -> None:
    """Let a call out. Raises: Malformed: there is none, or none of a tool that was declared."""
    if call is None:
        raise Malformed
    name = declared(call.name, stream.tools)
    if only_declared and name not in stream.tools:
        raise Malformed
    stream.call(name, call.arguments, call.id)


def calls(
    stream: Stream, *closing: str, opening: str = "", python: bool = False, only_declared: bool = False
) -> Steps[None]:
    """Calls as JSON objects, alone, one after the other or in a list, up to a closing tag if there is one.

    What describes no call comes back as text, and the calls after it count.

    Args:
        closing: the tags that end the calls.
        opening: the bracket that was read already.
        python: take calls as Python writes them too: `f(a=1)`.
        only_declared: take no calls of tools that were not declared.

    Raises:
        Malformed: there is something else.
    """
    before = stream.calls
    mark = opening
    while mark not in closing:
        if mark == "{":
            yield from _json_call(stream, only_declared)
        elif mark == "]":
            yield from stream.skip_space()
            if closing:
                yield from stream.accept(*closing)
            return
        yield from stream.skip_space()
        mark = yield from stream.accept("{", "[", "]", ",", ";", *closing)
        if not mark and not (python and (yield from _python_call(stream, only_declared))):
            if stream.calls == before:
                raise Malformed
            return


def _json_call(stream: Stream, only_declared: bool) -> Steps[None]:
    opening = "{"
    if only_declared:
        # Whoever answers in JSON should not wait for the whole object.
        yield from stream.skip_space()
        opening += yield from stream.expect(*_FIRST_KEYS)
    text = yield from group(stream, opening, JSON)
    try:
        make_call(stream, call_from(load_json(text)), only_declared=only_declared)
    except (ValueError, Malformed):
        stream.spill()


def _python_call(stream: Stream, only_declared: bool) -> Steps[bool]:
    """One call, if one comes next."""
    written = yield from stream.take_while(_NAME, NAME_LIMIT)
    if not written:
        return False
    name = _python_name(written, stream.tools)
    if only_declared and name not in stream.tools:
        raise Malformed
    yield from stream.skip_space()
    opening = yield from stream.expect("(")
    text = yield from group(stream, opening, PYTHON)
    try:
        stream.call(name, python_arguments(text, stream.tools.get(name)))
    except ValueError:
        stream.spill()
    return True


def _python_name(name: str, tools: Mapping[str, Schema]) -> str:
    # Llama writes the tools it knows from training as `brave_search.call(query="…")`.
    short = declared(name.removesuffix(".call"), tools)
    return short if short in tools else declared(name, tools)


def python_arguments(text: str, parameters: object) -> dict[str, Any]:
    """The arguments in `(a=1, b="x")`; those without a name get those of the declared parameters, in order.

    Raises:
        ValueError: the text is something else, or there are more arguments than parameters.
    """
    reader = Literals(text)
    unnamed, named = reader.arguments()
    reader.end()
    names = [name for name in parameter_names(parameters) if name not in named]
    if len(unnamed) > len(names):
        raise ValueError("an argument has no name")
    return dict(zip(names, unnamed, strict=False)) | {well_formed(key): value for key, value in named.items()}
