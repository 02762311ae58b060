"""What an answer is kept to: OpenAI's `response_format`, and more kinds in its manner."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar
from puna.server.errors import Refused
from puna.services.asked import Format

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Described:
    """A format as a request has it, under `param`."""

    values: Mapping[str, Any]
    param: str

    def get(self, name: str, kind: type[T]) -> T:
        """One of its values. Raises: Refused, where it is missing or of another type."""
        value = self.values.get(name)
        if not isinstance(value, kind):
            raise Refused(400, f"{self.param}: {name!r} is missing or of the wrong type", param=self.param)
        return value


def read_format(value: object, param: str = "response_format") -> Format:
    """The format for the services.

    Args:
        value: as /v1/chat/completions has it, or as /v1/responses: with what belongs to a schema beside the
            type.
        param: the field that it is in.

    Raises:
        Refused: it is none.
        InvalidOption: its schema or grammar is refused.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise Refused(400, f'{param} must be an object with a "type"', param=param)
    described = _Described(value, param)
    kind = described.get("type", str)
    if kind not in _READERS:
        known = ", ".join(_READERS)
        raise Refused(400, f"{param}: unknown type {kind[:60]!r}; known are {known}", param=param)
    return _READERS[kind](described)


def _schema(described: _Described) -> Format:
    if "json_schema" in described.values:
        described = _Described(described.get("json_schema", dict), described.param)
    return Grammar.json_schema(described.get("schema", dict))


def _grammar(described: _Described) -> Format:
    try:
        return Grammar.from_document(described.values)
    except InvalidOption as error:
        raise Refused(400, f"{described.param}: {error}", param=described.param) from error


_READERS: Mapping[str, Callable[[_Described], Format]] = {
    "text": lambda described: None,
    "json_object": lambda described: Grammar.any_object(),
    "json_schema": _schema,
    "regex": _grammar,
    "grammar": _grammar,
    "choice": _grammar,
}
