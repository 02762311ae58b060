"""Tool calls as grammars: which functions a model may or must call, in the form that the model writes.

`tool_grammar` is what `tool_choice` of the OpenAI API asks for: "none", "auto", "required" or a name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from json import dumps
from typing import Any, Self

from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar
from puna.sampling.lark import literal, with_options
from puna.sampling.schema import MAX_BYTES, check_schema, parse_schema

MAX_TOOLS = 256
MAX_NAME = 128

_NAME = re.compile(rf"[A-Za-z0-9_.:/-]{{1,{MAX_NAME}}}")
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class ToolDeclaration:
    """A function that the model may call.

    Attributes:
        name: letters, digits and `_ . : / -`.
        parameters: JSON Schema of its arguments, an object's.

    Raises:
        InvalidOption: the name has other characters, or the parameters are no schema of an object.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: _ANY_OBJECT, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidOption(
                f"a tool's name must be 1 to {MAX_NAME} letters, digits or _.:/-, not {str(self.name)[:60]!r}"
            )
        if not isinstance(self.parameters, Mapping):
            raise InvalidOption(f"the parameters of tool {self.name} must be a JSON schema object")
        if self.parameters.get("type", "object") != "object":
            kind = str(self.parameters["type"])[:60]
            raise InvalidOption(f"the parameters of tool {self.name} must be of type object, not {kind!r}")

    @classmethod
    def from_api(cls, tool: object) -> Self:
        """A declaration as APIs spell it: {"type": "function", "function": {"name": …, "parameters": …}}.

        Raises:
            InvalidOption: it is none.
        """
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping):
            raise InvalidOption('a tool must be {"type": "function", "function": {"name": …}}')
        parameters = function.get("parameters")
        return cls(function.get("name", ""), _ANY_OBJECT if parameters is None else parameters)


@dataclass(frozen=True, slots=True)
class JsonBody:
    """A call as a JSON object of name and arguments, in this order.

    Attributes:
        name_key: key of the function's name.
        arguments_key: key of the arguments.
    """

    name_key: str = "name"
    arguments_key: str = "arguments"


@dataclass(frozen=True, slots=True)
class NamedBody:
    """A call as the function's name, a text, and the arguments as a JSON object.

    Attributes:
        between: the text, such as `[ARGS]`.
    """

    between: str


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes calls.

    Attributes:
        begin: text before each call (or each list of calls), may be empty.
        end: text after it, may be empty.
        body: what stands between.
        listed: the bodies stand in one JSON list.
    """

    begin: str
    end: str
    body: JsonBody | NamedBody = JsonBody()
    listed: bool = False


HERMES = ToolFormat("<tool_call>", "</tool_call>")
"""Qwen 2.5 and 3, Hermes, SmolLM2: JSON between tags."""

LLAMA3 = ToolFormat("", "", JsonBody(arguments_key="parameters"))
"""Llama 3.1 and later: a JSON object as the whole answer."""

MISTRAL = ToolFormat("[TOOL_CALLS]", "", listed=True)
"""Mistral until 2024: a list after a control token."""

MISTRAL_NAMED = ToolFormat("[TOOL_CALLS]", "", NamedBody("[ARGS]"))
"""Mistral since 2025: name, a control token, arguments."""

LLAMA3_TAGGED = ToolFormat("<function=", "</function>", NamedBody(">"))
"""Llama 3.1's other form: the name inside a tag."""


def tool_grammar(
    tools: Sequence[ToolDeclaration],
    choice: str,
    format: ToolFormat,
    *,
    parallel: bool = True,
    answer: Grammar | None = None,
) -> Grammar | None:
    """The grammar of an answer to a request with tools.

    Args:
        choice: "auto": text, and valid calls wherever a call begins; "required": at least one call and
            nothing else; "none": text in which no call begins; else the name of the function to call.
        parallel: more than one call may be made.
        answer: a JSON Schema; with "auto", an answer is calls and nothing else, or this.

    Returns:
        None where nothing is to be constrained.

    Raises:
        InvalidOption: no tool has the chosen name, two have the same, or they are too many or too large.
    """
    check_tools(tools)
    if choice == "none":
        return _no_call(format)
    if not tools:
        if choice == "auto":
            return None
        raise InvalidOption(f"tool_choice is {choice[:60]!r}, but there are no tools")
    if choice in ("auto", "required"):
        return _calls(tools, format, required=choice == "required", parallel=parallel, answer=answer)
    named = [tool for tool in tools if tool.name == choice]
    if not named:
        raise InvalidOption(f"tool_choice names {choice[:60]!r}, which is none of the tools")
    return _calls(named, format, required=True, parallel=False)


