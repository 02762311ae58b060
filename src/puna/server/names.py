"""Model names in requests."""

import json

from puna.errors import InvalidOption
from puna.server.errors import Refused
from puna.store.name import ModelName, parse_name

_LONGEST = 100


def quoted(text: str) -> str:
    """What a client wrote, in the double quotes that Ollama's texts have."""
    return json.dumps(text[:_LONGEST], ensure_ascii=False)


def model_name(
    text: str, *, missing: str = "model is required", invalid: str = "invalid model name"
) -> ModelName:
    """The name that a request gives.

    Args:
        missing, invalid: what to say of an empty one, and of one that cannot be.

    Raises:
        Refused: 400.
    """
    if not text:
        raise Refused(400, missing)
    try:
        return parse_name(text)
    except InvalidOption as error:
        raise Refused(400, invalid) from error


def local_name(text: str, *, cloud: str) -> ModelName:
    """The name of a model to run or to show, which may end in `:local`; see `model_name`.

    Args:
        cloud: what is not to be had of a model that runs elsewhere.

    Raises:
        Refused: 400; 403 for a name that ends as those of Ollama's cloud do.
    """
    base, _, source = text.strip().rpartition(":")
    if source not in ("local", "cloud") or not base:
        if source.endswith("-cloud") and base and "/" not in source:
            raise _no_cloud(cloud)
        return model_name(text)
    if base.rpartition(":")[2] in ("local", "cloud") or base.endswith("-cloud"):
        raise Refused(400, f"use either :local or :cloud, not both: {quoted(text)}")
    if source == "cloud":
        raise _no_cloud(cloud)
    return model_name(base)


def name_to_run(text: str) -> str:
    """The name of a model that is to answer, as services know it; empty for none. Raises: as `local_name`."""
    if text.strip():
        local_name(text, cloud="remote inference is unavailable")
    return text.removesuffix(":local")


def _no_cloud(what: str) -> Refused:
    return Refused(403, f"ollama cloud is disabled: {what}")
