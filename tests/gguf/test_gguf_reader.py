"""The reader on sound files and on every kind of wrong one."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puna.errors import GGUFError
from puna.gguf import GGMLType, GGUFFile, ValueType
from puna.gguf.cursor import Cursor

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
HEADER = 24
Refuses = Callable[[bytes, str], str]


def text(value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "Q", len(value)) + value


def key(name: bytes, type_: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", type_) + payload


def u32(name: bytes, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def array(name: bytes, element: int, count: int, payload: bytes) -> bytes:
    return key(name, ARRAY, struct.pack("<IQ", element, count) + payload)


def tensor(name: bytes, dimensions: tuple[int, ...], type_: int = 0, offset: int = 0) -> bytes:
    """A tensor's description; `dimensions` as stored, fastest first."""
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, type_, offset)


def gguf(
    keys: list[bytes],
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    descriptions = tensors or []
    tensor_count, key_count = counts or (len(descriptions), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join(keys + descriptions)
    return head + bytes(-len(head) % 32) + data if data or descriptions else head


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    """Writes a file and returns the one error that opening and reading it all ends in."""

    def check(content: bytes, expected: str) -> str:
        path = tmp_path / "bad.gguf"
        path.write_bytes(content)
        with pytest.raises(GGUFError, match=expected) as caught, GGUFFile.open(path) as file:
            dict(file.metadata)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        return message

    return check


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], GGUFFile]:
    def check(content: bytes) -> GGUFFile:
        path = tmp_path / "good.gguf"
        path.write_bytes(content)
        return GGUFFile.open(path)

    return check


# Sound files


@pytest.mark.parametrize("version", [2, 3])
def test_a_small_file(opened: Callable[[bytes], GGUFFile], version: int) -> None:
    values = np.arange(6, dtype="<f4")
    content = gguf(
        [key(b"general.architecture", STRING, text(b"llama")), u32(b"llama.block_count", 2)],
        [tensor(b"a.weight", (3, 2)), tensor(b"b", (1,), 24, 32)],
        values.tobytes() + bytes(8) + b"\x07",
        version=version,
    )
    with opened(content) as file:
        assert (file.version, file.byte_order, file.alignment, file.size) == (version, "<", 32, len(content))
        assert dict(file.metadata) == {"general.architecture": "llama", "llama.block_count": 2}
        assert file.data_offset % 32 == 0
        a, b = file.tensors.values()
        assert (a.name, a.type, a.shape, a.offset, a.nbytes) == (
            "a.weight",
            GGMLType.F32,
            (2, 3),
            file.data_offset,
            24,
        )
        assert (b.type, b.shape, b.offset, b.elements) == (GGMLType.I8, (1,), file.data_offset + 32, 1)
        assert np.array_equal(np.frombuffer(file.tensor_bytes("a.weight"), "<f4"), values)
        assert bytes(file.tensor_bytes("b")) == b"\x07"
        assert file.mmap[:4] == b"GGUF"


def test_views_outlive_the_file(opened: Callable[[bytes], GGUFFile]) -> None:
    file = opened(gguf([], [tensor(b"a", (4,), 24)], b"abcd"))
    view = file.tensor_bytes("a")
    file.close()
    file.close()
    assert bytes(view) == b"abcd"
    with pytest.raises(GGUFError, match="closed"):
        file.tensor_bytes("a")


def test_an_unknown_tensor(opened: Callable[[bytes], GGUFFile]) -> None:
    with opened(gguf([])) as file, pytest.raises(GGUFError, match=r"no tensor 'output\.weight'"):
        file.tensor_bytes("output.weight")


def test_a_file_that_shrinks_while_open(opened: Callable[[bytes], GGUFFile]) -> None:
    with opened(gguf([], [tensor(b"a", (4,), 24)], b"abcd")) as file:
        os.truncate(file.path, 40)
        with pytest.raises(GGUFError, match="changed its size"):
            file.tensor_bytes("a")


def test_empty_arrays_strings_and_tensors(opened: Callable[[bytes], GGUFFile]) -> None:
    keys = [array(b"s", STRING, 0, b""), array(b"n", F32, 0, b""), key(b"e", STRING, text(b""))]
    with opened(gguf(keys, [tensor(b"z", (0, 5)), tensor(b"scalar", (), 24)], b"\x01")) as file:
        assert dict(file.metadata) == {"s": [], "n": [], "e": ""}
        assert file.tensors["z"].nbytes == 0
        assert bytes(file.tensor_bytes("z")) == b""
        assert (file.tensors["scalar"].shape, bytes(file.tensor_bytes("scalar"))) == ((), b"\x01")


