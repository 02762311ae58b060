"""The options of a run, under Ollama's names, from text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.chat.conversation import Think, check_think
from puna.engine.options import LoadOptions
from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import RANGES, SamplingParameters

# Ollama's name of a load option, and the engine's.
_LOAD = {
    "num_ctx": "num_ctx",
    "num_batch": "num_batch",
    "num_gpu": "num_gpu_layers",
    "main_gpu": "main_gpu",
    "num_thread": "num_threads",
}
_WHOLE = {*_LOAD, "num_predict", *(name for name, range_ in RANGES.items() if range_.integer)}
NAMES = sorted(
    {*_LOAD, *RANGES, "kv_cache_type", "num_predict", "stop", "tensor_split", "transcode"} - {"top_logprobs"}
)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to load a model and how to generate with it.

    Attributes:
        num_predict: most tokens to generate; below 0 there is no limit but the context.
        stop: texts that end the answer.
    """

    load: LoadOptions
    sampling: SamplingParameters
    num_predict: int
    stop: tuple[str, ...]


def parse_assignments(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Names and values of `name=value` texts. Raises: InvalidOption."""
    pairs = []
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidOption(f"{text[:100]!r} is no option; write it as name=value")
        pairs.append((name.strip().replace("-", "_"), value))
    return pairs


def with_defaults(given: Sequence[tuple[str, str]], defaults: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a user has given, and what a model's own parameters say of the rest.

    Parameters that mean nothing here are left out: models name options of all times and programs.
    """
    named = {name for name, _ in given}
    pairs = []
    for name, value in defaults.items():
        if name in NAMES and name not in named:
            pairs += [(name, str(item)) for item in (value if isinstance(value, list) else [value])]
    return [*pairs, *given]


def run_options(pairs: Iterable[tuple[str, str]]) -> RunOptions:
    """The options that these names and values set; of one set twice the last counts, but every `stop`.

    Raises:
        InvalidOption: an unknown name, or a value out of its range.
    """
    given = list(pairs)
    unknown = next((name for name, _ in given if name not in NAMES), None)
    if unknown is not None:
        raise InvalidOption(f"unknown option {unknown[:100]!r}; the options are {', '.join(NAMES)}")
    values = {name: _number(name, value) for name, value in given if name in _WHOLE or name in RANGES}
    texts = dict(given)
    sampling = SamplingParameters.from_options(values)
    num_predict = values.get("num_predict", -1)
    stop = tuple(value for name, value in given if name == "stop")
    return RunOptions(_load_options(values, texts), sampling, int(num_predict), stop)


def think_option(text: str | None) -> Think:
    """What `--think` says; None where it is not given. Raises: InvalidOption."""
    think: Think = {"true": True, "false": False}.get(text, text) if text is not None else None
    check_think(think)
    return think


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


def _load_options(values: Mapping[str, float], texts: Mapping[str, str]) -> LoadOptions:
    numbers: dict[str, Any] = {field: int(values[name]) for name, field in _LOAD.items() if name in values}
    for field in ("num_gpu_layers", "num_threads"):
        # Ollama's -1 layers and 0 threads: the program decides.
        if numbers.get(field) == (-1 if field == "num_gpu_layers" else 0):
            del numbers[field]
    return LoadOptions(
        **numbers,
        kv_cache_type=texts.get("kv_cache_type", "f16").lower(),
        tensor_split=_numbers("tensor_split", texts.get("tensor_split", "")),
        transcode=_truth("transcode", texts["transcode"]) if "transcode" in texts else None,
    )


def _number(name: str, text: str) -> float:
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError as error:
        kind = "a whole number" if name in _WHOLE else "a number"
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
