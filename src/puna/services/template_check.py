"""What a fetched or made model's prompt template is, told with the progress of fetching or making it.

A sandbox keeps a template from doing harm to this machine, not from adding words of its own to a prompt. So
its digest is told, and whether it is nearly, but not quite, the template of a known family.
"""

from collections.abc import Iterator

from puna.cancellation import Cancellation
from puna.errors import PunaError
from puna.gguf import GGUFFile
from puna.gguf.keys import CHAT_TEMPLATE_KEY
from puna.progress import Progress, Report
from puna.registry.sources import pull
from puna.store.library import Library
from puna.store.model import Model, read_model
from puna.store.name import ModelName
from puna.template.resemblance import Resemblance, resemblance

_SUCCESS = "success"


def pull_model(
    name: ModelName,
    library: Library,
    report: Report,
    *,
    scheme: str = "",
    insecure: bool = False,
    cancellation: Cancellation | None = None,
) -> None:
    """Fetch a model, and tell what its template is. Arguments and errors: `puna.registry.sources.pull`."""
    told = with_template(report, library, name)
    pull(name, library, told, scheme=scheme, insecure=insecure, cancellation=cancellation)


def with_template(report: Report, library: Library, name: ModelName) -> Report:
    """A report that tells, before the success, what template the model `name` has by then."""

    def told(step: Progress) -> None:
        if step.status == _SUCCESS:
            for line in template_lines(library, name):
                report(Progress(line))
        report(step)

    return told


def template_lines(library: Library, name: ModelName) -> Iterator[str]:
    """The digest of the template that a model's prompts are made with, and a warning where one is due.

    Nothing for a model without a template, or that cannot be read: who uses it is told of that.
    """
    try:
        model = read_model(library, name)
        own = _own_template(model)
    except PunaError:
        return
    used = own if model.template is None else model.template
    if used:
        found = resemblance(used)
        known = f" ({found.family})" if found.exact else ""
        yield f"chat template sha256:{found.digest}{known}"
        yield from _warning(found, "the chat template", f"puna show --template {name}")
    if own and used != own:
        yield from _warning(resemblance(own), "the file's own chat template, which is not used,", "")


def _own_template(model: Model) -> str:
    """The GGUF file's. Raises: GGUFError."""
    if model.path is None:
        return ""
    with GGUFFile.open(model.path) as file:
        return file.metadata.string(CHAT_TEMPLATE_KEY, "")


def _warning(found: Resemblance, subject: str, printing: str) -> Iterator[str]:
    if found.family and not found.exact:
        shown = f"; {printing} prints it" if printing else ""
        yield f"warning: {subject} is like that of {found.family}, but not the same byte for byte{shown}"
