"""What keeping answers to a grammar costs: tokens per second with and without one, in turn.

    python bench/constraints.py MODEL.gguf [--pairs 7] [--threads 2]

Both sides generate equally many tokens from the same prompt with the same options. Ratios are taken within
pairs, and also of the processors' time, which other programs on the machine disturb less. The first grammar
fits any text, so only the constraint's own work differs. With log-probabilities each token is sampled;
without, those that must follow are evaluated together.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from puna.engine import Done, LoadOptions, load_model
from puna.engine.load import LoadedModel
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import SamplingParameters

PROMPT = "Write a list of people with their names, their age, their home address and what they like, as JSON."
TEXT = {"type": "string", "minLength": 4, "maxLength": 20}
ADDRESS = {
    "type": "object",
    "properties": {"street": TEXT, "city": TEXT, "country": {"enum": ["France", "Italy", "Peru"]}},
    "required": ["street", "city", "country"],
    "additionalProperties": False,
}
PEOPLE = {
    "type": "array",
    "minItems": 50,
    "items": {
        "type": "object",
        "properties": {
            "name": TEXT,
            "age": {"type": "integer", "minimum": 1, "maximum": 120},
            "home_address": ADDRESS,
            "favourite_things": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "age", "home_address", "favourite_things"],
        "additionalProperties": False,
    },
}
PERSON = {
    "name": "Ada Lovelace",
    "age": 36,
    "home_address": {"street": "12 St James's Square", "city": "London", "country": "Peru"},
    "favourite_things": ["numbers", "engines"],
}


@dataclass(frozen=True, slots=True)
class Case:
    """A grammar, and whether log-probabilities are asked for on both sides."""

    name: str
    grammar: Grammar
    logprobs: bool


CASES = (
    Case("any text", Grammar.regex(r"(.|\n)*"), False),
    Case("a schema's objects, each token sampled", Grammar.json_schema(PEOPLE), True),
    Case("a schema's objects", Grammar.json_schema(PEOPLE), False),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one answer: tokens per second, and seconds of all processors per token."""

    rate: float
    work: float


def measure(model: LoadedModel, prompt: list[int], case: Case, constrained: bool, tokens: int) -> Speed:
    """The speed of an answer that runs to its limit."""
    endless = dict.fromkeys(model.tokenizer.end_ids, -1000.0)
    sampling = SamplingParameters(seed=1, logit_bias=endless, logprobs=case.logprobs)
    events = model.generate(
        prompt, sampling, num_predict=tokens, grammar=case.grammar if constrained else None
    )
    next(events)
    began = time.process_time()
    *_, done = events
    assert isinstance(done, Done)
    spent = time.process_time() - began
    return Speed(done.generated_tokens / done.generation_seconds, spent / done.generated_tokens)


def compare(model: LoadedModel, case: Case, pairs: int, tokens: int) -> str:
    """Medians of the rates without and with the grammar, and of both ratios within pairs."""
    prompt = model.tokenizer.encode(PROMPT)
    found = [
        (measure(model, prompt, case, False, tokens), measure(model, prompt, case, True, tokens))
        for _ in range(pairs + 1)
    ][1:]
    median = statistics.median
    free, kept = (median(speed.rate for speed in side) for side in zip(*found, strict=True))
    faster = median(kept.rate / free.rate for free, kept in found)
    less = median(free.work / kept.work for free, kept in found)
    return f"| {case.name} | {free:.1f} | {kept:.1f} | {faster:.2f} | {less:.2f} |"


def parts(model: LoadedModel) -> str:
    """What each part takes by itself, over one document of the schema."""
    began = time.perf_counter()
    model.constraints.start(Grammar.any_object())
    first = time.perf_counter() - began
    began = time.perf_counter()
    constraint = model.constraints.start(Grammar.json_schema(PEOPLE))
    compiled = time.perf_counter() - began
    masks, steps = [], []
    for token in model.tokenizer.encode(json.dumps([PERSON, PERSON])[:-1], add_special=False):
        began = time.perf_counter()
        constraint.mask()
        masked = time.perf_counter()
        constraint.advance(token, most=0)
        masks.append((masked - began) * 1e6)
        steps.append((time.perf_counter() - masked) * 1e6)
    return (
        f"first constraint {first * 1e3:.0f} ms, compiling {compiled * 1e3:.1f} ms; per token: "
        f"mask {statistics.median(masks):.0f} µs (mean {statistics.mean(masks):.0f}, most {max(masks):.0f}), "
        f"advance {statistics.median(steps):.0f} µs"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What keeping answers to a grammar costs.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    with load_model(arguments.model, LoadOptions(num_ctx=1024, num_threads=arguments.threads)) as model:
        print(parts(model))
        print("| kept to | free, tokens/s | kept, tokens/s | ratio | ratio by processor time |")
        print("| :--- | ---: | ---: | ---: | ---: |")
        for case in CASES:
            print(compare(model, case, arguments.pairs, arguments.tokens), flush=True)


if __name__ == "__main__":
    main()
