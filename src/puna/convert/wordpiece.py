"""WordPiece vocabularies, from `tokenizer.json` or `vocab.txt`, as keys of a GGUF file.

GGUF marks the pieces that begin a word with ▁ instead of the others with ##.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from puna.convert.folder import Fields, ModelFolder, shown
from puna.convert.vocabulary import filler, in_order
from puna.errors import FormatError, UnsupportedModel

_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_PREFIX = "tokenizer.ggml."

# GGUF's names of special tokens, and BERT's. The format spells "separator" its own way.
_SPECIAL = {
    "unknown_token_id": ("unk_token", "[UNK]"),
    "seperator_token_id": ("sep_token", "[SEP]"),
    "padding_token_id": ("pad_token", "[PAD]"),
    "cls_token_id": ("cls_token", "[CLS]"),
    "mask_token_id": ("mask_token", "[MASK]"),
}
_REQUIRED = ("unknown_token_id", "seperator_token_id", "cls_token_id")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    ids: Mapping[str, int]
    lowercase: bool
    strip_accents: bool


def vocabulary_keys(folder: ModelFolder, size: int) -> dict[str, Any]:
    """The keys that describe the tokenizer.

    Args:
        size: how many tokens the model has vectors for; what the vocabulary lacks is filled up.

    Raises:
        FormatError: there is no vocabulary, or it makes no sense.
        UnsupportedModel: it is of another kind.
    """
    vocabulary = _from_tokenizer(folder) or _from_list(folder)
    names = _special_names(folder)
    special = {key: vocabulary.ids[name] for key, name in names.items() if name in vocabulary.ids}
    missing = [names[key] for key in _REQUIRED if key not in special]
    if missing:
        raise FormatError(f"the vocabulary has no token {missing[0][:100]!r}")
    tokens = in_order(vocabulary.ids, size)
    hidden = set(special.values())
    return {
        _PREFIX + "model": "bert",
        _PREFIX + "tokens": [_marked(id, text, hidden) for id, text in enumerate(tokens)],
        _PREFIX + "token_type": [_kind(id, text, hidden) for id, text in enumerate(tokens)],
        _PREFIX + "normalizer.lowercase": vocabulary.lowercase,
        _PREFIX + "normalizer.strip_accents": vocabulary.strip_accents,
        **{_PREFIX + key: id for key, id in special.items()},
    }


def _from_tokenizer(folder: ModelFolder) -> _Vocabulary | None:
    document = folder.document("tokenizer.json")
    if not document:
        return None
    model = document.get("model")
    if not isinstance(model, dict) or not isinstance(ids := model.get("vocab"), dict):
        raise UnsupportedModel("tokenizer.json has no WordPiece vocabulary, and no other kind is supported")
    if model.get("type", "WordPiece") != "WordPiece":
        raise UnsupportedModel(f"tokenizer.json: a tokenizer of kind {shown(model['type'])} is not supported")
    _check_usual(model, {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100})
    added = document.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(text := token.get("content"), str):
            ids.setdefault(text, token.get("id"))
    normal = document.get("normalizer")
    normalizer = Fields(normal if isinstance(normal, dict) else {}, "tokenizer.json, normalizer")
    _check_usual(normalizer.values, {"handle_chinese_chars": True, "clean_text": True})
    lowercase = normalizer.flag("lowercase", default=True)
    return _Vocabulary(ids, lowercase, normalizer.flag("strip_accents", default=lowercase))


def _check_usual(settings: dict[str, Any], usual: dict[str, Any]) -> None:
    for name, value in usual.items():
        if settings.get(name, value) != value:
            raise UnsupportedModel(
                f"tokenizer.json: {name} {shown(settings[name])} is not supported, only {value}"
            )


def _from_list(folder: ModelFolder) -> _Vocabulary:
    text = folder.text("vocab.txt")
    if text is None:
        raise FormatError("there is no vocabulary: neither tokenizer.json nor vocab.txt")
    # A line end is nothing else here: pieces may hold what counts as one in Unicode.
    lines = text.removesuffix("\n").split("\n")
    settings = Fields(folder.document("tokenizer_config.json"), "tokenizer_config.json")
    lowercase = settings.flag("do_lower_case", default=True)
    return _Vocabulary(
        {line.rstrip("\r"): id for id, line in enumerate(lines)},
        lowercase,
        settings.flag("strip_accents", default=lowercase),
    )


def _special_names(folder: ModelFolder) -> dict[str, str]:
    """The texts of the special tokens, by GGUF's keys."""
    given = folder.document("tokenizer_config.json") | folder.document("special_tokens_map.json")
    found = {}
    for key, (name, usual) in _SPECIAL.items():
        value = given.get(name, usual)
        text = value.get("content") if isinstance(value, dict) else value
        found[key] = text if isinstance(text, str) else usual
    return found


def _marked(id: int, text: str | None, hidden: Container[int]) -> str:
    if text is None:
        return filler(id)
    if id in hidden:
        return text
    return text[2:] if text.startswith("##") else "▁" + text


def _kind(id: int, text: str | None, hidden: Container[int]) -> int:
    if text is None:
        return _UNUSED
    return _CONTROL if id in hidden else _NORMAL
