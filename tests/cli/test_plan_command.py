"""`puna plan` with a tiny model: what it prints agrees with itself and with a real load."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tiny_gemma import write_tiny_gemma
from tests.tiny_lfm2 import ATTENDING, write_tiny_lfm2
from tests.tiny_llama import BLOCKS, HEADS, HIDDEN, KV_HEADS

from puna.cli.commands.plan import as_plain, plan_placement, render
from puna.engine.load import load_model
from puna.engine.options import LoadOptions
from puna.scheduler.fit import Shortage

Puna = Callable[..., "subprocess.CompletedProcess[str]"]


def test_it_says_what_a_load_takes(puna: Puna, base_model: Path) -> None:
    result = puna("plan", base_model, "-o", "num_ctx=512", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    with load_model(base_model, LoadOptions(num_ctx=512, num_parallel=4)) as loaded:
        assert told["size"] == loaded.memory.size
        (cpu,) = told["devices"]
        assert cpu["cache"] == sum(entry.size for entry in loaded.memory.cpu.cache)
        assert cpu["graph"] == loaded.memory.cpu.graph.size
    assert (told["num_ctx"], told["num_parallel"], told["layers"], told["fits"]) == (512, 4, BLOCKS, True)
    assert cpu["free"] > 0


def test_an_image_encoder_in_a_file_of_its_own_counts(puna: Puna, tmp_path: Path) -> None:
    """As it does when the model is loaded."""
    text, projector = tmp_path / "text.gguf", tmp_path / "mmproj.gguf"
    write_tiny_gemma(text, projector=projector)
    (tmp_path / "Modelfile").write_text("FROM ./text.gguf\nFROM ./mmproj.gguf\n")
    assert puna("create", "sees").returncode == 0
    sees, blind = (json.loads(puna("plan", model, "--json").stdout) for model in ("sees", text))
    options = LoadOptions(num_ctx=4096, num_parallel=4, projector=str(projector))
    with load_model(text, options) as loaded:
        assert sees["size"] == loaded.memory.size
    assert sees["devices"][0]["graph"] > blind["devices"][0]["graph"]
    assert sees["devices"][0]["weights"] > blind["devices"][0]["weights"]


def test_the_arithmetic_comes_out(puna: Puna, base_model: Path) -> None:
    told = json.loads(puna("plan", base_model, "--json", "--num-parallel", "2").stdout)
    (group,) = told["cache"]
    head = HIDDEN // HEADS
    assert (group["layers"], group["heads"]) == (BLOCKS, KV_HEADS)
    assert (group["key_length"], group["value_length"], group["element_size"]) == (head, head, 2.0)
    assert group["cells"] >= 2 * 4096
    product = BLOCKS * KV_HEADS * 2 * head * group["cells"] * 2
    assert group["size"] == product == told["devices"][0]["cache"]


def test_what_people_read(puna: Puna, base_model: Path) -> None:
    result = puna("plan", base_model, "-o", "num_ctx=512", "-o", "kv_cache_type=f32", "--num-parallel", "1")
    lines = result.stdout.splitlines()
    assert lines[0] == "context   512 tokens × 1 requests at once"
    assert "2 layers × 2 heads × (16 + 16) × " in lines[1]
    assert " cells × 4 bytes (f32) = " in lines[1]
    assert lines[3].split() == ["DEVICE", "LAYERS", "WEIGHTS", "CACHE", "GRAPH", "TOGETHER", "FREE", "NOW"]
    assert lines[4].split()[:2] == ["CPU", str(BLOCKS + 1)]
    assert lines[-1].startswith("It takes ")


def test_states_do_not_grow_with_the_context(tmp_path: Path) -> None:
    path = write_tiny_lfm2(tmp_path / "model.gguf")
    short, long = (plan_placement(path, LoadOptions(num_ctx=num_ctx), 2) for num_ctx in (256, 2048))
    (group,) = short.cache
    assert group.layers == ATTENDING.count(True)
    # Two slots of three for the two requests, 64 more, and one of zeros; two layers of 64 channels, two taps.
    assert short.states == long.states == 4 * (2 * 3 + 64 + 1) * 2 * 64 * 2 == as_plain(long)["states"]
    assert "states    72 KB, however long the texts" in render(short)


def test_what_does_not_fit_is_named(base_model: Path) -> None:
    placement = plan_placement(base_model, LoadOptions(), 4)
    short = replace(placement, missing=(Shortage("CPU", False, 3 * 10**9, 10**9),))
    assert list(render(short))[-1] == (
        "It does not fit: it needs 3 GB on CPU, where 1 GB are free. Lower num_ctx or --num-parallel."
    )
    assert as_plain(short)["missing"] == [{"device": "CPU", "needed": 3 * 10**9, "free": 10**9}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing/here.gguf",), "nothing/here.gguf: no such file"),
        (("MODEL", "-o", "num_ctx=0"), "num_ctx must be a whole number from 1 to 2147483647, not 0"),
        (("MODEL", "-o", "num_ctx"), "'num_ctx' is no option; write it as name=value"),
        (("MODEL", "-o", "kv_cache_type=q9"), "kv_cache_type is 'q9'; it can be f16, q8_0, q4_0, f32"),
        (("MODEL", "--num-parallel", "0"), "0 is not in the range x>=1"),
        (("MODEL", "--num-parallel", "1000000"), "64"),
        (("MODEL", "-o", "kv_cache_type=q8_0"), "a cache of type Q8_0 needs heads of whole blocks"),
    ],
)
def test_bad_input(puna: Puna, base_model: Path, arguments: tuple[str, ...], message: str) -> None:
    result = puna("plan", *(str(base_model) if word == "MODEL" else word for word in arguments))
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
