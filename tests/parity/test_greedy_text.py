"""Greedy text equals llama.cpp's, token by token, on real models.

llama.cpp continues each prompt by 128 tokens, and Puna is asked for the next token after each of them. Both
run on one and the same ggml, the one inside llama.cpp's package: between two builds of ggml a difference in
the last bit flips the rounding of an 8-bit activation now and then, which grows to 0.1 in the logits.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xllamacpp  # type: ignore[import-untyped]  # has no annotations
from tests.tokenizer.oracle import LlamaCpp

from puna.gguf import GGUFFile
from puna.tokenizer import load_tokenizer

COUNT = 128
MARGIN = 1e-2
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "Die wichtigste Erfindung des 19. Jahrhunderts war",
    "Question: Why is the sky blue?\nAnswer:",
    "1, 1, 2, 3, 5, 8,",
    "SELECT name, COUNT(*) FROM",
    "Water boils at 100 degrees Celsius because",
    "この世界で一番高い山は",
    "Dear Sir or Madam,\n\nI am writing to",
]
Texts = list[tuple[list[int], list[int]]]


def _puna(path: Path, texts: Texts, library: Path) -> list[list[tuple[int, float]]]:
    command = [sys.executable, str(Path(__file__).with_name("continue_greedily.py")), str(path)]
    environment = {**os.environ, "PUNA_GGML_PATH": str(library)}
    done = subprocess.run(
        command, input=json.dumps(texts), env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found: list[list[tuple[int, float]]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def llama_cpp_ggml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that offers llama.cpp's shared library, which holds ggml, under ggml's name."""
    folder = tmp_path_factory.mktemp("ggml")
    shared = next(Path(xllamacpp.__file__).parent.glob("*.so"))
    (folder / "libggml.so").symlink_to(shared)
    return folder


@pytest.mark.parametrize("model", ["smollm2_path", "gemma3_path"])
def test_greedy_text_equals_llama_cpp(
    model: str, request: pytest.FixtureRequest, llama_cpp_ggml: Path
) -> None:
    path: Path = request.getfixturevalue(model)
    with GGUFFile.open(path) as file:
        tokenizer = load_tokenizer(file.metadata)
    oracle = LlamaCpp(path, context=512, threads=2)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    texts = [(prompt, oracle.greedy(prompt, COUNT)) for prompt in prompts]
    assert sum(len(continuation) for _, continuation in texts) > len(PROMPTS) * COUNT // 2
    for (prompt, expected), found in zip(texts, _puna(path, texts, llama_cpp_ggml), strict=True):
        for step, (token, (likeliest, margin)) in enumerate(zip(expected, found, strict=True)):
            if margin >= MARGIN:
                text = tokenizer.decode([*prompt, *expected[:step]])
                assert likeliest == token, f"token {step} after {text!r}, margin {margin}"
