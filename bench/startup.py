"""How long it takes until something happens: medians over whole processes.

    python bench/startup.py MODEL [--runs 10]

`import puna` is told with and without the interpreter's own start, `puna --help` as a whole, and `puna run`
as the time until the first byte of the answer is there. The model must be a file or in the store already.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROMPT = "Why is the sky blue?"


def whole_process(command: Sequence[str]) -> float:
    """Seconds from the start of a process to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_byte(command: Sequence[str]) -> float:
    """Seconds from the start of a process to the first byte of its standard output; it is then ended."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
    with process:
        await_output(process)
        taken = time.perf_counter() - began
        process.terminate()
    return taken


def await_output(process: "subprocess.Popen[bytes]") -> None:
    """Waits for the first byte. Raises SystemExit if the process ends without one."""
    if process.stdout is None or not process.stdout.read(1):
        raise SystemExit(f"{process.args!r} ended without an answer")


def milliseconds(runs: int, once: Callable[[Sequence[str]], float], command: Sequence[str]) -> float:
    """Median of `runs` runs, after one that is not counted."""
    once(command)
    return 1000 * statistics.median(once(command) for _ in range(runs))


def puna_command() -> str:
    """The installed `puna`, beside this interpreter if it is there."""
    beside = Path(sys.executable).with_name("puna")
    return str(beside) if beside.exists() else "puna"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=10, help="of each (default: %(default)s)")
    given = parser.parse_args()
    python, puna, runs = sys.executable, puna_command(), given.runs
    floor = milliseconds(runs, whole_process, [python, "-c", "pass"])
    imported = milliseconds(runs, whole_process, [python, "-c", "import puna"])
    helped = milliseconds(runs, whole_process, [puna, "--help"])
    answered = milliseconds(runs, first_byte, [puna, "run", given.model, PROMPT])
    print("| what | median |\n| :--- | ---: |")
    print(f"| python, nothing imported | {floor:.0f} ms |")
    print(f"| import puna | {imported:.0f} ms ({imported - floor:+.0f} ms) |")
    print(f"| puna --help | {helped:.0f} ms |")
    print(f"| puna run: first text of the answer | {answered:.0f} ms |")


if __name__ == "__main__":
    main()
