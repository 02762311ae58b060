"""The same numbers as llama.cpp's samplers and as the logits processors of HF transformers.

llama.cpp's are called through the C interface that the xllamacpp wheel exports.
"""

import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from puna.sampling import SamplingParameters
from puna.sampling.mirostat import select_v1, select_v2, updated
from puna.sampling.penalties import TokenWindow, penalised
from puna.sampling.sampler import distribution, selections
from puna.sampling.transforms import softmax

Logits = NDArray[np.float32]

PLAIN = SamplingParameters(temperature=1, top_k=0, top_p=1)
VOCABULARY = 4000

CASES = [
    replace(PLAIN, top_k=1),
    replace(PLAIN, top_k=40),
    replace(PLAIN, top_k=3000),
    replace(PLAIN, top_p=0.5),
    replace(PLAIN, top_p=0.95),
    replace(PLAIN, min_p=0.02),
    replace(PLAIN, min_p=0.5),
    replace(PLAIN, typical_p=0.2),
    replace(PLAIN, typical_p=0.9),
    replace(PLAIN, temperature=0.3),
    replace(PLAIN, temperature=3.0),
]
CHAINS = [
    SamplingParameters(),
    SamplingParameters(top_k=100, top_p=0.8, min_p=0.03, typical_p=0.7, temperature=1.7),
    SamplingParameters(repeat_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3, repeat_last_n=20),
    SamplingParameters(repeat_penalty=0.8, presence_penalty=-0.4, frequency_penalty=-0.3, repeat_last_n=200),
    SamplingParameters(repeat_penalty=1.1, top_k=0, top_p=0.7, min_p=0.01, temperature=0.5),
]


class Token(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float))


class Candidates(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    )


INT, FLOAT, SIZE, SEED = ctypes.c_int32, ctypes.c_float, ctypes.c_size_t, ctypes.c_uint32
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "penalties": (INT, INT, FLOAT, FLOAT, FLOAT),  # vocabulary, last n, repeat, frequency, presence
    "top_k": (INT,),
    "typical": (FLOAT, SIZE),  # p, least to keep
    "top_p": (FLOAT, SIZE),
    "min_p": (FLOAT, SIZE),
    "temp": (FLOAT,),
    "dist": (SEED,),
    "mirostat": (INT, SEED, FLOAT, FLOAT, INT),  # vocabulary, seed, tau, eta, m
    "mirostat_v2": (SEED, FLOAT, FLOAT),
}


def llama_cpp_path() -> str:
    spec = importlib.util.find_spec("xllamacpp.xllamacpp")
    assert spec is not None and spec.origin is not None, "the test extra xllamacpp is not installed"
    return spec.origin


class LlamaChain:
    """Samplers of llama.cpp in a row, each as the name after `llama_sampler_init_` and its arguments."""

    def __init__(self, *samplers: tuple[str, tuple[float, ...]]) -> None:
        self.library = ctypes.CDLL(llama_cpp_path())
        self.handles = [self._new(name, *arguments) for name, arguments in samplers]

    def _new(self, name: str, *arguments: float) -> ctypes.c_void_p:
        function = self.library[f"llama_sampler_init_{name}"]
        function.argtypes, function.restype = ARGUMENTS[name], ctypes.c_void_p
        return ctypes.c_void_p(function(*arguments))

    def accept(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            for handle in self.handles:
                self.library.llama_sampler_accept(handle, INT(token))

    def apply(self, logits: Logits) -> tuple[dict[int, float], int]:
        """The candidates left with their probabilities, and the selected one."""
        tokens = np.zeros(logits.size, dtype=np.dtype(Token))
        tokens["id"] = np.arange(logits.size)
        tokens["logit"] = logits
        candidates = Candidates(tokens.ctypes.data, tokens.size, -1, False)
        for handle in self.handles:
            self.library.llama_sampler_apply(handle, ctypes.byref(candidates))
        left = tokens[: candidates.size]
        probabilities = dict(zip(left["id"].tolist(), left["p"].tolist(), strict=True))
        return probabilities, int(left["id"][candidates.selected])

    def free(self) -> None:
        for handle in self.handles:
            self.library.llama_sampler_free(handle)


@contextmanager
def llama(*samplers: tuple[str, tuple[float, ...]]) -> Iterator[LlamaChain]:
    chain = LlamaChain(*samplers)
    yield chain
    chain.free()


def random_logits(seed: int, spread: float = 2.5) -> Logits:
    return np.random.default_rng(seed).normal(0, spread, VOCABULARY).astype(np.float32)


def random_history(seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 60, 50)]


