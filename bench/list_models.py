"""What `puna list` costs with many models: beside `puna --help`, in turn, medians over whole processes.

python bench/list_models.py [--models 1000] [--runs 20]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
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


def milliseconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """From the start of a process to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return 1000 * (time.perf_counter() - began)


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
        for command, environment in commands:  # what is not counted: the first run of each
            milliseconds(command, environment)
        rounds = [[milliseconds(*command) for command in commands] for _ in range(given.runs)]
    helped, empty, listed = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(times[2] / times[0] for times in rounds)
    print("| what | median |\n| :--- | ---: |")
    print(f"| puna --help | {helped:.0f} ms |")
    print(f"| puna list, no model | {empty:.0f} ms ({empty - helped:+.0f} ms) |")
    print(f"| puna list, {given.models} models | {listed:.0f} ms ({listed - helped:+.0f} ms) |")
    print(f"\nlist of {given.models} to help, within pairs: {ratio:.2f}")


if __name__ == "__main__":
    main()
