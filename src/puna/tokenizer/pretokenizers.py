"""Pre-tokenizers of byte-level BPE models by their GGUF name (`tokenizer.ggml.pre`).

Each row is a fact about a family of models: the regexes of its tokenizer.json, applied one after another,
each splitting the pieces that the one before left (matches and the text between them are both pieces). The
names are those that llama.cpp's converter writes.
"""

import re
from dataclasses import dataclass, replace

from puna.errors import UnsupportedModel
from puna.tokenizer.chunks import LINE_START, NOWHERE, WORD_START
from puna.tokenizer.metadata import TokenizerMetadata

PRE = "tokenizer.ggml.pre"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is split before merging.

    Attributes:
        stages: regexes in Oniguruma's syntax.
        whole_words: a piece that is itself a token is not built by merges.
        add_bos: whether BOS is prepended where the file does not say.
        spaces_as_marks: spaces become ▁ and text stays UTF-8, with <0xHH> tokens for unknown characters,
            instead of bytes written as printable characters.
        cut: where a long text can be cut without changing a piece.
    """

    stages: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False
    spaces_as_marks: bool = False
    cut: re.Pattern[str] = WORD_START


_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SYMBOLS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_LINES_AND_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_LINES_AND_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES_AND_SPACES}"
)

_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CAPITALIZED = rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+"
_CAPITALS = rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
_TEKKEN = rf"{_CAPITALIZED}|{_CAPITALS}|\p{{N}}|{_SYMBOLS_SLASH}|{_LINES_AND_SPACES}"
_O200K = (
    rf"{_CAPITALIZED}{_CONTRACTION}?|{_CAPITALS}{_CONTRACTION}?|\p{{N}}{{1,3}}"
    rf"|{_SYMBOLS_SLASH}|{_LINES_AND_SPACES}"
)

_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES_AND_SPACES}"
)
_KANA_AND_HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# Upper, lower and title case letters of Unicode 11, without some blocks.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_WIDE_PUNCTUATION = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_FALCON_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"
_NO_SENTENCE_MARK = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

_gpt2 = PreTokenizer((_GPT2,))
_digits_gpt2 = PreTokenizer((r"\p{N}", _GPT2))
_llama3 = PreTokenizer((_LLAMA3,))
_llama3_bpe = PreTokenizer((_LLAMA3,), whole_words=True, add_bos=True)
_qwen2 = PreTokenizer((_QWEN2,))
_o200k = PreTokenizer((_O200K,))
_deepseek3 = PreTokenizer((r"\p{N}{1,3}", _KANA_AND_HAN, _DEEPSEEK3))
_bloom = PreTokenizer((_NO_SENTENCE_MARK,))
_marked = PreTokenizer((r"[^\n]+|[\n]+",), spaces_as_marks=True, cut=LINE_START)
_bailing = PreTokenizer(
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
    )
)
_three_digits_from_the_right = r"\d{1,3}(?=(?:\d{3})*\b)"

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    # What llama.cpp does with files from before the name was stored.
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    **dict.fromkeys(
        (
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ),
        _llama3_bpe,
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _llama3),
    **dict.fromkeys(
        (
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ),
        _qwen2,
    ),
    "qwen35": PreTokenizer((_QWEN35,)),
    "minicpm5": PreTokenizer(
        (r"\p{N}{1,3}", rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_LINES_AND_SPACES}"), whole_words=True
    ),
    "seed-coder": PreTokenizer(
        (rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES_AND_SPACES}",)
    ),
    **dict.fromkeys(
        ("gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code"),
        _gpt2,
    ),
    **dict.fromkeys(("gigachat", "a.x-4.0", "mellum", "modern-bert", "roberta-bpe", "exaone4"), _gpt2),
    **dict.fromkeys(("mpt", "olmo", "jais", "trillion", "granite-docling"), _gpt2),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        _digits_gpt2,
    ),
    "exaone-moe": PreTokenizer(
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
        cut=NOWHERE,
    ),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "o200k", "llama4", "kanana2", "talkie", "minimax-m2"), _o200k),
    "granite-embed-multi-97m": replace(_o200k, whole_words=True),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), PreTokenizer((_three_digits_from_the_right, _O200K))),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _deepseek3),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            rf"\s?[{_WIDE_PUNCTUATION}]+",
            r"\s+$",
            _EAST_ASIAN,
            r"\p{N}+",
        ),
        # Scripts with none of these letters stay whole over spaces.
        cut=LINE_START,
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}")),
    "falcon": PreTokenizer((_FALCON_PUNCTUATION, _GPT2, r"[0-9][0-9][0-9]")),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), _bloom),
    "viking": PreTokenizer((_NO_SENTENCE_MARK, r"\p{N}")),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _bailing),
    "laguna": PreTokenizer((r"(?:\r?\n)+(?!\r?\n)", _QWEN2)),
    **dict.fromkeys(("gemma4", "granite-embed-multi-311m"), _marked),
    "sarvam-moe": _marked,
}

# Files that Ollama converted say "default" for these, having tied the regex to the architecture.
_BY_ARCHITECTURE = {
    "gptoss": "gpt-4o",
    "gpt-oss": "gpt-4o",
    "llama4": "llama4",
    "mistral3": "tekken",
    "lfm2": "lfm2",
    "lfm2moe": "lfm2",
    "olmo3": "dbrx",
    "glm4": "glm4",
    "glm4moelite": "glm4",
    "glmocr": "chatglm-bpe",
    "deepseek2": "deepseek-v3",
    "deepseekocr": "deepseek-v3",
    "laguna": "laguna",
    **dict.fromkeys(("qwen2", "qwen2moe", "qwen2vl", "qwen25vl", "qwen3", "qwen3moe", "qwen3next"), "qwen2"),
    **dict.fromkeys(("qwen3vl", "qwen3vlmoe", "nemotron_h", "nemotron_h_moe"), "qwen2"),
    **dict.fromkeys(("qwen35", "qwen35moe"), "qwen35"),
    "gemma4": "gemma4",
}

# In Llama 3's vocabulary and no other.
_LLAMA3_MARK = (128009, b"<|eot_id|>")


def pre_tokenizer(metadata: TokenizerMetadata, tokens: list[bytes]) -> PreTokenizer:
    """The pre-tokenizer a file names; where it names none, the one its architecture is known for.

    Raises:
        UnsupportedModel: the name is not in the table.
    """
    name = _name(metadata, tokens)
    row = PRE_TOKENIZERS.get(name)
    if row is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedModel(f"{PRE} {name!r} is not supported; known are {known}")
    return row


def _name(metadata: TokenizerMetadata, tokens: list[bytes]) -> str:
    name = metadata.string(PRE, "default") or "default"
    architecture = metadata.architecture
    if architecture == "glmocr" and name == "llama-bpe":
        return "chatglm-bpe"
    if name != "default":
        return name
    id, text = _LLAMA3_MARK
    if architecture in ("llama", "mllama") and tokens[id : id + 1] == [text]:
        return "llama-bpe"
    return _BY_ARCHITECTURE.get(architecture, "default")