def ours(logits: Logits, history: list[int], parameters: SamplingParameters) -> dict[int, float]:
    logits = logits.copy()
    if parameters.penalises:
        window = TokenWindow(parameters.repeat_last_n, history)
        logits[window.ids] = penalised(logits[window.ids], window.counts, parameters)
    ids, probabilities = distribution(logits, selections(parameters), parameters.temperature)
    names = range(logits.size) if ids is None else ids.tolist()
    return dict(zip(names, probabilities.tolist(), strict=True))


def assert_same(found: dict[int, float], expected: dict[int, float]) -> None:
    """Equal but for what float32 sums over thousands of tokens leave open at the edge of a cut."""
    either_only = found.keys() ^ expected.keys()
    assert sum(found.get(i, 0) + expected.get(i, 0) for i in either_only) < 1e-4
    both = found.keys() & expected.keys()
    np.testing.assert_allclose([found[i] for i in both], [expected[i] for i in both], rtol=3e-4, atol=1e-7)


@pytest.mark.parametrize("parameters", CASES + CHAINS, ids=repr)
def test_llama_cpp_keeps_the_same_tokens_with_the_same_probabilities(parameters: SamplingParameters) -> None:
    penalties = (parameters.repeat_penalty, parameters.frequency_penalty, parameters.presence_penalty)
    with llama(
        ("penalties", (VOCABULARY, parameters.repeat_last_n, *penalties)),
        ("top_k", (parameters.top_k,)),
        ("typical", (parameters.typical_p, 1)),
        ("top_p", (parameters.top_p, 1)),
        ("min_p", (parameters.min_p, 1)),
        ("temp", (parameters.temperature,)),
        ("dist", (1,)),
    ) as chain:
        chain.accept(random_history(0))
        for seed in range(8):
            logits = random_logits(seed, spread=1 + seed / 2)
            assert_same(ours(logits, random_history(0), parameters), chain.apply(logits)[0])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 5.0])
def test_llama_cpp_truncates_by_mirostat_alike(version: int, tau: float) -> None:
    seed, eta, mu = 3, 0.1, 2 * tau
    select = select_v1 if version == 1 else select_v2
    first: tuple[str, tuple[float, ...]] = ("mirostat", (VOCABULARY, seed, tau, eta, 100))
    second: tuple[str, tuple[float, ...]] = ("mirostat_v2", (seed, tau, eta))
    with llama(first if version == 1 else second) as chain:
        for step in range(40):
            logits = random_logits(step, spread=1 + step % 5)
            left, selected = chain.apply(logits)
            kept = select(logits, mu)
            assert_same(dict(zip(kept.tolist(), softmax(logits[kept]).tolist(), strict=True)), left)
            mu = updated(mu, left[selected], tau, eta)


def transformers_keeps(
    processors: list[LogitsProcessor], logits: Logits, history: list[int]
) -> dict[int, float]:
    scores = torch.tensor(logits)[None]
    for processor in processors:
        scores = processor(torch.tensor([history]), scores)
    probabilities = torch.softmax(scores[0].double(), dim=0)
    left = torch.nonzero(scores[0] > -torch.inf)[:, 0].tolist()
    return {i: probabilities[i].item() for i in left}


def processors_for(parameters: SamplingParameters) -> list[LogitsProcessor]:
    """Our chain, in our order, made of transformers' processors."""
    wanted: list[tuple[bool, LogitsProcessor]] = [
        (True, RepetitionPenaltyLogitsProcessor(float(parameters.repeat_penalty))),
        (parameters.top_k > 0, TopKLogitsWarper(max(parameters.top_k, 1))),
        (parameters.typical_p < 1, TypicalLogitsWarper(min(parameters.typical_p, 0.999))),
        (parameters.top_p < 1, TopPLogitsWarper(float(parameters.top_p))),
        (parameters.min_p > 0, MinPLogitsWarper(parameters.min_p)),
        (True, TemperatureLogitsWarper(float(parameters.temperature))),
    ]
    return [processor for use, processor in wanted if use]


@pytest.mark.parametrize(
    "parameters",
    [
        *CASES,
        SamplingParameters(),
        SamplingParameters(repeat_penalty=1.3, temperature=0.7),
        SamplingParameters(repeat_penalty=0.7, top_k=100, typical_p=0.6, min_p=0.03),
    ],
    ids=repr,
)
def test_transformers_keeps_the_same_tokens_with_the_same_probabilities(
    parameters: SamplingParameters,
) -> None:
    processors = processors_for(parameters)
    for seed in range(5):
        logits, history = random_logits(seed, spread=1 + seed / 2), random_history(seed)
        assert_same(ours(logits, history, parameters), transformers_keeps(processors, logits, history))
