"""How well a model foresees a text: Puna beside llama.cpp's llama-perplexity.

    python bench/perplexity.py MODEL.gguf … [--text FILE] [--chunks 16] [--together 512] [--same-kernels]
        [-t THREADS] [--llama-perplexity PATH]

The text is cut into pieces of 512 tokens, and the perplexity is the exponential of the mean surprise of the
tokens in their second halves. Without a text, it is what Python's `help` says of the language, which is the
same for all that use one version of Python. Without a path llama.cpp is built first, see build_llama_cpp.py.

Puna chooses other kernels than llama.cpp where they are faster, and these round what they multiply otherwise.
With `--same-kernels` it repacks what llama.cpp repacks, and evaluates 64 tokens at once, for which it widens
nothing.
"""

import argparse
import math
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import NamedTemporaryFile

import numpy as np

from puna.engine.evaluator import Batch
from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions

PIECE = 512
FIRST = PIECE // 2
_ESTIMATE = re.compile(r"Final estimate: PPL = ([0-9.]+) \+/- ([0-9.]+)")


def pieces(model: LoadedModel, text: str) -> Iterator[list[int]]:
    """The text's tokens in pieces, each begun as a text is."""
    tokenizer = model.tokenizer
    tokens = tokenizer.encode(text)
    for start in range(0, len(tokens) - PIECE + 1, PIECE):
        piece = tokens[start : start + PIECE]
        if tokenizer.add_bos and tokenizer.bos_id is not None:
            piece[0] = tokenizer.bos_id
        yield piece


def surprise(model: LoadedModel, piece: Sequence[int], together: int) -> float:
    """The sum of -log p of the tokens after the first half."""
    found = 0.0
    for start in range(0, PIECE, together):
        part = piece[start : start + together]
        logits = model.evaluator.evaluate(Batch.of(part, start, all_outputs=True)).astype(np.float64)
        first = max(start, FIRST) - start
        following = piece[start + first + 1 : start + len(part) + 1]
        logits = logits[first : first + len(following)]
        logits -= logits.max(1, keepdims=True, initial=-np.inf)
        found += (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(following)), following]).sum()
    model.evaluator.cache.remove(0, 0)
    return float(found)


def ours(path: Path, text: str, chunks: int, together: int, threads: int, repack: bool | None) -> float:
    """Puna's perplexity."""
    options = LoadOptions(num_ctx=PIECE, num_batch=PIECE, num_parallel=1, num_threads=threads, repack=repack)
    with load_model(path, options) as model:
        sums = [surprise(model, piece, together) for piece in islice(pieces(model, text), chunks)]
    return math.exp(sum(sums) / len(sums) / (PIECE - 1 - FIRST))


def theirs(program: Path, path: Path, text: str, chunks: int, threads: int) -> tuple[float, float]:
    """llama.cpp's perplexity and its standard error."""
    with NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(text)
        file.flush()
        sizes = ("-c", str(PIECE), "-b", str(PIECE), "--chunks", str(chunks), "-t", str(threads))
        done = subprocess.run(
            [program, "-m", path, "-f", file.name, *sizes],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    found = _ESTIMATE.search(done.stdout)
    if found is None:
        raise SystemExit(f"{program} told no perplexity: {done.stdout[-500:]}")
    return float(found[1]), float(found[2])


def built_program() -> Path:
    """The program of a llama.cpp built here."""
    script = Path(__file__).with_name("build_llama_cpp.py")
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip()) / "llama-perplexity"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--chunks", type=int, default=16, help="the most pieces (default: %(default)s)")
    parser.add_argument("--together", type=int, default=PIECE, help="tokens evaluated at once by Puna")
    parser.add_argument("--same-kernels", action="store_true", help="compute as llama.cpp does")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--llama-perplexity", type=Path, help="the program (default: built here)")
    arguments = parser.parse_args()
    text = arguments.text.read_text() if arguments.text else "\n".join(topics.values())
    program = arguments.llama_perplexity or built_program()
    together, repack = (64, True) if arguments.same_kernels else (arguments.together, None)
    where = arguments.text or f"the help of Python {platform.python_version()}"
    print(f"{where}, {arguments.chunks} pieces of {PIECE} tokens\n")
    print("| model | Puna | llama.cpp | difference |", "| :--- | ---: | ---: | ---: |", sep="\n")
    for path in arguments.models:
        mine = ours(path, text, arguments.chunks, together, arguments.threads, repack)
        other, error = theirs(program, path, text, arguments.chunks, arguments.threads)
        print(
            f"| {path.stem} | {mine:.4f} | {other:.4f} ± {error:.2f} | {mine / other - 1:+.4%} |", flush=True
        )


if __name__ == "__main__":
    main()
