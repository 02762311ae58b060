"""`puna doctor`: the compute library in use, and what a better one would give."""

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import click
import msgspec

import puna.ggml
from puna import __version__
from puna.ggml import Candidate, features
from puna.ggml.features import Advice, Features
from puna.humanize import bytes_text
from puna.settings import ggml_path

_REASONS: Final = {
    "path": "PUNA_GGML_PATH names it",
    "puna-ggml": "compiled on this machine from the newest source",
    "ggml-python": "installed, and puna-ggml is not",
    "libggml-python": "prebuilt, and nothing compiled on this machine is installed",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
def command(as_json: bool) -> None:
    """Show the compute library in use and what could be better."""
    found = features.inspect(puna.ggml.load())
    others = [c for c in puna.ggml.candidates(ggml_path()) if str(c.folder) != found.folder]
    advice = features.advice(found)
    if as_json:
        document = msgspec.json.encode(as_plain(found, others, advice))
        click.echo(msgspec.json.format(document, indent=2))
    else:
        click.echo("\n".join(render(found, others, advice)))


def as_plain(found: Features, others: list[Candidate], advice: list[Advice]) -> dict[str, Any]:
    """The JSON document."""
    return {
        "puna": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "ggml": {
            **asdict(found),
            "processor": None if found.processor is None else sorted(found.processor),
            "reason": _REASONS[found.origin],
        },
        "other_libraries": [{"origin": other.origin, "folder": str(other.folder)} for other in others],
        "advice": [asdict(item) for item in advice],
    }


def render(found: Features, others: list[Candidate], advice: list[Advice]) -> Iterator[str]:
    """The lines people read."""
    yield f"Puna {__version__}, Python {platform.python_version()} ({sys.executable}), {platform.platform()}"
    yield ""
    yield f"ggml {found.version} from {found.origin}: {_REASONS[found.origin]}"
    yield f"  folder      {found.folder}"
    for name, compiled in found.backends.items():
        yield f"  {name:<10}  {', '.join(compiled) or 'no features listed'}"
    yield f"  layouts     {', '.join(('plain', *found.buffer_types))}"
    yield f"  RPC         {'yes' if found.rpc else 'no'}"
    if found.processor is not None:
        yield f"  processor   {', '.join(sorted(found.processor)) or 'nothing ggml knows'}"
    yield from (f"  also here   {other.origin}: {other.folder}" for other in others)
    yield ""
    yield "Devices"
    for device in found.devices:
        memory = f"{bytes_text(device.memory_free)} of {bytes_text(device.memory_total)} free"
        yield f"  {device.name}: {device.description or device.kind}, {memory}"
    yield ""
    yield from _advice_lines(advice)


def _advice_lines(advice: list[Advice]) -> Iterator[str]:
    if not advice:
        yield "Nothing better is known for this processor."
        return
    yield "Could be better"
    yield from (f"  - {item.lack}" for item in advice)
    for command_line in dict.fromkeys(item.command for item in advice):
        yield f"In Puna's source folder, with a C++ compiler: {command_line}"
