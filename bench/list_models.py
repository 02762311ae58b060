"""What `puna list` costs with many models: beside `puna --help`, in turn, medians over whole processes.

    python bench/list_models.py [--models 1000] [--runs 20]

Besides the time from start to end there is the processor time, which other work on the machine changes less.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, MODEL_LAYER, TEMPLATE_LAYER, image_manifest
from puna.store.name import ModelName

_PER_FOLDER = 10  # tags of a model, as a store that is in use has some


def make_store(root: Path, count: int) -> None:
    """A store of `count` small models that share their template and config."""
    library = Library(root)
    with library.session() as session:
        config = session.add(CONFIG_TYPE, [b'{"model_format":"gguf"}'])
        template = session.add(TEMPLATE_LAYER, [b"{{ .Prompt }}"])
        for number in range(count):
            name = ModelName(
                "registry.ollama.ai", "library", f"model{number // _PER_FOLDER}", f"{number % _PER_FOLDER}b"
            )
            weights = session.add(MODEL_LAYER, [b"%d" % (number % 100)])
            session.publish(name, image_manifest(config, [weights, template]))


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a process, in milliseconds: from its start to its end, and of the processor."""

    wall: float
    processor: float


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a process to its end."""
    before, began = _children(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return Cost(1000 * (time.perf_counter() - began), 1000 * (_children() - before))


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(what: str, costs: Sequence[Cost], helped: Sequence[Cost]) -> str:
    """A line of the table: medians, and by how much they exceed those of the help."""

    def cell(kind: Callable[[Cost], float]) -> str:
        own, other = (statistics.median(map(kind, each)) for each in (costs, helped))
        return f"{own:.0f} ms ({own - other:+.0f} ms)"

    return f"| {what} | {cell(lambda cost: cost.wall)} | {cell(lambda cost: cost.processor)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=int, default=1000, help="in the store (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=20, help="of each (default: %(default)s)")
    given = parser.parse_args()
    puna = [sys.executable, "-m", "puna"]
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder) / "many", given.models)
        many = {**os.environ, "PUNA_MODELS": str(Path(folder) / "many")}
        none = {**os.environ, "PUNA_MODELS": str(Path(folder) / "none")}
        commands = (([*puna, "--help"], none), ([*puna, "list"], none), ([*puna, "list"], many))
        for command in commands:  # what is not counted: the first run of each
            measure(*command)
        rounds = [[measure(*command) for command in commands] for _ in range(given.runs)]
    helped, empty, listed = zip(*rounds, strict=True)
    print("| what | median | processor time |\n| :--- | ---: | ---: |")
    print(row("puna --help", helped, helped))
    print(row("puna list, no model", empty, helped))
    print(row(f"puna list, {given.models} models", listed, helped))
    ratio = statistics.median(last.wall / first.wall for first, _, last in rounds)
    print(f"\nlist of {given.models} to help, within rounds: {ratio:.2f}")


if __name__ == "__main__":
    main()
