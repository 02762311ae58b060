"""Mutated files: the reader raises GGUFError or reads what gguf-py reads, in little memory."""

import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gguf
from puna.errors import GGUFError
from puna.gguf import GGMLType, GGUFFile, GGUFWriter

ODD_NUMBERS = (0, 1, 7, 31, 32, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
BOUND = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def seeds(folder: Path) -> Iterator[bytes]:
    """Five small files: plain, big endian, version 2 with another alignment, many strings, no tensors."""
    for name, options in (("a", {}), ("b", {"byte_order": ">"}), ("c", {"version": 2, "alignment": 64})):
        with GGUFWriter(folder / name, **options) as writer:
            writer.add("general.architecture", "llama")
            writer.add("llama.block_count", 2)
            writer.add("llama.flags", [True, False])
            writer.add("llama.eps", 1e-5)
            writer.add("tokenizer.ggml.tokens", ["<s>", "a", "", "\u00fc"])
            writer.add("tokenizer.ggml.scores", [0.5, 1.0, -1.0, 2.0])
            writer.add_tensor("token_embd.weight", GGMLType.Q4_0, (4, 32), bytes(range(72)))
            writer.add_tensor("output.weight", GGMLType.F32, (2, 3), bytes(24))
        yield (folder / name).read_bytes()
    with GGUFWriter(folder / "d") as writer:
        writer.add("tokenizer.ggml.tokens", [f"t{i}" for i in range(9000)])
        writer.add("general.last", 1)
        writer.add_tensor("t", GGMLType.I8, (3,), b"abc")
    yield (folder / "d").read_bytes()
    with GGUFWriter(folder / "e") as writer:
        writer.add("general.name", "x" * 40)
    yield (folder / "e").read_bytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return list(seeds(tmp_path_factory.mktemp("seeds")))


def mutate(content: bytes, choice: random.Random) -> bytes:
    """A few small changes, of the kinds that break readers."""
    data = bytearray(content)
    for _ in range(choice.randint(1, 4)):
        # Half of the changes hit the header and the first keys.
        place = choice.randrange(min(len(data), 300) if choice.random() < 0.5 else len(data))
        kind = choice.randrange(5)
        if kind == 0:
            data[place] ^= 1 << choice.randrange(8)
        elif kind == 1:
            data[place : place + 8] = struct.pack(choice.choice("<>") + "Q", choice.choice(ODD_NUMBERS))
        elif kind == 2:
            data[place : place + 4] = struct.pack("<I", choice.choice(ODD_NUMBERS) % 2**32)
        elif kind == 3:
            del data[place : place + choice.randint(1, 40)]
        else:
            data[place:place] = choice.randbytes(choice.randint(1, 40))
        if not data:
            return b"\0"
    return bytes(data)


def survives(path: Path) -> bool:
    """Read all there is; whether the file was taken for sound."""
    try:
        with GGUFFile.open(path) as file:
            values = dict(file.metadata)
            sizes = [len(file.tensor_bytes(name)) for name in file.tensors]
            assert sizes == [t.nbytes for t in file.tensors.values()]
            assert len(values) == len(file.metadata)
    except GGUFError as error:
        assert str(path) in str(error)
        return False
    return True


def agrees_with_gguf_py(path: Path) -> bool:
    """Compare with gguf-py where that can read the file too; whether it can."""
    try:
        theirs = gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError):
        return False
    with GGUFFile.open(path) as file:
        assert list(file.metadata) == [name for name in theirs.fields if not name.startswith("GGUF.")]
        for key in file.metadata:
            field = theirs.fields[key]
            entry = file.metadata.entry(key)
            assert int(field.types[0]) == entry.type
            assert len(field.data) == entry.count
        for tensor, ours in zip(theirs.tensors, file.tensors.values(), strict=True):
            assert (tensor.name, int(tensor.tensor_type), tensor.n_bytes) == (
                ours.name,
                ours.type,
                ours.nbytes,
            )
            assert tuple(map(int, tensor.shape))[::-1] == ours.shape
            assert tensor.data_offset == ours.offset
            assert tensor.data.tobytes() == bytes(file.tensor_bytes(ours.name))
    return True


@BOUND
@given(seed=st.integers(0, 2**64))
def test_mutated_files(seed: int, sound: list[bytes], tmp_path: Path) -> None:
    choice = random.Random(seed)
    path = tmp_path / "mutated.gguf"
    path.write_bytes(mutate(choice.choice(sound), choice))
    if survives(path):
        agrees_with_gguf_py(path)


@BOUND
@given(content=st.binary(max_size=200))
def test_any_bytes_after_a_sound_header(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.gguf"
    for counts in ((0, 1), (1, 0), (2, 2)):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + content)
        survives(path)


def test_the_seeds_are_sound(sound: list[bytes], tmp_path: Path) -> None:
    for index, content in enumerate(sound):
        path = tmp_path / f"{index}.gguf"
        path.write_bytes(content)
        assert survives(path)
        assert agrees_with_gguf_py(path)


def test_hostile_counts_take_no_memory(sound: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    tracemalloc.start()
    try:
        for place in range(400):
            for number in (2**31, 2**62, 2**64 - 1):
                data = bytearray(sound[0])
                data[place : place + 8] = struct.pack("<Q", number)
                path.write_bytes(data)
                survives(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_opening_decodes_no_array(tmp_path: Path) -> None:
    """What is allocated for good is the front of the file itself, not an object for each string."""
    path = tmp_path / "many.gguf"
    with GGUFWriter(path) as writer:
        writer.add("tokenizer.ggml.tokens", [f"token {i}" for i in range(100_000)])
        writer.add("tokenizer.ggml.scores", np.zeros(100_000, np.float32))
    tracemalloc.start()
    try:
        with GGUFFile.open(path):
            kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < path.stat().st_size + 100_000


@pytest.mark.slow
def test_a_million_mutated_files(sound: list[bytes], tmp_path: Path) -> None:
    choice = random.Random(20)
    path = tmp_path / "mutated.gguf"
    taken = 0
    for _ in range(1_000_000):
        path.write_bytes(mutate(choice.choice(sound), choice))
        taken += survives(path)
    assert taken > 1000
