"""What a tokenizer needs of a model file's metadata."""

from array import array
from typing import Any, Protocol


class TokenizerMetadata(Protocol):
    """The part of a GGUF file's metadata that tokenizers read.

    A key that is missing raises GGUFError unless a default is given; so does a value of the wrong type.
    """

    @property
    def architecture(self) -> str: ...

    def __contains__(self, key: object, /) -> bool: ...

    def string(self, key: str, default: str, /) -> str: ...

    def bool(self, key: str, default: bool, /) -> bool: ...

    def uint(self, key: str, /) -> int: ...

    def strings_bytes(self, key: str, /) -> list[bytes]: ...

    def array(self, key: str, /) -> "array[Any]": ...
