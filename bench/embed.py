"""Vectors of texts: Puna beside llama.cpp and transformers, in turn.

    python bench/embed.py FOLDER [--texts 200] [--words 60] [-t THREADS] [--pairs 5]

FOLDER has a model as Hugging Face's libraries save it; it is converted to F32 first. Each round makes vectors
of the same texts with each program, tokenizing included: Puna in one call, as it is and with `transcode` off;
llama.cpp by xllamacpp's server in one request; Sentence Transformers, if it is installed; and transformers by
itself, 32 texts at a time, sorted by length and padded. Texts end where Sentence Transformers ends them. The
rates are texts per second; with --cpu they are texts per second of processor time, which a busy machine
distorts less.
"""

import argparse
import json
import random
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
import xllamacpp  # type: ignore[import-untyped]  # has no annotations

from puna.convert.convert import convert
from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions
from puna.tokenizer import Tokenizer

Texts = Sequence[str]
Make = Callable[[Texts], object]

_TOGETHER = 32
_LONGEST = 256  # tokens


def words(count: int, most: int) -> list[str]:
    """Texts of 1 to `most` words of this file and its neighbours."""
    found = " ".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))).split()
    chosen = random.Random(0)
    starts = [(chosen.randrange(len(found) - most), chosen.randint(1, most)) for _ in range(count)]
    return [" ".join(found[start : start + length]) for start, length in starts]


def by_transformers(folder: Path, threads: int) -> Make:
    """Batches of texts of about one length, padded to the longest."""
    torch.set_num_threads(threads)
    model = transformers.AutoModel.from_pretrained(folder)
    model.train(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def make(texts: Texts) -> object:
        ordered = sorted(tokenizer(list(texts))["input_ids"], key=len, reverse=True)
        vectors = []
        for start in range(0, len(ordered), _TOGETHER):
            part = ordered[start : start + _TOGETHER]
            mask = torch.tensor([[1] * len(ids) + [0] * (len(part[0]) - len(ids)) for ids in part])
            ids = torch.tensor([[*ids, *[0] * (len(part[0]) - len(ids))] for ids in part])
            with torch.inference_mode():
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            vectors.append((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return vectors

    return make


def by_sentence_transformers(folder: Path) -> Make | None:
    """Its own way, in F32; None where it is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    model = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: model.encode(list(texts))


def by_puna(path: Path, threads: int, transcode: bool | None) -> tuple[Make, LoadedModel]:
    """All texts in one call, on the calling thread; and the model, to be closed."""
    model = load_model(path, LoadOptions(num_threads=threads, transcode=transcode))
    return lambda texts: model.embed([model.tokenizer.encode(text) for text in texts]), model


def short_enough(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The texts without the words at their ends that make them longer than `_LONGEST`."""
    shortened = []
    for text in texts:
        while len(tokenizer.encode(text)) > _LONGEST:
            text = text.rpartition(" ")[0]
        shortened.append(text)
    return shortened


def by_llama_cpp(path: Path, threads: int) -> tuple[Make, object]:
    """The server's route, with all texts in one request; and the server, which ends when dropped."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.embedding = True
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    parameters.n_parallel = 1
    parameters.verbosity = -1
    parameters.port = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)

    def make(texts: Texts) -> object:
        body = json.dumps({"input": texts}).encode()
        request = urllib.request.Request(
            server.listening_address + "/v1/embeddings", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)["data"]

    return make, server


def rounds(
    programs: dict[str, Make], texts: Texts, count: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Texts per second of each program in each round, after one that is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(-1, count):
        for name, make in programs.items():
            began = clock()
            make(texts)
            if number >= 0:
                rates[name].append(len(texts) / (clock() - began))
        print(f"round {number + 1} of {count}", file=sys.stderr)
    return rates


def table(rates: dict[str, list[float]]) -> str:
    """Medians, and medians of Puna's ratio to each within the rounds, in Markdown."""
    lines = ["| program | texts/s | Puna is faster by | lowest … highest |", "| :--- | ---: | ---: | :---: |"]
    for name, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["Puna"], found, strict=True)]
        spread = f"{min(ratios):.2f} … {max(ratios):.2f}"
        lines.append(
            f"| {name} | {statistics.median(found):.1f} | {statistics.median(ratios):.2f} | {spread} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--words", type=int, default=60, help="most words of a text (default: %(default)s)")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="count processor time")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.gguf"
        convert(given.folder, path, lambda progress: None)
        puna, model = by_puna(path, given.threads, None)
        exact, other = by_puna(path, given.threads, False)
        with model, other:
            texts = short_enough(words(given.texts, given.words), model.tokenizer)
            llama_cpp, server = by_llama_cpp(path, given.threads)
            programs: dict[str, Make] = {
                "Puna": puna,
                "Puna without transcoding": exact,
                "llama.cpp": llama_cpp,
                "transformers": by_transformers(given.folder, given.threads),
            }
            if (sentences := by_sentence_transformers(given.folder)) is not None:
                programs["sentence-transformers"] = sentences
            clock = time.process_time if given.cpu else time.perf_counter
            found = rounds(programs, texts, given.pairs, clock)
            del server
            tokens = sum(len(model.tokenizer.encode(text)) for text in texts)
    print(table(found))
    print(f"\n{given.texts} texts, {tokens} tokens, {given.threads} threads, {given.pairs} rounds")


if __name__ == "__main__":
    main()
