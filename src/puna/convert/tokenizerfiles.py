"""The files that say what a model's tokenizer is, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puna.convert.folder import ModelFolder


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """Documents, empty where a folder lacks them.

    Attributes:
        tokenizer: `tokenizer.json`.
        config: `tokenizer_config.json`.
        model: `config.json`.
    """

    folder: ModelFolder
    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    model: Mapping[str, Any]

    @classmethod
    def of(cls, folder: ModelFolder) -> "TokenizerFiles":
        """Those of a folder. Raises: FormatError when one is damaged."""
        return cls(
            folder,
            folder.document("tokenizer.json"),
            folder.document("tokenizer_config.json"),
            folder.config(),
        )
