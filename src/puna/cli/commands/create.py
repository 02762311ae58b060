"""`puna create`: a model from a Modelfile."""

import os
from pathlib import Path

import click

from puna.cli.place import Order, managing_place
from puna.cli.progress import show_progress
from puna.cli.reach import Where, where_options
from puna.errors import ModelfileError, ModelNotFound
from puna.store.name import parse_name

_DEFAULT_FILE = "Modelfile"


@click.command("create", short_help="Make a model from a Modelfile")
@click.argument("model")
@click.option("-f", "--file", "path", metavar="FILE", help="The Modelfile.  [default: ./Modelfile]")
@click.option(
    "-q", "--quantize", metavar="TYPE", default="", help="The type the weights are to have, such as Q4_K_M."
)
@click.option("--imatrix", metavar="FILE", help="An importance matrix to quantize by.")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses for a pull.")
@click.option("--json", "as_json", is_flag=True, help="Report progress as lines of JSON.")
@where_options
def command(
    model: str,
    path: str | None,
    quantize: str,
    imatrix: str | None,
    insecure: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Make MODEL as a Modelfile says.

    Without a Modelfile, it is made from the current folder: of GGUF files, or of safetensors, which are
    converted. A file that is on the store's disk is linked, not copied; a server on another machine is sent
    the files.

    With -q, weights of F32, F16 or BF16 are quantized; `puna imatrix` makes what --imatrix takes.
    """
    from puna.modelfile.parser import parse, read

    file = Path(os.path.expanduser(path or _DEFAULT_FILE))
    if path is not None and not file.exists():
        raise ModelNotFound(f"specified Modelfile wasn't found: {path}")
    matrix = Path(os.path.expanduser(imatrix)) if imatrix else None
    if matrix is not None and not matrix.exists():
        raise ModelNotFound(f"there is no importance matrix {imatrix}")
    parse_name(model)
    try:
        modelfile = read(file) if file.exists() else parse("FROM .")
        with managing_place(where) as place, show_progress(as_json) as report:
            place.create(Order(model, modelfile, file.parent, quantize, insecure, matrix), report)
    except ModelfileError as error:
        error.args = (f"{file}: {error}",)
        raise
