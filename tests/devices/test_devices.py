"""Layers on several devices: two RPC servers on loopback stand for two devices of any memory we like."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_llama import write_tiny_llama

import puna.ggml
from puna.engine.load import next_shares
from puna.ml import AllocationStatus, BackendMemory, DeviceMemory, Memory
from puna.ml.backends.ggml.devices import accelerators

HERE = Path(__file__).parent
BLOCKS = 8
PLENTY = 1 << 29
Load = Callable[..., dict[str, Any]]

needs_rpc = pytest.mark.skipif(
    not puna.ggml.load().has("ggml_backend_rpc_start_server"), reason="this ggml was built without RPC"
)


@contextmanager
def rpc_server(memory: int) -> Iterator[str]:
    """Runs an RPC server whose process can take `memory` more bytes; gives its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(HERE / "rpc_worker.py"), str(port), str(memory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(process, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_for(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the RPC server did not start")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("devices") / "tiny.gguf", blocks=BLOCKS, hidden=256)


@pytest.fixture(scope="module")
def load(model_path: Path) -> Load:
    """Loads the model in a process of its own, with servers of the given memories."""

    def run(*memories: int, **options: Any) -> dict[str, Any]:
        with ExitStack() as servers:
            endpoints = [servers.enter_context(rpc_server(memory)) for memory in memories]
            arguments = json.dumps({"rpc_servers": endpoints, **options})
            command = [sys.executable, str(HERE / "load_and_answer.py"), str(model_path), arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run


@pytest.fixture(scope="module")
def on_cpu(load: Load) -> dict[str, Any]:
    return load(num_gpu_layers=0)


def layers(result: dict[str, Any]) -> list[list[int]]:
    """The layers whose weights lie on each device, the CPU first."""
    return [[i for i, size in enumerate(device["weights"]) if size] for device in result["devices"]]


@needs_rpc
def test_layers_spread_over_devices_and_the_answer_stays_the_same(load: Load, on_cpu: dict[str, Any]) -> None:
    result = load(PLENTY, PLENTY)
    cpu, first, second = layers(result)
    assert cpu == []
    assert first + second == list(range(BLOCKS + 1))
    assert min(len(first), len(second)) >= 3
    assert result["texts"] == on_cpu["texts"]


@needs_rpc
def test_the_memory_report_follows_the_layers(load: Load) -> None:
    for device in load(PLENTY, PLENTY)["devices"][1:]:
        held = [i for i, size in enumerate(device["weights"]) if size]
        assert [i for i, size in enumerate(device["cache"]) if size] == [i for i in held if i < BLOCKS]
        assert device["graph"] > 0


@needs_rpc
def test_num_gpu_layers_takes_the_last_layers_first(load: Load, on_cpu: dict[str, Any]) -> None:
    result = load(PLENTY, num_gpu_layers=3)
    assert layers(result) == [[0, 1, 2, 3, 4, BLOCKS], [5, 6, 7]]
    assert result["texts"] == on_cpu["texts"]


@needs_rpc
def test_tensor_split_sets_the_proportion(load: Load, on_cpu: dict[str, Any]) -> None:
    result = load(PLENTY, PLENTY, tensor_split=[2, 1])
    _, first, second = layers(result)
    assert (len(first), len(second)) == (6, 3)
    assert result["texts"] == on_cpu["texts"]


@needs_rpc
def test_main_gpu_takes_everything(load: Load) -> None:
    assert layers(load(PLENTY, PLENTY, main_gpu=1)) == [[], [], list(range(BLOCKS + 1))]


@needs_rpc
def test_a_device_too_small_gets_fewer_layers_and_the_model_runs(load: Load, on_cpu: dict[str, Any]) -> None:
    result = load(PLENTY, 8_000_000)
    cpu, first, second = layers(result)
    assert cpu == []
    assert 0 < len(second) < 4 < len(first)
    assert result["texts"] == on_cpu["texts"]


@needs_rpc
def test_devices_too_small_for_anything_leave_all_to_the_cpu(load: Load, on_cpu: dict[str, Any]) -> None:
    result = load(200_000, 200_000)
    assert layers(result) == [list(range(BLOCKS + 1))]
    assert result["texts"] == on_cpu["texts"]


@needs_rpc
def test_what_was_asked_for_by_number_is_not_reduced(load: Load) -> None:
    result = load(4_000_000, num_gpu_layers=BLOCKS)
    assert result["error"] == "InsufficientMemory"
    assert "F" in result["text"]


@needs_rpc
def test_a_server_that_is_not_there_is_one_clear_error(load: Load) -> None:
    result = load(rpc_servers=["127.0.0.1:9"])
    assert result["error"] == "BackendError"
    assert "127.0.0.1:9" in result["text"]


@pytest.mark.gpu
@pytest.mark.skipif(not accelerators(puna.ggml.load(), ()), reason="this ggml sees no GPU")
@pytest.mark.parametrize("options", [{}, {"num_gpu_layers": 3}, {"main_gpu": 0}, {"tensor_split": [1]}])
def test_gpus_of_this_machine_give_the_same_answer(
    load: Load, on_cpu: dict[str, Any], options: dict[str, Any]
) -> None:
    result = load(**options)
    assert sum(len(held) for held in layers(result)[1:]) == options.get("num_gpu_layers", BLOCKS + 1)
    assert result["texts"] == on_cpu["texts"]


def test_a_device_that_does_not_exist_is_refused(load: Load) -> None:
    assert load(main_gpu=3)["error"] == "InvalidOption"
    assert load(tensor_split=[1, 1])["error"] == "InvalidOption"


def _attempt(*devices: tuple[int, bool]) -> BackendMemory:
    """An attempt with so many layers on each device, of which some failed."""
    gpus = []
    for count, failed in devices:
        status = AllocationStatus.FAILED if failed else AllocationStatus.ALLOCATED
        gpus.append(DeviceMemory("gpu", "", [Memory(10, status) for _ in range(count)]))
    return BackendMemory(Memory(), DeviceMemory("CPU"), gpus)


def test_shares_move_from_the_device_that_failed_to_one_that_did_not() -> None:
    limits: dict[int, int] = {}
    assert next_shares(_attempt((16, True), (16, False)), limits) == [14, 18]
    assert next_shares(_attempt((14, False), (18, True)), limits) == [14, 16]
    assert limits == {0: 14, 1: 16}


def test_shares_always_become_fewer_until_none_is_left() -> None:
    limits: dict[int, int] = {}
    count = 5
    while count:
        shares = next_shares(_attempt((count, True)), limits)
        assert shares is not None
        assert shares[0] < count
        count = shares[0]


def test_a_failure_of_the_cpu_cannot_be_helped() -> None:
    assert next_shares(_attempt((4, False)), {}) is None
