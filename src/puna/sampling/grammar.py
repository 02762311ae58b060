"""What a constrained answer may be: plain data, shared with parts that never compute.

A `Grammar` is a kind and its source. It is checked when it is made, as far as that goes without the compiler;
`puna.sampling.lark` turns it into the compiler's form, `puna.sampling.constraints` into masks.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, get_args

from puna.errors import InvalidOption
from puna.sampling.schema import parse_schema

T = TypeVar("T")
Kind = Literal["json_schema", "regex", "gbnf", "lark", "choice", "calls"]

MAX_SOURCE = 64 * 1024
"""The longest regex, GBNF or Lark grammar, in bytes of UTF-8."""

MAX_CHOICES = 10_000
MAX_CHOICE_BYTES = 256 * 1024

EMBEDDED = re.compile(r"%json\b")
"""What stands before a JSON Schema in a Lark grammar."""

_BLANK = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Thinking:
    """The tags around what a model thinks before it answers.

    Attributes:
        opening: such as `<think>`.
        closing: such as `</think>`; the constraint holds from there on.
    """

    opening: str
    closing: str

    def __post_init__(self) -> None:
        if not self.opening or not self.closing:
            raise InvalidOption("the tags around a model's thinking must not be empty")


@dataclass(frozen=True, slots=True)
class Grammar:
    """A set of texts, as someone wrote it down.

    Attributes:
        kind: the language of the source. "choice" is a JSON list of texts; "calls" is what
            `puna.sampling.toolcalls` writes: a Lark grammar of our own.
        source: the text.
        marks: of "calls", the rules that stand for a text which may be one token: (rule, text).

    Raises:
        InvalidOption: the source is too long, or is refused as the constructor of its kind says.
    """

    kind: Kind
    source: str
    marks: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InvalidOption(f"unknown kind of grammar {self.kind[:60]!r}")
        if self.kind == "json_schema":
            parse_schema(self.source)
        elif self.kind == "choice":
            _check_choices(self.source)
        elif self.kind != "calls":
            _check_text(self.kind, self.source)

    @classmethod
    def from_format(cls, format: object) -> Self | None:
        """The grammar of a request's `format`, as Ollama's API defines it.

        Args:
            format: None or "" for no constraint, "json" for any JSON object, a mapping for a JSON Schema.

        Raises:
            InvalidOption: it is something else, or the schema is refused.
        """
        if format is None or format == "":
            return None
        if format == "json":
            return cls.any_object()
        if isinstance(format, Mapping):
            return cls.json_schema(format)
        raise InvalidOption(f'invalid format: {_brief(format)}; expected "json" or a JSON schema object')

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The grammar that an object of the APIs describes.

        It is {"type": "regex", "regex": …}, {"type": "choice", "choice": […]}, {"type": "grammar",
        "grammar": …, "syntax": "gbnf" or "lark"}, or {"type": "json_schema", "schema": {…}}. A syntax that
        is not named is GBNF.

        Raises:
            InvalidOption: it is none of these, or the grammar is refused.
        """
        match document.get("type"):
            case "regex":
                return cls.regex(_value(document, "regex", str))
            case "choice":
                return cls.choice(_value(document, "choice", list))
            case "json_schema":
                return cls.json_schema(_value(document, "schema", dict))
            case "grammar":
                syntax, text = document.get("syntax", "gbnf"), _value(document, "grammar", str)
                if syntax not in ("gbnf", "lark"):
                    raise InvalidOption("'syntax' of a grammar must be gbnf or lark")
                return cls.gbnf(text) if syntax == "gbnf" else cls.lark(text)
        raise InvalidOption(
            "the 'type' of a grammar must be regex, choice, grammar or json_schema, "
            f"not {_brief(document.get('type'))}"
        )

    @property
    def document(self) -> dict[str, Any]:
        """The object of the APIs that describes it. Raises: InvalidOption: none can describe calls."""
        match self.kind:
            case "regex":
                return {"type": "regex", "regex": self.source}
            case "choice":
                return {"type": "choice", "choice": json.loads(self.source)}
            case "json_schema":
                return {"type": "json_schema", "schema": json.loads(self.source)}
            case "gbnf" | "lark":
                return {"type": "grammar", "grammar": self.source, "syntax": self.kind}
        raise InvalidOption("a grammar of calls cannot be sent")

    @classmethod
    def any_object(cls) -> Self:
        """Any JSON object."""
        return cls("json_schema", '{"type":"object"}')

    @classmethod
    def json_schema(cls, schema: str | Mapping[str, Any]) -> Self:
        """JSON that a schema describes; properties come in the schema's order.

        Raises:
            InvalidOption: `puna.sampling.schema` refuses it.
        """
        return cls("json_schema", schema if isinstance(schema, str) else _dumped(schema))

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """Texts that match as a whole. Syntax: Rust's regex crate, so no look-around, no back-references."""
        return cls("regex", pattern)

    @classmethod
    def gbnf(cls, text: str) -> Self:
        """llama.cpp's grammar notation; the first rule is `root`."""
        return cls("gbnf", text)

    @classmethod
    def lark(cls, text: str) -> Self:
        """llguidance's dialect of Lark; the first rule is `start`."""
        return cls("lark", text)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Self:
        """One of these texts.

        Raises:
            InvalidOption: there is none, one is empty or no text, or there are too many.
        """
        return cls("choice", _dumped(list(texts)))


