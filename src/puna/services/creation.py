"""Making models, with all that is known of templates and of where models come from."""

from puna.cancellation import Cancellation
from puna.create.create import TemplateRules, create_model
from puna.create.layers import DetectedTemplate
from puna.create.request import CreateRequest
from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.progress import Report
from puna.registry.sources import check_reachable, pull
from puna.services.template_check import with_template
from puna.store.library import Library
from puna.store.name import ModelName
from puna.template.go import parse
from puna.template.known import detect


def create(
    request: CreateRequest,
    library: Library,
    report: Report,
    *,
    insecure: bool = False,
    cancellation: Cancellation | None = None,
) -> None:
    """Make the model that `request` describes; what it derives from is pulled if it is not there.

    Args:
        insecure: plain http and private addresses are allowed for that pull.
        cancellation: ends it.

    Raises:
        PunaError: as `puna.create.create.create_model`.
    """

    def fetch(name: ModelName, report: Report) -> None:
        if not insecure:
            check_reachable(name)
        pull(name, library, report, insecure=insecure, cancellation=cancellation)

    told = with_template(report, library, request.name)
    create_model(request, library, told, pull=fetch, templates=TemplateRules(_check, _detect))


def _check(text: str) -> None:
    parse(text)


def _detect(chat_template: str, metadata: Metadata) -> DetectedTemplate | None:
    """The known template that makes the very prompts of the file's own; None where there is any doubt."""
    bos, eos = (_token(metadata, f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos"))
    found = detect(chat_template, bos_token=bos, eos_token=eos)
    if found is None or found.strips:
        return None
    return DetectedTemplate(found.name, found.template, {"stop": list(found.stop)})


def _token(metadata: Metadata, key: str) -> str:
    """The text of the token that a key names; empty when there is none."""
    try:
        number = metadata.uint(key, None)
        tokens = metadata.strings_bytes("tokenizer.ggml.tokens")
    except GGUFError:
        return ""
    return "" if number is None or number >= len(tokens) else tokens[number].decode("utf-8", "replace")