def test_tensors_may_lie_in_any_order_with_gaps(opened: Callable[[bytes], GGUFFile]) -> None:
    with opened(gguf([], [tensor(b"a", (1,), 24, 64), tensor(b"b", (1,), 24, 0)], bytes(64) + b"a")) as file:
        assert bytes(file.tensor_bytes("a")) == b"a"


@pytest.mark.parametrize("lengths", ["short", "mixed", "long", "empty", "with zeros"])
def test_large_string_arrays(opened: Callable[[bytes], GGUFFile], lengths: str) -> None:
    """Over 8192 strings are stepped over in runs; what ends a run must not change the result."""
    random = np.random.default_rng(7)
    count = 20_011
    sizes = {
        "short": random.integers(1, 20, count),
        "mixed": np.where(random.random(count) < 0.001, 300, random.integers(0, 40, count)),
        "long": np.full(count, 260),
        "empty": np.zeros(count, int),
        "with zeros": random.integers(0, 24, count),
    }[lengths]
    fill = b"\0" if lengths == "with zeros" else b"t"
    texts = [fill * int(size) for size in sizes]
    content = gguf([array(b"tokenizer.t", STRING, count, b"".join(map(text, texts))), u32(b"after", 9)])
    with opened(content) as file:
        assert file.metadata["after"] == 9
        assert file.metadata.strings_bytes("tokenizer.t") == texts


def test_the_header_may_be_larger_than_one_read(opened: Callable[[bytes], GGUFFile]) -> None:
    big = bytes(range(256)) * 5000
    with opened(gguf([array(b"big", 0, len(big), big), key(b"s", STRING, text(b"x" * 700_000))])) as file:
        assert file.metadata.raw("big") == big
        assert file.metadata["s"] == "x" * 700_000


def test_importing_and_reading_scalars_needs_no_numpy(opened: Callable[[bytes], GGUFFile]) -> None:
    with opened(gguf([u32(b"n", 5), array(b"a", F32, 1, struct.pack("<f", 1.5))])) as file:
        path = file.path
    code = (
        "import sys; from puna.gguf import GGUFFile; f = GGUFFile.open(sys.argv[1]);"
        "print(dict(f.metadata), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'n': 5, 'a': [1.5]} False"


def test_a_file_that_changes_between_two_reads(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for change in (lambda: os.truncate(path, 300_000), lambda: path.write_bytes(b"x" * 1_000_000)):
        path.write_bytes(bytes(1_000_000))
        with path.open("rb", buffering=0) as file:
            cursor = Cursor(file, 1_000_000, "a")
            assert cursor.take(10, "ten bytes") == bytes(10)
            change()
            with pytest.raises(GGUFError, match="changed while it was read"):
                cursor.take(600_000, "the rest")


# What is no GGUF file at all


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"G", "not a GGUF file"),
        (b"GGU", "not a GGUF file"),
        (b"FUGG" + bytes(100), "not a GGUF file: it begins with b'FUGG'"),
        (b"tjgg" + bytes(100), "format from before GGUF"),
        (b"lmgg" + bytes(100), "format from before GGUF"),
        (b"# A text file\n" * 9, "not a GGUF file: it begins with b'# A '"),
        (b"GGUF", "the version at byte 4 needs 4 bytes, but only 0 are left"),
        (b"GGUF\3", "the version at byte 4"),
        (b"GGUF" + struct.pack("<I", 3) + bytes(15), "the number of keys at byte 16"),
        (b"GGUF" + struct.pack("<I", 0) + bytes(16), "the version at byte 4 is 0"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "the version at byte 4 is 1"),
        (b"GGUF" + struct.pack("<I", 4) + bytes(16), "the version at byte 4 is 4"),
        (b"GGUF" + struct.pack(">I", 1) + bytes(16), "the version at byte 4 is 1"),
        (b"GGUF" + struct.pack("<I", 0x10003) + bytes(16), "the version at byte 4 is 65539"),
    ],
)
def test_not_gguf(refuses: Refuses, content: bytes, expected: str) -> None:
    refuses(content, expected)


def test_ten_sparse_gigabytes_of_zeros_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(GGUFError, match="not a GGUF file"):
        GGUFFile.open(path)


