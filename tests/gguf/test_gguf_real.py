"""Files of llama.cpp's own writer."""

from pathlib import Path

from puna.gguf import GGMLType, GGUFFile, GGUFWriter
from puna.gguf.hyperparameters import read_hyperparameters


def test_a_real_file_is_written_again_byte_for_byte(smollm2_path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    with GGUFFile.open(smollm2_path) as file, GGUFWriter(again) as writer:
        assert (len(file.metadata), len(file.tensors)) == (33, 272)
        writer.copy_metadata(file.metadata)
        for t in file.tensors.values():
            writer.add_tensor(t.name, t.type, t.shape, file.tensor_bytes(t.name))
        writer.close()
        with GGUFFile.open(again) as copy:
            assert copy.mmap[:] == file.mmap[:]


def test_a_vocabulary_of_262144_tokens(gemma3_path: Path) -> None:
    with GGUFFile.open(gemma3_path) as file:
        tokens = file.metadata.strings_bytes("tokenizer.ggml.tokens")
        assert (len(tokens), tokens[:3], tokens[-1]) == (
            262144,
            [b"<pad>", b"<eos>", b"<bos>"],
            b"<unused6241>",
        )
        assert len(file.metadata.array("tokenizer.ggml.token_type")) == 262144
        sizes = read_hyperparameters(file.metadata)
        embedding = file.tensors["token_embd.weight"]
    assert (sizes.block_count, sizes.vocab_size, sizes.head_count_kv[0], sum(sizes.windowed)) == (
        18,
        262144,
        1,
        15,
    )
    assert (embedding.type, embedding.shape) == (GGMLType.Q8_0, (262144, 640))
