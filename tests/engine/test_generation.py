"""Generation: limits, prefixes that are not evaluated twice, and clear errors."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.tiny_llama import BOS, write_tiny_llama

from puna.engine import Done, LoadOptions, TextChunk
from puna.engine.evaluator import Batch
from puna.engine.load import LoadedModel, context_length, load_model
from puna.errors import ContextLengthExceeded, GGUFError, Interrupted, InvalidOption
from puna.gguf import GGUFFile
from puna.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters(temperature=0.0)


def _answer(model: LoadedModel, prompt: list[int], num_predict: int = 12) -> tuple[str, Done]:
    events = list(model.generate(prompt, GREEDY, num_predict=num_predict))
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, TextChunk)), events[-1]


def test_num_predict_limits_the_answer(tiny: LoadedModel) -> None:
    _, done = _answer(tiny, [BOS, 70, 71], num_predict=5)
    assert (done.reason, done.prompt_tokens, done.generated_tokens) == ("length", 3, 5)


def test_the_answer_ends_where_the_context_does(tiny_path: Path) -> None:
    with load_model(tiny_path, LoadOptions(num_threads=1, num_ctx=64)) as model:
        _, done = _answer(model, [BOS, *range(60, 100)], num_predict=-1)
    assert done.reason == "length"
    assert done.prompt_tokens + done.generated_tokens == 64


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(tiny_path: Path) -> None:
    with (
        load_model(tiny_path, LoadOptions(num_threads=1, num_ctx=64)) as model,
        pytest.raises(ContextLengthExceeded, match=r"65 tokens.* 64"),
    ):
        list(model.generate([70] * 65, GREEDY))


def test_an_empty_prompt_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(InvalidOption, match="empty"):
        list(tiny.generate([], GREEDY))


def test_only_what_is_new_of_a_prompt_is_evaluated(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[int] = []
    original = tiny.evaluator.evaluate

    def counting(batch: Batch) -> object:
        evaluated.append(len(batch.tokens))
        return original(batch)

    first, _ = _answer(tiny, [BOS, *range(60, 90)])
    monkeypatch.setattr(tiny.evaluator, "evaluate", counting)
    again, _ = _answer(tiny, [BOS, *range(60, 90)])
    assert again == first
    assert evaluated[0] == 1
    evaluated.clear()
    _answer(tiny, [BOS, *range(60, 85), 200, 201])
    assert evaluated[0] == 2


def test_the_same_seed_gives_the_same_answer(tiny: LoadedModel) -> None:
    warm = SamplingParameters(temperature=1.5, seed=42)
    texts = {
        "".join(e.text for e in tiny.generate([BOS, 80], warm, num_predict=20) if isinstance(e, TextChunk))
        for _ in range(3)
    }
    assert len(texts) == 1


def test_an_interrupted_computation_leaves_the_cache_as_it_was(tiny: LoadedModel) -> None:
    expected, _ = _answer(tiny, [BOS, 70, 71])
    tiny.backend.interrupt()
    with pytest.raises(Interrupted):
        _answer(tiny, [BOS, 90, 91, 92])
    tiny.backend.resume()
    assert _answer(tiny, [BOS, 70, 71])[0] == expected


def test_an_interrupt_from_another_thread_ends_a_running_computation(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "deep.gguf", blocks=24, hidden=256)
    with load_model(path, LoadOptions(num_threads=1, num_batch=2048)) as model:
        timer = threading.Timer(0.05, model.backend.interrupt)
        timer.start()
        with pytest.raises(Interrupted):
            for _ in range(200):
                list(model.generate([2 + i % 250 for i in range(2000)], GREEDY, num_predict=1))
                model.engine.forget()
        timer.join()


def test_the_context_is_never_longer_than_what_the_model_was_trained_on(tiny_path: Path) -> None:
    with GGUFFile.open(tiny_path) as file:
        assert context_length(file.metadata, LoadOptions(num_ctx=100_000)) == 4096
        assert context_length(file.metadata, LoadOptions(num_ctx=100)) == 100


@pytest.mark.parametrize("name, content", [("text.gguf", b"hello, I am a text\n" * 9), ("empty.gguf", b"")])
def test_a_file_that_is_no_model_gives_a_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GGUFError, match=name):
        load_model(tmp_path / name)


@pytest.mark.parametrize(
    "options", [{"num_ctx": 0}, {"num_batch": 0}, {"kv_cache_type": "f8"}, {"num_threads": -1}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        LoadOptions(**options)  # type: ignore[arg-type]  # what a caller without types may pass


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from puna.engine import LoadOptions
from puna.engine.load import load_model
from puna.sampling.parameters import SamplingParameters

with load_model(Path(sys.argv[1]), LoadOptions(num_threads=1, num_batch=4096)) as model:
    prompt = [2 + i % 250 for i in range(4000)]
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    try:
        with model.interrupted_by_signals():
            for _ in range(50):
                list(model.generate(prompt, SamplingParameters(), num_predict=1))
                model.engine.forget()
    except KeyboardInterrupt:
        kept = sum(len(prefix.tokens) for prefix in model.engine.prefixes)
        print("interrupted with", kept, "tokens kept")
    model.engine.check()
    print(len(list(model.generate([5, 6], SamplingParameters(), num_predict=1))) > 0)
"""


def test_a_signal_interrupts_the_computation_and_the_model_goes_on_working(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "deep.gguf", blocks=24, hidden=256)
    command = [sys.executable, "-c", INTERRUPTED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["interrupted with 0 tokens kept", "True"]
