"""What there is to say of a model, as a page; from the document of `POST /api/show`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from puna.humanize import count_text

_LINES_OF_TEXT = 2
_VALUE_WIDTH = 100
_NAME_WIDTH = 31

Rows = list[tuple[str, ...]]


def page_lines(document: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    """The page's lines.

    Args:
        verbose: with metadata and tensors.
    """
    parameters = [
        (line[:_NAME_WIDTH].rstrip(), line[_NAME_WIDTH:])
        for line in str(document.get("parameters", "")).splitlines()
    ]
    capabilities = [(str(name),) for name in document.get("capabilities") or ()]
    blocks: list[tuple[str, Rows]] = [
        ("Model", _facts(document)),
        ("Capabilities", [*capabilities]),
        ("Projector", _projector(document.get("projector_info") or {})),
        ("Parameters", [*parameters]),
    ]
    if verbose:
        blocks.append(("Metadata", [(key, _short(value)) for key, value in document["model_info"].items()]))
        blocks.append(("Tensors", [_tensor(tensor) for tensor in document.get("tensors") or ()]))
    blocks.append(("System", _first_lines(str(document.get("system", "")))))
    blocks.append(("License", _first_lines(str(document.get("license", "")))))
    for title, rows in blocks:
        if rows:
            yield f"  {title}"
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                yield f"    {'    '.join(cells)}".rstrip()
            yield ""


def _facts(document: Mapping[str, Any]) -> Rows:
    details, information = document.get("details") or {}, document.get("model_info") or {}
    family = details.get("family", "")
    rows = {"architecture": family, "parameters": details.get("parameter_size", "")}
    if count := information.get("general.parameter_count"):
        rows["parameters"] = count_text(int(count))
    architecture = information.get("general.architecture", family)
    for name in ("context length", "embedding length"):
        value = information.get(f"{architecture}.{name.replace(' ', '_')}")
        rows[name] = str(value) if value else ""
    rows["quantization"] = details.get("quantization_level", "")
    template = document.get("template_family", "")
    rows["template"] = f"{template} (by its tokens)" if template else ""
    rows["requires"] = document.get("requires", "")
    return [(name, str(value)) for name, value in rows.items() if value]


def _projector(information: Mapping[str, Any]) -> Rows:
    if not information:
        return []
    architecture = str(information.get("general.architecture", ""))
    rows = {"architecture": architecture}
    if count := information.get("general.parameter_count"):
        rows["parameters"] = count_text(int(count))
    for name in ("embedding length", "projection dim"):
        key = f"{architecture}.vision.{name.replace(' ', '_')}"
        if key in information:
            rows["dimensions" if name == "projection dim" else name] = str(information[key])
    return list(rows.items())


def _first_lines(text: str) -> Rows:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    more = [("...",)] if len(lines) > _LINES_OF_TEXT else []
    return [*((line,) for line in lines[:_LINES_OF_TEXT]), *more]


def _tensor(tensor: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(tensor["name"]), str(tensor.get("type", "")), str(tensor.get("shape", []))


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_WIDTH else f"{text[:_VALUE_WIDTH]}…"
