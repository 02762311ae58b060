"""Puna beside llama.cpp: both measure the same files in turn, and the medians and ratios are told.

    python bench/compare.py MODEL.gguf… [--llama-bench PATH] [-p 512] [-n 128] [-t THREADS] [--pairs 5]

For each file `puna bench` and `llama-bench` run one after the other, as often as `--pairs` says, so that what
else the machine does meets both alike. Each pair gives a ratio; the table has the medians of the rates and of
the ratios, and the most memory that either process had resident. Without `--llama-bench` llama.cpp is built
first, see build_llama_cpp.py.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Run:
    """What one process measured.

    Attributes:
        rates: median tokens per second of its repetitions, by test.
        peak: bytes that it had resident at most.
    """

    rates: dict[str, float]
    peak: int


@dataclass(frozen=True, slots=True)
class Row:
    """One test of one file, over all pairs.

    Attributes:
        puna, peer: median tokens per second.
        ratio: median of puna / peer within the pairs.
        low, high: the smallest and the largest of these ratios.
        puna_peak, peer_peak: median bytes resident at most.
    """

    model: str
    test: str
    puna: float
    peer: float
    ratio: float
    low: float
    high: float
    puna_peak: int
    peer_peak: int


def rates_by_test(document: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median tokens per second of every test in the JSON of `puna bench` or `llama-bench`."""
    return {test_name(record): statistics.median(record["samples_ts"]) for record in document}


def test_name(record: dict[str, Any]) -> str:
    """`pp512`, `tg128` or `tg128 @ d1024`."""
    name = f"pp{record['n_prompt']}" if record["n_prompt"] else f"tg{record['n_gen']}"
    return f"{name} @ d{record['n_depth']}" if record.get("n_depth") else name


def rows(model: str, pairs: Sequence[tuple[Run, Run]]) -> Iterator[Row]:
    """A row for each test, of pairs of one run of Puna and one of the peer."""
    for test in pairs[0][0].rates:
        ratios = [puna.rates[test] / peer.rates[test] for puna, peer in pairs]
        yield Row(
            model,
            test,
            puna=statistics.median(puna.rates[test] for puna, _ in pairs),
            peer=statistics.median(peer.rates[test] for _, peer in pairs),
            ratio=statistics.median(ratios),
            low=min(ratios),
            high=max(ratios),
            puna_peak=round(statistics.median(puna.peak for puna, _ in pairs)),
            peer_peak=round(statistics.median(peer.peak for _, peer in pairs)),
        )


def table(found: Iterable[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| model | test | Puna t/s | llama.cpp t/s | ratio | lowest … highest | Puna MB | llama.cpp MB |",
        "| :--- | :--- | ---: | ---: | ---: | :---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.model} | {row.test} | {row.puna:.1f} | {row.peer:.1f} | {row.ratio:.2f} "
        f"| {row.low:.2f} … {row.high:.2f} | {row.puna_peak / 1e6:.0f} | {row.peer_peak / 1e6:.0f} |"
        for row in found
    ]
    return "\n".join(lines)


def measure(command: Sequence[str]) -> Run:
    """Runs a benchmark that prints JSON, and reads what it says and how much memory it took."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        # Of all ways to wait only this one tells the peak of this very child. On Linux that is at least what
        # this process had when it started the child: a few megabytes.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            last = errors.read().decode(errors="replace").strip()[-500:]
            raise SystemExit(f"{command[0]} failed with status {process.returncode}: {last}")
        return Run(rates_by_test(json.load(output)), usage.ru_maxrss * _MAXRSS_UNIT)


def compare(
    models: Sequence[Path], puna: Sequence[str], peer: Sequence[str], options: Sequence[str], pairs: int
) -> Iterator[Row]:
    """Measures every file with both, in turn, and yields its rows when its pairs are done."""
    for model in models:
        taken = []
        for number in range(pairs):
            ours = measure([*puna, str(model), *options])
            theirs = measure([*peer, "-m", str(model), *options])
            taken.append((ours, theirs))
            print(f"{model.name}: pair {number + 1} of {pairs}", file=sys.stderr)
        yield from rows(model.stem, taken)


def machine() -> dict[str, Any]:
    """The processor's name and cores, and the system's load at the time."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load": os.getloadavg(),
    }


def built_bench() -> Path:
    """The `llama-bench` of a llama.cpp built here."""
    script = Path(__file__).with_name("build_llama_cpp.py")
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip()) / "llama-bench"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--llama-bench", type=Path, help="the peer (default: built here)")
    parser.add_argument("-p", "--n-prompt", type=int, default=512)
    parser.add_argument("-n", "--n-gen", type=int, default=128)
    parser.add_argument("-d", "--depth", type=int, default=0, help="tokens in the cache already")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-r", "--repetitions", type=int, default=2, help="of each test in one run")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each program (default: %(default)s)")
    parser.add_argument("--transcode", action="store_true", help="let Puna store slow types as faster ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as JSON too")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    peer = [str(given.llama_bench or built_bench())]
    puna = [sys.executable, "-m", "puna", "bench", *(["--transcode"] if given.transcode else [])]
    names = ("n_prompt", "n_gen", "depth", "threads", "repetitions")
    flags = ("-p", "-n", "-d", "-t", "-r")
    options = [
        text for flag, name in zip(flags, names, strict=True) for text in (flag, str(vars(given)[name]))
    ]
    about = machine()
    found = list(compare(given.models, puna, peer, [*options, "-o", "json"], given.pairs))
    print(table(found))
    print(f"\n{about['processor']}, {given.threads} threads, {given.pairs} pairs")
    if given.json:
        document = {"machine": about, "pairs": given.pairs, "options": options}
        document["rows"] = [asdict(row) for row in found]
        given.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
