"""The tokenizer of a decoder as keys of a GGUF file: which kind it is, and what all kinds have."""

from typing import Any

from puna.convert.bytelevel import byte_level
from puna.convert.chattemplate import template_keys
from puna.convert.folder import ModelFolder, shown
from puna.convert.sentencepieces import from_merges, from_model, is_from_pieces
from puna.convert.special import special_keys
from puna.convert.tokenizerfiles import TokenizerFiles
from puna.convert.vocabulary import Made
from puna.errors import FormatError, UnsupportedModel


def tokenizer_keys(folder: ModelFolder, size: int) -> dict[str, Any]:
    """The keys of the vocabulary, of tokens with a role, and of templates.

    Args:
        size: how many tokens the model has vectors for; what the vocabulary lacks is filled up.

    Raises:
        FormatError: a file is missing or damaged, or makes no sense.
        UnsupportedModel: another kind of tokenizer.
    """
    files = TokenizerFiles.of(folder)
    made = _vocabulary(files, size)
    ids = {text: id for id, text in enumerate(made.tokens)}
    return {**made.keys, **special_keys(files, ids, size), **template_keys(files)}


def _vocabulary(files: TokenizerFiles, size: int) -> Made:
    # tokenizer.json is made from tokenizer.model where there is one, and loses the scores.
    pieces = files.folder.content("tokenizer.model")
    if pieces is not None:
        return from_model(pieces, files, size)
    if not files.tokenizer:
        raise FormatError("there is no vocabulary: neither tokenizer.model nor tokenizer.json")
    model = files.tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise UnsupportedModel(
            f"tokenizer.json: a tokenizer of kind {shown(kind)} is not supported, only BPE"
        )
    if is_from_pieces(model):
        return from_merges(model, files, size)
    return byte_level(model, files, size)
