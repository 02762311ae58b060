"""`puna verify`: whether every file in the store is what its name says."""

from collections.abc import Iterator

import click

from puna.cli import terminal
from puna.cli.models import user_library
from puna.cli.progress import ProgressDisplay
from puna.errors import PunaError
from puna.humanize import bytes_text
from puna.progress import Report
from puna.store.library import Library
from puna.store.name import ModelName
from puna.store.verify import Damage, Verification, verify_library


@click.command("verify", short_help="Check the files of all models")
@click.option(
    "--repair", "repair", is_flag=True, help="Fetch damaged models again, delete damaged leftovers."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(repair: bool, as_json: bool) -> int:
    """Read every file of the store again and compare it with its checksum.

    The exit status is 1 when there is damage, and with --repair when some of it remains.
    """
    library = user_library()
    failures: dict[ModelName, str] = {}
    with ProgressDisplay() as display:
        result = verify_library(library, display.update)
        if repair and result.damage:
            failures = repair_library(library, result.damage, display.update)
            result = verify_library(library, display.update, again=True)
    click.echo(_document(result) if as_json else "\n".join(_lines(result)))
    damaged = {name for damage in result.damage for name in damage.models}
    for name in failures:
        if name in damaged:
            terminal.complain("Warning", f"model '{name}' cannot be repaired: {failures[name]}")
    return 1 if result.damage else 0


def repair_library(library: Library, damage: tuple[Damage, ...], report: Report) -> dict[ModelName, str]:
    """Fetch damaged models again and delete damaged blobs that no model uses; why that failed, by model."""
    from puna.registry.sources import pull  # who only verifies is spared it

    failures: dict[ModelName, str] = {}
    for name in sorted({name for fault in damage for name in fault.models}, key=str):
        try:
            pull(name, library, report)
        except PunaError as error:
            failures[name] = str(error)
    library.discard(fault.blob for fault in damage if fault.blob)
    return failures


def _lines(result: Verification) -> Iterator[str]:
    for damage in result.damage:
        users = ", ".join(f"'{name}'" for name in damage.models)
        yield f"{damage.what} ({f'damages {users}' if users else 'no model uses it'})"
    faults = f"{len(result.damage)} damaged" if result.damage else "no damage"
    yield f"{result.models} models, {result.blobs} blobs, {bytes_text(result.size)}: {faults}"


def _document(result: Verification) -> str:
    import json

    damage = [
        {
            "what": fault.what,
            "models": [str(name) for name in fault.models],
            "blob": str(fault.blob) if fault.blob else None,
        }
        for fault in result.damage
    ]
    counts = {"models": result.models, "blobs": result.blobs, "size": result.size}
    return json.dumps({**counts, "damage": damage}, indent=2)
