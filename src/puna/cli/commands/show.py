"""`puna show`: what there is to say of a model."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from puna.cli import terminal
from puna.cli.modelpage import page_lines
from puna.cli.models import find_model
from puna.cli.place import managing_place
from puna.cli.reach import Where, where_options
from puna.errors import InvalidOption


@click.command("show", short_help="Show what there is to say of a model")
@click.argument("model")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--license", "part", flag_value="license", help="Show the licences.")
@click.option("--modelfile", "part", flag_value="modelfile", help="Show a Modelfile that makes it again.")
@click.option("--parameters", "part", flag_value="parameters", help="Show the parameters.")
@click.option("--system", "part", flag_value="system", help="Show the system message.")
@click.option("--template", "part", flag_value="template", help="Show the template of its prompts.")
@click.option(
    "--rendered", "part", flag_value="rendered", help="Show the prompt that a conversation becomes."
)
@click.option("-v", "--verbose", is_flag=True, help="Show metadata and tensors too.")
@click.option("--json", "as_json", is_flag=True, help="Show everything as JSON.")
@where_options
def command(
    model: str, file: Path | None, part: str | None, verbose: bool, as_json: bool, where: Where
) -> None:
    """Show what there is to say of MODEL.

    With --rendered it may be a GGUF file or pypi://package[:version] too, and FILE a conversation in JSON:
    {"messages": [...], "tools": [...], "think": true}; without FILE a short one is taken.
    """
    if part and as_json:
        raise InvalidOption(f"--{part} and --json exclude each other")
    if file and part != "rendered":
        raise InvalidOption(f"{file}: a FILE goes with --rendered only")
    if part == "rendered":
        _show_rendered(model, file)
        return
    with managing_place(where) as place:
        document = place.show(model, verbose=verbose)
    terminal.show(_text(document, part, verbose=verbose, as_json=as_json) + "\n")


def _text(document: Mapping[str, Any], part: str | None, *, verbose: bool, as_json: bool) -> str:
    if as_json:
        return json.dumps(document, indent=2, ensure_ascii=False)
    if part:
        return str(document.get(part, "")).removesuffix("\n")
    return "\n".join(page_lines(document, verbose=verbose))


def _show_rendered(model: str, file: Path | None) -> None:
    from puna.services.rendering import EXAMPLE, prompt_text, read_talk

    talk = read_talk(file) if file else EXAMPLE
    found = find_model(model)
    text = prompt_text(found.path, found.model, talk)
    # Exactly the prompt, but that a terminal's next line begins at its left.
    at_end = text.endswith("\n") or not terminal.is_terminal(sys.stdout)
    terminal.show(text if at_end else f"{text}\n")