def test_missing_directory_and_pipe(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="no such file"):
        GGUFFile.open(tmp_path / "missing.gguf")
    with pytest.raises(GGUFError, match="directory"):
        GGUFFile.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GGUFError, match="not a regular file"):
        GGUFFile.open(tmp_path / "pipe")
    with pytest.raises(GGUFError, match="cannot be opened"):
        GGUFFile.open(tmp_path / "a\0b")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GGUFError, match="cannot be opened"):
        GGUFFile.open(tmp_path / "file" / "below")


# Counts and lengths that promise more than there is


@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 2**32, 8])
def test_counts_beyond_the_file(refuses: Refuses, count: int) -> None:
    padding = [u32(b"k%d" % i, i) for i in range(4)]
    refuses(gguf(padding, counts=(count, 4)), f"the number of tensors at byte 8 is {count}, but only")
    refuses(gguf(padding, counts=(0, count)), f"the number of keys at byte 16 is {count}, but only|key 4")


def test_more_keys_than_anybody_needs(refuses: Refuses) -> None:
    refuses(
        gguf([bytes(2 << 20)], counts=(0, 1 << 17)), "the number of keys at byte 16 is 131072, but at most"
    )
    refuses(
        gguf([bytes(14 << 20)], counts=(1 << 19, 0)), "the number of tensors at byte 8 is 524288, but at most"
    )


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**31, 2**62, 2**64 - 40])
def test_string_lengths_beyond_the_file(refuses: Refuses, length: int) -> None:
    long = struct.pack("<Q", length) + b"abc"
    refuses(gguf([long + bytes(40)]), f"the length of key 0 at byte 24 is {length}, but only")
    refuses(
        gguf([key(b"k", STRING, long)]),
        f"the length of 'k' at byte 37 is {length}, but only 3 bytes are left",
    )
    refuses(
        gguf([u32(b"k", 1)], [long + bytes(40)]), f"the length of the name of tensor 0 at byte 41 is {length}"
    )
    refuses(gguf([array(b"k", STRING, 2, text(b"ok") + long)]), f"string 1 of 'k' at byte 59 is {length}")


def test_a_length_one_beyond_what_is_left(refuses: Refuses) -> None:
    refuses(gguf([key(b"k", STRING, struct.pack("<Q", 4) + b"abc")]), "is 4, but only 3 bytes are left")


def test_strings_over_16_mib(refuses: Refuses) -> None:
    over = text(bytes((16 << 20) + 1))
    refuses(gguf([key(b"k", STRING, over)]), "is 16777217, but at most 16777216 is allowed")
    refuses(
        gguf([array(b"k", STRING, 3, text(b"") + over + text(b""))]), "string 1 of 'k' .* at most 16777216"
    )
    refuses(gguf([key(b"k" * 65536, U32, bytes(4))]), "is 65536, but at most 65535 is allowed")


def test_a_long_array_of_long_strings_is_sound(opened: Callable[[bytes], GGUFFile]) -> None:
    texts = [bytes(9 << 20), bytes(9 << 20)]
    with opened(gguf([array(b"general.k", STRING, 2, b"".join(map(text, texts)))])) as file:
        assert file.metadata.strings_bytes("general.k") == texts


@pytest.mark.parametrize("element", [0, STRING, 12])
@pytest.mark.parametrize("count", [2**62, 2**64 - 1, 2**61 + 1, 100])
def test_array_counts_beyond_the_file(refuses: Refuses, element: int, count: int) -> None:
    content = gguf([array(b"k", element, count, bytes(50))])
    refuses(content, f"the length of 'k' at byte 41 is {count}, but only 50 bytes follow")


