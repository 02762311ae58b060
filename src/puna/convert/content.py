"""What is asked of the data of a tensor."""

from collections.abc import Iterator
from typing import Protocol


class Content(Protocol):
    """The data of a tensor.

    Attributes:
        name: in the files it comes from.
        dtype: of its elements: a key of `puna.convert.safetensors.SIZES`, or MXFP4 for blocks of ggml's.
        shape: slowest axis first.
        file: what to call the file.
        nbytes: of its data.
    """

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def file(self) -> str: ...

    @property
    def nbytes(self) -> int: ...

    def chunks(self) -> Iterator[bytes]:
        """In pieces of whole elements. Raises: FormatError when a file cannot be read."""


class Source(Content, Protocol):
    """Data whose rows can be read in any order.

    A row is what lies along the last axis; rows are counted through all other axes.
    """

    def rows(self, begin: int, end: int) -> Iterator[bytes]:
        """Those from `begin` up to `end`. Raises: FormatError when a file cannot be read."""
