"""Puna's server beside llama.cpp's `llama-server`, over HTTP: both get the same prompts in turn.

    python bench/serve.py MODEL.gguf [--llama-server PATH] [-t THREADS] [--pairs 5] [--json FILE]

Both servers run with the same threads, context and number of sequences, and only one of them has work at any
moment. A test asks Puna, then llama.cpp, as often as `--pairs` says, so that what else the machine does meets
both alike; the table has medians, and the median of the ratios within the pairs. Prompts begin differently
each time, so that no server finds one in its cache, and answers are greedy, so that both write the same.

Then come figures of Puna alone: the second turn of a chat, the start of the server, the load of the model,
and with `--tiny` what a streamed token costs in processor time besides computing, measured with a model so
small that computing is next to nothing.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

WORDS = (
    *("river", "stone", "cloud", "paper", "green", "seven", "window", "garden", "silver", "market"),
    *("winter", "candle", "bridge", "yellow"),
)
CONTEXT, SEQUENCES = 4096, 8
# What the engine alone takes for a token, in seconds of processor time.
ENGINE = """
import sys, time, pathlib
from puna.engine import load_model, LoadOptions
from puna.sampling.parameters import SamplingParameters
options = LoadOptions(num_ctx={context}, num_parallel={sequences}, num_threads=1)
model = load_model(pathlib.Path(sys.argv[1]), options)
ids = model.tokenizer.encode("a")
list(model.generate(ids, SamplingParameters(temperature=0.0), num_predict=200))
before = time.process_time()
*_, end = model.generate(ids, SamplingParameters(temperature=0.0), num_predict={tokens})
print((time.process_time() - before) / end.generated_tokens)
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client saw of one answer.

    Attributes:
        tokens: generated ones, as the server counts them.
        first, last: moments of the first and the last piece of text.
        prompt_tokens, cached_tokens: as the server counts them.
    """

    tokens: int
    first: float
    last: float
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One test over all pairs; `ratio` above 1 is in Puna's favour."""

    test: str
    unit: str
    puna: float
    peer: float
    ratio: float
    low: float
    high: float