def test_arrays_of_too_many_elements(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    for element, count in ((0, (64 << 20) + 1), (STRING, (4 << 20) + 1)):
        path.write_bytes(gguf([array(b"k", element, count, b"")]))
        os.truncate(path, 1 << 30)
        with pytest.raises(GGUFError, match=f"the length of 'k' at byte 41 is {count}, but at most"):
            GGUFFile.open(path)


def test_metadata_larger_than_allowed(tmp_path: Path) -> None:
    """Numbers are stepped over unread, so it is the key after them that asks for too much."""
    path = tmp_path / "sparse.gguf"
    path.write_bytes(gguf([array(b"k", 12, 40 << 20, b"")], counts=(0, 2)))
    os.truncate(path, 1 << 30)
    with pytest.raises(GGUFError, match="metadata is larger"):
        GGUFFile.open(path)


@pytest.mark.parametrize("wrong", [2**64 - 1, 2**40, 200])
@pytest.mark.parametrize("place", [0, 5000, 9999])
def test_a_wrong_length_inside_a_large_array(refuses: Refuses, wrong: int, place: int) -> None:
    texts = [text(b"token")] * 10_000
    texts[place] = struct.pack("<Q", wrong if place < 9999 or wrong > 200 else 50) + b"token"
    refuses(gguf([array(b"k", STRING, 10_000, b"".join(texts))]), "'k'|string")


# Types and values


def test_value_types(refuses: Refuses) -> None:
    for type_ in (13, 255, 2**32 - 1):
        refuses(
            gguf([key(b"k", type_, bytes(8))]),
            f"the type of 'k' at byte 33 is {type_}, which is no known type",
        )
        refuses(gguf([array(b"k", type_, 1, bytes(8))]), f"the element type of 'k' at byte 37 is {type_}")
    nested = struct.pack("<IQ", ARRAY, 1) * 100_000
    refuses(gguf([key(b"k", ARRAY, nested)]), "arrays of arrays")


def test_bools_are_zero_or_one(refuses: Refuses) -> None:
    refuses(gguf([key(b"k", BOOL, b"\2")]), "'k' at byte 37 holds 2, which is neither true nor false")
    refuses(gguf([array(b"k", BOOL, 3, b"\0\1\xff")]), "'k' at byte 49 holds 255")


def test_keys(refuses: Refuses) -> None:
    refuses(gguf([u32(b"", 1), u32(b"b", 1)]), "key 0 at byte 24 is not a name")
    refuses(gguf([u32(b"a\0b", 1)]), "key 0 at byte 24 is not a name")
    refuses(gguf([u32(b"\x1b[31m", 1)]), "not a name")
    refuses(gguf([u32(b"\xff\xfe", 1)]), "not a name")
    refuses(gguf([u32(b"k", 1), u32(b"k", 2)]), "key 1 at byte 41 is the second one named 'k'")


@pytest.mark.parametrize("value", [0, 1, 3, 4, 31, 48, 2**31, 2**32 - 1])
def test_alignment_values(refuses: Refuses, value: int) -> None:
    refuses(
        gguf([u32(b"general.alignment", value)]),
        f"'general.alignment' at byte 53 is {value}, but must be a power",
    )


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        (STRING, text(b"32")),
        (F32, struct.pack("<f", 32)),
        (U64, struct.pack("<Q", 32)),
        (5, struct.pack("<i", -32)),
    ],
)
def test_alignment_types(refuses: Refuses, type_: int, payload: bytes) -> None:
    refuses(gguf([key(b"general.alignment", type_, payload)]), "'general.alignment' .*must be a uint32")
    refuses(
        gguf([array(b"general.alignment", U32, 1, struct.pack("<I", 32))]),
        "must be a uint32, but is an array",
    )


@pytest.mark.parametrize("alignment", [8, 16, 64, 4096])
def test_sound_alignments(opened: Callable[[bytes], GGUFFile], alignment: int) -> None:
    head = gguf([u32(b"general.alignment", alignment)], counts=(1, 1)) + tensor(b"t", (1,), 24)
    with opened(head + bytes(-len(head) % alignment) + b"\x05") as file:
        assert (file.alignment, file.data_offset % alignment) == (alignment, 0)
        assert bytes(file.tensor_bytes("t")) == b"\x05"


# Tensors


@pytest.mark.parametrize("type_", [4, 5, 31, 32, 33, 36, 37, 38, 43, 255, 2**31, 2**32 - 1])
def test_tensor_types(refuses: Refuses, type_: int) -> None:
    refuses(
        gguf([], [tensor(b"t", (32,), type_)], bytes(64)), f"the type of tensor 't' at byte 45 is {type_}"
    )


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"x" * 65,
        b"a\0b",
        b"../x",
        b"a/../b",
        b"%n%s",
        b"a b",
        b"\xc3\xa9",
        b"/etc/passwd",
        b"a\n",
        b"-a",
    ],
)
def test_tensor_names(refuses: Refuses, name: bytes) -> None:
    refuses(gguf([], [tensor(name, (1,))], bytes(8)), "the name of tensor 0 at byte 24")


def test_duplicate_tensor_names(refuses: Refuses) -> None:
    twice = [tensor(b"t", (1,)), tensor(b"t", (1,), 0, 32)]
    refuses(gguf([], twice, bytes(64)), "tensor 1 at byte 57 is the second one named 't'")


def test_a_name_of_64_bytes(opened: Callable[[bytes], GGUFFile]) -> None:
    with opened(gguf([], [tensor(b"x" * 64, (1,))], bytes(4))) as file:
        assert list(file.tensors) == ["x" * 64]


