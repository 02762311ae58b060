"""Tables as Ollama prints them: no lines, every cell padded to its column and four blanks more."""

from collections.abc import Iterator, Sequence

_GAP = "    "


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The header, which ends in a single blank, and the rows."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))

    yield line(header) + " "
    for row in rows:
        yield line(row) + _GAP
