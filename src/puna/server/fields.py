"""Fields that bodies of several dialects have: decoded as they come, with what JSON Schema says of them.

What they mean is checked later, in words that say what is wanted.
"""

from typing import Annotated, Any, TypeAlias

from msgspec import Meta


def _described(**schema: Any) -> Meta:
    return Meta(extra_json_schema=schema)


_TEXT, _OBJECT = {"type": "string"}, {"type": "object"}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_TEXTS = {"type": "array", "items": _TEXT}

ModelOptions: TypeAlias = Annotated[dict[str, Any], _described(**{"$ref": "#/components/schemas/Options"})]
"""Options under Ollama's names."""

KeepAlive: TypeAlias = Annotated[Any, _described(anyOf=[{"type": "number"}, _TEXT])]
"""How long a model stays in memory: seconds, or a duration."""

Think: TypeAlias = Annotated[Any, _described(anyOf=[{"type": "boolean"}, _TEXT])]
"""Whether to think, or how hard."""

ToolChoice: TypeAlias = Annotated[Any, _described(anyOf=[_TEXT, _OBJECT])]
"""Whether tools may, must or must not be called, or which one must."""

TextOrObject: TypeAlias = Annotated[Any, _described(anyOf=[_TEXT, _OBJECT])]
"""A name, or a description."""

Object: TypeAlias = Annotated[Any, _described(**_OBJECT)]
"""An object, which has a reader of its own."""

Tokens: TypeAlias = Annotated[list[Any], _described(items={"type": "integer", "minimum": 0})]
"""Ids of tokens."""

Texts: TypeAlias = Annotated[Any, _described(anyOf=[_TEXT, _TEXTS])]
"""A text, or several."""

TextsOrTokens: TypeAlias = Annotated[
    Any, _described(anyOf=[_TEXT, _TEXTS, _TOKENS, {"type": "array", "items": _TOKENS}])
]
"""A text, tokens, or several of either."""

Parts: TypeAlias = Annotated[Any, _described(anyOf=[_TEXT, {"type": "array", "items": _OBJECT}])]
"""A text, or the parts of a content."""

Documents: TypeAlias = Annotated[list[Any], _described(items={"anyOf": [_TEXT, _OBJECT]})]
"""Texts, or objects that have one."""