def text_of(words: int, seed: int) -> str:
    """A text of so many words that no other seed's text begins like."""
    return " ".join(f"{WORDS[(seed * 7 + i * i + i) % len(WORDS)]} {seed}" for i in range(words // 2))


async def post(port: int, path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """The lines of a streamed answer, in whatever chunks they come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        status = await reader.readline()
        while await reader.readline() not in (b"\r\n", b""):
            pass
        if b" 200 " not in status:
            raise SystemExit(f"{path} answered {status.decode().strip()}: {(await reader.read(500))!r}")
        async for line in reader:
            if line[:1] == b"{" or line.startswith(b"data: {"):
                yield line.removeprefix(b"data: ")
    finally:
        writer.close()


async def heard(lines: AsyncIterator[bytes]) -> tuple[float, float, dict[str, Any]]:
    """When the first and the last line came, and what the last says."""
    first, last, end = 0.0, 0.0, b"{}"
    async for line in lines:
        last, end = time.perf_counter(), line
        first = first or last
    return first, last, json.loads(end)


async def puna_answer(port: int, model: str, prompt: str, tokens: int, **more: int) -> Answer:
    """One greedy answer of Puna's to a bare prompt; `more` are options of the request."""
    body = {"model": model, "prompt": prompt, "raw": True, "keep_alive": -1}
    options = {"temperature": 0, "num_predict": tokens, "num_ctx": CONTEXT, **more}
    first, last, end = await heard(post(port, "/api/generate", {**body, "options": options}))
    return Answer(
        end["eval_count"], first, last, end.get("prompt_eval_count", 0), end.get("cached_tokens", 0)
    )


async def peer_answer(port: int, model: str, prompt: str, tokens: int) -> Answer:
    """The same of llama.cpp's."""
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "stream": True, "cache_prompt": True}
    first, last, end = await heard(post(port, "/completion", body))
    return Answer(end["tokens_predicted"], first, last, end["tokens_evaluated"])


Ask = Callable[[int, str, str, int], Awaitable[Answer]]


async def single_stream(ask: Ask, port: int, model: str, seed: int) -> float:
    """Tokens per second of one stream, from its first piece on."""
    answer = await ask(port, model, "Once upon a time " + text_of(24, seed), 200)
    return (answer.tokens - 1) / (answer.last - answer.first)


async def undrafted_stream(ask: Ask, port: int, model: str, seed: int) -> float:
    """The same where Puna evaluates one token at a time, as llama.cpp's server does."""
    if ask is puna_answer:
        ask = partial(puna_answer, draft_num_predict=0)
    return await single_stream(ask, port, model, seed)


async def eight_streams(ask: Ask, port: int, model: str, seed: int) -> float:
    """Tokens per second of eight streams together, with prompts of different lengths, from first to last."""
    began = time.perf_counter()
    prompts = [text_of(20 + 12 * i, seed * 10 + i) for i in range(SEQUENCES)]
    answers = await asyncio.gather(*(ask(port, model, prompt, 96) for prompt in prompts))
    return sum(answer.tokens for answer in answers) / (max(a.last for a in answers) - began)


async def first_token(ask: Ask, port: int, model: str, seed: int) -> float:
    """Milliseconds to the first piece of an answer to a prompt of about 2,000 tokens."""
    began = time.perf_counter()
    answer = await ask(port, model, text_of(1230, seed), 2)
    return 1000 * (answer.first - began)


TESTS: dict[str, tuple[Callable[[Ask, int, str, int], Awaitable[float]], str]] = {
    "one stream, nothing drafted": (undrafted_stream, "tokens/s"),
    "one stream": (single_stream, "tokens/s"),
    "eight streams": (eight_streams, "tokens/s"),
    "first token of a long prompt": (first_token, "ms"),
}


async def compared(puna: int, model: str, peer: int, pairs: int) -> list[Row]:
    """Every test with both servers, in turn."""
    rows = []
    for name, (test, unit) in TESTS.items():
        taken = []
        for number in range(pairs + 1):
            seed = 1000 + number
            ours = await test(puna_answer, puna, model, seed)
            theirs = await test(peer_answer, peer, model, seed)
            print(f"{name}: {ours:.1f} and {theirs:.1f} {unit}", file=sys.stderr)
            # The first pair warms both up.
            taken += [(ours, theirs)] if number else []
        ratios = [b / a if unit == "ms" else a / b for a, b in taken]
        ours, theirs = (statistics.median(column) for column in zip(*taken, strict=True))
        rows.append(Row(name, unit, ours, theirs, statistics.median(ratios), min(ratios), max(ratios)))
    return rows


async def second_turn(port: int, model: str) -> tuple[int, int]:
    """Tokens that the second turn of a chat adds to the prompt, and how many of the prompt were evaluated."""
    messages = [{"role": "user", "content": "Name three colours. " + text_of(200, 77)}]
    body: dict[str, Any] = {"model": model, "messages": messages, "keep_alive": -1}
    body["options"] = {"temperature": 0, "num_predict": 40, "num_ctx": CONTEXT}
    text, ends = "", []
    for question in ("And three more?", ""):
        async for line in post(port, "/api/chat", body):
            text += json.loads(line)["message"]["content"]
        ends.append(json.loads(line))
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": question}]
    before, after = ends
    added = after["prompt_eval_count"] - before["prompt_eval_count"]
    return added, after["prompt_eval_count"] - after.get("cached_tokens", 0)


def processor_seconds(pid: int) -> float:
    """What the threads of a process have used so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in threads) / 1e9


def children(pid: int) -> list[int]:
    """The process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, path: str, process: "subprocess.Popen[bytes]", seconds: float = 60.0) -> None:
    """Waits until the server answers 200. Raises SystemExit if it ends before or takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with status {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                if b" 200 " in connection.recv(64):
                    return
        except OSError:
            pass
        time.sleep(0.005)
    raise SystemExit(f"{process.args!r} did not answer within {seconds:.0f} s")


@contextmanager
def started(command: Sequence[str], path: str, port: int, **environment: str) -> Iterator[int]:
    """A server that answers; its process id."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        try:
            wait_for(port, path, process)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


@contextmanager
def puna_server(store: Path) -> Iterator[tuple[int, int]]:
    """Puna's server over a store; its port and process id."""
    port = free_port()
    settings = {"PUNA_MODELS": str(store), "PUNA_HOST": f"127.0.0.1:{port}", "PUNA_NUM_PARALLEL": "8"}
    command = [sys.executable, "-m", "puna", "serve"]
    with started(command, "/api/version", port, **settings) as pid:
        yield port, pid


@contextmanager
def llama_server(binary: Path, model: Path, threads: int) -> Iterator[int]:
    """llama.cpp's server with the model; its port."""
    port = free_port()
    command = [str(binary), "-m", str(model), "--port", str(port), "-t", str(threads), "--no-webui"]
    command += ["-c", str(CONTEXT * SEQUENCES), "-np", str(SEQUENCES), "-ngl", "0"]
    with started(command, "/health", port):
        yield port


def store_with(folder: Path, name: str, model: Path, threads: int) -> None:
    """Makes a store with the model in it, to be computed by so many threads."""
    modelfile = folder / "Modelfile"
    modelfile.write_text(f"FROM {model}\nPARAMETER num_thread {threads}\n")
    command = [sys.executable, "-m", "puna", "create", name, "-f", str(modelfile)]
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PUNA_MODELS": str(folder)},
    )


