"""Variables that a caller sets for a model's chat template (`chat_template_kwargs` of OpenAI-like APIs)."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from puna.errors import InvalidOption

Scalar: TypeAlias = str | int | float | bool | None

MAX_VARIABLES = 32
MAX_TEXT = 4096
"""Characters of one value."""

RESERVED = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "chat_template", "tokenize", "template"),
        *("add_generation_prompt", "continue_final_message", "return_dict", "return_tensors"),
        *("return_assistant_tokens_mask", "padding", "truncation", "max_length", "tokenizer_kwargs"),
        *("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"),
        *("raise_exception", "strftime_now", "namespace", "dict", "range", "loop", "self", "caller"),
        *("suffix", "varargs", "kwargs"),
    }
)
"""What a request has other fields for, what the model sets, and what templates call."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)


def check_variables(given: Mapping[str, Any], mentioned: Collection[str]) -> dict[str, Scalar]:
    """The variables, if a caller may set them.

    Args:
        given: by name.
        mentioned: the names that the template reads.

    Raises:
        InvalidOption: one is reserved, unknown to the template or no single value, or they are too many.
    """
    if len(given) > MAX_VARIABLES:
        raise InvalidOption(
            f"chat_template_kwargs has {len(given)} names; at most {MAX_VARIABLES} are allowed"
        )
    for name, value in given.items():
        _check_name(name, mentioned)
        _check_value(name, value)
    return dict(given)


def _check_name(name: object, mentioned: Collection[str]) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidOption(f"chat_template_kwargs: {str(name)[:100]!r} is no name of a variable")
    if name in RESERVED:
        raise InvalidOption(f"chat_template_kwargs: {name!r} cannot be set by a request")
    if name not in mentioned:
        raise InvalidOption(f"chat_template_kwargs: the model's chat template has no variable {name!r}")


def _check_value(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str | int | float):
        raise InvalidOption(f"chat_template_kwargs: {name!r} must be a text, a number, true, false or null")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise InvalidOption(f"chat_template_kwargs: {name!r} is longer than {MAX_TEXT} characters")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidOption(f"chat_template_kwargs: {name!r} is no finite number")
