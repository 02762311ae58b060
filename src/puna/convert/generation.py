"""How a model's makers want it to choose tokens: `generation_config.json`."""

from collections.abc import Mapping
from typing import Any

from puna.convert.folder import ModelFolder

_FILE = "generation_config.json"
_MAX_TOP_K = 1 << 20

# Options by the file's names: those of requests, those of GGUF files, and the range.
_OPTIONS: dict[str, tuple[str, str, float, float]] = {
    "temperature": ("temperature", "temp", 0.0, 100.0),
    "top_k": ("top_k", "top_k", 1, _MAX_TOP_K),
    "top_p": ("top_p", "top_p", 0.0, 1.0),
    "min_p": ("min_p", "min_p", 0.0, 1.0),
    "repetition_penalty": ("repeat_penalty", "penalty_repeat", 0.01, 100.0),
}


def sampling(folder: ModelFolder) -> dict[str, Any]:
    """Options by their names in requests, without those that are missing or make no sense.

    Raises:
        FormatError: the file is damaged.
    """
    return {_OPTIONS[name][0]: value for name, value in _stated(folder).items()}


def sampling_keys(folder: ModelFolder) -> dict[str, Any]:
    """The same as keys of a GGUF file. Raises: as `sampling`."""
    return {f"general.sampling.{_OPTIONS[name][1]}": value for name, value in _stated(folder).items()}


def end_ids(folder: ModelFolder, config: Mapping[str, Any], size: int) -> list[int]:
    """Every token that ends an answer, of a vocabulary of that size, as the files list them.

    Raises:
        FormatError: the file is damaged.
    """
    stated = folder.document(_FILE).get("eos_token_id", config.get("eos_token_id"))
    ids = stated if isinstance(stated, list) else [stated]
    return [id for id in ids if type(id) is int and 0 <= id < size]


def _stated(folder: ModelFolder) -> dict[str, int | float]:
    document = folder.document(_FILE)
    if document.get("do_sample") is False:
        return {}
    found: dict[str, int | float] = {}
    for name, (_, _, low, high) in _OPTIONS.items():
        value = document.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            found[name] = int(value) if name == "top_k" else float(value)
    return found
