"""What a dry run says a model takes is what loading it takes, to the byte."""

from pathlib import Path

import pytest

from puna.engine.load import load_model, plan_model
from puna.engine.options import LoadOptions
from puna.ml import AllocationStatus, BackendMemory

OPTIONS = [
    LoadOptions(),
    LoadOptions(num_ctx=100, num_batch=7),
    LoadOptions(num_ctx=2048, num_parallel=4),
    LoadOptions(kv_cache_type="f32", num_parallel=2),
    LoadOptions(repack=False, transcode=False),
    LoadOptions(repack=True, transcode=True),
]


def bytes_of(memory: BackendMemory) -> list[object]:
    return [
        memory.input_weights.size,
        *(
            (device.name, [w.size for w in device.weights], [c.size for c in device.cache], device.graph.size)
            for device in (memory.cpu, *memory.gpus)
        ),
    ]


def check(path: Path, options: LoadOptions, backend: str = "ggml") -> None:
    memory, num_ctx, layers = plan_model(path, options, backend=backend)
    with load_model(path, options, backend=backend) as loaded:
        assert bytes_of(memory) == bytes_of(loaded.memory)
        assert num_ctx == loaded.num_ctx
        assert layers == loaded.metadata.uint("block_count")
    assert all(entry.size for entry in memory.cpu.cache[:layers])
    assert all(entry.status is AllocationStatus.UNALLOCATED for entry in memory.cpu.weights)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_of_a_tiny_model(tiny_path: Path, options: LoadOptions) -> None:
    check(tiny_path, options)


def test_of_a_tiny_model_on_the_reference_backend(tiny_path: Path) -> None:
    check(tiny_path, LoadOptions(num_ctx=256, num_parallel=2), "reference")


@pytest.mark.parametrize("options", [*OPTIONS, LoadOptions(kv_cache_type="q8_0")], ids=str)
@pytest.mark.parametrize("path", ["smollm2_path", "gemma3_path"])
def test_of_real_models(path: str, options: LoadOptions, request: pytest.FixtureRequest) -> None:
    check(request.getfixturevalue(path), options)
