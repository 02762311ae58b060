"""`puna ps [PREFIX]`: the models in a server's memory."""

import time
from collections.abc import Sequence

import click

from puna.cli.place import moment_seconds
from puna.cli.reach import required_server
from puna.cli.table import table_lines
from puna.client.replies import RunningModel
from puna.humanize import bytes_text, moment_text

_COLUMNS = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL")


@click.command("ps", short_help="List models in memory")
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(prefix: str, as_json: bool) -> None:
    """List the models in the server's memory; with PREFIX, those whose names begin so."""
    with required_server() as client:
        models = [model for model in client.ps().models if model.name.startswith(prefix)]
    if as_json:
        click.echo(_document(models))
    else:
        now = time.time()
        click.echo("\n".join(table_lines(_COLUMNS, [row(model, now) for model in models])))


def row(model: RunningModel, now: float) -> tuple[str, ...]:
    """The table's row for a model; `now` in seconds since 1970."""
    return (
        model.name,
        model.digest[:12],
        bytes_text(model.size),
        processor_text(model.size, model.size_vram),
        str(model.context_length),
        until_text(moment_seconds(model.expires_at), now),
    )


def processor_text(size: int, on_gpu: int) -> str:
    """How a model's bytes are shared between CPU and GPU: `100% CPU`, `48%/52% CPU/GPU`."""
    if on_gpu == 0:
        return "100% CPU"
    if on_gpu == size:
        return "100% GPU"
    if on_gpu > size or size == 0:
        return "Unknown"
    on_cpu = round((size - on_gpu) / size * 100)
    return f"{on_cpu}%/{100 - on_cpu}% CPU/GPU"


def until_text(moment: float, now: float) -> str:
    """When a model will be unloaded: `4 minutes from now`, `Forever`, `Stopping...`."""
    return moment_text(moment, now) if moment > now else "Stopping..."


def _document(models: Sequence[RunningModel]) -> str:
    import json

    import msgspec

    return json.dumps({"models": msgspec.to_builtins(models)}, indent=2)
