"""Which tokens have a role, and which of them are put around a text.

`tokenizer_config.json` names tokens by their text, `config.json` by number, and the post-processor of
`tokenizer.json` shows which are put around a text.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from puna.convert.generation import end_ids
from puna.convert.tokenizerfiles import TokenizerFiles

_PREFIX = "tokenizer.ggml."
# GGUF's names of roles, by those of Hugging Face.
_ROLES = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}


def special_keys(files: TokenizerFiles, ids: Mapping[str, int], size: int) -> dict[str, Any]:
    """The keys for roles, and for what is put around a text where the files say so.

    Args:
        ids: of tokens, by text.
        size: of the vocabulary.

    Raises:
        FormatError: a file is damaged.
    """
    stated = files.config
    names = {role: text for role in _ROLES if (text := _text(stated.get(f"{role}_token"))) is not None}
    around = {
        role: flag for role in ("bos", "eos") if isinstance(flag := stated.get(f"add_{role}_token"), bool)
    }
    _follow(files.tokenizer.get("post_processor"), names, around)
    found = _numbers(files.model, files.model.get("text_config"))
    roles = {role: ids.get(names.get(role, ""), found.get(role)) for role in _ROLES}
    ends = end_ids(files.folder, files.model, size)
    if roles["eos"] is None and ends:
        roles["eos"] = ends[0]
    return {
        **{_PREFIX + _ROLES[role]: id for role, id in roles.items() if id is not None and 0 <= id < size},
        **{f"{_PREFIX}add_{role}_token": flag for role, flag in around.items()},
        **({_PREFIX + "eos_token_ids": ends} if len(ends) > 1 else {}),
    }


def _text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _numbers(*documents: Any) -> dict[str, int]:
    """The ids that documents give roles; the first counts."""
    found: dict[str, int] = {}
    for document in documents:
        for role in _ROLES if isinstance(document, dict) else ():
            if type(id := document.get(f"{role}_token_id")) is int:
                found.setdefault(role, id)
    return found


def _follow(processor: Any, names: dict[str, str], around: dict[str, bool]) -> None:
    """Take over what a post-processor does, which counts more than what the configuration says."""
    seen: dict[str, bool] = {}
    for step in _steps(processor):
        kind, single = step.get("type"), step.get("single")
        if kind == "ByteLevel":
            seen.setdefault("bos", False)
            seen.setdefault("eos", False)
        elif kind == "TemplateProcessing" and isinstance(single, list) and len(single) > 1:
            first, last = _special(single[0]), _special(single[-1])
            if first is not None:
                names.setdefault("bos", first)
                seen["bos"] = first in (names["bos"], names.get("cls"))
            if last is not None:
                if last != names.get("eos") and "eos" in names:
                    names.setdefault("eot", names["eos"])
                names["eos"] = last
                seen["eos"] = True
    around |= seen


def _steps(processor: Any) -> Iterator[dict[str, Any]]:
    if isinstance(processor, dict):
        steps = processor.get("processors", [processor])
        yield from (step for step in (steps if isinstance(steps, list) else ()) if isinstance(step, dict))


def _special(part: Any) -> str | None:
    token = part.get("SpecialToken") if isinstance(part, dict) else None
    id = token.get("id") if isinstance(token, dict) else None
    return id if isinstance(id, str) else None
