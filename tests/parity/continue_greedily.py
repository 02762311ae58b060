"""Asks Puna for the next token after each token of given texts: continue_greedily.py MODEL < JSON > JSON.

Reads [[prompt ids, continuation ids], …] and prints, for each token of each continuation, the likeliest
token and the distance between the two likeliest logits.
"""

import json
import sys
from pathlib import Path

import numpy as np

from puna.engine import LoadOptions, load_model
from puna.engine.evaluator import Batch
from puna.engine.load import LoadedModel

# llama.cpp's server evaluates the last tokens of a prompt by themselves.
LAST = 4


def likeliest(model: LoadedModel, prompt: list[int], continuation: list[int]) -> list[tuple[int, float]]:
    evaluator = model.evaluator
    evaluator.cache.remove(0, 0)
    first = max(0, len(prompt) - LAST)
    if first:
        evaluator.evaluate(Batch.of(prompt[:first], 0))
    logits = evaluator.evaluate(Batch.of(prompt[first:], first))[-1]
    found = []
    for step, token in enumerate(continuation):
        second, best = np.partition(logits, -2)[-2:]
        found.append((int(logits.argmax()), float(best - second)))
        logits = evaluator.evaluate(Batch.of([token], len(prompt) + step))[-1]
    return found


def main() -> None:
    options = LoadOptions(num_ctx=512, num_threads=2, transcode=False, repack=True)
    with load_model(Path(sys.argv[1]), options) as model:
        json.dump([likeliest(model, *pair) for pair in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