def check_tools(tools: Sequence[ToolDeclaration]) -> None:
    if len(tools) > MAX_TOOLS:
        raise InvalidOption(f"there are {len(tools)} tools; at most {MAX_TOOLS} are supported")
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidOption(f"two tools have the name {twice!r}")
    # As one, so that the limits hold for all of them together; each needs some levels of its own.
    check_schema({tool.name: tool.parameters for tool in tools})
    size = sum(len(_json(tool.parameters)) for tool in tools)
    if size > MAX_BYTES:
        raise InvalidOption(
            f"the parameters of all tools take {size} bytes; at most {MAX_BYTES} are supported"
        )


def _json(schema: Mapping[str, Any]) -> str:
    try:
        return dumps(schema, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"the parameters of a tool are no JSON: {str(error)[:100]}") from error


def _no_call(format: ToolFormat) -> Grammar:
    if not format.begin:
        return Grammar("calls", "start: PLAIN?\n" + _PLAIN)
    return Grammar("calls", f"start: TEXT\nTEXT: {_without(format.begin)}\n")


def _without(text: str) -> str:
    """Any text in which this one does not occur."""
    return rf"/(.|\n)*/ & ~/(.|\n)*{literal(text)[1:-1]}(.|\n)*/"


# Text that is no call in a format whose calls are bare JSON.
_PLAIN = "PLAIN: /[^{\\[ \\t\\r\\n](.|\\n)*/\n"
# Models are taught to write calls without more.
_WHITE = "white: WHITE?\nWHITE: / |\\n( {0,4})/\n"


def _calls(
    tools: Sequence[ToolDeclaration],
    format: ToolFormat,
    *,
    required: bool,
    parallel: bool,
    answer: Grammar | None = None,
) -> Grammar:
    several = parallel and format.begin and not format.listed
    only = required or answer is not None
    if only:
        rules = f"start: call{' (white call)*' if several else ''}{'' if required else ' | answer'}\n"
        if answer is not None and not required:
            rules += f"answer: %json {_json(with_options(parse_schema(answer.source)))}\n"
    elif format.begin:
        # The shortest text up to a call's beginning is taken first, so no text goes past one.
        text = r"/(.|\n)*/" if several else _without(format.begin)
        rules = f"start: (to_begin rest){'*' if several else '?'} TEXT\nTEXT: {text}\n"
    else:
        rules = "start: call | PLAIN?\n" + _PLAIN
    if only or not format.begin:
        rules += f"call: {'begin ' if format.begin else ''}rest\n"
    content = _listed(parallel) if format.listed else "body"
    rules += f"rest: white {content}{' white finish' if format.end else ''}\n" + _WHITE
    return Grammar("calls", rules + _bodies(tools, format.body), _marks(format))


def _listed(parallel: bool) -> str:
    more = ' (white "," white body)*' if parallel else ""
    return f'"[" white body{more} white "]"'


def _bodies(tools: Sequence[ToolDeclaration], body: JsonBody | NamedBody) -> str:
    rules = "body: " + " | ".join(f"body_{index}" for index in range(len(tools))) + "\n"
    for index, tool in enumerate(tools):
        arguments = f"arguments_{index}"
        written = (
            f"{literal(tool.name)} between {arguments}"
            if isinstance(body, NamedBody)
            else _json_body(tool.name, body, arguments)
        )
        rules += f"body_{index}: {written}\n{arguments}: %json {_json(with_options(tool.parameters))}\n"
    return rules


def _json_body(name: str, body: JsonBody, arguments: str) -> str:
    name_key, value, arguments_key = (
        literal(dumps(text)) for text in (body.name_key, name, body.arguments_key)
    )
    colon, comma = ' white ":" white ', ' white "," white '
    return f'"{{" white {name_key}{colon}{value}{comma}{arguments_key}{colon}{arguments} white "}}"'


def _marks(format: ToolFormat) -> tuple[tuple[str, str], ...]:
    marks = [("begin", format.begin), ("finish", format.end)]
    if isinstance(format.body, NamedBody):
        marks.append(("between", format.body.between))
    return tuple((rule, text) for rule, text in marks if text)
