"""What the bodies of several routes have in common, and what of a body has no effect."""

import re
from collections.abc import Mapping, Sequence
from reprlib import repr as brief
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from puna.chat.conversation import Think
from puna.errors import InvalidOption
from puna.sampling.parameters import MAX_BIAS, MAX_TOP_LOGPROBS
from puna.scheduler.keep_alive import parse_keep_alive
from puna.server import fields
from puna.server.caller import caller_of
from puna.server.errors import Refused
from puna.server.http import BodyLimits, convert_json, decode_json, read_body, read_query
from puna.server.middleware.requests import note
from puna.server.names import name_to_run
from puna.server.sse import sse_event
from puna.services.adapters import NamedAdapter
from puna.services.asked import AskedAnswer
from puna.services.choices import MAX_CHOICES

T = TypeVar("T", bound=msgspec.Struct)
AnyAnswer = TypeVar("AnyAnswer", bound=AskedAnswer)

STRICT = "puna-strict"
END = "[DONE]"
"""The data of the last event of a stream of chunks."""
DONE = sse_event(END.encode())

_MOST_BIASES = 1024
_LARGEST_BIAS = 100
_TOKEN = re.compile(r"[0-9]{1,10}", re.ASCII)
# What these ask for is done anyway.
_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "store": (False,),
    "background": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "include": ([],),
    "logprobs": (False,),
}
_EFFORTS: Mapping[str, Think] = {
    "": None,
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
    "ultra": "max",
}
# Options by their names in OpenAI's API, where those differ.
_OPTIONS = (
    *("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "num_ctx"),
    *("top_k", "min_p", "typical_p", "repeat_penalty"),
)


class ModelBody(msgspec.Struct, kw_only=True):
    """What every body has; the last two are extensions."""

    model: str = ""
    options: fields.ModelOptions = {}
    keep_alive: fields.KeepAlive = None


class SampledBody(ModelBody, kw_only=True):
    """What every request for an answer has. From `num_ctx` on they are extensions."""

    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    num_ctx: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    shift: bool = False
    adapters: list[NamedAdapter] = []


class ReasoningBody(msgspec.Struct, kw_only=True):
    """How hard to think; thoughts are always told."""

    effort: Any = None
    summary: Any = None


class StreamOptions(msgspec.Struct, kw_only=True):
    """What a stream is to have besides the answer."""

    include_usage: bool = False


class ChoicesBody(SampledBody, kw_only=True):
    """What the requests for several choices have."""

    n: int = 1
    max_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] = {}
    stream_options: StreamOptions = msgspec.field(default_factory=StreamOptions)


class StrictQuery(msgspec.Struct):
    """The query of every request with a body."""

    strict: bool = False


async def read_request(request: Request, kind: type[T], limits: BodyLimits) -> tuple[T, list[str]]:
    """The request's body, and the names of its fields that have no effect.

    Raises:
        Refused: as `read_json`; or the client wants no field to be without effect, and one is.
    """
    given = decode_json(await read_body(request, limits), dict[str, Any])
    body = convert_json(given, kind)
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    ignored = [
        name for name, value in given.items() if name.lower() not in known and not _is_neutral(name, value)
    ]
    check_ignored(request, ignored)
    return body, ignored


def _is_neutral(name: str, value: object) -> bool:
    return value is None or value in _NEUTRAL.get(name, ())


def check_ignored(request: Request, names: Sequence[str]) -> None:
    """Raises Refused for fields without effect, if the client wants none: by `?strict=1` or a header."""
    asked = read_query(request, StrictQuery).strict or request.headers.get(STRICT, "").lower() in (
        "1",
        "true",
    )
    if names and asked:
        raise Refused(
            400, f"{names[0][:100]!r} has no effect here, and strict=1 was asked for", param=names[0]
        )


