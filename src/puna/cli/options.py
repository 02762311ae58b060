"""The options of a run, under Ollama's names, from text."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from puna.chat.conversation import Think, check_think
from puna.client.arguments import GivenAdapter
from puna.errors import InvalidOption
from puna.humanize import duration_seconds
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import RANGES
from puna.services.options import NAMES, RANGE_OF, read_options, unknown_option


def parse_assignments(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Names and values of `name=value` texts. Raises: InvalidOption."""
    pairs = []
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidOption(f"{text[:100]!r} is no option; write it as name=value")
        pairs.append((name.strip().replace("-", "_"), value))
    return pairs


def option_values(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The options that these names and values set; of one set twice the last counts, but every `stop`.

    Raises:
        InvalidOption: an unknown name, or a value out of its range.
    """
    given: dict[str, Any] = {}
    for name, text in pairs:
        if name not in NAMES:
            raise InvalidOption(unknown_option(name))
        given[name] = [*given.get(name, ()), text] if name == "stop" else option_value(name, text)
    read_options(given)
    return given


def think_option(text: str | None) -> Think:
    """What `--think` says; None where it is not given. Raises: InvalidOption."""
    think: Think = {"true": True, "false": False}.get(text, text) if text is not None else None
    check_think(think)
    return think


def keep_alive_option(text: str | None) -> str | float | None:
    """What `--keepalive` says: seconds, or a duration such as `10m`. Raises: InvalidOption."""
    if text is None:
        return None
    try:
        return float(text) if text.lstrip("-").isdecimal() else (duration_seconds(text) and text)
    except ValueError as error:
        raise InvalidOption(f"keepalive: {error}") from error


def adapter_options(texts: Iterable[str]) -> list[GivenAdapter]:
    """The adapters that `--adapter NAME[=SCALE]` names. Raises: InvalidOption."""
    given: list[GivenAdapter] = []
    for text in texts:
        name, separator, scale = text.partition("=")
        try:
            factor = float(scale) if separator else 1.0
        except ValueError:
            factor = math.nan
        if not math.isfinite(factor):
            raise InvalidOption(f"{text[:100]!r} is no adapter; write it as NAME or NAME=SCALE")
        given.append({"name": name, "scale": factor})
    return given


def answer_grammar(
    format: str | None, gbnf: str | None, regex: str | None, choices: tuple[str, ...]
) -> Grammar | None:
    """The grammar that these options set; None if all are empty.

    Args:
        format: "json", a JSON schema, or @ and the name of a file that holds one.
        gbnf: a grammar, or @ and the name of its file.

    Raises:
        InvalidOption: more than one is set, a file cannot be read, or the grammar is refused.
    """
    given = [name for name, value in (("format", format), ("grammar", gbnf), ("regex", regex)) if value]
    given += ["choice"] if choices else []
    if len(given) > 1:
        raise InvalidOption(f"only one of --{' and --'.join(given)} can be given")
    if format:
        text = _text(format)
        return Grammar.any_object() if text.strip() == "json" else Grammar.json_schema(text)
    if gbnf:
        return Grammar.gbnf(_text(gbnf))
    if regex:
        return Grammar.regex(regex)
    return Grammar.choice(choices) if choices else None


def _text(argument: str) -> str:
    """The argument itself, or the content of the file that it names after an @."""
    if not argument.startswith("@"):
        return argument
    try:
        return Path(argument[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InvalidOption(f"cannot read {argument[1:][:100]!r}: {reason}") from error


def option_value(name: str, text: str) -> Any:
    """The value of a known option that is no list of texts. Raises: InvalidOption: it is of another type."""
    if name == "kv_cache_type":
        return text
    if name == "tensor_split":
        return _numbers(name, text)
    return _truth(name, text) if name == "transcode" else _number(name, text)


def _number(name: str, text: str) -> float:
    whole = RANGE_OF[name].integer
    try:
        return int(text) if whole else float(text)
    except ValueError as error:
        kind = "a whole number" if whole else "a number"
        raise InvalidOption(f"{name} must be {RANGES.get(name, kind)}, not {text[:100]!r}") from error


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidOption(f"{name} must be numbers with commas between, not {text[:100]!r}") from error


def _truth(name: str, text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise InvalidOption(f"{name} must be true or false, not {text[:100]!r}")
    return known[text.lower()]