@pytest.mark.parametrize("dimensions", [5, 2**32 - 1])
def test_dimensions(refuses: Refuses, dimensions: int) -> None:
    content = text(b"t") + struct.pack("<I", dimensions) + bytes(60)
    refuses(gguf([], [content]), f"the number of dimensions of tensor 't' at byte 33 is {dimensions}")


@pytest.mark.parametrize(
    ("shape", "type_"),
    [
        ((2**62 - 1,), GGMLType.F32),
        ((2**62,), GGMLType.F32),
        ((2**32, 2**32), GGMLType.F32),
        ((2**32, 2**32, 2**32, 2**32), GGMLType.I8),
        ((2**64 - 32,), GGMLType.Q4_0),
        ((2**64 // 18 // 32 * 32 + 32,), GGMLType.Q4_0),
        ((2**64 - 1, 0), GGMLType.F32),
        ((0, 2**62), GGMLType.F32),
        ((17,), GGMLType.F32),
        ((1024, 1024), GGMLType.F16),
    ],
)
def test_shapes_beyond_the_file(refuses: Refuses, shape: tuple[int, ...], type_: GGMLType) -> None:
    refuses(gguf([], [tensor(b"t", shape, type_)], bytes(64)), r"tensor 't' at byte \d+ (is|takes)")


@pytest.mark.parametrize(("length", "type_"), [(33, 2), (1, 8), (255, 12), (128, 14), (32, 40), (64, 41)])
def test_rows_are_whole_blocks(refuses: Refuses, length: int, type_: int) -> None:
    refuses(
        gguf([], [tensor(b"t", (length, 8), type_)], bytes(4096)),
        f"rows of {length} elements are not a multiple",
    )


def test_sums_beyond_64_bits(refuses: Refuses) -> None:
    huge = 2**63 - 64
    tensors = [tensor(b"t%d" % i, (huge,), 24, (i * huge) % 2**64 // 32 * 32) for i in range(4)]
    refuses(gguf([], tensors, bytes(64)), f"tensor 't0' at byte .* takes {huge} bytes, but the file ends")


@pytest.mark.parametrize("offset", [2**64 - 32, 2**63, 96, 64])
def test_offsets_beyond_the_file(refuses: Refuses, offset: int) -> None:
    message = refuses(
        gguf([], [tensor(b"t", (8,), 0, offset)], bytes(64)), "takes 32 bytes, but the file ends at"
    )
    assert f"tensor 't' at byte {64 + offset}" in message


def test_offsets_are_aligned(refuses: Refuses) -> None:
    refuses(
        gguf([], [tensor(b"t", (1,), 0, 8)], bytes(64)), "is 8, which is not a multiple of the alignment 32"
    )


def test_tensors_do_not_overlap(refuses: Refuses) -> None:
    both = [tensor(b"a", (16,), 0, 32), tensor(b"b", (16,), 0, 0)]
    refuses(gguf([], both, bytes(128)), "tensor 'a' at byte 128 lies over tensor 'b'")
    refuses(gguf([], [tensor(b"a", (1,)), tensor(b"b", (1,))], bytes(64)), "lies over")


def test_data_that_is_missing(refuses: Refuses) -> None:
    """A tensor of 2 MiB of which the file holds 32 bytes."""
    content = gguf([], [tensor(b"blk.0.attn_q.weight", (1024, 1024), GGMLType.F16)], bytes(32))
    refuses(content, r"tensor 'blk\.0\.attn_q\.weight' at byte \d+ takes 2097152 bytes, but the file ends")


# Cut anywhere


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    content = gguf(
        [
            key(b"general.architecture", STRING, text(b"llama")),
            array(b"tokens", STRING, 3, text(b"a") + text(b"") + text(b"ccc")),
            array(b"scores", F32, 2, bytes(8)),
            key(b"flag", BOOL, b"\1"),
        ],
        [tensor(b"a", (3, 2)), tensor(b"b", (32,), 8, 32)],
        bytes(24) + bytes(8) + bytes(34),
    )
    path = tmp_path / "cut.gguf"
    path.write_bytes(content)
    with GGUFFile.open(path) as file:
        assert sum(t.nbytes for t in file.tensors.values()) == 58
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(GGUFError, match=r"byte|empty"):
            GGUFFile.open(path)


def test_value_types_are_told(opened: Callable[[bytes], GGUFFile]) -> None:
    with opened(gguf([array(b"a", F32, 1, bytes(4))])) as file:
        entry = file.metadata.entry("a")
    assert (entry.type, entry.element, entry.count) == (ValueType.ARRAY, ValueType.FLOAT32, 1)
