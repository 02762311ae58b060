"""llama.cpp as the oracle."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import xllamacpp  # type: ignore[import-untyped]  # has no annotations


class LlamaCpp:
    """llama.cpp's own tokenizer of a GGUF file, asked through its server on the loopback interface."""

    def __init__(self, path: Path, context: int = 256, threads: int = 1) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context
        parameters.n_parallel = 1
        parameters.warmup = False
        parameters.verbosity = -1
        parameters.port = 0
        parameters.cpuparams.n_threads = threads
        self._server = xllamacpp.Server(parameters)

    def _post(self, route: str, **body: Any) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + route,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        answer = self._post("/tokenize", content=text, add_special=add_special, parse_special=parse_special)
        ids: list[int] = answer["tokens"]
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self._post("/detokenize", tokens=ids)["content"]
        return text

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The likeliest continuation of the prompt's tokens, `count` tokens or up to the end of the text."""
        answer = self._post(
            "/completion",
            prompt=prompt,
            n_predict=count,
            temperature=0.0,
            samplers=["temperature"],
            cache_prompt=False,
            return_tokens=True,
        )
        ids: list[int] = answer["tokens"]
        return ids
