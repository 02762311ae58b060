"""The options: defaults, ranges, what a bad value is answered with."""

import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from puna.errors import InvalidOption
from puna.sampling import SamplingParameters
from puna.sampling.parameters import RANGES

INF, NAN = math.inf, math.nan


def make(values: dict[str, Any]) -> SamplingParameters:
    """Parameters from values of any type, as a client may send them."""
    return SamplingParameters(**values)


def test_defaults_are_ollamas() -> None:
    parameters = SamplingParameters()
    assert {name: getattr(parameters, name) for name in RANGES} == {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_last_n": 64,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "seed": -1,
        "top_logprobs": 0,
    }
    assert parameters.logprobs is False
    assert parameters.logit_bias == {}


@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_every_range_are_accepted_and_nothing_beyond(name: str) -> None:
    accepted = RANGES[name]
    step = 1 if accepted.integer else 1e-9
    for end, beyond in ((accepted.low, accepted.low - step), (accepted.high, accepted.high * (1 + 1e-9) + 1)):
        make({name: end})
        with pytest.raises(InvalidOption, match=f"^{name} must be a .*number from .* to .*, not "):
            make({name: int(beyond) if accepted.integer else beyond})


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [NAN, INF, -INF, "1", None, [1], {}, True, 10**400, -(10**400)])
def test_what_is_not_a_finite_number_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=name):
        make({name: value})


@pytest.mark.parametrize("name", [name for name, accepted in RANGES.items() if accepted.integer])
def test_whole_number_options_take_no_fraction(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"{name} must be a whole number"):
        make({name: 1.0})


def test_message_names_option_value_and_range() -> None:
    with pytest.raises(InvalidOption) as caught:
        SamplingParameters(top_p=2.0)
    assert str(caught.value) == "top_p must be a number from 0 to 1, not 2.0"
    with pytest.raises(InvalidOption) as caught:
        SamplingParameters(mirostat=99)
    assert str(caught.value) == "mirostat must be a whole number from 0 to 2, not 99"


def test_message_shows_little_of_a_long_value() -> None:
    with pytest.raises(InvalidOption) as caught:
        make({"top_k": "x" * 1_000_000})
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    "bias",
    [
        {-1: 1.0},
        {"5": 1.0},
        {2**31: 0.0},
        {True: 0.0},
        {5: NAN},
        {5: -INF},
        {5: 1001},
        {5: None},
        [(5, 1.0)],
        3,
    ],
)
def test_bad_logit_bias_is_refused(bias: Any) -> None:
    with pytest.raises(InvalidOption, match="logit_bias"):
        SamplingParameters(logit_bias=bias)


def test_logit_bias_is_kept_apart_from_the_callers() -> None:
    bias = {5: 1.0}
    parameters = SamplingParameters(logit_bias=bias)
    bias[5] = math.nan
    assert parameters.logit_bias == {5: 1.0}


def test_logprobs_is_a_truth_value() -> None:
    with pytest.raises(InvalidOption, match="logprobs must be true or false"):
        make({"logprobs": 1})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, SamplingParameters()),
        (
            {"temperature": 0, "num_ctx": 4096, "stop": ["x"], "nonsense": object()},
            SamplingParameters(temperature=0),
        ),
        ({"top_k": None, "seed": None}, SamplingParameters()),
        ({"top_k": 20.9, "seed": 42.0}, SamplingParameters(top_k=20, seed=42)),
    ],
)
def test_options_of_the_wire(options: Mapping[str, Any], expected: SamplingParameters) -> None:
    assert SamplingParameters.from_options(options) == expected


@pytest.mark.parametrize("value", [NAN, INF, 1e308, -1e308, "40", [40]])
def test_bad_options_of_the_wire_are_refused(value: object) -> None:
    with pytest.raises(InvalidOption, match="top_k"):
        SamplingParameters.from_options({"top_k": value})


@pytest.mark.parametrize(
    ("parameters", "penalises"),
    [
        (SamplingParameters(), False),
        (SamplingParameters(repeat_penalty=1.1), True),
        (SamplingParameters(presence_penalty=-0.1), True),
        (SamplingParameters(frequency_penalty=0.1), True),
        (SamplingParameters(frequency_penalty=0.1, repeat_last_n=0), False),
        (SamplingParameters(frequency_penalty=0.1, repeat_last_n=-1), True),
    ],
)
def test_penalises(parameters: SamplingParameters, penalises: bool) -> None:
    assert parameters.penalises is penalises


def test_parameters_load_no_numpy_and_the_sampler_comes_on_demand() -> None:
    code = (
        "import sys, puna.sampling as s; s.SamplingParameters(); before = 'numpy' in sys.modules; "
        "s.Sampler, s.Choice; print(before, 'numpy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


def test_package_has_only_its_public_names() -> None:
    import puna.sampling

    with pytest.raises(AttributeError, match="nothing"):
        puna.sampling.nothing  # noqa: B018
