"""What a request in Anthropic's form asks for, besides its messages."""

from collections.abc import Mapping
from typing import Any

from puna.chat.conversation import NamedTool, Think, ToolChoice
from puna.errors import InvalidOption
from puna.server.anthropic.wire import MessagesBody, PromptBody, ToolBody, ToolChoiceBody
from puna.services.asked import Format

_MOST_TOKENS = 2**31 - 1
_CHOICES: Mapping[str, ToolChoice] = {"auto": "auto", "any": "required", "none": "none"}
_THINKS: Mapping[str, Think] = {"enabled": True, "disabled": False, "adaptive": None, "between_tools": None}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}


def check_prompt(body: PromptBody) -> None:
    """Raises InvalidOption where a request says too little, or asks for what is not to be had here."""
    if not body.model.strip():
        raise InvalidOption("model is required")
    if body.mcp_servers:
        raise InvalidOption("mcp_servers: this server calls no tools itself; declare them in tools")


def check_answer(body: MessagesBody) -> None:
    """Raises InvalidOption where a request does not say how long the answer may be, or not with sense."""
    if body.max_tokens <= 0:
        raise InvalidOption("max_tokens is required and must be positive")
    if body.thinking and body.thinking.type == "enabled" and body.thinking.budget_tokens >= body.max_tokens:
        raise InvalidOption("max_tokens must be greater than thinking.budget_tokens")


def options_of(body: MessagesBody) -> dict[str, Any]:
    """The options under the names that the services know."""
    return {
        "num_predict": min(body.max_tokens, _MOST_TOKENS),
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": body.stop_sequences or None,
    }


def tools_of(body: PromptBody) -> list[dict[str, Any]]:
    """The tools in the form that the services know. Raises: InvalidOption."""
    return [_tool(tool, f"tools.{index}") for index, tool in enumerate(body.tools)]


def _tool(tool: ToolBody, place: str) -> dict[str, Any]:
    if tool.type != "custom":
        raise InvalidOption(
            f"{place}: there is no tool of type {tool.type[:60]!r} on this server; only custom tools, "
            "with an input_schema, are supported"
        )
    if tool.input_schema is None:
        raise InvalidOption(f"{place}.input_schema is required")
    described = {"description": tool.description} if tool.description else {}
    return {
        "type": "function",
        "function": {"name": tool.name, **described, "parameters": tool.input_schema},
    }


def tool_choice_of(choice: ToolChoiceBody | None) -> ToolChoice:
    """Whether a tool may, must or must not be called. Raises: InvalidOption."""
    if choice is None:
        return "auto"
    if choice.type == "tool" and choice.name:
        return NamedTool(choice.name)
    if choice.type not in _CHOICES:
        raise InvalidOption(
            f"tool_choice.type must be auto, any, none, or tool with a name, not {choice.type[:60]!r}"
        )
    return _CHOICES[choice.type]


def think_of(body: PromptBody) -> Think:
    """Whether the model is to think, or how hard; None leaves it to the model. Raises: InvalidOption."""
    kind = body.thinking.type if body.thinking else "adaptive"
    if kind not in _THINKS:
        raise InvalidOption(f"thinking.type must be enabled, disabled or adaptive, not {kind[:60]!r}")
    effort = body.output_config.effort if body.output_config else ""
    if effort and effort not in _EFFORTS:
        raise InvalidOption(f"output_config.effort must be {', '.join(_EFFORTS)}, not {effort[:60]!r}")
    return _EFFORTS[effort] if effort and _THINKS[kind] is not False else _THINKS[kind]


def budget_of(body: PromptBody) -> int:
    """Most tokens of thinking; below 0 there is no limit. Raises: InvalidOption."""
    if body.thinking is None or body.thinking.type != "enabled":
        return -1
    if body.thinking.budget_tokens <= 0:
        raise InvalidOption("thinking.budget_tokens is required and must be positive")
    return min(body.thinking.budget_tokens, _MOST_TOKENS)


def format_of(body: PromptBody) -> Format:
    """What the answer is kept to; None leaves it free. Raises: InvalidOption."""
    format = body.output_config.format if body.output_config else None
    if format is None:
        return None
    if format.type != "json_schema" or format.schema is None:
        raise InvalidOption("output_config.format must be of type json_schema and have a schema")
    return format.schema
