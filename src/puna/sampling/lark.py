"""Grammars in the form that llguidance compiles: Lark rules and JSON Schemas in one JSON document.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md defines the dialect. Importing this module
does not load the library.
"""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from puna.errors import InvalidOption
from puna.sampling.grammar import EMBEDDED, Grammar, Thinking, embedded_schema
from puna.sampling.narrowing import narrowed
from puna.sampling.schema import parse_schema

if TYPE_CHECKING:
    from llguidance import LLParserLimits

WHITE_SPACE = r"( |\r?\n( {0,32}|\t{0,8}))?"
"""Between the signs of JSON: nothing, a space, or a line end with an indentation of spaces or of tabs. Models
that may write more of it sometimes never stop."""

JSON_OPTIONS = {"lenient": True, "whitespace_pattern": WHITE_SPACE}
"""Options of the schema compiler: keywords it does not know become warnings, as in llama.cpp."""

# 35 MB of expressions, and a third of a second: more than any of the sources that are let in should need.
_LEXER_FUEL = 200_000
_LEXER_STATES = 50_000
# Four for each property that may come next, of the most that a schema can have, and more for definitions.
_ROW_ITEMS = 20_000

_ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
# The converter calls the root so, and takes a text with these signs for Lark.
_GBNF_START = re.compile(r"^\s*(start\s*:|%)", re.MULTILINE)
_ANYTHING = r"/(.|\n)*/"


def diagnose(grammar: Grammar) -> tuple[str, ...]:
    """Compiles without a vocabulary: whether the grammar is sound, and what of it has no effect.

    Returns:
        Warnings, such as keywords of a JSON Schema that are ignored.

    Raises:
        InvalidOption: the compiler refuses the grammar.
    """
    from llguidance import LLMatcher

    source = compiler_source(grammar, special={})
    failed, messages = LLMatcher.validate_grammar_with_warnings(source, None, limits=limits())
    if failed:
        raise refusal(grammar, messages[0])
    return tuple(messages)


def limits() -> "LLParserLimits":
    """What compiling, and one step, may cost."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=_LEXER_FUEL,
        max_lexer_states=_LEXER_STATES,
        max_items_in_row=_ROW_ITEMS,
        verbose_errors=False,
    )


def refusal(grammar: Grammar, message: str) -> InvalidOption:
    """The error that tells what the compiler found wrong, in one line."""
    reason = " ".join(message.split("\n<")[0].split("panic:")[-1].split())
    shown = "".join(character if character.isprintable() else "?" for character in reason)
    name = {"json_schema": "JSON schema", "choice": "list of choices", "calls": "set of tools"}
    return InvalidOption(f"the {name.get(grammar.kind, f'{grammar.kind} grammar')} is refused: {shown[:200]}")


def compiler_source(
    grammar: Grammar,
    *,
    special: Mapping[str, int],
    thinking: Thinking | None = None,
    thinking_opened: bool = False,
) -> str:
    """The document that llguidance compiles.

    Args:
        special: ids of the control tokens by their text.
        thinking: the answer may, or if `thinking_opened` must, begin with thoughts; the grammar holds from
            the closing tag on.
        thinking_opened: the prompt ends with the opening tag.

    Raises:
        InvalidOption: the grammar is no sound GBNF.
    """
    thoughts = thinking.opening if thinking and not thinking_opened else ""
    answer = _answer(grammar, special, thoughts)
    if thinking is None:
        return json.dumps({"grammars": [answer]})
    rules = _thinking_rules(thinking, special, opened=thinking_opened)
    return json.dumps({"grammars": [{"lark_grammar": rules}, {"name": "answer", **answer}]})


def literal(text: str) -> str:
    """A Lark terminal that is this text."""
    return f"/{_escaped(text)}/"


def _answer(grammar: Grammar, special: Mapping[str, int], thoughts: str) -> dict[str, Any]:
    if grammar.kind == "json_schema":
        return {"json_schema": with_options(parse_schema(grammar.source))}
    return {"lark_grammar": _rules(grammar, special, thoughts)}


def with_options(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as it is compiled: narrowed, and with our options of the compiler in the place of its own.

    Raises:
        InvalidOption: it holds a number that the compiler would take for another.
    """
    return {**narrowed(schema), "x-guidance": JSON_OPTIONS}


