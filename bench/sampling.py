"""What a sampling step costs: minimum and median over many steps, one thread.

    python bench/sampling.py [--vocab 262144] [--steps 400]

Logits are drawn once (normal, with a peaked head, as a trained model's are) into several arrays that are used
in turn, so that no step finds its input in the first-level cache.
"""

import argparse
import statistics
import time

import numpy as np
from numpy.typing import NDArray

from puna.sampling import Sampler, SamplingParameters

ARRAYS = 8
HISTORY = 256

CASES = {
    "greedy": SamplingParameters(temperature=0),
    "greedy, repeat penalty": SamplingParameters(temperature=0, repeat_penalty=1.1),
    "defaults (top_k 40, top_p 0.9)": SamplingParameters(seed=1),
    "defaults, min_p, repeat penalty": SamplingParameters(min_p=0.05, repeat_penalty=1.1, seed=1),
    "the same, whole context": SamplingParameters(min_p=0.05, repeat_penalty=1.1, repeat_last_n=-1, seed=1),
    "defaults, typical_p 0.9": SamplingParameters(typical_p=0.9, seed=1),
    "top_k 1000, top_p 0.9": SamplingParameters(top_k=1000, seed=1),
    "top_k off, top_p 0.9": SamplingParameters(top_k=0, seed=1),
    "top_k off, min_p 0.05": SamplingParameters(top_k=0, top_p=1, min_p=0.05, seed=1),
    "everything off": SamplingParameters(top_k=0, top_p=1, seed=1),
    "mirostat 1": SamplingParameters(mirostat=1, seed=1),
    "mirostat 2": SamplingParameters(mirostat=2, seed=1),
    "defaults, top_logprobs 20": SamplingParameters(logprobs=True, top_logprobs=20, seed=1),
}


def synthetic_logits(vocab_size: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 2.5, vocab_size).astype(np.float32) for _ in range(ARRAYS)]
    for array in arrays:
        head = rng.integers(vocab_size, size=200)
        array[head] += rng.exponential(4, head.size).astype(np.float32)
    return arrays


def microseconds_per_step(
    parameters: SamplingParameters, arrays: list[NDArray[np.float32]], steps: int
) -> list[float]:
    vocab_size = arrays[0].size
    history = np.random.default_rng(1).integers(vocab_size, size=HISTORY).tolist()
    sampler = Sampler(parameters, vocab_size, history)
    times = []
    for step in range(steps):
        start = time.perf_counter_ns()
        sampler.sample(arrays[step % ARRAYS])
        times.append((time.perf_counter_ns() - start) / 1000)
    return times[len(times) // 10 :]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a sampling step costs.")
    parser.add_argument("--vocab", type=int, default=262_144, help="size of the vocabulary")
    parser.add_argument("--steps", type=int, default=400, help="steps per case, the first tenth not counted")
    arguments = parser.parse_args()
    arrays = synthetic_logits(arguments.vocab)
    print(f"| vocabulary {arguments.vocab} | min µs | median µs |\n|---|---:|---:|")
    for name, parameters in CASES.items():
        times = microseconds_per_step(parameters, arrays, arguments.steps)
        print(f"| {name} | {min(times):.0f} | {statistics.median(times):.0f} |")


if __name__ == "__main__":
    main()
