"""`puna config`: every setting, and where it comes from."""

import math

import click

from puna import settings
from puna.cli import terminal
from puna.cli.table import table_lines
from puna.humanize import duration_text
from puna.settings import Setting
from puna.variables import Endpoint

_COLUMNS = ("NAME", "VALUE", "ORIGIN")


@click.command("config", short_help="Show all settings, and where each comes from")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Show all settings and where each comes from: a default, the configuration file, or the environment.

    API keys are not shown, only how many there are.
    """
    described = settings.described_settings()
    if as_json:
        import json

        rows = [
            {"name": each.name, "value": _text(each), "origin": each.origin} for each in described.settings
        ]
        click.echo(json.dumps({"settings": rows, "warnings": described.warnings}, indent=2))
        return
    cells = [(each.name, _text(each) or "-", each.origin) for each in described.settings]
    click.echo("\n".join(line.rstrip() for line in table_lines(_COLUMNS, cells)))
    for warning in described.warnings:
        terminal.complain("Warning", warning)


def _text(setting: Setting) -> str:
    """The value as a person reads it; empty where there is none."""
    value = setting.value
    if setting.secret:
        return f"{len(value)} set" if value else ""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return "forever" if math.isinf(value) else duration_text(value)
        case tuple():
            return ",".join(value)
        case Endpoint():
            return value.url
        case _:
            return str(value)
