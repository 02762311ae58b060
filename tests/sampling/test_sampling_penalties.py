"""The history and the penalties against plain definitions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.sampling import SamplingParameters
from puna.sampling.penalties import TokenWindow, penalised

tokens = st.lists(st.integers(0, 9) | st.integers(0, 2**31 - 1), max_size=200)


@settings(deadline=None)
@given(st.none() | st.integers(1, 100), tokens, tokens)
def test_window_counts_the_latest_tokens(size: int | None, history: list[int], appended: list[int]) -> None:
    window = TokenWindow(size, history)
    seen = list(history)
    for token in [None, *appended]:
        if token is not None:
            window.append(token)
            seen.append(token)
        latest = seen if size is None else seen[-size:]
        assert dict(zip(window.ids.tolist(), window.counts.tolist(), strict=True)) == Counter(latest)


def test_window_takes_any_sequence_of_ids() -> None:
    for history in ((1, 2, 2, 3), [1, 2, 2, 3], range(4)):
        assert TokenWindow(3, history).counts.sum() == 3


def slow_penalty(logit: float, count: int, repeat: float, presence: float, frequency: float) -> float:
    if count == 0:
        return logit
    logit = logit / repeat if logit > 0 else logit * repeat
    return logit - presence - count * frequency


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-50, 50, width=32), st.integers(1, 100)), min_size=1, max_size=50),
    st.floats(0.01, 10),
    st.floats(-5, 5),
    st.floats(-5, 5),
)
def test_penalties(pairs: list[tuple[float, int]], repeat: float, presence: float, frequency: float) -> None:
    logits = np.array([logit for logit, _ in pairs], np.float32)
    counts = np.array([count for _, count in pairs], np.int64)
    parameters = SamplingParameters(
        repeat_penalty=repeat, presence_penalty=presence, frequency_penalty=frequency
    )
    expected = [slow_penalty(logit, count, repeat, presence, frequency) for logit, count in pairs]
    result = penalised(logits, counts, parameters)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("repeat", [1e-3, 1e3])
def test_impossible_tokens_stay_impossible(repeat: float) -> None:
    parameters = SamplingParameters(repeat_penalty=repeat, presence_penalty=-1000, frequency_penalty=-1000)
    result = penalised(np.array([-np.inf], np.float32), np.array([1000]), parameters)
    assert result.tolist() == [-np.inf]