def _rules(grammar: Grammar, special: Mapping[str, int], thoughts: str) -> str:
    if grammar.kind == "regex":
        from llguidance import regex_to_lark

        return f"start: /{regex_to_lark(grammar.source, '')}/"
    if grammar.kind == "gbnf":
        return _from_gbnf(grammar.source)
    if grammar.kind == "choice":
        return "start: CHOICE\nCHOICE: " + " | ".join(literal(text) for text in json.loads(grammar.source))
    if grammar.kind == "calls":
        rules = (_mark_rules(*mark, grammar.source, special, thoughts) for mark in grammar.marks)
        return grammar.source + "".join(rules)
    return _with_embedded(grammar.source)


def _with_embedded(source: str) -> str:
    """A Lark grammar of someone else's, its JSON schemas narrowed as others are."""
    pieces, at = [], 0
    for found in EMBEDDED.finditer(source):
        schema, start, end = embedded_schema(source, found.end())
        pieces += [source[at:start], json.dumps(narrowed(schema))]
        at = end
    return "".join([*pieces, source[at:]])


def _mark_rules(name: str, text: str, source: str, special: Mapping[str, int], thoughts: str = "") -> str:
    """The rules `name`, the text, and `to_name`, anything up to and with it, where the source uses them.

    A control token's text is that token: it has no spelling that other tokens could write.

    Args:
        thoughts: what `to_name` must not begin with, as that is another rule's.
    """
    rules = ""
    if re.search(rf"\b{name}\b", source, re.ASCII):
        rules += f"\n{name}: {f'<[{special[text]}]>' if text in special else literal(text)}"
    if re.search(rf"\bto_{name}\b", source, re.ASCII):
        terminal = f"TO_{name.upper()}"
        rules += (
            f"\nto_{name}: {terminal} <[{special[text]}]>\n{terminal}: {_ANYTHING}"
            if text in special
            else f"\nto_{name}[lazy]: {terminal}\n{terminal}: /(.|\\n)*{_escaped(text)}/"
        )
        rules += f" & ~/{_escaped(thoughts)}(.|\\n)*/" if thoughts else ""
    return rules + "\n"


def _thinking_rules(thinking: Thinking, special: Mapping[str, int], *, opened: bool) -> str:
    """Thoughts, white space, the answer. Opening and thoughts are one lexeme where they can be, so that an
    answer that could itself begin with the tag keeps its own way.
    """
    if opened:
        rules = "start: to_close white @answer"
        marks = [("close", thinking.closing)]
    elif special.keys() & {thinking.opening, thinking.closing}:
        rules = "start: (open to_close)? white @answer"
        marks = [("open", thinking.opening), ("close", thinking.closing)]
    else:
        rules = f"start: thoughts? white @answer\nthoughts[lazy]: {_thoughts(thinking)}"
        marks = []
    rules += "\nwhite: /[ \\t\\r\\n]{0,8}/"
    return rules + "".join(_mark_rules(*mark, rules, special) for mark in marks)


def _thoughts(thinking: Thinking) -> str:
    return rf"/{_escaped(thinking.opening)}(.|\n)*{_escaped(thinking.closing)}/"


def _escaped(text: str) -> str:
    """The text as a regex inside the slashes of Lark."""
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):x}}}" for character in text)


def _from_gbnf(text: str) -> str:
    from llguidance import grammar_from

    if _GBNF_START.search(text) or "::=" not in text:
        raise InvalidOption("a GBNF grammar begins with a rule root ::= …, and has none of the name start")
    try:
        return grammar_from("gbnf", _ESCAPED.sub(_plain_escape, text))
    except ValueError as error:
        reason = " ".join(str(error).split()).removeprefix(
            "Failed to convert the grammar from GBNF to Lark: "
        )
        raise InvalidOption(f"the GBNF grammar is refused: {reason[:160]}") from error


def _plain_escape(found: re.Match[str]) -> str:
    """A numeric escape as the character itself, which the converter keeps; signs of the notation stay so."""
    digits = found[1] or found[2] or found[3]
    if digits is None or int(digits, 16) > 0x10FFFF or 0xD800 <= int(digits, 16) < 0xE000:
        return found[0]
    character = chr(int(digits, 16))
    if character.isalnum() or ord(character) >= 0xA0:
        return character
    return f"\\x{ord(character):02X}"
