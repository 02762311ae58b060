"""`puna imatrix`, and `puna create` by what it writes."""

from pathlib import Path

from tests.cli.conftest import Puna
from tests.tiny_llama import BLOCKS, write_tiny_llama

from puna.gguf import GGUFFile
from puna.quantize.importance import read_importance


def test_a_matrix_is_made_and_used(puna: Puna, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", hidden=256)
    (tmp_path / "text.txt").write_text("It is not the strongest that survives, but the best adapted. " * 9)
    output = tmp_path / "importance.gguf"
    done = puna("imatrix", model, "-f", tmp_path / "text.txt", "-o", output, "-c", "64", "-t", "1")
    assert done.stdout == f"{output}: {7 * BLOCKS} matrices, 8 pieces of 64 tokens\n"
    importance = read_importance(output)
    assert (importance.datasets, importance.chunks, importance.chunk_size) == (("text.txt",), 8, 64)
    assert {sums.counts[0] for sums in importance.sums.values()} == {8 * 64}

    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf")
    made = puna(*("create", "small", "-f", tmp_path / "Modelfile"), *("-q", "q4_k_m", "--imatrix", output))
    assert "quantizing F32 model to Q4_K_M" in made.stderr
    path = puna("show", "small", "--modelfile").stdout.split("\nFROM ")[1].split()[0]
    with GGUFFile.open(path) as file:
        assert file.metadata["quantize.imatrix.file"] == "importance.gguf"
        assert file.tensors["blk.0.attn_q.weight"].type.name == "Q4_K"


def test_what_cannot_be_done(puna: Puna, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    text = tmp_path / "text.txt"
    text.write_text("too short")
    for arguments, message in (
        (("-f", text), f"Error: {text}: is shorter than one piece of 512 tokens; see --ctx-size\n"),
        (("-f", tmp_path / "none"), f"Error: {tmp_path}/none: cannot be read: No such file or directory\n"),
        (("-f", "/dev/zero"), "Error: /dev/zero: is not a regular file\n"),
    ):
        done = puna("imatrix", model, "-o", tmp_path / "i.gguf", *arguments)
        assert (done.returncode, done.stderr) == (1, message)
    assert not (tmp_path / "i.gguf").exists()
    done = puna("create", "x", "-q", "q4_0", "--imatrix", "nowhere")
    assert (done.returncode, done.stderr) == (1, "Error: there is no importance matrix nowhere\n")
