"""How measurements are shown: the Markdown table, the JSON, the options a model is loaded with."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner

from puna.benchmark import Case, Measurement
from puna.cli.commands import bench
from puna.cli.commands.bench import Setup
from puna.errors import InvalidOption

SETUP = Setup(
    path="/models/m.gguf",
    model="llama Q4_0",
    size=90_000_000,
    parameters=134_515_008,
    backend="CPU",
    threads=2,
    num_batch=512,
    kv_cache_type="f16",
    library="ggml 0.25.3 (path)",
)
PROMPT = Measurement(Case("prompt", 512), (10**9, 10**9))
GENERATION = Measurement(Case("generation", 10, depth=4, batch=2), (10**8, 2 * 10**8))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_has_one_row_for_each_measurement() -> None:
    head, rule, first, second, empty, library = bench.table_lines(SETUP, [PROMPT, GENERATION])
    assert cells(head) == ["model", "size", "params", "backend", "threads", "test", "t/s"]
    assert cells(rule)[0].startswith("--") and cells(rule)[-1].endswith("-:")
    assert cells(first) == ["llama Q4_0", "85.83 MiB", "134.52 M", "CPU", "2", "pp512", "512.00 ± 0.00"]
    assert cells(second)[-2:] == ["tg10 x2 @ d4", "150.00 ± 70.71"]
    assert len({len(line) for line in (head, rule, first, second)}) == 1
    assert (empty, library) == ("", "library: ggml 0.25.3 (path)")


def test_table_tells_the_cache_type_when_it_is_not_the_default() -> None:
    quantised = replace(SETUP, kv_cache_type="q8_0")
    head, _, row, *_ = bench.table_lines(quantised, [PROMPT])
    assert dict(zip(cells(head), cells(row), strict=True))["cache"] == "q8_0"


def test_a_row_is_there_as_soon_as_its_measurement_is() -> None:
    def measurements() -> Iterator[Measurement]:
        yield PROMPT
        raise AssertionError("asked for the second row too early")

    lines = bench.table_lines(SETUP, measurements())
    assert cells([next(lines), next(lines), next(lines)][-1])[-2] == "pp512"


def test_json_has_llama_bench_names_and_every_repetition() -> None:
    prompt, generation = json.loads(bench.as_json(SETUP, [PROMPT, GENERATION]))
    assert prompt["n_prompt"] == 512 and prompt["n_gen"] == 0
    assert prompt["samples_ns"] == [10**9, 10**9] and prompt["stddev_ns"] == 0
    assert (generation["n_prompt"], generation["n_gen"]) == (0, 10)
    assert (generation["n_depth"], generation["n_parallel"]) == (4, 2)
    assert generation["samples_ts"] == [200.0, 100.0]
    assert generation["avg_ns"] == 150_000_000 and generation["avg_ts"] == 150.0


@pytest.mark.parametrize(
    ("count", "text"), [(512, "0.00 MiB"), ((1 << 30) - 1, "1024.00 MiB"), (3 << 29, "1.50 GiB")]
)
def test_size_text(count: int, text: str) -> None:
    assert bench.size_text(count) == text


def test_parameters_text() -> None:
    assert [bench.parameters_text(count) for count in (12_340_000, 7_240_000_000)] == ["12.34 M", "7.24 B"]


def test_a_model_is_loaded_with_room_for_the_deepest_test_and_the_widest_batch() -> None:
    tests = (Case("prompt", 512), Case("generation", 128, depth=1024, batch=4))
    options = bench.load_options(
        tests, threads=2, num_batch=256, num_gpu=-1, kv_cache_type="q8_0", transcode=None
    )
    assert (options.num_ctx, options.num_parallel, options.num_batch) == (1152, 4, 256)
    assert options.num_gpu_layers is None and options.kv_cache_type == "q8_0"


def test_a_test_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"pp512 @ d64 needs a context of 576 tokens.* 512"):
        bench.check_context(512, [Case("prompt", 512), Case("prompt", 512, depth=64)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "512,x"], "whole numbers with commas between"),
        (["-r", "0"], "repetitions is 0"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_a_model_is_looked_for(
    arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(bench.command, ["nowhere.gguf", *arguments])
    assert isinstance(result.exception, InvalidOption)
    assert message in str(result.exception)
