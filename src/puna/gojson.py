"""JSON as Go's `encoding/json` writes it, byte for byte: prompts and stored documents depend on it.

Source: the documentation of `encoding/json` (Marshal, HTMLEscape). Objects made from maps have sorted keys,
those made from structs keep the order of their fields.
"""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_SPECIAL = re.compile("[<>&\u2028\u2029]")
_EXPONENT = re.compile(r"e([+-])0?(\d)$")


def encode(value: Any, *, sort_keys: bool = True) -> str:
    """The compact JSON text of `value`: dicts, lists, tuples, strings, numbers, booleans, None.

    Args:
        value: what to write. NaN and infinities have no JSON form.
        sort_keys: write objects as Go writes its maps; False keeps their order, as Go does with structs.

    Raises:
        ValueError: a number that JSON cannot hold.
        TypeError: a value of another type, or a key that is no string.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int():
            return str(value)
        case float():
            return _number(value)
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise TypeError("a JSON object has a key that is no string")
            items = sorted(value.items()) if sort_keys else value.items()
            return "{" + ",".join(f"{_string(k)}:{encode(v, sort_keys=sort_keys)}" for k, v in items) + "}"
        case list() | tuple():
            return "[" + ",".join(encode(item, sort_keys=sort_keys) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def document(value: Any, *, sort_keys: bool = True) -> bytes:
    """`value` as Go's `json.Encoder` writes a whole document: UTF-8, with a newline at the end."""
    return encode(value, sort_keys=sort_keys).encode() + b"\n"


def _string(text: str) -> str:
    # Unpaired surrogates cannot be UTF-8; Go writes the replacement character for them.
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], json.dumps(clean, ensure_ascii=False))


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no JSON form")
    magnitude = abs(value)
    if magnitude != 0 and (magnitude < 1e-6 or magnitude >= 1e21):
        # Go leaves out the zero of a one-digit negative exponent, as ES6 does.
        return _EXPONENT.sub(r"e\1\2", repr(value))
    return format(Decimal(repr(value)), "f").removesuffix(".0")
