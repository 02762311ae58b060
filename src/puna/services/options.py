"""The options of a request and of a model, under Ollama's names, for the engine."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, TypeAlias

from puna.engine.options import MAX_THREADS, LoadOptions
from puna.errors import InvalidOption
from puna.modelfile.parameters import DEPRECATED
from puna.sampling.parameters import INT32_MAX, RANGES, Range, SamplingParameters
from puna.services.limits import DEFAULT_LIMITS, Limits, check_count

MAX_BATCH = 16_384
MAX_DEVICES = 1024
_ANSWERS = 10
"""How many contexts an answer may fill, whatever it asks for."""

# Ollama's name of a load option, and the engine's.
_LOAD = {
    "num_ctx": "num_ctx",
    "num_batch": "num_batch",
    "num_gpu": "num_gpu_layers",
    "main_gpu": "main_gpu",
    "num_thread": "num_threads",
    "kv_cache_type": "kv_cache_type",
    "tensor_split": "tensor_split",
    "transcode": "transcode",
}
_SAMPLING = tuple(name for name in RANGES if name != "top_logprobs")
RANGE_OF: Mapping[str, Range] = {
    "num_ctx": Range(1, INT32_MAX, integer=True),
    "num_batch": Range(1, MAX_BATCH, integer=True),
    "num_gpu": Range(-1, INT32_MAX, integer=True),
    "main_gpu": Range(-1, MAX_DEVICES, integer=True),
    "num_thread": Range(0, MAX_THREADS, integer=True),
    "num_predict": Range(-(2**63), 2**63 - 1, integer=True),
    "num_keep": Range(-INT32_MAX, INT32_MAX, integer=True),
    "draft_num_predict": Range(-1, INT32_MAX, integer=True),
    **{name: RANGES[name] for name in _SAMPLING},
}
"""The values of every option that is a number."""

NAMES = tuple(sorted({*_LOAD, *RANGE_OF, "stop"}))
"""Every option that has an effect."""

# They have no effect here, and are no mistake either.
_WITHOUT_EFFECT = DEPRECATED | {"use_mmap", "numa", "num_gqa"}
# Values that leave the choice to the engine.
_CHOOSE = {"num_gpu": -1, "num_thread": 0}

Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """How to load a model and how to generate with it.

    Attributes:
        num_predict: most tokens to generate; below 0 there is no limit but the context.
        stop: texts that end the answer.
        num_keep: how many tokens of the prompt stay where old ones are dropped; below 0 all of it.
        draft: most tokens that are drafted at once; below 0 as many as pay.
        ignored: names in the request that mean nothing here.
    """

    load: LoadOptions
    sampling: SamplingParameters
    num_predict: int = -1
    stop: tuple[str, ...] = ()
    num_keep: int = 4
    draft: int = -1
    ignored: tuple[str, ...] = ()

    def most_tokens(self, num_ctx: int) -> int:
        """How many tokens an answer may have in a context of `num_ctx`."""
        most = _ANSWERS * num_ctx
        return self.num_predict if 0 <= self.num_predict <= most else most


def read_options(given: Values, defaults: Values | None = None, limits: Limits = DEFAULT_LIMITS) -> Options:
    """The options that a request sets, a model's own where it sets none.

    Null sets nothing, and whole numbers may be written with a fraction, which is cut off: as in Ollama.
    What a model's own parameters say wrongly or out of range is an error too, for it would not be obeyed.

    Args:
        given: `options` of a request.
        defaults: the parameters layer of a model, which may name options of all times and programs.

    Raises:
        InvalidOption: a value of the wrong type or out of its range; the text names the option.
    """
    values = {name: _checked(name, value) for name, value in (defaults or {}).items() if _means(name, value)}
    values |= {name: _checked(name, value) for name, value in given.items() if _means(name, value)}
    stop = tuple(text for text in values.get("stop", ()) if text)
    check_count("stop texts", stop, limits.stops)
    if any(len(text) > limits.stop_length for text in stop):
        raise InvalidOption(f"a stop text is longer than the {limits.stop_length} characters it may have")
    return Options(
        load=_load_options(values),
        sampling=SamplingParameters(**{name: values[name] for name in _SAMPLING if name in values}),
        num_predict=values.get("num_predict", -1),
        stop=stop,
        num_keep=values.get("num_keep", 4),
        draft=values.get("draft_num_predict", -1),
        ignored=tuple(str(name)[:100] for name in given if name not in NAMES and name not in _WITHOUT_EFFECT),
    )


def unknown_option(name: str) -> str:
    """What to say of a name that no option has: those most like it, or all where none is like it."""
    from difflib import get_close_matches  # few need it

    near = get_close_matches(name[:100].lower(), NAMES)
    known = f"did you mean {' or '.join(near)}?" if near else f"the options are {', '.join(NAMES)}"
    return f"unknown option {name[:100]!r}; {known}"


def _means(name: str, value: object) -> bool:
    return name in NAMES and value is not None


def _load_options(values: Values) -> LoadOptions:
    chosen: dict[str, Any] = {
        field: None if values[name] == _CHOOSE.get(name) else values[name]
        for name, field in _LOAD.items()
        if name in values
    }
    return LoadOptions(**chosen)


def _checked(name: str, value: object) -> Any:
    return _READERS[name](name, value) if name in _READERS else _number(name, value)


def _number(name: str, value: object) -> float:
    accepted = RANGE_OF[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "integer" if accepted.integer else "float32"
        raise InvalidOption(f'option "{name}" must be of type {kind}, not {brief(value)}')
    if accepted.integer and isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not accepted.accepts(value):
        raise InvalidOption(f"{name} must be {accepted}, not {brief(value)}")
    return value


def _texts(name: str, value: object) -> Sequence[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise InvalidOption(f'option "{name}" must be of an array of strings, not {brief(value)}')
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidOption(f'option "{name}" must be of type string, not {brief(value)}')
    return value.lower()


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f'option "{name}" must be of type boolean, not {brief(value)}')
    return value


def _shares(name: str, value: object) -> tuple[float, ...]:
    share = Range(0, 1e6, integer=False)
    if not isinstance(value, list | tuple) or not all(map(share.accepts, value)) or len(value) > MAX_DEVICES:
        raise InvalidOption(f'option "{name}" must be an array of numbers of at least 0, not {brief(value)}')
    return tuple(float(number) for number in value)


_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "stop": _texts,
    "kv_cache_type": _text,
    "transcode": _truth,
    "tensor_split": _shares,
}
# How JSON Schema describes what these read.
_SCHEMAS: Mapping[Callable[[str, object], Any], Mapping[str, Any]] = {
    _texts: {"type": "array", "items": {"type": "string"}},
    _text: {"type": "string"},
    _truth: {"type": "boolean"},
    _shares: {"type": "array", "items": {"type": "number", "minimum": 0}},
}


def described_options() -> dict[str, Any]:
    """The JSON schema of the options of a request."""
    numbers = {name: described_range(accepted) for name, accepted in RANGE_OF.items()}
    others = {name: _SCHEMAS[read] for name, read in _READERS.items()}
    properties = {
        name: {"anyOf": [schema, {"type": "null"}]} for name, schema in sorted((numbers | others).items())
    }
    return {"type": "object", "properties": properties}


def described_range(accepted: Range) -> dict[str, Any]:
    """The JSON schema of an option that is a number."""
    return {"type": "number", "minimum": accepted.low, "maximum": accepted.high}
