"""`puna inspect FILE.gguf`: what a model file holds."""

from collections.abc import Iterable, Iterator
from typing import Final

import click
import msgspec

from puna.engine.options import DEFAULT_CACHE_TYPE, KV_CACHE_TYPES
from puna.gguf.inspect import Inspection, MetadataItem, as_plain, inspect_file
from puna.gguf.memory import MemoryNeed
from puna.gguf.reader import GGUFFile
from puna.gguf.types import GGMLType
from puna.humanize import bytes_text, count_text

_VALUE_WIDTH: Final = 76


@click.command("inspect")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
@click.option("--num-ctx", type=int, help="Tell the memory for a context of this many tokens.")
@click.option(
    "--kv-cache-type",
    type=click.Choice(KV_CACHE_TYPES, case_sensitive=False),
    default=DEFAULT_CACHE_TYPE,
    show_default=True,
    help="Of the cache.",
)
def command(file: str, as_json: bool, num_ctx: int | None, kv_cache_type: str) -> None:
    """Show the metadata and tensors of a GGUF file and the memory it needs."""
    with GGUFFile.open(file) as opened:
        inspection = inspect_file(opened, num_ctx, GGMLType[kv_cache_type.upper()])
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(as_plain(inspection)), indent=2))
    else:
        click.echo("\n".join(render(inspection)))


def render(inspection: Inspection) -> Iterator[str]:
    """The lines people read."""
    yield from _columns(_facts(inspection))
    yield from ("", f"Metadata ({len(inspection.metadata)})")
    yield from _columns((f"  {item.key}", item.type, value_text(item)) for item in inspection.metadata)
    yield from ("", f"Tensors ({len(inspection.tensors)})")
    yield from _columns(
        (f"  {t.name}", t.type.name, " × ".join(map(str, t.shape)) or "scalar", bytes_text(t.nbytes))
        for t in inspection.tensors
    )
    yield from ("", "Sizes by type")
    yield from _columns(
        (
            f"  {t.type.name}",
            f"{t.tensors} tensor{'s' * (t.tensors != 1)}",
            count_text(t.elements),
            _share(t.nbytes, inspection),
        )
        for t in inspection.types
    )
    yield ""
    if inspection.memory is not None:
        yield from _memory_lines(inspection.memory)
    else:
        yield f"Memory needed: not known ({inspection.memory_unknown})"


def value_text(item: MetadataItem) -> str:
    """A value on one line: long text is cut, control characters are shown, an array ends in an ellipsis."""
    if item.length is None:
        return _one_line(item.value)
    first = ", ".join(repr(v) if isinstance(v, str) else _one_line(v) for v in item.value)
    if len(first) > _VALUE_WIDTH or item.length > len(item.value):
        return f"[{first[:_VALUE_WIDTH].rstrip(', ')}, …]"
    return f"[{first}]"


def _facts(inspection: Inspection) -> Iterator[tuple[str, str]]:
    yield "File", _one_line(inspection.path)
    yield "Size", f"{bytes_text(inspection.size)} ({inspection.size} bytes)"
    yield "Format", f"GGUF {inspection.version}, {inspection.byte_order} endian"
    yield "Data", f"from byte {inspection.data_offset}, aligned to {inspection.alignment}"
    yield "Architecture", _one_line(inspection.architecture or "not named")
    if inspection.name:
        yield "Name", _one_line(inspection.name)
    if inspection.file_type:
        yield "Quantisation", inspection.file_type
    yield "Parameters", f"{count_text(inspection.parameters)} ({inspection.parameters})"


def _memory_lines(memory: MemoryNeed) -> Iterator[str]:
    yield f"Memory needed for a context of {memory.num_ctx} tokens"
    yield from _columns(
        [
            ("  weights", bytes_text(memory.weights)),
            (f"  KV cache ({_name(memory.kv_type)})", bytes_text(memory.kv_cache)),
            ("  compute (estimate)", bytes_text(memory.compute)),
            ("  together", bytes_text(memory.total)),
        ]
    )


def _name(type_: GGMLType) -> str:
    return type_.name.lower()


def _share(nbytes: int, inspection: Inspection) -> str:
    whole = sum(total.nbytes for total in inspection.types)
    return f"{bytes_text(nbytes)} ({nbytes / whole:.1%})" if whole else bytes_text(nbytes)


def _one_line(value: object) -> str:
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: _VALUE_WIDTH + 1])
    if len(shown) <= _VALUE_WIDTH:
        return shown
    return f"{shown[:_VALUE_WIDTH].rstrip()} … ({len(text)} characters)"


def _columns(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows as lines, every column but the last as wide as its widest cell."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