async def load_seconds(port: int, model: str) -> float:
    """Seconds until the server has the model ready."""
    began = time.perf_counter()
    async for _ in post(port, "/api/generate", {"model": model}):
        pass
    return time.perf_counter() - began


def start_and_load(store: Path, runs: int) -> tuple[float, float]:
    """Median seconds from nothing to the first answer of the server, and to load the model."""
    starts, loads = [], []
    for _ in range(runs):
        began = time.perf_counter()
        with puna_server(store) as (port, _):
            starts.append(time.perf_counter() - began)
            loads.append(asyncio.run(load_seconds(port, "measured")))
    return statistics.median(starts), statistics.median(loads)


def token_cost(store: Path, tiny: Path, runs: int) -> tuple[float, float]:
    """Microseconds of processor time of a streamed token: the server's, and the runner's beyond the engine.

    Both compute with one thread: a second would spend the time that the first takes for other things waiting.
    """
    tokens, servers, runners = 2000, [], []
    engine = ENGINE.format(context=CONTEXT, sequences=SEQUENCES, tokens=tokens)
    with puna_server(store) as (port, pid):
        asyncio.run(puna_answer(port, "tiny", "warm up", 200))
        (runner,) = children(pid)
        for _ in range(runs):
            before = processor_seconds(pid), processor_seconds(runner)
            answer = asyncio.run(puna_answer(port, "tiny", "a", tokens))
            after = processor_seconds(pid), processor_seconds(runner)
            served, ran = ((end - begin) / answer.tokens for begin, end in zip(before, after, strict=True))
            command = [sys.executable, "-c", engine, str(tiny)]
            alone = subprocess.run(command, check=True, capture_output=True, text=True)
            servers.append(1e6 * served)
            runners.append(1e6 * (ran - float(alone.stdout)))
    return statistics.median(servers), statistics.median(runners)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| test | Puna | llama-server | unit | ratio | lowest … highest |",
        "| :--- | ---: | ---: | :--- | ---: | :---: |",
    ]
    lines += [
        f"| {row.test} | {row.puna:.1f} | {row.peer:.1f} | {row.unit} | {row.ratio:.2f} "
        f"| {row.low:.2f} … {row.high:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def built_server() -> Path:
    """The `llama-server` of a llama.cpp built here."""
    script = Path(__file__).with_name("build_llama_cpp.py")
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip()) / "llama-server"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--llama-server", type=Path, help="the peer (default: built here)")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pairs", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--tiny", type=Path, help="a tiny model, for the cost of a token")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as JSON too")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    binary = given.llama_server or built_server()
    with ExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store_with(store, "measured", given.model.absolute(), given.threads)
        start, load = start_and_load(store, given.pairs)
        alone = {"start, s": start, "load, s": load}
        with (
            puna_server(store) as (port, _),
            llama_server(binary, given.model, given.threads) as peer,
        ):
            rows = asyncio.run(compared(port, "measured", peer, given.pairs))
            added, evaluated = asyncio.run(second_turn(port, "measured"))
            alone |= {"second turn adds tokens": added, "second turn evaluates": evaluated}
        if given.tiny:
            store_with(store, "tiny", given.tiny.absolute(), 1)
            server, runner = token_cost(store, given.tiny, given.pairs)
            alone |= {"cost of a streamed token, µs": server, "and of its runner, besides computing": runner}
    print(table(rows))
    print("\n" + "\n".join(f"- {name}: {value:.2f}" for name, value in alone.items()))
    if given.json:
        given.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], **alone}, indent=2) + "\n")


if __name__ == "__main__":
    main()
