"""The metadata of a model file as a lazy mapping with typed accessors."""

import struct
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

from puna.errors import GGUFError
from puna.gguf.cursor import ByteOrder
from puna.gguf.types import FLOAT_TYPES, INTEGER_TYPES, SCALAR_CODES, ValueType

Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]
D = TypeVar("D")
# Within the class these two names are accessors.
Bool = bool
Float = float

_NATIVE: ByteOrder = "<" if sys.byteorder == "little" else ">"
_NUMBER_TYPES = INTEGER_TYPES | FLOAT_TYPES
_STRING = frozenset({ValueType.STRING})
_BOOL = frozenset({ValueType.BOOL})


class _Required:
    """Stands for the default of a key that must be there."""


_REQUIRED = _Required()


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the value of one key lies.

    Attributes:
        type: the value's type.
        element: the type of an array's elements, else the value's own type.
        count: elements of an array; 1 for anything else.
        start: offset in the file of the value, after the type and count of an array.
        end: offset of the first byte after it.
    """

    type: ValueType
    element: ValueType
    count: int
    start: int
    end: int


class Metadata(Mapping[str, Value]):
    """Keys and values of a model file.

    As a mapping it is keyed by the full names in the file. The typed accessors (`string`, `uint`, `array` …)
    also take the short name of a key of the file's own architecture: a name that begins neither with
    "general." nor with "tokenizer." nor with "<architecture>." gets "<architecture>." put before it.

    Text is decoded from UTF-8 with U+FFFD for what is not; `strings_bytes` gives the bytes themselves.
    """

    def __init__(self, source: str, head: bytes, byte_order: ByteOrder, entries: Mapping[str, Entry]) -> None:
        """Take the values of `entries` from `head`, the front of the file that `source` names."""
        self.source = source
        self.byte_order: ByteOrder = byte_order
        self._head = head
        self._entries = entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> Bool:
        return key in self._entries

    def entry(self, key: str) -> Entry:
        """Type and place of the value of the full name `key`; KeyError if it is not there."""
        return self._entries[key]

    def raw(self, key: str) -> bytes:
        """The value of the full name `key` as it is stored, in `byte_order`; KeyError if it is not there."""
        entry = self._entries[key]
        return self._head[entry.start : entry.end]

    def __getitem__(self, key: str) -> Value:
        entry = self._entries[key]
        values = self.first(key, entry.count)
        return cast(Value, values if entry.type == ValueType.ARRAY else values[0])

    def full_key(self, key: str) -> str:
        """The full name of `key`, by the rule above."""
        if key.startswith(("general.", "tokenizer.")):
            return key
        prefix = self.architecture + "."
        return key if key.startswith(prefix) else prefix + key

    @property
    def architecture(self) -> str:
        """The value of `general.architecture`.

        Raises:
            GGUFError: it is missing, not a string, or not a plain name of at most 64 characters.
        """
        name = self._get("general.architecture", _STRING, "a string", _REQUIRED)
        if not isinstance(name, str) or not 0 < len(name) <= 64 or not _is_plain(name):
            raise self.error("general.architecture", f"names no architecture: {str(name)[:64]!r}")
        return name

    @overload
    def string(self, key: str) -> str: ...
    @overload
    def string(self, key: str, default: D) -> str | D: ...
    def string(self, key: str, default: object = _REQUIRED) -> object:
        """A text. Raises GGUFError when the key is missing without default or holds something else."""
        return self._get(self.full_key(key), _STRING, "a string", default)

    @overload
    def bool(self, key: str) -> Bool: ...
    @overload
    def bool(self, key: str, default: D) -> Bool | D: ...
    def bool(self, key: str, default: object = _REQUIRED) -> object:
        """A truth value. Raises GGUFError when the key is missing without default or holds something else."""
        return self._get(self.full_key(key), _BOOL, "a bool", default)

    @overload
    def uint(self, key: str) -> int: ...
    @overload
    def uint(self, key: str, default: D) -> int | D: ...
    def uint(self, key: str, default: object = _REQUIRED) -> object:
        """A whole number ≥ 0 of any width.

        Raises:
            GGUFError: the key is missing without default, holds something else, or is negative.
        """
        full = self.full_key(key)
        value = self._get(full, INTEGER_TYPES, "an unsigned integer", default)
        if full in self and isinstance(value, int) and value < 0:
            raise self.error(full, f"must be an unsigned integer, but is {value}")
        return value

    @overload
    def float(self, key: str) -> Float: ...
    @overload
    def float(self, key: str, default: D) -> Float | D: ...
    def float(self, key: str, default: object = _REQUIRED) -> object:
        """A number; one that is stored as an integer is converted.

        Raises:
            GGUFError: the key is missing without default or holds something else.
        """
        value = self._get(self.full_key(key), _NUMBER_TYPES, "a number", default)
        return value if value is default else _as_float(value)

    @overload
    def strings(self, key: str) -> list[str]: ...
    @overload
    def strings(self, key: str, default: D) -> list[str] | D: ...
    def strings(self, key: str, default: object = _REQUIRED) -> object:
        """An array of texts. Raises GGUFError when missing without default or holding something else."""
        return self._get_array(self.full_key(key), _STRING, "an array of strings", default)

    @overload
    def ints(self, key: str) -> list[int]: ...
    @overload
    def ints(self, key: str, default: D) -> list[int] | D: ...
    def ints(self, key: str, default: object = _REQUIRED) -> object:
        """An array of integers. Raises GGUFError when missing without default or holding something else."""
        return self._get_array(self.full_key(key), INTEGER_TYPES, "an array of integers", default)

    @overload
    def bools(self, key: str) -> list[Bool]: ...
    @overload
    def bools(self, key: str, default: D) -> list[Bool] | D: ...
    def bools(self, key: str, default: object = _REQUIRED) -> object:
        """An array of bools. Raises GGUFError when missing without default or holding something else."""
        return self._get_array(self.full_key(key), _BOOL, "an array of bools", default)

    @overload
    def floats(self, key: str) -> list[Float]: ...
    @overload
    def floats(self, key: str, default: D) -> list[Float] | D: ...
    def floats(self, key: str, default: object = _REQUIRED) -> object:
        """An array of numbers, integers converted.

        Raises:
            GGUFError: the key is missing without default or holds something else.
        """
        value = self._get_array(self.full_key(key), _NUMBER_TYPES, "an array of numbers", default)
        return value if value is default else [_as_float(number) for number in cast(list[object], value)]

    @overload
    def per_layer(self, key: str, count: int) -> list[int]: ...
    @overload
    def per_layer(self, key: str, count: int, default: D) -> list[int] | D: ...
    def per_layer(self, key: str, count: int, default: object = _REQUIRED) -> object:
        """Whole numbers ≥ 0 of `count` layers, from an array or from one number that holds for all.

        Raises:
            GGUFError: the key is missing without default, holds something else, or too few elements.
        """
        full = self.full_key(key)
        if full not in self:
            return self._get(full, INTEGER_TYPES, "an integer", default)
        if not self.is_array(full):
            return [self.uint(full)] * count
        values = self.ints(full)
        if len(values) < count:
            raise self.error(full, f"must have one element for each of {count} layers, but has {len(values)}")
        if min(values) < 0:
            raise self.error(full, f"must hold unsigned integers, but holds {min(values)}")
        return values[:count]

    def first(self, key: str, count: int) -> list[Any]:
        """The first `count` elements of the value of the full name `key`; the rest is not decoded."""
        entry = self._entries[key]
        count = min(count, entry.count)
        if entry.element == ValueType.STRING:
            texts = split_strings(self.raw(key), count, self.byte_order)
            return [text.decode("utf-8", "replace") for text in texts]
        layout = f"{self.byte_order}{count}{SCALAR_CODES[entry.element]}"
        return list(struct.unpack_from(layout, self._head, entry.start))

    def is_array(self, key: str) -> Bool:
        """Whether the value of the full name `key` is an array; KeyError if it is not there."""
        return self._entries[key].type == ValueType.ARRAY

    def length(self, key: str) -> int:
        """The number of elements of an array, which is not decoded.

        Raises:
            GGUFError: the key is missing or holds something else.
        """
        full = self.full_key(key)
        return self._array_entry(full, frozenset(ValueType), "an array").count

    def strings_bytes(self, key: str) -> list[bytes]:
        """An array of strings as they are stored.

        Raises:
            GGUFError: the key is missing or holds something else.
        """
        full = self.full_key(key)
        entry = self._array_entry(full, _STRING, "an array of strings")
        return split_strings(self.raw(full), entry.count, self.byte_order)

    def array(self, key: str) -> "array[Any]":
        """An array of numbers, of the stored type, in the machine's byte order.

        Raises:
            GGUFError: the key is missing or holds something else.
        """
        full = self.full_key(key)
        entry = self._array_entry(full, _NUMBER_TYPES, "an array of numbers")
        values = array(SCALAR_CODES[entry.element], self.raw(full))
        if self.byte_order != _NATIVE:
            values.byteswap()
        return values

    def _get(self, key: str, types: frozenset[ValueType], expected: str, default: object) -> object:
        """The value of the full name `key`, which must be of one of `types`, or the default."""
        if key not in self:
            if default is _REQUIRED:
                raise GGUFError(f"{self.source}: the key {key!r} is missing")
            return default
        entry = self.entry(key)
        if entry.type not in types:
            raise self.error(key, f"must be {expected}, but is {describe(entry)}")
        return self[key]

    def _get_array(self, key: str, types: frozenset[ValueType], expected: str, default: object) -> object:
        if key not in self and default is not _REQUIRED:
            return default
        self._array_entry(key, types, expected)
        return self[key]

    def _array_entry(self, key: str, types: frozenset[ValueType], expected: str) -> Entry:
        if key not in self:
            raise GGUFError(f"{self.source}: the key {key!r} is missing")
        entry = self.entry(key)
        if entry.type != ValueType.ARRAY or entry.element not in types:
            raise self.error(key, f"must be {expected}, but is {describe(entry)}")
        return entry

    def error(self, key: str, problem: str) -> GGUFError:
        """A GGUFError naming the file, the full name `key`, its offset and what is wrong with it."""
        return GGUFError(f"{self.source}: the key {key!r} at byte {self.entry(key).start} {problem}")


def describe(entry: Entry) -> str:
    """A value's type in words: "a uint32", "an array of 3 int32"."""
    name = entry.element.name.lower()
    if entry.type == ValueType.ARRAY:
        return f"an array of {entry.count} {name}"
    return f"an {name}" if name.startswith("i") else f"a {name}"


def split_strings(raw: bytes, count: int, byte_order: ByteOrder) -> list[bytes]:
    """The `count` strings of `raw`, each stored as a 64-bit length and its bytes."""
    read_length = struct.Struct(byte_order + "Q").unpack_from
    texts = []
    position = 0
    for _ in range(count):
        start = position + 8
        position = start + read_length(raw, position)[0]
        texts.append(raw[start:position])
    return texts


def _as_float(value: object) -> float:
    return float(cast(float, value))


def _is_plain(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
