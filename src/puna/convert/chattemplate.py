"""The templates of prompts that a model's folder has."""

from typing import Any

from puna.convert.tokenizerfiles import TokenizerFiles
from puna.gguf.keys import CHAT_TEMPLATE_KEY


def template_keys(files: TokenizerFiles) -> dict[str, str]:
    """The keys for templates: one without a name, and those for other uses by their names.

    That of `tokenizer_config.json` counts before files of its own.

    Raises:
        FormatError: a file is damaged.
    """
    stated = files.config.get("chat_template")
    if stated is None:
        stated = files.folder.text("chat_template.jinja")
    if stated is None:
        stated = files.folder.document("chat_template.json").get("chat_template")
    if isinstance(stated, list):
        return _named(stated)
    return {CHAT_TEMPLATE_KEY: stated} if isinstance(stated, str) and stated else {}


def _named(templates: list[Any]) -> dict[str, str]:
    keys = {}
    for entry in templates:
        name, text = (entry.get(key) for key in ("name", "template")) if isinstance(entry, dict) else ("", "")
        if not isinstance(name, str) or not isinstance(text, str):
            continue
        # The names become part of a key.
        if name.isascii() and name.isidentifier() and len(name) <= 64:
            keys[CHAT_TEMPLATE_KEY if name == "default" else f"{CHAT_TEMPLATE_KEY}.{name}"] = text
    return keys
