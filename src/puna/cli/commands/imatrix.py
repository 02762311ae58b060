"""`puna imatrix`: which columns of a model's matrices matter, found out by sending a text through it."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puna.cli.models import find_model
from puna.cli.progress import ProgressDisplay
from puna.engine.options import LoadOptions
from puna.errors import FormatError, InvalidOption
from puna.regular import regular_only

if TYPE_CHECKING:
    from puna.engine.activations import Activations
    from puna.engine.load import LoadedModel
    from puna.quantize.importance import Importance, Sums
    from puna.tokenizer import Tokenizer

MOST_TEXT = 256 << 20
"""The longest text, in bytes."""


@click.command("imatrix", short_help="Find out which weights matter, for quantizing")
@click.argument("model")
@click.option("-f", "--file", "text", metavar="TEXT", required=True, help="The text to send through it.")
@click.option(
    "-o", "--output", metavar="FILE", default="imatrix.gguf", show_default=True, help="What to write."
)
@click.option(
    "-c", "--ctx-size", type=click.IntRange(8), default=512, show_default=True, help="Tokens of a piece."
)
@click.option("--chunks", type=click.IntRange(1), help="The most pieces.  [default: the whole text]")
@click.option("-t", "--threads", type=int, help="Threads to compute with.  [default: one per core]")
def command(
    model: str, text: str, output: str, ctx_size: int, chunks: int | None, threads: int | None
) -> None:
    """Send a text through MODEL, a GGUF file or a name, and write an importance matrix.

    `puna create -q TYPE --imatrix FILE` quantizes by it: what meets large numbers is kept more exactly. The
    text should be like what the model will be used for; some hundred thousand tokens are plenty. The file is
    one that llama.cpp's tools read too.
    """
    from puna.engine.load import load_model
    from puna.quantize.importance import write_importance

    content = _read(Path(text))
    path = find_model(model).path
    options = LoadOptions(num_ctx=ctx_size, num_parallel=1, num_threads=threads)
    with load_model(path, options) as loaded, loaded.interrupted_by_signals():
        size = loaded.num_ctx
        pieces = list(_pieces(loaded.tokenizer, content, size))[:chunks]
        if not pieces:
            raise InvalidOption(f"{text}: is shorter than one piece of {size} tokens; see --ctx-size")
        importance = _importance(loaded, pieces, Path(text).name)
    write_importance(Path(output), importance)
    click.echo(f"{output}: {len(importance.sums)} matrices, {len(pieces)} pieces of {size} tokens")


def _read(path: Path) -> str:
    refusal = FormatError(f"{path}: is not a regular file")
    try:
        with open(path, "rb", opener=regular_only(refusal)) as file:
            content = file.read(MOST_TEXT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FormatError(f"{path}: cannot be read: {reason}") from error
    if len(content) > MOST_TEXT:
        raise FormatError(f"{path}: is longer than {MOST_TEXT >> 20} MiB; give a shorter text")
    return content.decode("utf-8", "replace")


def _pieces(tokenizer: "Tokenizer", text: str, size: int) -> Iterator[list[int]]:
    """The text's tokens in pieces of `size`, each begun as a text is; what is left over is left out."""
    tokens = tokenizer.encode(text)
    for start in range(0, len(tokens) - size + 1, size):
        piece = tokens[start : start + size]
        if tokenizer.add_bos and tokenizer.bos_id is not None:
            piece[0] = tokenizer.bos_id
        yield piece


def _importance(model: "LoadedModel", pieces: Sequence[Sequence[int]], name: str) -> "Importance":
    from puna.quantize.importance import Importance

    with model.activations() as activations:
        with ProgressDisplay() as display:
            for number, piece in enumerate(pieces):
                display.fraction("reading the text", number / len(pieces))
                activations.add(piece)
        return Importance(dict(_sums(activations)), (name,), len(pieces), model.num_ctx)


def _sums(activations: "Activations") -> Iterator[tuple[str, "Sums"]]:
    from puna.quantize.importance import Sums

    for name, seen in activations.seen.items():
        yield name, Sums(array("f", seen.squares.ravel()), array("f", seen.counts))
