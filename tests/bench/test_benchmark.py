"""What is measured, in which order, and how times become rates: with a subject that only takes notes."""

from collections.abc import Iterator, Sequence

import pytest

from puna.benchmark import Case, Measurement, measure, plan_cases
from puna.errors import InvalidOption


class Notebook:
    """A subject that writes down what it is asked, and whose clock goes by what it did."""

    def __init__(self, prompt_ns: int = 3, step_ns: int = 1000) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.tokens: list[int] = []
        self.now = 0
        self._prompt_ns = prompt_ns
        self._step_ns = step_ns

    def reset(self) -> None:
        self.calls.append(("reset", 0, 0))

    def evaluate(self, tokens: Sequence[int], sequence: int) -> None:
        self.calls.append(("evaluate", len(tokens), sequence))
        self.tokens.extend(tokens)
        self.now += self._prompt_ns * len(tokens)

    def decode(self, tokens: Sequence[int]) -> None:
        self.calls.append(("decode", len(tokens), 0))
        self.tokens.extend(tokens)
        self.now += self._step_ns

    def clock(self) -> int:
        return self.now


def run(notebook: Notebook, *tests: Case, repetitions: int = 2, vocabulary: int = 50) -> list[Measurement]:
    return list(measure(notebook, tests, repetitions, vocabulary, notebook.clock))


def episodes(notebook: Notebook) -> Iterator[list[tuple[str, int, int]]]:
    """What was asked between one reset and the next."""
    episode: list[tuple[str, int, int]] = []
    for call in notebook.calls[1:]:
        if call[0] == "reset":
            yield episode
            episode = []
        else:
            episode.append(call)


def test_a_prompt_is_warmed_up_once_and_timed_alone_at_its_depth() -> None:
    notebook = Notebook()
    (result,) = run(notebook, Case("prompt", 8, depth=5))
    warm_up, *timed = episodes(notebook)
    assert warm_up == [("evaluate", 8, 0)]
    assert timed == [[("evaluate", 5, 0), ("evaluate", 8, 0)]] * 2
    assert result.nanoseconds == (24, 24)  # the five tokens of depth are not in it


def test_generation_times_its_steps_only_and_fills_every_sequence() -> None:
    notebook = Notebook()
    (result,) = run(notebook, Case("generation", 4, depth=6, batch=3), repetitions=1)
    warm_up, timed = episodes(notebook)
    assert warm_up == [("decode", 3, 0)]
    assert timed == [("evaluate", 6, 0), ("evaluate", 6, 1), ("evaluate", 6, 2), *[("decode", 3, 0)] * 4]
    assert result.nanoseconds == (4000,)
    assert result.rates == pytest.approx([3 * 4 / 4000e-9])  # tokens of all three


def test_the_cache_is_left_empty() -> None:
    notebook = Notebook()
    run(notebook, Case("generation", 1))
    assert notebook.calls[-1] == ("reset", 0, 0)


def test_tokens_are_of_the_vocabulary_spread_and_the_same_on_every_run() -> None:
    first, second = Notebook(), Notebook()
    for notebook in (first, second):
        run(notebook, Case("prompt", 400), Case("generation", 20), vocabulary=50)
    assert set(first.tokens) == set(range(50))
    assert first.tokens == second.tokens


def test_mean_and_sample_deviation_are_of_the_rates() -> None:
    result = Measurement(Case("prompt", 100), (10**9, 2 * 10**9))
    assert result.rates == (100.0, 50.0)
    assert result.mean_rate == 75.0
    assert result.rate_deviation == pytest.approx(1250**0.5)
    assert Measurement(Case("prompt", 100), (10**9,)).rate_deviation == 0.0


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (Case("prompt", 512), "pp512"),
        (Case("generation", 128), "tg128"),
        (Case("prompt", 512, depth=1024), "pp512 @ d1024"),
        (Case("generation", 32, batch=4), "tg32 x4"),
        (Case("generation", 32, depth=64, batch=4), "tg32 x4 @ d64"),
    ],
)
def test_names(case: Case, name: str) -> None:
    assert case.name == name


def test_plan_has_prompts_before_generation_at_every_depth_and_leaves_out_zeros() -> None:
    names = [case.name for case in plan_cases((512, 0), (16,), (0, 64), (1, 2))]
    assert names == ["pp512", "pp512 @ d64", "tg16", "tg16 x2", "tg16 @ d64", "tg16 x2 @ d64"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((-1,), (1,), (0,), (1,)), "n-prompt is -1"),
        (((1,), (-2,), (0,), (1,)), "n-gen is -2"),
        (((1,), (1,), (-3,), (1,)), "depth is -3"),
        (((1,), (1,), (0,), (0,)), "batch is 0"),
        (((0,), (0,), (0,), (1,)), "nothing to measure"),
    ],
)
def test_plan_refuses_what_makes_no_sense(numbers: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        plan_cases(*numbers)
