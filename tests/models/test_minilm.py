"""all-MiniLM-L6-v2 as the package index has it, against transformers and llama.cpp."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import xllamacpp  # type: ignore[import-untyped]  # has no annotations

from puna.convert.convert import convert
from puna.engine.load import load_model
from puna.engine.options import LoadOptions
from puna.gguf import GGUFFile
from puna.ml.backends.ggml.weights import Weights
from puna.tokenizer import Tokenizer, load_tokenizer

pytestmark = [pytest.mark.transformers, pytest.mark.timeout(900)]

DOCUMENTS = Path(__file__).parents[2] / "docs"
COUNT = 200
LONGEST = 256

HOSTILE = [
    *("", " ", "\t\n\r\u00a0\u3000", "\u200b\u200d\ufeff", "\u0000\u0001\u001f\u007f\u0085", "\ufffd"),
    *(
        "café CAFÉ cafe\u0301",
        "ÅÄÖ İstanbul ıI ß ẞ ﬁ ﬀ",
        "Ω Ω µ μ",
        "K Å",
        "ǅ ǆ",
        "A\u0300\u0301\u0302\u0327" * 20,
    ),
    *(
        "日本語とEnglish混在",
        "한국어 조선",
        "ｶﾞ ＡＢＣ１２３",
        "你好，世界！",
        "\U00020000\U0002a6df 㐀",
        "々〇",
    ),
    *("👩‍👩‍👧‍👦 👍🏽 🇺🇳 ☃️", "مرحبا بالعالم", "שָׁלוֹם", "नमस्ते", "ไทย ภาษา", "ɐ̃ ə"),
    *("¡¿«»—–…‘’“”", "$€£¥₿ ¢", "a_b-c.d/e\\f@g#h", "!!!???...", "[CLS", "##ing ## #", "_▁_ ▁the"),
    *("x" * 100, "x" * 101, "supercalifragilistic" * 6, "123456789012345678901234567890", "1,234.56 ½ ² ①"),
    *("\u0378 \ue000 \U0010ffff", "\u202eevil\u202c", "a\u00adb", "\U000e0041", "don't can't I'm it’s"),
    "word " * 3000,
]


def _texts() -> list[str]:
    """Pieces of this project's pages, short and long."""
    words = re.findall(r"\S+", "\n".join(path.read_text() for path in sorted(DOCUMENTS.glob("*.md"))))
    random = np.random.default_rng(0)
    longest = np.where(np.arange(COUNT) % 10 == 0, 160, 30)
    lengths = random.integers(1, longest)
    starts = [int(random.integers(0, len(words) - length)) for length in lengths]
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


@pytest.fixture(scope="module")
def tokenizer(minilm_path: Path) -> Tokenizer:
    with GGUFFile.open(minilm_path) as file:
        return load_tokenizer(file.metadata)


@pytest.fixture(scope="module")
def theirs(minilm_folder: Path) -> Any:
    return transformers.BertTokenizer.from_pretrained(minilm_folder)


@pytest.fixture(scope="module")
def texts(tokenizer: Tokenizer) -> list[list[int]]:
    cut = [tokenizer.encode(text) for text in _texts()]
    return [ids if len(ids) <= LONGEST else [*ids[: LONGEST - 1], ids[-1]] for ids in cut]


@pytest.fixture(scope="module")
def expected(minilm_folder: Path, texts: list[list[int]]) -> list[Any]:
    model: Any = transformers.BertModel.from_pretrained(minilm_folder)
    model.eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy() for ids in texts]


def test_texts_are_tokenized_as_by_transformers(tokenizer: Tokenizer, theirs: Any) -> None:
    for text in [*HOSTILE, *_texts()]:
        assert tokenizer.encode(text) == theirs(text)["input_ids"], text[:60]


def test_characters_are_tokenized_as_by_transformers(tokenizer: Tokenizer, theirs: Any) -> None:
    """Every character of the planes that are in use, between letters, in lines of sixteen."""
    every = [code for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    lines = ["a".join(map(chr, every[start : start + 16])) for start in range(0, len(every), 16)]
    found = [tokenizer.encode(line) for line in lines]
    wrong = [line for line, ids in zip(lines, found, strict=True) if ids != theirs(line)["input_ids"]]
    assert wrong == []


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("file_type", ["", "F16"])
def test_vectors_equal_those_of_transformers(
    minilm_path: Path,
    minilm_folder: Path,
    texts: list[list[int]],
    expected: list[Any],
    file_type: str,
    rounded: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(Weights, "_fast_bf16", rounded)
    path = minilm_path
    if file_type:
        path = tmp_path / "model.gguf"
        convert(minilm_folder, path, lambda progress: None, file_type=file_type)
    with load_model(path, LoadOptions(num_threads=1)) as model:
        found = model.embed(texts)
    assert min(map(_cosine, found, expected)) > (0.9999 if rounded else 0.999999)


@pytest.fixture(scope="module")
def llama_cpp(minilm_path: Path) -> Iterator[str]:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(minilm_path)
    parameters.embedding = True
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.port = 0
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    yield server.listening_address


def test_llama_cpp_runs_the_converted_file(llama_cpp: str, minilm_path: Path, texts: list[list[int]]) -> None:
    few = texts[:20]
    request = urllib.request.Request(
        llama_cpp + "/v1/embeddings",
        json.dumps({"input": few}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        theirs = [np.array(entry["embedding"]) for entry in json.load(response)["data"]]
    with load_model(minilm_path, LoadOptions(num_threads=1)) as model:
        found = model.embed(few)
    # Its GELU is the approximation by tanh, from a table in half precision.
    assert min(map(_cosine, found, theirs)) > 0.999


def _cosine(one: Any, two: Any) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