def asked_of(request: Request, body: ModelBody) -> dict[str, Any]:
    """What every request to a model says, for the services. Raises: Refused, InvalidOption."""
    if not body.model.strip():
        raise Refused(400, "model is required", param="model")
    caller = caller_of(request)
    note(request, model=body.model[:100])
    asked = {
        "model": name_to_run(body.model),
        "options": body.options,
        "keep_alive": None if body.keep_alive is None else parse_keep_alive(body.keep_alive),
        "id": caller.id,
        "key": caller.key,
    }
    return {**asked, "adapters": body.adapters} if isinstance(body, SampledBody) else asked


def options_of(
    body: SampledBody, most: int | None, stop: str | list[str] | None = None, *, least: int = 1
) -> dict[str, Any]:
    """The options under Ollama's names; what the request leaves out, it leaves to the model.

    Args:
        most: tokens of the answer; None and -1 for no limit of its own.
        least: what `most` may not be below.

    Raises:
        Refused: `most` is no such number.
    """
    if most is not None and most < least and most != -1:
        text = f"the most tokens of an answer must be at least {least}, not {most}"
        raise Refused(400, text, param="max_tokens")
    named = {name: getattr(body, name, None) for name in _OPTIONS}
    stops = [stop] if isinstance(stop, str) else stop
    given = {**named, "num_predict": most, "stop": stops}
    return {**body.options, **{name: value for name, value in given.items() if value is not None}}


def check_choices(name: str, count: int) -> None:
    """Raises Refused for too many answers, or none."""
    if not 1 <= count <= MAX_CHOICES:
        raise Refused(400, f"{name} must be a whole number from 1 to {MAX_CHOICES}", param=name)


def seeded(asked: AnyAnswer, index: int) -> AnyAnswer:
    """The request for one of several answers: from a seed, each gets its own."""
    seed = asked.options.get("seed")
    if not index or not isinstance(seed, int) or seed < 0:
        return asked
    # Seeds are of 64 bits, the highest one for the sign.
    return msgspec.structs.replace(asked, options={**asked.options, "seed": (seed + index) & (1 << 63) - 1})


def bias_of(given: Mapping[str, float]) -> dict[int, float]:
    """`logit_bias` for the sampler; 100 forces a token, -100 bans it. Raises: Refused."""
    if len(given) > _MOST_BIASES:
        raise Refused(400, f"logit_bias has more than {_MOST_BIASES} tokens", param="logit_bias")
    return {_token(name): _bias(name, value) for name, value in given.items()}


def _token(name: str) -> int:
    if not _TOKEN.fullmatch(name):
        raise Refused(400, f"logit_bias: {name[:100]!r} is no token id", param="logit_bias")
    return int(name)


def _bias(name: str, value: float) -> float:
    if not -_LARGEST_BIAS <= value <= _LARGEST_BIAS:
        raise Refused(
            400,
            f"logit_bias of {name} must be a number from -{_LARGEST_BIAS} to {_LARGEST_BIAS}",
            param="logit_bias",
        )
    return value if abs(value) < _LARGEST_BIAS else (MAX_BIAS if value > 0 else -MAX_BIAS)


def think_of(effort: object, think: object) -> Think:
    """How hard to think: OpenAI's words for it, else Ollama's. Raises: Refused, InvalidOption."""
    if effort is None or effort == "":
        if think is not None and not isinstance(think, bool | str):
            raise InvalidOption(f"think must be true, false or a level, not {brief(think)}")
        return think
    if not isinstance(effort, str) or effort not in _EFFORTS:
        known = ", ".join(f'"{name}"' for name in _EFFORTS if name)
        raise Refused(
            400, f"invalid reasoning value: {brief(effort)} (must be {known})", param="reasoning_effort"
        )
    return _EFFORTS[effort]


def check_top_logprobs(count: int, name: str = "top_logprobs") -> None:
    """Raises Refused where so many alternatives are not told."""
    if not 0 <= count <= MAX_TOP_LOGPROBS:
        raise Refused(400, f"{name} must be a whole number from 0 to {MAX_TOP_LOGPROBS}", param=name)