def _value(document: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = document.get(name)
    if not isinstance(value, kind):
        raise InvalidOption(f"{name!r} of a grammar is missing or of the wrong type")
    return value


def _dumped(value: object) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise InvalidOption("the JSON schema is nested too deep") from None
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"this is no JSON: {str(error)[:100]}") from error


def _brief(value: object) -> str:
    try:
        return json.dumps(value)[:60]
    except (TypeError, ValueError, RecursionError):
        return type(value).__name__


def _check_text(kind: str, text: str) -> None:
    name = {"regex": "regex", "gbnf": "GBNF grammar", "lark": "Lark grammar"}[kind]
    if len(text.encode("utf-8", "replace")) > MAX_SOURCE:
        raise InvalidOption(f"the {name} is longer than {MAX_SOURCE} bytes")
    if not text.strip() and kind != "regex":
        raise InvalidOption(f"the {name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidOption(f"the {name} holds half a character (a surrogate)")
    if kind == "regex" and (len(text) - len(text.rstrip("\\"))) % 2:
        raise InvalidOption("the regex ends with a backslash that nothing follows")
    if kind == "lark":
        _check_embedded(text)


def _check_embedded(text: str) -> None:
    """The JSON schemas inside a Lark grammar meet the same limits as others."""
    for found in EMBEDDED.finditer(text):
        schema, _, _ = embedded_schema(text, found.end())
        parse_schema(_dumped(schema))


def embedded_schema(text: str, position: int) -> tuple[Any, int, int]:
    """The JSON value that follows a position of a Lark grammar, with its beginning and end.

    Raises:
        InvalidOption: no JSON follows.
    """
    blank = _BLANK.match(text, position)
    start = blank.end() if blank else position
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(
            f"what follows %json in the Lark grammar is no JSON: {str(error)[:60]}"
        ) from error
    return value, start, end


def _check_choices(source: str) -> None:
    if len(source) > MAX_CHOICE_BYTES:
        raise InvalidOption(f"the choices are longer than {MAX_CHOICE_BYTES} bytes")
    try:
        texts = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InvalidOption("the choices must be a JSON list of texts") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise InvalidOption("the choices must be a list of texts, none of them empty")
    if not 0 < len(texts) <= MAX_CHOICES:
        raise InvalidOption(f"there must be 1 to {MAX_CHOICES} choices, not {len(texts)}")
