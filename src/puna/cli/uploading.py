"""Making a model on a server from files of this machine: they are sent, and named by their digests."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from puna.cli.place import Order
from puna.client.arguments import CreateArguments
from puna.client.replies import Message, ProgressReply
from puna.create.local import resolve, stated
from puna.progress import Progress, Report

if TYPE_CHECKING:
    from puna.client import Client, Stream


def create_on(client: "Client", order: Order, report: Report) -> "Stream[ProgressReply]":
    """Send what the order needs; the steps of the server's work.

    Raises:
        PunaError: the Modelfile cannot be followed, or the server refuses.
    """
    texts = stated(order.modelfile, report)
    sources = resolve(order.modelfile, order.folder)
    report(Progress("gathering model components"))
    arguments: CreateArguments = {
        "from_": str(sources.from_) if sources.from_ else None,
        "files": _sent(client, sources.files, report) or None,
        "adapters": _sent(client, sources.adapters, report) or None,
        "license": list(texts["licenses"]) or None,
        "parameters": texts["parameters"] or None,
        "messages": [Message(role=m.role, content=m.content) for m in texts["messages"] or ()] or None,
        "quantize": order.quantize or None,
        "imatrix": _sent(client, _imatrix(order), report) or None,
        "template": texts.get("template"),
        "system": texts.get("system"),
        "renderer": texts.get("renderer"),
        "parser": texts.get("parser"),
        "requires": texts.get("requires"),
    }
    return client.create(order.name, stream=True, **arguments)


def _imatrix(order: Order) -> dict[str, Path]:
    return {order.imatrix.name: order.imatrix} if order.imatrix else {}


def _sent(client: "Client", files: Mapping[str, Path], report: Report) -> dict[str, str]:
    """The digests of the files, which the server has now."""
    return {name: _send(client, name, path, report) for name, path in files.items()}


def _send(client: "Client", name: str, path: Path, report: Report) -> str:
    size = path.stat().st_size
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        report(Progress(f"copying file {name}", done, size))

    return client.create_blob(path, sent=sent)
