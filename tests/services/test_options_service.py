"""Options of requests and models, for servers and the command line."""

from typing import Any

import pytest

from puna.cli.options import option_values
from puna.engine.options import LoadOptions
from puna.errors import InvalidOption
from puna.modelfile.parameters import DEPRECATED, KINDS
from puna.sampling.parameters import SamplingParameters
from puna.services.limits import Limits
from puna.services.options import NAMES, Options, read_options


def test_nothing_is_the_default() -> None:
    assert read_options({}) == Options(LoadOptions(), SamplingParameters())


def test_a_request_goes_before_the_model() -> None:
    own = {"temperature": 0.5, "stop": ["a"], "num_ctx": 100, "num_keep": 7}
    found = read_options({"temperature": 0.1, "num_predict": 5, "stop": None}, own)
    assert found.sampling == SamplingParameters(temperature=0.1)
    assert (found.load, found.num_predict, found.num_keep) == (LoadOptions(num_ctx=100), 5, 7)
    assert found.stop == ("a",)
    assert read_options({"stop": ["b", ""]}, own).stop == ("b",)
    assert read_options({"stop": []}, own).stop == ()


def test_the_names_of_ollama() -> None:
    given = {"num_gpu": 7, "num_thread": 3, "main_gpu": 1, "num_batch": 64, "kv_cache_type": "Q8_0"}
    expected = LoadOptions(
        num_gpu_layers=7, num_threads=3, main_gpu=1, num_batch=64, kv_cache_type="q8_0", tensor_split=(1, 2)
    )
    assert read_options({**given, "tensor_split": [1, 2.0]}).load == expected
    assert read_options({"num_gpu": -1, "num_thread": 0}).load == LoadOptions()
    # A request can also leave the choice where the model does not.
    assert read_options({"num_gpu": -1}, {"num_gpu": 3}).load == LoadOptions()


def test_whole_numbers_with_a_fraction_are_cut() -> None:
    found = read_options({"num_predict": 5.9, "top_k": 3.2, "num_ctx": 4096.0})
    assert (found.num_predict, found.sampling.top_k, found.load.num_ctx) == (5, 3, 4096)


def test_names_without_effect() -> None:
    every = {**dict.fromkeys(KINDS), **dict.fromkeys(DEPRECATED, True), "use_mmap": 1, "numa": True}
    assert read_options(every).ignored == ()
    # What may not come from a request is not known.
    strange = {"rpc_servers": ["x:1"], "num_parallel": 9, "logit_bias": {}, "logprobs": True, "n_discard": -1}
    found = read_options(strange, {"also": 1})
    assert found == Options(LoadOptions(), SamplingParameters(), ignored=tuple(strange))


def test_every_option_of_a_modelfile_is_known_or_has_no_effect() -> None:
    assert {*KINDS} - {*NAMES} == {"use_mmap"}


WRONG_VALUES: list[Any] = ["x", [1], {}, [[]], True, {"a": 1}, float("nan"), 1e999, 10**400]
# Values after all, for these.
RIGHT: list[tuple[str, Any]] = [("tensor_split", [1]), ("transcode", True)]


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n in NAMES for v in WRONG_VALUES if (n, v) not in RIGHT]
)
def test_a_wrong_value_is_an_error_that_names_its_option(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=name) as caught:
        read_options({}, {name: value})
    assert len(str(caught.value)) < 300


def test_how_long_an_answer_may_be() -> None:
    for asked, most in ((-1, 1000), (-5, 1000), (0, 0), (7, 7), (1000, 1000), (1001, 1000), (2**62, 1000)):
        assert read_options({"num_predict": asked}).most_tokens(100) == most


def test_stop_texts_are_limited() -> None:
    limits = Limits(stops=2, stop_length=3)
    assert read_options({"stop": ["abc", "d"]}, None, limits).stop == ("abc", "d")
    for stop in (["a", "b", "c"], ["abcd"]):
        with pytest.raises(InvalidOption, match="stop text"):
            read_options({"stop": stop}, None, limits)


def test_the_command_line_says_the_same() -> None:
    pairs = [("num_gpu", "-1"), ("temperature", "0.5"), ("stop", "a"), ("stop", "b"), ("num_ctx", "7")]
    pairs += [("tensor_split", "1,2"), ("transcode", "true"), ("num_ctx", "8")]
    given = {"num_gpu": -1, "temperature": 0.5, "stop": ["a", "b"], "num_ctx": 8}
    assert read_options(option_values(pairs)) == read_options(
        {**given, "tensor_split": [1, 2], "transcode": True}
    )
    assert read_options({}, {"temperature": 0.3, "frob": 1}) == read_options({}, {"temperature": 0.3})
