"""`puna create`: a model from a Modelfile."""

import os
from pathlib import Path

import click

from puna.cli.models import user_library
from puna.cli.progress import show_progress
from puna.errors import ModelfileError, ModelNotFound
from puna.store.name import parse_name

_DEFAULT_FILE = "Modelfile"


@click.command("create", short_help="Make a model from a Modelfile")
@click.argument("model")
@click.option("-f", "--file", "path", metavar="FILE", help="The Modelfile.  [default: ./Modelfile]")
@click.option("-q", "--quantize", metavar="TYPE", default="", help="The type the weights are to have.")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses for a pull.")
@click.option("--json", "as_json", is_flag=True, help="Report progress as lines of JSON.")
def command(model: str, path: str | None, quantize: str, insecure: bool, as_json: bool) -> None:
    """Make MODEL as a Modelfile says.

    Without a Modelfile, it is made from the GGUF files in the current folder. A file that is on the store's
    disk is linked, not copied.
    """
    from puna.create.local import local_request
    from puna.modelfile.parser import parse, read
    from puna.services.creation import create

    name = parse_name(model)
    file = Path(os.path.expanduser(path or _DEFAULT_FILE))
    if path is not None and not file.exists():
        raise ModelNotFound(f"specified Modelfile wasn't found: {path}")
    library = user_library()
    try:
        modelfile = read(file) if file.exists() else parse("FROM .")
        with (
            show_progress(as_json) as report,
            local_request(modelfile, name, file.parent, library, report, quantize=quantize) as request,
        ):
            create(request, library, report, insecure=insecure)
    except ModelfileError as error:
        error.args = (f"{file}: {error}",)
        raise
